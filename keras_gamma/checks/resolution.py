"""Whether a decay is felt at all in the dtype that is trained in.

A step moves w only if what it takes off is more than half the distance to the next number. In
bfloat16 that is 0.2 to 0.4 % of w, in float32 a few parts in 10⁸; a decay of η·λ below that
rounds to nothing, however many steps are taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import names as _keras
from keras_gamma._keras import schedules
from keras_gamma.decay import shrinkage

_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}  # Of the mantissa.
_STEPS = 32  # With momentum 0.9, more would not add up to more.
_DOUBLINGS = 40


def lost(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    pulls: Sequence[float],
    decays: Sequence[float],
) -> list[str]:
    """Which penalties and decays round to nothing, found by trying them in the same dtype.

    Args:
        optimizer: a Keras optimizer, unwrapped.
        variables: its variables.
        pulls: the gradient of each one's penalty where w = 1.
        decays: the share of each that weight decay takes off, by η.

    Returns:
        A sentence for each variable; empty where it shrinks, or nothing is to shrink it.
    """
    rate = shrinkage.learning_rate(optimizer, once=True)
    peak: float | None = None  # Of a schedule, which may begin with a warm-up from 0.
    tried: dict[tuple[Any, ...], str] = {}
    found = []
    for variable, pull, decay in zip(variables, pulls, decays, strict=True):
        smallest = 2.0 ** -_BITS.get(variable.dtype, 52)
        strongest = max(abs(pull), abs(decay))
        if not strongest or rate * strongest > 8 * smallest:
            found.append("")
            continue
        peak = _peak(optimizer, rate) if peak is None else peak
        if not peak or peak * strongest > 8 * smallest:
            found.append("")
            continue
        key = (variable.dtype, len(variable.shape), pull, decay)
        if key not in tried:
            tried[key] = _try(optimizer, variable, pull, decay, peak)
        found.append(tried[key])
    return found


def _peak(optimizer: Any, now: float) -> float:
    """The largest learning rate of a schedule, as far as powers of two show; else the one `now`."""
    schedule = type(optimizer).get_config(optimizer).get("learning_rate")
    if not isinstance(schedule, dict):
        return now
    try:
        schedule = keras.saving.deserialize_keras_object(schedule)
        asked = schedules.rates(schedule, [2**n for n in range(21)])
        rates = [float(keras.ops.convert_to_numpy(rate)) for rate in asked]
    except Exception:  # A schedule of the user's own, that Keras does not know: what it says now.
        return now
    return max(now, *rates)


def _try(optimizer: Any, variable: keras.Variable, pull: float, decay: float, rate: float) -> str:
    """What is lost on a stand-in in the variable's dtype; empty if something moves."""
    if decay:
        moves = _decay_moves(optimizer, variable, rate)
        if moves(1.0):
            return ""
        strength = max(shrinkage.strengths(optimizer).values(), default=abs(decay))
        return (
            f"in {variable.dtype}, w − {rate:.3g}·{decay:.3g}·w rounds to w: nothing shrinks"
            + _remedy(variable, "weight_decay", strength, moves)
        )
    moves = _penalty_moves(optimizer, variable, pull, rate)
    if moves(1.0):
        return ""
    return (
        f"in {variable.dtype}, a penalty that pulls with {pull:.3g} moves nothing at a learning "
        f"rate of {rate:.3g}" + _remedy(variable, "l2", pull / 2, moves)
    )


def _remedy(
    variable: keras.Variable, name: str, strength: float, moves: Callable[[float], bool]
) -> str:
    """From which strength on something would move."""
    enough = next((2.0**n for n in range(1, _DOUBLINGS) if moves(2.0**n)), None)
    wider = "" if variable.dtype in ("float32", "float64") else ", or keep it in float32"
    if enough is None:
        return f"; no strength would at this learning rate{wider}"
    return f"; it would from {name} = {enough * strength:.2g} on{wider}"


def _stand_in(variable: keras.Variable) -> keras.Variable:
    """Of the same dtype, with values from all over a power of two: not all round alike."""
    shape = tuple(4 if place == 0 else 2 for place in range(len(variable.shape)))
    values = np.linspace(1.0, 1.9, int(np.prod(shape)), dtype="float32").reshape(shape)
    made: keras.Variable = _keras.stand_in(variable, shape, values, variable.dtype)
    return made


def _decay_moves(optimizer: Any, variable: keras.Variable, rate: float) -> Callable[[float], bool]:
    """A function of a factor on the strength: whether one step without gradient moves anything."""
    made, stand_in = shrinkage.copy(optimizer, rate), _stand_in(variable)
    start = keras.ops.convert_to_numpy(stand_in)
    stand_in.assign(0.0 * start)  # Decay may lead back to where it was when it was built.
    made.build([stand_in])
    _keras.copy_exclusions(optimizer, made, [(variable, stand_in)])
    gradient = keras.ops.zeros(stand_in.shape, dtype=variable.dtype)
    strengths = shrinkage.strengths(made)

    def moves(factor: float) -> bool:
        stand_in.assign(start)
        if factor != 1.0:
            for name, strength in strengths.items():
                setattr(made, name, strength * factor)
        made.apply([gradient], [stand_in])
        return bool((keras.ops.convert_to_numpy(stand_in) != start).any())

    return moves


def _penalty_moves(
    optimizer: Any, variable: keras.Variable, pull: float, rate: float
) -> Callable[[float], bool]:
    """A function of a factor on the penalty: whether some steps with its gradient move anything."""

    def moves(factor: float) -> bool:
        made, stand_in = shrinkage.copy(optimizer, rate), _stand_in(variable)
        made.build([stand_in])
        _keras.exclude(made, [stand_in])
        start = keras.ops.convert_to_numpy(stand_in)
        for _ in range(_STEPS):
            now = keras.ops.convert_to_numpy(stand_in).astype("float32")
            gradient = keras.ops.convert_to_tensor(factor * pull * now, dtype=variable.dtype)
            made.apply([gradient], [stand_in])
            if (keras.ops.convert_to_numpy(stand_in) != start).any():
                return True
        return False

    return moves
