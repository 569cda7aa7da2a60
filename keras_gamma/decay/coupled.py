"""`apply_guidelines`: coupled L2 on the γ that the guidelines name."""

from __future__ import annotations

from typing import Any

import keras

from keras_gamma.decay import application, places
from keras_gamma.decay.application import AppliedPlan
from keras_gamma.decay.deciding import decide, scales_of
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.penalties import Slot
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.units import l2_from
from keras_gamma.network.inputs import trace
from keras_gamma.roles.finding import find_roles


def apply_guidelines(
    model: keras.Model,
    *,
    l2: float | None = None,
    weight_decay: float | None = None,
    guidelines: Guidelines | str | None = None,
    inputs: Any = None,
    overwrite: bool = False,
) -> AppliedPlan:
    """Regularizes the γ of `model` that should be, and spares the others.

    Finds the residual role of every γ, decides by the guidelines, and sets each layer's
    `gamma_regularizer` and its variable's regularizer: the penalty `l2 · Σγ²` is added to the
    loss for each γ whose role the guidelines apply to. It is *coupled*: the optimizer sees its
    gradient, times the learning rate.

    It takes effect at once, also on a model that was compiled or fitted before (the next `fit`
    traces its step anew; optimizer and metrics keep their state). A frozen γ gets its penalty,
    too, which Keras leaves out for as long as it is frozen. Calling it again with the same
    arguments changes nothing; with others, it replaces what it set. If it raises, the model is
    as it was. A model around it, whose optimizer decays the same γ, says so when it is trained.

    Args:
        model: a `keras.Model`.
        l2: float ≥ 0, Keras' convention: penalty `l2 · Σγ²`, gradient `2 · l2 · γ`.
        weight_decay: float ≥ 0, torch's and timm's convention: gradient `weight_decay · γ`, which
            is `l2 = weight_decay / 2`. Give exactly one of `l2` and `weight_decay`.
        guidelines: a `Guidelines`, a string such as `"paper"`, `"none"`, `"all"` or
            `"residual_last=1,interior=0.5"`, or `None` for `Guidelines.paper()`.
        inputs: see `find_roles`; needed for subclassed models.
        overwrite: bool. Whether to replace regularizers on γ that somebody else set.

    Returns:
        A `GammaPlan`. Printed, it is a table; `plan.remove()` takes everything back.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: for a strength that is not finite and ≥ 0, both or neither of `l2` and
            `weight_decay`, unknown guidelines, unknown inputs, or a γ that has a regularizer
            which keras_gamma did not set.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8, 8, 4))
    >>> y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Add(name="join")([x, y]))
    >>> plan = keras_gamma.apply_guidelines(model, weight_decay=1e-3)
    >>> plan[0].decision, plan[0].strength
    (<Decision.APPLY: 'apply'>, 0.0005)
    >>> float(model.losses[0])  # l2 · Σγ², for four γ of 1
    0.0020000000949949026

    Reference:

    - [Kim et al., 2022](https://arxiv.org/abs/2205.07260), in our reading: see `docs/roles.md`.
    """
    strength = l2_from(l2, weight_decay)
    guidelines = Guidelines.get(guidelines)
    network = trace(model, inputs)
    roles = find_roles(network)
    located = {id(at.variable): at.place for at in places.locate(network.model)}
    plan = GammaPlan(decide(roles, guidelines, strength, located), guidelines, strength)
    decided = [*roles, *scales_of(roles, guidelines)]
    slots = {gamma.path: Slot(gamma.layer, gamma.variable) for gamma in decided}
    return application.put(plan, network.model, slots, overwrite)
