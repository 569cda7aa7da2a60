"""What an optimizer's weight decay really does to a variable: asked of the optimizer itself."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gamma._keras import names as _keras
from keras_gamma._keras.at_once import at_once, step_of
from keras_gamma._keras.schedules import uncompiled as uncompiled
from keras_gamma.decay.inner_optimizers import has_factors, holds_several, parts
from keras_gamma.decay.inner_optimizers import unwrap as unwrap

# Optimizers whose weight decay, as Keras applies it, takes off nothing that lasts.
_NOT_LASTING = {
    "Ftrl": "computes each weight anew from its accumulators, so that no decay of the weight lasts",
    "ScheduleFreeAdamW": (
        "averages each weight from a second copy, which does not decay, so that no decay of the "
        "weight lasts"
    ),
}

# Where a Keras optimizer keeps the strength of its weight decay; Muon has both.
STRENGTHS = ("weight_decay", "adam_weight_decay")


def shared_out(
    optimizer: Any, variables: Iterable[keras.Variable]
) -> list[tuple[Any, list[keras.Variable]]]:
    """Which optimizer updates which of `variables`.

    Args:
        optimizer: a Keras optimizer, also a `LossScaleOptimizer` or a `MultiOptimizer`.
        variables: iterable of `keras.Variable`.

    Returns:
        A list of pairs of an optimizer that holds no other, and a list of variables. Variables
        that a `MultiOptimizer` which is not built has not shared out yet are in none.
    """
    variables = list(variables)
    if not holds_several(optimizer):
        return [(one, variables) for one in parts(optimizer)]
    found = []
    for one in parts(optimizer):
        own = {id(v) for v in _keras.variables_of(one)} if one.built else set()
        found.append((one, [v for v in variables if id(v) in own]))
    return found


def why_not_lasting(optimizer: Any) -> str:
    """Why what weight decay takes off a weight is not gone for good; empty if it is.

    Keras' optimizers are known, by name; of others, two steps without gradients must each take
    off the same share.

    Args:
        optimizer: a Keras optimizer, unwrapped.

    Raises:
        Exception: whatever the optimizer raises on the way.
    """
    for cls in type(optimizer).__mro__:
        if cls.__module__.startswith("keras.") and cls.__name__ in _NOT_LASTING:
            return f"{type(optimizer).__name__} {_NOT_LASTING[cls.__name__]}"
    if is_of_keras(optimizer) or not decays_at_all(optimizer):
        return ""
    # Without factors by path: the weight here has none.
    made = copy(optimizer, 0.1 / max(map(abs, strengths(optimizer).values())), bare=True)
    weight = keras.Variable(keras.ops.ones((2, 2)))
    made.build([weight])
    shares = []  # By the strength, which may follow the count of steps.
    for _ in range(2):
        before, strength = mean(weight), max(map(abs, strengths(made).values()), default=1.0)
        made.apply([keras.ops.zeros((2, 2))], [weight])
        shares.append((before - mean(weight)) / (before or 1.0) / strength)
    first, second = shares
    if abs(first - second) <= 0.1 * max(abs(first), abs(second)):
        return ""
    return (
        f"of {type(optimizer).__name__}, a second step without gradients takes off "
        f"{second / first if first else math.inf:.2g} times what the first did, so that its decay "
        "does not last"
    )


def is_of_keras(optimizer: Any) -> bool:
    """Whether it is one of Keras' own optimizers, or one of ours."""
    return type(optimizer).__module__.startswith(("keras.", "keras_gamma."))


def number(value: Any, optimizer: Any) -> float:
    """A strength or a learning rate, as it is now: of a number, a variable or a schedule."""
    if value is None:
        return 0.0
    with uncompiled():
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            value = value(optimizer.iterations)
        elif callable(value) and not isinstance(value, keras.Variable):
            value = value()
    return float(keras.ops.convert_to_numpy(value))


def learning_rate(optimizer: Any, once: bool = False) -> float:
    """The learning rate of the next step, of an optimizer that has one.

    Args:
        optimizer: a Keras optimizer, unwrapped.
        once: bool, whether it will not be asked again soon: then JAX is quicker with one program.
    """
    if once:
        return float(keras.ops.convert_to_numpy(at_once(lambda: optimizer.learning_rate)))
    with uncompiled():
        return number(optimizer.learning_rate, optimizer)


def strengths(optimizer: Any) -> dict[str, float]:
    """The strengths that an optimizer's weight decay has now, by name; without those of 0."""
    found = {name: number(getattr(optimizer, name, None), optimizer) for name in STRENGTHS}
    return {name: strength for name, strength in found.items() if strength}


def decays_at_all(optimizer: Any) -> bool:
    """Whether an optimizer has a weight decay of its own."""
    return bool(strengths(optimizer))


def acts_on(optimizer: Any, variable: keras.Variable) -> bool:
    """Whether `optimizer`, unwrapped, says that its weight decay acts on `variable`."""
    if not decays_at_all(optimizer) or not _keras.is_decayed(optimizer, variable):
        return False
    return not has_factors(optimizer) or optimizer.factor(variable) > 0


def small(variable: keras.Variable) -> tuple[int, ...]:
    """A shape of the same rank; optimizers treat matrices and vectors differently.

    A number is a vector of two.
    """
    return (2,) * max(1, len(variable.shape))


def copy(optimizer: Any, learning_rate: float, bare: bool = False) -> Any:
    """A new optimizer that decays as `optimizer` does, in single steps, without state.

    Args:
        optimizer: a Keras optimizer, unwrapped.
        learning_rate: float, of the copy.
        bare: bool, whether to leave out the factors per variable of `keras_gamma.optimizers`.

    Raises:
        Exception: whatever the optimizer's `get_config` or `from_config` raises.
    """
    # Of the class: on the instance, keras_gamma warns of what a config does not hold.
    config = dict(type(optimizer).get_config(optimizer))
    config["learning_rate"] = learning_rate
    for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps",
                 "loss_scale_factor"):  # fmt: skip
        if name in config:
            config[name] = None
    if "use_ema" in config:
        config["use_ema"] = False
    if bare and has_factors(optimizer):
        config["decay"] = None
        config.pop("decay_to", None)
    made = type(optimizer).from_config(config)
    # A strength may follow the count of steps.
    made.iterations.assign(keras.ops.convert_to_numpy(optimizer.iterations))
    for name in STRENGTHS:  # Some optimizer's `get_config` may forget it.
        if strengths(made).get(name) != strengths(optimizer).get(name):
            setattr(made, name, getattr(optimizer, name))
    return made


class Taken(NamedTuple):
    """What decay takes off a variable w in a step, by η.

    Args:
        share: float, of w; or of its distance from where it started.
        to_start: bool, whether it is the latter: at its start, w stays as it is.
    """

    share: float
    to_start: bool = False


def decays(optimizer: Any, variables: Sequence[keras.Variable], bare: bool = False) -> list[Taken]:
    """The share of each variable that a step with gradients of zero takes off, by η.

    Half of each stand-in has come from 0 to 1 since the optimizer was built, half was there.

    Args:
        optimizer: a Keras optimizer, unwrapped.
        variables: list of `keras.Variable`.
        bare: bool, whether to leave out exclusions and factors: the strength that they act on.
            (Muon has two, for matrices and for the rest.)

    Returns:
        A list of `Taken`, in the units of `weight_decay`.
    """
    # So large a learning rate that half of w goes: in float32, little would be lost in the 1.
    eta = 0.5 / max([*map(abs, strengths(optimizer).values())] or [4.0])
    made = copy(optimizer, eta, bare)
    stand_ins = [
        _keras.stand_in(variable, shape := small(variable), _zero_and_one(shape))
        for variable in variables
    ]
    made.build(stand_ins)
    for stand_in in stand_ins:
        stand_in.assign(np.ones(stand_in.shape, "float32"))
    if not bare:
        _keras.copy_exclusions(optimizer, made, zip(variables, stand_ins, strict=True))
    gradients = [np.zeros(stand_in.shape, "float32") for stand_in in stand_ins]
    after = step_of(made, gradients, stand_ins, compiled=is_of_keras(made))
    # What float8 training keeps beside a kernel is written over by its "gradient".
    written_over = [getattr(v, "overwrite_with_gradient", False) for v in variables]
    return [
        Taken(0.0) if over else _taken(values, eta)
        for values, over in zip(after, written_over, strict=True)
    ]


def _zero_and_one(shape: tuple[int, ...]) -> Any:
    """The first half 0, the second 1."""
    return np.arange(math.prod(shape), dtype="float32").reshape(shape) >= math.prod(shape) / 2


def _taken(values: Any, eta: float) -> Taken:
    moved, stayed = (
        0.0 if abs(1.0 - float(half.mean())) < 1e-6 else (1.0 - float(half.mean())) / eta
        for half in values.astype("float64").reshape(2, -1)
    )
    return Taken(stayed or moved, to_start=bool(moved) and not stayed)


def mean(variable: Any) -> float:
    """The mean of a variable's elements."""
    return float(keras.ops.convert_to_numpy(variable).astype("float64").mean())
