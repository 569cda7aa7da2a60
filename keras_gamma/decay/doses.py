"""What decay alone would leave of the γ of each role, in words: known before training."""

import collections
import math
from collections.abc import Callable, Iterable
from typing import Any

from keras_gamma.decay import units
from keras_gamma.roles.classification import Role

Rates = float | Iterable[float] | Callable[[int], Any]


def tell(
    strengths: Iterable[tuple[str, float]],
    learning_rate: Rates,
    steps: int | None = None,
    momentum: float = 0.0,
) -> str:
    """One sentence for every strength that there is.

    Args:
        strengths: pairs of a role and its λ in torch's units (`2 · l2` in Keras').
        learning_rate: as for `units.dose`.
        steps: as for `units.dose`.
        momentum: as for `units.dose`.

    Returns:
        A string; empty if nothing decays.

    Raises:
        ValueError: as `units.dose`.

    Example:

    >>> from keras_gamma.decay import doses
    >>> doses.tell([("residual_last", 5e-2), ("trunk", 0.0)], 0.05, 300, momentum=0.9)
    'Over 300 steps decay alone would leave 0.06% of residual_last γ (dose 7.5).'
    """
    if not callable(learning_rate) and isinstance(learning_rate, Iterable):
        learning_rate = list(learning_rate)
    unit = units.dose(1.0, learning_rate, steps, momentum=momentum)
    count = len(learning_rate) if isinstance(learning_rate, list) else steps or 0
    return tell_unit(strengths, unit, count)


def tell_unit(strengths: Iterable[tuple[str, float]], unit: float, steps: int) -> str:
    """The same, for who has asked the schedule: the dose is proportional to λ.

    Args:
        strengths: pairs of a role and its λ.
        unit: the dose of λ = 1.
        steps: of the run.

    Returns:
        A string; empty if nothing decays.

    Example:

    >>> from keras_gamma.decay import doses
    >>> doses.tell_unit([("residual_last", 5e-2)], 150.0, 300)
    'Over 300 steps decay alone would leave 0.06% of residual_last γ (dose 7.5).'
    """
    roles: dict[float, list[str]] = collections.defaultdict(list)
    order = list(map(str, Role))
    for role, strength in sorted(set(strengths), key=lambda pair: order.index(pair[0])):
        if strength:
            roles[strength].append(role)
    return " ".join(
        f"Over {steps:,} steps decay alone would leave {share(unit * strength)} of "
        f"{' and '.join(names)} γ (dose {unit * strength:.3g})."
        for strength, names in sorted(roles.items(), reverse=True)
    )


def share(dose: float) -> str:
    """What a dose leaves, as a percentage of two digits.

    Example:

    >>> from keras_gamma.decay import doses
    >>> [doses.share(dose) for dose in (0.0, 0.001, 0.2, 3.38, 7.5, 30.0)]
    ['100%', '99.90%', '82%', '3.4%', '0.06%', '9e-12%']
    """
    left = 100 * units.left_by(dose)
    gone = 100 - left
    if left > 90 and gone:  # It is the share that goes which needs digits.
        return f"{left:.{min(max(-math.floor(math.log10(gone)), 0), 12)}f}%"
    return f"{left:.{1 if left < 1 else 3 if left == 100 else 2}g}%"
