"""Learning rate schedules and optimizers by name."""

from collections.abc import Callable, Sequence
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
WITH_MOMENTUM = {"sgd", "rmsprop"}
SCHEDULES = ("cosine", "step", "constant")


def make_schedule(
    kind: str,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    drops: Sequence[float] = (),
    factor: float = 0.1,
) -> Schedule:
    """Returns linear warm-up to `peak`, then a cosine to 0; steps down; or a constant.

    Keras' own schedules are used, so that a saved model loads without these examples. The warm-up
    starts at `peak / warmup_steps` instead of 0: a first step of length 0 would be wasted.

    Args:
        kind: one of `SCHEDULES`.
        peak: the largest learning rate.
        warmup_steps: of cosine.
        total_steps: updates of the whole run.
        drops: of step: the parts of the run after which the learning rate drops.
        factor: of step: what it is multiplied by.
    """
    if kind == "constant":
        return peak
    if kind == "step":
        boundaries = [max(1, round(part * total_steps)) for part in drops]
        values = [peak * factor**number for number in range(len(boundaries) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(peak, decay_steps=total_steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / warmup_steps,
        decay_steps=max(1, total_steps - warmup_steps),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def parse_drops(words: Sequence[str]) -> list[float]:
    """Returns the parts of a run after which the learning rate drops.

    Raises:
        ValueError: they are not ascending numbers between 0 and 1.
    """
    try:
        drops = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"expected numbers such as 0.5,0.75; got {','.join(words)}") from error
    if not drops or not all(0 < drop < 1 for drop in drops) or sorted(set(drops)) != drops:
        raise ValueError(f"expected ascending numbers between 0 and 1; got {','.join(words)}")
    return drops


def make_optimizer(
    name: str,
    learning_rate: Schedule,
    *,
    momentum: float,
    nesterov: bool,
    global_clipnorm: float | None = None,
    gradient_accumulation: int = 1,
    ema_momentum: float | None = None,
    weight_decay: float = 0.0,
    decay: keras_gamma.DecayPlan | None = None,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer `name`; `momentum` and `nesterov` go to those that have them.

    With `ema_momentum`, it keeps averages of the weights. With a `decay` plan it decays by itself,
    with the strength `weight_decay`.
    """
    kwargs: dict[str, Any] = {"learning_rate": learning_rate, "global_clipnorm": global_clipnorm}
    if gradient_accumulation > 1:
        kwargs["gradient_accumulation_steps"] = gradient_accumulation
    if ema_momentum is not None:
        kwargs |= {"use_ema": True, "ema_momentum": ema_momentum}
    if name in WITH_MOMENTUM:
        kwargs["momentum"] = momentum
    if name == "sgd":
        kwargs["nesterov"] = nesterov
    if decay is None:
        return OPTIMIZERS[name](**kwargs)
    return DECOUPLED[name](**kwargs, weight_decay=weight_decay, decay=decay)
