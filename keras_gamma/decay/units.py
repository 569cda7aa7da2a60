"""Strengths of weight decay in the units of Keras, torch, timm and the papers.

The same number means four things. For a variable w, the gradient g of the data loss, the
learning rate η and momentum m:

| written as | what a step does | here |
| --- | --- | --- |
| Keras `L2(l2)` | g + 2·l2·w | `l2` |
| torch, timm: `SGD(weight_decay=λ)`, `Adam(weight_decay=λ)` | g + λ·w | coupled λ |
| Keras `weight_decay=λ`; `AdamW` of Keras, torch, optax | w − η·λ·w, then the step | decoupled λ |
| Loshchilov & Hutter's own form | w − λ'·w, then the step | learning-rate-free λ' |

So Keras' and torch's `AdamW(weight_decay=λ)` need no conversion, and their `SGD`s do. There is none
between coupled and decoupled decay under Adam: coupled decay is divided by √v, which
differs from weight to weight (arXiv:1711.05101, proposition 2).

Reference:

- [Loshchilov & Hutter, 2019](https://arxiv.org/abs/1711.05101)
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

_STEPS_ASKED = 2000
_LARGEST = 3.4028235e38


def is_strength(number: float) -> bool:
    """Whether it is a number ≥ 0 that is finite in 32 bits, as most variables have."""
    return 0.0 <= number <= _LARGEST


def check_strength(name: str, value: Any) -> float:
    """`value` as a float. Raises `ValueError` unless it is a number ≥ 0, finite in 32 bits."""
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not is_strength(number):
        raise ValueError(f"`{name}` must be a finite number ≥ 0 (of 32 bits). Received: {value!r}")
    return number


def l2_from(l2: float | None = None, weight_decay: float | None = None) -> float:
    """The strength in Keras' convention, from exactly one of two conventions.

    `l2` is Keras': penalty `l2 · Σγ²`, gradient `2 · l2 · γ`. `weight_decay` is that of torch and
    timm: penalty `½ · weight_decay · Σγ²`, gradient `weight_decay · γ`. So
    `l2 = weight_decay / 2`.

    Args:
        l2: float ≥ 0, or `None`.
        weight_decay: float ≥ 0, or `None`.

    Returns:
        A float, in Keras' convention.

    Raises:
        ValueError: for both or neither, or for a strength that is not finite and ≥ 0.

    Example:

    >>> from keras_gamma.decay import units
    >>> units.l2_from(weight_decay=1e-3)
    0.0005
    """
    if (l2 is None) == (weight_decay is None):
        got = "neither" if l2 is None else f"both (l2={l2!r}, weight_decay={weight_decay!r})"
        raise ValueError(
            "Give exactly one of `l2` (Keras: penalty l2·Σγ²) and `weight_decay` (torch, timm: "
            f"gradient weight_decay·γ, the same as l2 = weight_decay/2). Received: {got}."
        )
    if l2 is not None:
        return check_strength("l2", l2)
    return check_strength("weight_decay", weight_decay) / 2


def weight_decay_from_l2(l2: float) -> float:
    """Torch's and timm's coupled λ, from Keras' `l2`: λ = 2·l2.

    Keras' penalty l2·Σw² has the gradient 2·l2·w; torch adds λ·w to the gradient.

    Args:
        l2: float ≥ 0.

    Returns:
        A float: λ.

    Raises:
        ValueError: if `l2` is not finite and ≥ 0.

    Example:

    >>> from keras_gamma.decay import units
    >>> units.weight_decay_from_l2(5e-5)
    0.0001
    """
    return 2 * check_strength("l2", l2)


def decoupled_from_coupled(
    weight_decay: float,
    momentum: float,
    *,
    learning_rate: float | None = None,
    nesterov: bool = False,
    dampening: float = 0.0,
) -> float:
    """Keras' decoupled `SGD(weight_decay=λ')` for torch's coupled `SGD(weight_decay=λ)`.

    Coupled decay goes through the momentum, Keras' decoupled decay does not, and without
    gradients of the data w shrinks by a constant factor r per step in the long run. Coupled:
    v ← m·v − η·λ·w, w ← w + v, so that

        r² − (1 + m − s)·r + m = 0,  s = η·λ·(1 − dampening),

    and with Nesterov's momentum, w ← w + m·v − η·λ·w,

        r² − (1 + m)·(1 − s)·r + m·(1 − s) = 0.

    Decoupled: r = 1 − η·λ'. To first order in s both give 1 − r = s / (1 − m), and so

        λ' = λ·(1 − dampening) / (1 − m),

    which needs no learning rate, and is what you want if that changes along a schedule. With a
    `learning_rate` the larger root is taken instead: exact, for that learning rate. At m = 0.9
    copying the number over would leave a tenth of the decay.

    Args:
        weight_decay: float ≥ 0: λ in torch's units (`2 · l2` in Keras').
        momentum: float in [0, 1).
        learning_rate: float > 0, or `None` for the first-order form.
        nesterov: bool. Only the exact form depends on it; torch refuses dampening with it.
        dampening: float in [0, 1]: torch's; Keras has none.

    Returns:
        A float: λ', in Keras' decoupled units.

    Raises:
        ValueError: if an argument is out of its range, or if there is no such rate: for
            η·λ so large that coupled decay oscillates.

    Example:

    >>> from keras_gamma.decay import units
    >>> round(units.decoupled_from_coupled(1e-4, momentum=0.9), 9)
    0.001
    >>> round(units.decoupled_from_coupled(1e-2, momentum=0.9, learning_rate=0.1), 4)
    0.1113
    """
    decay = check_strength("weight_decay", weight_decay)
    m = _check_share("momentum", momentum)
    share = 1.0 - _check_share("dampening", dampening, closed=True)
    if nesterov and dampening:
        raise ValueError("Nesterov's momentum and dampening exclude each other, as in torch.")
    if learning_rate is None:
        return decay * share / (1.0 - m)
    eta = _check_rate(learning_rate)
    s = eta * decay * share
    # With r = 1 − d both equations are d² − p·d + s = 0, of which the smaller root is wanted.
    p = 2 - (1 + m) * (1 - s) if nesterov else 1 - m + s
    under = p * p - 4 * s
    if under < 0 or s > (1 if nesterov else 1 + m):
        raise ValueError(
            f"With learning_rate·weight_decay = {s:.4g} and momentum {m:g}, coupled decay "
            "oscillates, which decoupled decay cannot do. Received: "
            f"weight_decay={weight_decay!r}, learning_rate={learning_rate!r}."
        )
    # Not (p − √under)/2, which loses all digits where s is small.
    return 2 * s / (p + math.sqrt(under)) / eta


def coupled_from_decoupled(
    weight_decay: float,
    momentum: float,
    *,
    learning_rate: float | None = None,
    nesterov: bool = False,
) -> float:
    """Torch's coupled λ for Keras' decoupled `SGD(weight_decay=λ', momentum=m)`.

    The inverse of `decoupled_from_coupled`, without dampening. To first order, λ = λ'·(1 − m).
    With a learning rate, r = 1 − η·λ' solves the equations given there for s = η·λ:

        s = (1 − r)·(1 − m / r),  and with Nesterov's momentum  s = 1 − r² / ((1 + m)·r − m).

    Args:
        weight_decay: float ≥ 0: λ' in Keras' decoupled units.
        momentum: float in [0, 1).
        learning_rate: float > 0, or `None` for the first-order form.
        nesterov: bool.

    Returns:
        A float: λ, in torch's units; Keras' `l2` is half of it.

    Raises:
        ValueError: if an argument is out of its range, or if coupled decay cannot shrink w so fast.

    Example:

    >>> from keras_gamma.decay import units
    >>> round(units.coupled_from_decoupled(1e-3, momentum=0.9), 9)
    0.0001
    """
    decay = check_strength("weight_decay", weight_decay)
    m = _check_share("momentum", momentum)
    if learning_rate is None:
        return decay * (1.0 - m)
    eta = _check_rate(learning_rate)
    d = eta * decay
    r = 1.0 - d
    # The slowest that the larger root gets: where both roots meet.
    fastest = math.sqrt(m) if not nesterov else 2 * m / (1 + m)
    if r < fastest or r < 0:
        raise ValueError(
            f"learning_rate·weight_decay = {d:.4g} takes off more at each step than coupled decay "
            f"with momentum {m:g} can, {1 - fastest:.4g}. Received: "
            f"weight_decay={weight_decay!r}, learning_rate={learning_rate!r}."
        )
    if not d or not m:
        return decay
    # The two formulas above, over r = 1 − d, without a difference of nearly equal numbers.
    if nesterov:
        return d * (1.0 - m - d) / ((1 + m) * r - m) / eta
    return d * (r - m) / r / eta


def from_learning_rate_free(decay: float, learning_rate: float) -> float:
    """Keras' decoupled λ for a decay that the learning rate does not multiply: λ = λ' / η.

    Loshchilov & Hutter write w ← w − λ'·w, beside the gradient step; Keras and torch
    w ← w − η·λ·w. Under a schedule η_t the two stay alike only if λ' follows the schedule, too, as
    theirs does (their multiplier η_t); give the peak learning rate then.

    Args:
        decay: float ≥ 0: λ', the share of w taken off at each step.
        learning_rate: float > 0: η, at its peak.

    Returns:
        A float: λ, for `weight_decay` of Keras' optimizers.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_gamma.decay import units
    >>> units.from_learning_rate_free(5e-5, learning_rate=1e-3)
    0.05
    """
    return check_strength("decay", decay) / _check_rate(learning_rate)


def to_learning_rate_free(weight_decay: float, learning_rate: float) -> float:
    """The share of w that Keras' decoupled decay takes off at each step: λ' = η·λ.

    Args:
        weight_decay: float ≥ 0: λ in Keras' decoupled units.
        learning_rate: float > 0: η.

    Returns:
        A float: λ'.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_gamma.decay import units
    >>> units.to_learning_rate_free(0.05, learning_rate=1e-3)
    5e-05
    """
    return check_strength("weight_decay", weight_decay) * _check_rate(learning_rate)


def dose(
    weight_decay: float,
    learning_rate: "float | Iterable[float] | Callable[[int], Any]",
    steps: int | None = None,
    *,
    momentum: float = 0.0,
) -> float:
    """How much decay a whole run gives: D = Σ η_t·λ / (1 − m).

    Without gradients, decay alone would leave exp(−D) of a weight at the end of the run: a
    number without units, by which strengths can be compared across schedules, lengths and
    optimizers. It is of the first order in η·λ, as the short form of `decoupled_from_coupled`:
    where η·λ is above (1 − √m)², 0.0026 for m = 0.9, coupled decay alone oscillates.

    Args:
        weight_decay: float ≥ 0: λ in torch's units (`2 · l2` in Keras'), times the factor
            of the guidelines, if there is one.
        learning_rate: float ≥ 0; or a schedule, a function from the number of a step to its
            learning rate, such as a `keras.optimizers.schedules.LearningRateSchedule` (asked
            at 2,000 steps at most, spread evenly); or the learning rates themselves, one for
            each step.
        steps: integer ≥ 0: updates of the run. Not for a list of learning rates.
        momentum: float in [0, 1): m, where decay passes through the momentum (L2 with SGD).
            0 for decoupled decay.

    Returns:
        A float ≥ 0: D.

    Raises:
        ValueError: if an argument is out of its range, or `steps` is missing or too much.

    Example: the classical recipe for CIFAR, 64,000 steps at 0.1 that falls twice by 10.

    >>> from keras_gamma.decay import units
    >>> rates = [0.1] * 32_000 + [0.01] * 16_000 + [0.001] * 16_000
    >>> round(units.dose(1e-4, rates, momentum=0.9), 2)
    3.38
    >>> round(units.left_by(3.38), 3)
    0.034
    """
    decay = check_strength("weight_decay", weight_decay)
    m = _check_share("momentum", momentum)
    if not callable(learning_rate) and isinstance(learning_rate, Iterable):
        if steps is not None:
            raise ValueError(
                "`steps` is the number of learning rates, if a list of them is given. Received: "
                f"steps={steps!r}"
            )
        rates = [check_strength("learning_rate", rate) for rate in learning_rate]
    else:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(
                "`steps`, the number of updates of the run, must be an integer ≥ 0. "
                f"Received: {steps!r}"
            )
        if not callable(learning_rate):
            return check_strength("learning_rate", learning_rate) * steps * decay / (1.0 - m)
        # Only a schedule of Keras needs Keras.
        from keras_gamma._keras import schedules

        # One takes 0.1 ms a step: of a long run, as many steps as tell its mean.
        asked = min(steps, _STEPS_ASKED)
        places = [int((number + 0.5) * steps / asked) for number in range(asked)]
        found = schedules.rates(learning_rate, places)
        rates = [check_strength("learning_rate", rate) for rate in found]
        decay *= steps / asked if asked else 0.0
    return math.fsum(rates) * decay / (1.0 - m)


def left_by(dose: float) -> float:
    """What decay alone would leave of a weight after a dose: exp(−D).

    Args:
        dose: float ≥ 0: D, as `dose` gives it.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: if `dose` is not finite and ≥ 0.

    Example:

    >>> from keras_gamma.decay import units
    >>> f"{units.left_by(7.5):.2%}"
    '0.06%'
    """
    return math.exp(-check_strength("dose", dose))


def _check_share(name: str, value: Any, closed: bool = False) -> float:
    number = check_strength(name, value)
    if number > 1 or (number == 1 and not closed):
        raise ValueError(f"`{name}` must be in [0, 1{']' if closed else ')'}. Received: {value!r}")
    return number


def _check_rate(value: Any) -> float:
    number = check_strength("learning_rate", value)
    if not number:
        raise ValueError("`learning_rate` must be greater than 0. Received: 0.")
    return number
