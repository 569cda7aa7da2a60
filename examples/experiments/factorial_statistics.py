"""Effects, interactions and equivalence in a full factorial design, with seeds as blocks.

Every switch is on in half of the arms, so each run tells about every switch: an effect is, in each
seed, the mean of the arms that have the switch minus the mean of those that do not. Statistics are
over seeds (Student's t), so that nothing is assumed of the noise within a seed.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from examples.experiments.significance import LEVEL, Estimate, estimate, holm

MARGIN = 0.3


@dataclasses.dataclass(frozen=True)
class Design:
    """Results of a full factorial experiment.

    Args:
        switches: names, in the order of the bits of an arm.
        seeds: those that have all arms.
        values: shape `(seeds, 2, 2, …)`, one axis of length 2 (off, on) for each switch.
    """

    switches: tuple[str, ...]
    seeds: tuple[int, ...]
    values: np.ndarray

    @classmethod
    def of(cls, switches: Sequence[str], results: Mapping[tuple[int, str], float]) -> "Design":
        """Collects results by seed and arm; a seed that lacks an arm is left out.

        Args:
            switches: names.
            results: from `(seed, bits)`, such as `(0, "0110")`, to a number.
        """
        arms = ["".join(bits) for bits in itertools.product("01", repeat=len(switches))]
        seeds = sorted({seed for seed, _ in results})
        whole = [seed for seed in seeds if all((seed, arm) in results for arm in arms)]
        table = np.array([[results[seed, arm] for arm in arms] for seed in whole], float)
        shape = (len(whole), *([2] * len(switches)))
        return cls(tuple(switches), tuple(whole), table.reshape(shape))

    def only(self, seeds: Sequence[int]) -> "Design":
        """The same for some of the seeds."""
        places = [place for place, seed in enumerate(self.seeds) if seed in seeds]
        kept = tuple(self.seeds[place] for place in places)
        return dataclasses.replace(self, seeds=kept, values=self.values[places])

    def arm(self, bits: str) -> np.ndarray:
        """The results of one arm, by seed."""
        place: tuple[slice | int, ...] = (slice(None), *(int(bit) for bit in bits))
        found: np.ndarray = self.values[place]
        return found

    def effect(self, *switches: str) -> np.ndarray:
        """By seed: the effect of a switch, or the interaction of several.

        The interaction of two is half the difference between the effect of one with and
        without the other.
        """
        signs = np.ones((2,) * len(self.switches))
        for switch in switches:
            shape = [1] * len(self.switches)
            shape[self.switches.index(switch)] = 2
            signs = signs * np.array([-1.0, 1.0]).reshape(shape)
        axes = tuple(range(1, self.values.ndim))
        found: np.ndarray = (self.values * signs).sum(axis=axes) / (signs.size / 2)
        return found

    def difference(self, one: str, other: str) -> np.ndarray:
        """By seed: an arm minus another."""
        found: np.ndarray = self.arm(one) - self.arm(other)
        return found


def equivalence(values: Sequence[float] | np.ndarray, margin: float = MARGIN) -> float:
    """The p of two one-sided t-tests that the mean lies within ±margin (Schuirmann, 1987).

    Example:

    >>> from examples.experiments.factorial_statistics import equivalence
    >>> equivalence([0.1, -0.1, 0.0, 0.05, -0.05]) < 0.01
    True
    >>> equivalence([0.5, 0.3, 0.4, 0.6]) > 0.5
    True
    """
    array = np.asarray(values, float)
    if len(array) < 2:
        return 1.0
    if np.ptp(array) == 0:
        return 0.0 if abs(array[0]) < margin else 1.0
    above = stats.ttest_1samp(array, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(array, margin, alternative="less").pvalue
    return float(max(above, below))


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """What was predicted of a mean, and what was seen.

    Args:
        text: the prediction.
        sign: +1 or −1 as predicted; 0 if none was.
        values: by seed.
        margin: of equivalence; `None` where none was set.
    """

    text: str
    sign: int
    values: np.ndarray
    margin: float | None = MARGIN

    @property
    def seen(self) -> Estimate:
        """Mean and interval; NaN if there is no seed."""
        if not len(self.values):
            return Estimate(math.nan, -math.inf, math.inf, 1.0, 0)
        return estimate(self.values)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A hypothesis, judged.

    Args:
        hypothesis: which.
        p: corrected p of a difference from 0.
        p_equivalence: corrected p of the two one-sided tests.
        text: the verdict, in words.
    """

    hypothesis: Hypothesis
    p: float
    p_equivalence: float
    text: str


def judge_family(family: Sequence[Hypothesis]) -> list[Verdict]:
    """Judges hypotheses that belong together: p-values are Holm-corrected for them."""
    differ = holm([h.seen.p for h in family])
    equal = holm([1.0 if h.margin is None else equivalence(h.values, h.margin) for h in family])
    return [
        Verdict(h, p, q, _words(h, p, q)) for h, p, q in zip(family, differ, equal, strict=True)
    ]


def _words(hypothesis: Hypothesis, p: float, p_equivalence: float) -> str:
    if len(hypothesis.values) < 2:
        return "not reached"
    level = 1 - LEVEL
    small = f"equivalent to nothing within {hypothesis.margin:g}" if p_equivalence < level else ""
    if p >= level:
        return small or "cannot be told"
    mean = hypothesis.seen.mean
    if hypothesis.sign:
        said = "holds" if np.sign(mean) == hypothesis.sign else "refuted"
    else:
        said = "above 0" if mean > 0 else "below 0"
    return f"{said}, but {small}" if small else said


def half_width(deviation: float, seeds: int) -> float:
    """Half the 95 % interval of a mean over seeds; infinite for one seed.

    Args:
        deviation: standard deviation between seeds.
        seeds: how many.
    """
    if seeds < 2:
        return math.inf
    return float(stats.t.ppf(0.5 + LEVEL / 2, seeds - 1) * deviation / math.sqrt(seeds))


def detectable(deviation: float, seeds: int, power: float = 0.8) -> float:
    """The smallest effect that a two-sided t-test finds with the given power.

    Args:
        deviation: standard deviation of the effect between seeds.
        seeds: how many.
        power: chance to find it.

    Example:

    >>> from examples.experiments.factorial_statistics import detectable
    >>> round(detectable(0.4, 30), 2)
    0.21
    """
    if seeds < 2:
        return math.inf
    limit = stats.t.ppf(0.5 + LEVEL / 2, seeds - 1)

    def found(effect: float) -> float:
        shift = effect * math.sqrt(seeds) / deviation
        return float(stats.nct.sf(limit, seeds - 1, shift))

    low, high = 0.0, deviation
    while found(high) < power:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high
