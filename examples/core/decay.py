"""Weight decay of the examples: what is decayed, and how strongly.

Coupled decay is an L2 penalty in the loss, in torch's units: `weight_decay` λ adds λw to the
gradient of w, that is `λ/2 * sum(w**2)` to the loss. Decoupled decay is the optimizer's: w loses
`learning_rate * λ * w` before each step, or `learning_rate * λ * (w - w0)`. Either way kernels are
all decayed; keras_gamma decides about γ; biases and β are left alone.
"""

import re
from functools import partial

import keras

import keras_gamma
from examples.core.fine_tuning import HEAD
from examples.core.optimizers import Schedule
from keras_gamma import Role, units
from keras_gamma.decay import doses

# From this dose on, decay of residual_last γ beside skips whose γ do not decay cost accuracy in
# ResNets of 8 and 14 layers (docs/evidence.md).
HARMFUL_DOSE = 10.0
HARMFUL_STRENGTH = 0.3  # of decoupled decay beside steps of a size of their own
_ADAMS = ("adam", "adamw", "nadam")

# Where a layer keeps a kernel, and where it may keep the regularizer of that kernel.
_KERNELS = {
    "kernel": ("kernel_regularizer", "depthwise_regularizer"),  # DepthwiseConv2D has the second
    "depthwise_kernel": ("depthwise_regularizer",),
    "pointwise_kernel": ("pointwise_regularizer",),
}


def decay_kernels(model: keras.Model, weight_decay: float) -> int:
    """Puts L2 on every convolution and dense kernel of a built model, in place.

    Both the variable and the layer are told: Keras takes the penalty from the variable, and
    `get_config` takes what it saves from the layer.

    Returns:
        The number of kernels.
    """
    kernels = 0
    for layer in model._flatten_layers(include_self=False):
        for attribute, places in _KERNELS.items():
            variable = getattr(layer, attribute, None)
            if not isinstance(variable, keras.Variable):
                continue
            regularizer = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
            variable.regularizer = regularizer
            setattr(layer, next(filter(partial(hasattr, layer), places)), regularizer)
            kernels += 1
    return kernels


def decay_gammas(
    model: keras.Model, weight_decay: float, guidelines: keras_gamma.Guidelines
) -> keras_gamma.GammaPlan:
    """Puts L2 of the same strength on the γ that the guidelines select; returns the plan."""
    return keras_gamma.apply_guidelines(model, weight_decay=weight_decay, guidelines=guidelines)


def decide_decay(
    model: keras.Model,
    kind: str,
    weight_decay: float,
    guidelines: keras_gamma.Guidelines,
    decay_to: str = "zero",
) -> tuple[keras_gamma.GammaPlan | keras_gamma.DecayPlan, keras_gamma.DecayPlan | None]:
    """Sets coupled decay, or plans decoupled decay.

    Args:
        model: a built model, without decay so far if `kind` is "decoupled".
        kind: "coupled" or "decoupled".
        weight_decay: the strength, in the units of its kind.
        guidelines: which γ to decay.
        decay_to: "zero", or "initial" (of decoupled decay): back to where all but the head are now.

    Returns:
        The plan to print and keep, and the plan for the optimizer (`None` if decay is coupled).
    """
    if kind == "coupled":
        return decay_gammas(model, weight_decay, guidelines), None
    head = rf"(^|/){HEAD}/"
    with_head = any(re.search(head, variable.path) for variable in model.trainable_variables)
    plan = keras_gamma.plan_weight_decay(
        model,
        guidelines=guidelines,
        decay_to=decay_to,
        new=head if decay_to == "initial" and with_head else (),
    )
    return plan, plan


def tell_dose(
    optimizer: str,
    kind: str,
    weight_decay: float,
    guidelines: keras_gamma.Guidelines,
    schedule: Schedule,
    steps: int,
    momentum: float,
    decay_to: str = "zero",
) -> str:
    """What the run's decay alone would leave of the γ of each role, in words.

    Args:
        optimizer: name of it.
        kind: "coupled" or "decoupled".
        weight_decay: the strength, in the units of its kind.
        guidelines: which γ are decayed.
        schedule: from the number of a step to its learning rate.
        steps: of the whole run.
        momentum: of SGD.
        decay_to: where it leads.
    """
    strengths = [(str(role), weight_decay * guidelines.factor(role)) for role in Role]
    if not any(strength for _, strength in strengths):
        return "Dose: no γ decays."
    if decay_to == "initial":
        return "Dose: none, since decay leads back to the start, and not to 0."
    if kind == "coupled" and optimizer != "sgd":
        return f"Dose: none can be told, since {optimizer} divides the L2 by √v."
    passes = momentum if kind == "coupled" else 0.0
    unit = units.dose(1.0, schedule, steps, momentum=passes)
    told = doses.tell_unit(strengths, unit, steps)
    last = weight_decay * guidelines.factor(Role.RESIDUAL_LAST)
    harmful = unit * last >= HARMFUL_DOSE
    if harmful and not guidelines.factor(Role.SHORTCUT):
        told += (
            f" From a dose of {HARMFUL_DOSE:g} on, decay of residual_last without shortcut cost "
            "1 to 4 points of accuracy in ResNets of 8 and 14 layers, and helped one of 56 layers "
            "to train (docs/evidence.md). If yours is shallow: less decay, fewer steps, or "
            "--guidelines=none."
        )
    strongest = max(strength for _, strength in strengths)
    if kind == "decoupled" and optimizer in _ADAMS and strongest >= HARMFUL_STRENGTH:
        told += (
            f" A step of {optimizer} is at most about η, so that γ cannot stay far above 1/λ "
            f"({1 / strongest:.2g}). With λ = {HARMFUL_STRENGTH:g} decay of any γ cost small "
            "transformers 1 point (pre-norm) and 3 (post-norm), from 1.2 on 4 and more "
            "(docs/evidence.md): there, --guidelines=none."
        )
    return told


def check_decay(model: keras.Model, plan: keras_gamma.GammaPlan | keras_gamma.DecayPlan) -> None:
    """Measures what really shrinks in a compiled model; prints it.

    Raises:
        RuntimeError: if it is not what was planned, or not all could be seen. Nothing is trained
            then.
    """
    found = keras_gamma.audit(model, plan)
    print(f"Audit: {found.summary()}", flush=True)
    if not found.ok:
        raise RuntimeError(f"Does the decay act as planned? The audit says: {found.answer}.")
