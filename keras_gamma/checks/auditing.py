"""`audit`: what really shrinks, measured, beside what was planned."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma._keras.apart import apart
from keras_gamma.checks import intentions, traced
from keras_gamma.checks.audit_report import Audit, AuditEntry
from keras_gamma.checks.effects import Effect, effects
from keras_gamma.checks.intentions import Wish
from keras_gamma.network import Network


def audit(
    model: keras.Model | Network,
    plan: Any = None,
    *,
    guidelines: Any = None,
    inputs: Any = None,
) -> Audit:
    """Measures what really shrinks each trainable variable, and compares it with the plan.

    Settings lie: an exclude list set on the outer of two optimizers, or lost by saving, or a
    penalty added after the training step was traced, looks right and does nothing. So a copy of the
    model's optimizer takes one step with gradients of zero on small stand-ins for the variables,
    and the slope of each penalty is taken. Where a step would take off next to nothing, it is
    taken once more in the variable's own dtype: what rounds to nothing is a disagreement. The
    training step that `fit` has traced before, if any, is compared with one traced now. The model
    is left as it was.

    There are three answers. What could not be looked at (a `train_step` of the model's own, a step
    that JAX has compiled, an optimizer that cannot be copied) is named in `audit.unseen`, and the
    answer is then "could not tell", never "yes".

    Args:
        model: a built `keras.Model`, best compiled; or its `Network`, whose roles count where
            there is no plan: those that `measure` has told of code that stays closed, too.
        plan: what to compare with: a `GammaPlan`, a `DecayPlan`, or a list of both. By default,
            the plans that were applied to the model (`apply_guidelines`,
            `exclude_from_weight_decay`, the `decay` of an optimizer of `keras_gamma.optimizers`),
            and if there are none, the guidelines: γ that they apply to should shrink, by
            either means, and γ that they withhold should not.
        guidelines: a `Guidelines`, or a string for it, to compare with instead of any plan.
        inputs: see `find_roles`; needed for subclassed models if there is no plan.

    Returns:
        An `Audit`. `audit.answer` is "yes", "no" or "could not tell"; `audit.ok` is whether it is
        "yes"; `audit.disagreements` and `audit.unseen` say what was found, and what was not.

    Raises:
        TypeError: if `model` is not a Keras model, or `plan` is not a plan.
        ValueError: for both a plan and guidelines, or within the scope of a
            `tf.distribute.Strategy`.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.LayerNormalization(name="ln")(x)
    >>> model = keras.Model(x, keras.layers.Dense(1, name="out")(y))
    >>> optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    >>> plan = keras_gamma.exclude_from_weight_decay(optimizer, model)
    >>> model.compile(optimizer, "mse")
    >>> keras_gamma.audit(model).ok
    True
    >>> model.compile(keras.optimizers.AdamW(weight_decay=0.1), "mse")  # A new one: no exclusions.
    >>> keras_gamma.audit(model).disagreements[0]
    'ln/gamma: weight decay takes off 0.1, but the plan says that it is not decayed'
    """
    whole = model
    if isinstance(model, Network):
        model = model.model
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: {model!r} (of type {type(model)})")
    if plan is not None and guidelines is not None:
        raise ValueError("Give `plan` or `guidelines` to compare with, not both.")
    if _keras.inside_a_strategy():
        raise ValueError(
            "Call audit outside of strategy.scope(): it takes steps of its own, on one device."
        )
    plans = [] if guidelines is not None else intentions.plans_of(model, plan)
    problems: list[str] = []
    if plans:
        measured = measure(model)
        wanted, problems = intentions.by_plans(model, plans, measured)
    else:
        # First: layers that are not built yet get their variables from the trace.
        wanted = intentions.by_guidelines(whole, guidelines, inputs)
        measured = measure(model)
    return report(model, measured, wanted, problems, traced.check_step(model))


def measure(model: keras.Model, thorough: bool = True) -> dict[int, Effect]:
    """The `Effect` on each trainable variable of `model`, by the variable's id; see `effects`."""
    variables = model.trainable_variables
    optimizer = getattr(model, "optimizer", None)
    found = apart(lambda: effects(variables, optimizer, thorough))
    return {id(variable): effect for variable, effect in zip(variables, found, strict=True)}


def report(
    model: keras.Model,
    measured: dict[int, Effect],
    wanted: dict[int, Wish],
    problems: Iterable[str],
    step: traced.Step,
) -> Audit:
    """Lays what was measured beside what was wanted."""
    entries, lost, why_not = [], [], set()
    for variable in model.trainable_variables:
        effect, wish = measured[id(variable)], wanted.get(id(variable))
        found, unseen = [], []
        if wish is None:
            wish = Wish()
            if effect.lost:
                lost.append(variable.path)
        else:
            found, unseen = list(wish.disagreements(effect)), list(wish.unseen(effect))
        if id(variable) in step.stale:
            found.append(
                "the training step that fit has traced treats it otherwise than one traced now "
                "would; call model.compile again"
            )
        if effect.decay is None and not unseen:
            why_not.add(effect.why_not)
        entries.append(
            AuditEntry(
                variable.path,
                wish.role,
                effect.pull,
                effect.decay,
                wish.text(),
                tuple(found),
                tuple(unseen),
            )
        )
    named = {one.split("was not measured: ")[-1] for e in entries for one in e.unseen}
    general = [
        f"what weight decay takes off: {reason}" for reason in sorted(why_not - named) if reason
    ]
    notes = []
    if lost:
        notes.append(
            f"what no plan speaks of rounds to nothing on {len(lost)} variables ({lost[0]}, …)"
        )
    return Audit(entries, [*problems, *step.problems], [*general, *step.unseen], notes)
