"""Learning rate schedules and optimizers by name."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras

import keras_gamma

Schedule: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule

# Here decay comes from the loss, so no optimizer may add its own. AdamW's is not 0 by default.
OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": lambda **kwargs: keras.optimizers.AdamW(weight_decay=0.0, **kwargs),
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}
# Their counterparts that decay by themselves, each variable with a factor of its own.
DECOUPLED: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": keras_gamma.optimizers.SGDW,
    "adam": keras_gamma.optimizers.AdamW,
    "adamw": keras_gamma.optimizers.AdamW,
    "nadam": keras_gamma.optimizers.NadamW,
    "rmsprop": keras_gamma.optimizers.RMSpropW,
    "lion": keras_gamma.optimizers.LionW,
}
_WITH_MOMENTUM = {"sgd", "rmsprop"}
SCHEDULES = ("cosine", "constant")


def make_schedule(kind: str, *, peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Returns linear warm-up to `peak`, then a cosine to 0, or a constant learning rate.

    Keras' own `CosineDecay` is used, so that a saved model loads without these examples. Its
    warm-up starts at `peak / warmup_steps` instead of 0: a first step of length 0 would be wasted.
    """
    if kind == "constant":
        return peak
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(peak, decay_steps=total_steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / warmup_steps,
        decay_steps=max(1, total_steps - warmup_steps),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def make_optimizer(
    name: str,
    learning_rate: Schedule,
    *,
    momentum: float,
    nesterov: bool,
    global_clipnorm: float | None = None,
    weight_decay: float = 0.0,
    decay: keras_gamma.DecayPlan | None = None,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer `name`; `momentum` and `nesterov` go to those that have them.

    With a `decay` plan it decays by itself, with the strength `weight_decay`.
    """
    kwargs: dict[str, Any] = {"learning_rate": learning_rate, "global_clipnorm": global_clipnorm}
    if name in _WITH_MOMENTUM:
        kwargs["momentum"] = momentum
    if name == "sgd":
        kwargs["nesterov"] = nesterov
    if decay is None:
        return OPTIMIZERS[name](**kwargs)
    return DECOUPLED[name](**kwargs, weight_decay=weight_decay, decay=decay)
