"""Branches that starve beside their skips, seen from their ratios. Pure.

Decay of the last γ of branches shrinks what a block adds, until the network is little more than
its skips. Where that begins to cost accuracy was measured (docs/evidence.md): not at a ratio, which
falls with depth anyway, but at what all blocks add together.
"""

import dataclasses
import math
from collections.abc import Mapping

LIMIT = 0.65


@dataclasses.dataclass(frozen=True)
class Starved:
    """Branches that add too little.

    Args:
        step: integer, of the measurement that told.
        total: float, number of joins × geometric mean of their ratios.
        joins: integer.
        weakest: string, the join with the smallest ratio.
        ratio: float, its ratio.
    """

    step: int
    total: float
    joins: int
    weakest: str
    ratio: float

    def __str__(self) -> str:
        return (
            f"Branches starve at step {self.step}: over {self.joins} residual joins, number × "
            f"geometric mean of branch/skip has fallen to {self.total:.2g}, the weakest is "
            f"{self.weakest} with {self.ratio:.2g}. Below {LIMIT:g}, small ResNets with batch "
            "normalization lost accuracy (docs/evidence.md). If weight decay shrinks the γ of "
            "residual_last: less of it, fewer steps, or decay of shortcut and trunk as well."
        )


class Watch:
    """Takes one measurement after the other, and tells, once, when branches starve.

    Only a fall counts: branches that begin at zero, as after zero-initialized γ, or that are weak
    by design, as in transformers before training, are not starving. Two measurements in a row
    below the limit are needed.

    Args:
        limit: float > 0.

    Example:

    >>> from keras_gamma.dynamics.starving import Watch
    >>> watch = Watch(limit=0.5)
    >>> [watch.update(step, {"a": r, "b": r}) is None for step, r in enumerate([1, 0.2, 0.2, 0.1])]
    [True, True, False, True]
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._alive = False
        self._low = 0
        self._told = False

    def update(self, step: int, ratios: Mapping[str, float]) -> Starved | None:
        """Takes one measurement.

        Args:
            step: integer.
            ratios: dict from joins to their ratios.

        Returns:
            A `Starved` at the second measurement below the limit; `None` otherwise.
        """
        total = together(ratios)
        if total is None or self._told:
            return None
        if total >= self._limit:
            self._alive, self._low = True, 0
            return None
        self._low += 1
        if not self._alive or self._low < 2:
            return None
        self._told = True
        weakest = min(ratios, key=lambda join: ratios[join])
        return Starved(step, total, len(ratios), weakest, ratios[weakest])


def together(ratios: Mapping[str, float]) -> float | None:
    """What all branches add beside their skips: number × geometric mean of the ratios.

    Args:
        ratios: dict from joins to their ratios.

    Returns:
        A float; `None` if there is no join, or a ratio is not a finite number.
    """
    values = list(ratios.values())
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        return None
    if not min(values):
        return 0.0
    return len(values) * math.exp(math.fsum(math.log(value) for value in values) / len(values))
