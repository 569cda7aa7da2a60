"""Honest statistics for small numbers of seeds: paired differences, intervals, corrected tests."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval (Student's t).

    Args:
        mean: of the values.
        low: lower end of the interval; −∞ for a single value.
        high: upper end of the interval.
        p: of a two-sided t-test that the mean is 0; 1 where it cannot be told.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Returns the mean of independent values, with its interval.

    Example:

    >>> from examples.experiments.significance import estimate
    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (2.0, -0.48, 4.48)
    """
    array = np.asarray(values, float)
    count = len(array)
    mean = float(array.mean())
    if count < 2:
        return Estimate(mean, -np.inf, np.inf, 1.0, count)
    error = float(stats.sem(array))
    if error == 0.0:
        # All the same: nothing is known of the spread, but that it is small.
        return Estimate(mean, mean, mean, 0.0 if mean else 1.0, count)
    low, high = stats.t.interval(LEVEL, count - 1, mean, error)
    p = float(stats.ttest_1samp(array, 0.0).pvalue)
    return Estimate(mean, float(low), float(high), p, count)


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Returns the geometric mean of the values above 0; `None` if there is none."""
    positive = [value for value in values if value]
    return float(np.exp(np.mean(np.log(positive)))) if positive else None


def paired(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Estimate:
    """Returns the mean difference `first - second` of values of the same seeds."""
    return estimate(np.subtract(first, second).tolist())


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for multiple comparisons (Holm, 1979).

    Example:

    >>> from examples.experiments.significance import holm
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        corrected[index] = largest
    return corrected


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something that theory predicts, and what was seen.

    Args:
        text: the claim.
        predicted: what it predicts, in words.
        sign: +1 or -1, the predicted direction of the difference; 0: no difference.
        seen: the paired difference.
        tolerance: for a claim of no difference, how large one may be.
        unit: of the difference, for the table.
    """

    text: str
    predicted: str
    sign: int
    seen: Estimate
    tolerance: float = 0.0
    unit: str = ""

    def verdict(self, p: float) -> str:
        """What can be said, given the corrected p-value.

        "Holds" and "the opposite" need p < 0.05. A claim of no difference holds if the whole
        interval lies within the tolerance, and is refuted if it lies outside.
        """
        if self.sign == 0:
            if -self.tolerance <= self.seen.low and self.seen.high <= self.tolerance:
                return "holds"
            outside = self.seen.low > self.tolerance or self.seen.high < -self.tolerance
            return "refuted" if outside else "cannot be told"
        if p >= 1 - LEVEL:
            return "no difference seen"
        return "holds" if np.sign(self.seen.mean) == self.sign else "the opposite is seen"


def judge(claims: Sequence[Claim]) -> list[tuple[Claim, float, str]]:
    """Returns each claim with its p-value, corrected for all of them, and the verdict.

    Claims of no difference are judged by their interval, and take no part in the correction.
    """
    tested = [claim for claim in claims if claim.sign]
    corrected = iter(holm([claim.seen.p for claim in tested]))
    found = []
    for claim in claims:
        p = next(corrected) if claim.sign else float("nan")
        found.append((claim, p, claim.verdict(p)))
    return found
