"""What one step of a model does to the scale of what comes in, found by running that step.

No table of operations stands behind this: a step is a function from arrays to arrays.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gamma.network.noise import noise
from keras_gamma.network.replay import array, is_float

Values = Mapping[int, Any]
Run = Callable[[Values], dict[int, Any]]

FACTOR = 4.0
_EXACT = 1e-2  # Of the spread: float32 with room for an ε; what is approximate is further off.
_BOUNDED = 0.3  # A power below this is no growth.
_HUGE = 1e4  # So many times the lower values: no value that was computed from data.
_HIDDEN = 1e30  # A float that stands for −∞.
_ENOUGH = 1 << 16  # So many elements tell as much as all of them.


class Combination(enum.Enum):
    """What a step does with several tensors that follow the inputs."""

    ALONE = "alone"  # There is only one.
    SUM = "sum"
    BESIDE = "beside"  # A concatenation: each element is that of one of them.
    OTHER = "other"  # A product, an attention, a maximum.


class Power(NamedTuple):
    """How an output grows with one input: like c to the power `degree`.

    Args:
        degree: float; 0 if it does not change; `None` if it changes, but stays bounded.
        exact: bool, whether it is a power from the start, or only for large c.
    """

    degree: float | None
    exact: bool


def scaled(value: Any, factor: float) -> Any:
    """A value times a factor, of the same dtype."""
    return value * keras.ops.cast(factor, keras.backend.standardize_dtype(value.dtype))


def next_to_nothing(value: Any) -> Any:
    """A value times the least factor that leaves its digits."""
    return scaled(value, 2.0**-12 if _is_half(value) else 2.0**-60)


def power(run: Run, values: Values, outputs: Values, operand: int) -> dict[int, Power]:
    """How each output grows with one operand.

    Args:
        run: function that runs the step on other values.
        values: dict from the id of each operand to its value.
        outputs: dict from the id of each output to its value.
        operand: the id of the operand.

    Returns:
        A dict from the id of each floating point output to its `Power`.
    """
    found: dict[int, Power] = {}
    left = [key for key, value in outputs.items() if is_float(value)]
    after = run({operand: scaled(values[operand], FACTOR)})
    for key in list(left):
        degree = _ratio(*_without_masked(_some(outputs[key]), _some(after[key])), FACTOR)
        if degree is not None:
            found[key] = Power(degree, True)
            left.remove(key)
    if left:
        small, large = (2.0**4, 2.0**7) if _is_half(values[operand]) else (2.0**8, 2.0**16)
        first = run({operand: scaled(values[operand], small)})
        second = run({operand: scaled(values[operand], large)})
        for key in left:
            pair = _without_masked(_some(first[key]), _some(second[key]))
            found[key] = _growth(*pair, large / small)
        if any(found[key].degree is None for key in left):
            # 1 + w·x with a small w: the constant drowns what grows.
            none = run({operand: scaled(values[operand], 0.0)})
            for key in left:
                if found[key].degree is None:
                    found[key] = _growth_beyond(none[key], first[key], second[key], large / small)
    return found


def joint_degree(
    run: Run, values: Values, outputs: Values, degrees: Mapping[int, float], output: int
) -> float | None:
    """The power by which an output grows if several operands grow together, or `None` if by none.

    `(a - b)²` is no power of a or of b, but of both.

    Args:
        run: function that runs the step on other values.
        values: dict from the id of each operand to its value.
        outputs: dict from the id of each output to its value.
        degrees: dict from the id of each operand that grows to its own power.
        output: the id of the output.
    """
    grown = {key: scaled(values[key], FACTOR**degree) for key, degree in degrees.items()}
    pair = _without_masked(_some(outputs[output]), _some(run(grown)[output]))
    return _ratio(*pair, FACTOR)


def fades(run: Run, values: Values, outputs: Values, operand: int) -> dict[int, bool]:
    """Whether each output is small where one operand is, up to a constant of the step's own.

    So is `tanh(x + b)`, which is odd far from 0; a sigmoid is one half there.

    Args:
        run: function that runs the step on other values.
        values: dict from the id of each operand to its value.
        outputs: dict from the id of each output to its value.
        operand: the id of the operand.
    """
    large = 2.0**7 if _is_half(values[operand]) else 2.0**16
    near = run({operand: scaled(values[operand], 1 / large)})
    up, down = (run({operand: scaled(values[operand], sign * large)}) for sign in (1, -1))
    found = {}
    for key, value in outputs.items():
        if is_float(value):
            size = float(np.linalg.norm(_some(value)))
            odd = float(np.linalg.norm(_some(up[key]) + _some(down[key])))
            is_small = float(np.linalg.norm(_some(near[key]))) <= _EXACT * size
            found[key] = size > 0 and (is_small or odd <= _EXACT * size)
    return found


def depends(run: Run, values: Values, outputs: Values, operands: Sequence[int], seed: int) -> bool:
    """Whether noise in place of some operands changes any output.

    A query of a single key, or a mask that leaves nothing, hides what a step does with an operand.

    Args:
        run: function that runs the step on other values.
        values: dict from the id of each operand to its value.
        outputs: dict from the id of each output to its value.
        operands: the ids of those that noise replaces.
        seed: integer, of the noise.
    """
    random = np.random.default_rng(seed)
    after = run({key: _noise(values[key], random) for key in operands})
    return any(
        not np.allclose(_some(value), _some(after[key]), rtol=1e-4, atol=1e-6)
        for key, value in outputs.items()
        if is_float(value)
    )


def _without_masked(before: Any, after: Any) -> tuple[Any, Any]:
    """Two values without what a mask has put there: the same huge number, whatever comes in."""
    if before.shape != after.shape or not before.size:
        return before, after
    sizes = np.abs(before)
    kept = (before != after) | (sizes <= _HUGE * max(float(np.quantile(sizes, 0.1)), 1.0))
    kept &= sizes < _HIDDEN
    return (before[kept], after[kept]) if kept.any() and not kept.all() else (before, after)


def _ratio(before: Any, after: Any, factor: float) -> float | None:
    """The power by which `after` is exactly `before` scaled, or `None`."""
    size = float(np.linalg.norm(before))
    if not np.isfinite(after).all() or size == 0.0:
        return None
    ratio = float(after.ravel() @ before.ravel()) / size**2
    # Of what varies: a gate is nearly constant, whatever comes in.
    varying = max(float(np.linalg.norm(before - before.mean())), 1e-5 * size)
    if ratio <= 0.0 or float(np.linalg.norm(after - ratio * before)) > _EXACT * ratio * varying:
        return None
    degree = float(np.log(ratio) / np.log(factor))
    return round(degree, 1) if abs(degree - round(degree, 1)) < 0.02 else degree


def _growth(first: Any, second: Any, factor: float) -> Power:
    """The power for large factors."""
    sizes = [float(np.linalg.norm(one)) for one in (first, second)]
    if not np.isfinite(sizes).all():
        return Power(1.0, False)  # An exponential, say.
    if 0.0 in sizes:
        return Power(None, False)
    degree = float(np.log(sizes[1] / sizes[0]) / np.log(factor))
    return Power(round(degree, 1), False) if abs(degree) > _BOUNDED else Power(None, False)


def _growth_beyond(base: Any, first: Any, second: Any, factor: float) -> Power:
    """The power for large factors of what is added to a constant."""
    constant, small, large = (_some(value) for value in (base, first, second))
    kept = np.isfinite([constant, small, large]).all(0)
    return _growth((small - constant)[kept], (large - constant)[kept], factor)


def combination(
    run: Run, values: Values, operands: Sequence[int], seed: int = 0, positive: bool = True
) -> Combination:
    """What a step does with several operands, by setting all but one of them to zero.

    Args:
        run: function that runs the step on other values.
        values: dict from the id of each operand to its value.
        operands: the ids of the operands.
        seed: integer, of the noise that it is asked with.
        positive: bool, whether with positive noise alone: a ReLU behind a sum hides nothing then.
    """
    if len(operands) < 2:
        return Combination.ALONE
    random = np.random.default_rng(seed)
    full = {key: _noise(values[key], random, positive) for key in operands}
    zeros = {key: value * 0 for key, value in full.items()}
    results = [run({**zeros, key: full[key]}) for key in operands]
    none, whole = run(zeros), run(full)
    apart, seen = True, False
    for key in [key for key, value in whole.items() if is_float(value)]:
        seen = True
        base = _some(none[key])
        parts = [_some(result[key]) - base for result in results]
        if not all(np.isfinite(part).all() and part.any() for part in parts):
            return Combination.OTHER
        off = np.abs(np.sum(parts, 0) - (_some(whole[key]) - base)).max()
        if off > _EXACT * max(np.abs(part).max() for part in parts):
            return Combination.OTHER
        apart = apart and int(np.sum([part != 0 for part in parts], 0).max()) == 1
    if not seen:
        return Combination.OTHER
    return Combination.BESIDE if apart else Combination.SUM


def is_linear(
    run: Run, values: Values, operands: Sequence[int], seed: int = 0, positive: bool = False
) -> bool:
    """Whether a step is linear, up to a constant, in some of its operands taken together.

    It is asked with noise, so that no two values need be kept.

    Args:
        run: function that runs the step on other values.
        values: dict from the id of each operand to a value of its shape and dtype.
        operands: the ids of those that change together.
        seed: integer, of the noise.
        positive: bool, whether it is to be so for positive noise alone.
    """
    random = np.random.default_rng(seed)
    if not all(is_float(values[operand]) for operand in operands):
        return False
    others = {key: v for key, v in values.items() if key not in operands and is_float(v)}
    rest = {key: _noise(value, random, positive) for key, value in others.items()}
    a = {key: _noise(values[key], random, positive) for key in operands}
    b = {key: _noise(values[key], random, positive) for key in operands}
    both = {key: a[key] + b[key] for key in operands}
    none = {key: a[key] * 0 for key in operands}
    results = [run({**rest, **given}) for given in (a, b, both, none)]
    for key, value in results[0].items():
        if not is_float(value):
            continue
        first, second, whole, base = (_some(result[key]) for result in results)
        kept = np.isfinite(base)  # What is padded with −∞ takes nothing from the operands.
        first, second, whole, base = first[kept], second[kept], whole[kept], base[kept]
        off = np.abs(first + second - whole - base).max(initial=0.0)
        if not off <= _EXACT * max(np.abs(whole - base).max(initial=0.0), 1e-30):
            return False
    return True


def sums_to_one(value: Any) -> bool:
    """Whether a value is a softmax's: between 0 and 1, with the sum 1 along some axis."""
    values = array(value)
    if values.ndim < 2 or not values.size or values.min() < 0.0 or values.max() > 1.001:
        return False
    return any(
        values.shape[axis] > 1 and bool(np.abs(values.sum(axis) - 1.0).max() < 1e-2)
        for axis in range(1, values.ndim)
    )


def is_saturated(value: Any) -> bool:
    """Whether a value is that of gates that are open or closed, and nothing between."""
    values = _some(value)
    ends = np.round(values)
    return bool(
        values.size and np.abs(values).max() <= 1.001 and np.abs(values - ends).max() < 1e-6
    )


def is_same_up_to_order(before: Any, after: Any) -> bool:
    """Whether one value is the other, moved about, and times a constant."""
    if tuple(before.shape) == tuple(after.shape):
        first, second = _some(before), _some(after)
        size = float(np.linalg.norm(first))
        factor = float(first @ second) / size**2 if size else 0.0
        off = float(np.linalg.norm(second - factor * first))
        if factor and off <= _EXACT * abs(factor) * size:
            return True
    if int(np.prod(before.shape)) != int(np.prod(after.shape)):
        return False
    first, second = array(before), array(after)
    if np.count_nonzero(first) != np.count_nonzero(second):
        return False
    return _are_alike(_moments(first), _moments(second))


def _are_alike(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return False
    return bool(np.allclose(first, second, atol=2e-4))


def _moments(values: Any) -> list[float] | None:
    """What order and a factor leave as it is."""
    size = float(np.linalg.norm(values)) / float(np.sqrt(values.size))
    if size == 0.0 or not np.isfinite(size):
        return None
    flat: Any = values / size
    cubes = float(np.mean(flat * flat * flat))
    mean = float(np.mean(flat))
    return [mean if cubes >= 0 else -mean, abs(cubes), float(np.mean(np.abs(flat)))]


def _noise(value: Any, random: np.random.Generator, positive: bool = False) -> Any:
    numbers = noise(value.shape, random, positive)
    return keras.ops.convert_to_tensor(numbers, keras.backend.standardize_dtype(value.dtype))


def _some(value: Any) -> Any:
    """Some elements of a value, evenly drawn: the same ones for each value of that shape."""
    flat = array(value).ravel()
    step = max(1, flat.size // _ENOUGH)
    return flat[:: step + (step > 1 and step % 2 == 0)]


def _is_half(value: Any) -> bool:
    return "16" in keras.backend.standardize_dtype(value.dtype)
