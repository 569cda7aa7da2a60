"""The hypotheses of the amendment in docs/experiments/preregistration.md, judged by its rows."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from examples.experiments import factorial_plan as plan
from examples.experiments.factorial_cells import (
    ALL,
    ALL_BUT_INTERIOR,
    GUIDELINES,
    NONE,
    Cell,
)
from examples.experiments.factorial_statistics import MARGIN, Hypothesis, Verdict, judge_family
from examples.experiments.significance import LEVEL, Estimate, estimate, holm

Row = Mapping[str, Any]
By = dict[int, float]  # A value by seed.

NAMES = {
    NONE: "none",
    GUIDELINES: "guidelines",
    ALL: "all",
    ALL_BUT_INTERIOR: "all but interior",
    plan.LAST_ALONE: "residual_last",
    plan.SHORTCUT_ALONE: "shortcut",
    plan.ALL_BUT_LAST_AND_INTERIOR: "shortcut and trunk",
}
STARVED = 0.65
CELLS = (
    plan.PRIMARY,
    plan.cell(14, 10.0),
    plan.cell(32, 3.0),
    plan.cell(32, 10.0),
    plan.cell(56, 3.0),
    plan.cell(56, 10.0),
    plan.HIGH,
)


class Runs:
    """Values by depth, learning rate, dose, arm and variant, and by seed.

    Args:
        rows: of any stage. "none" has no dose: its runs are found whatever dose is asked for.
        column: which value.
    """

    def __init__(self, rows: Sequence[Row], column: str = "accuracy"):
        self._values: dict[tuple[Any, ...], By] = collections.defaultdict(dict)
        for row in rows:
            value = np.nan if row[column] is None else float(row[column])
            dose = 0.0 if row["arm"] == NONE else row["dose"]
            place = (row["depth"], row["rate"], dose, row["arm"], row.get("variant", ""))
            self._values[place][row["seed"]] = value

    def of(self, cell: Cell, arm: str, variant: str = "") -> By:
        """Values by seed; empty if there are none."""
        dose = 0.0 if arm == NONE else cell.dose
        return self._values.get((cell.depth, cell.rate, dose, arm, variant), {})


def contrast(*parts: tuple[float, By]) -> np.ndarray:
    """A weighted sum of arms, by seed, over the seeds that all of them have."""
    shared = sorted(set.intersection(*(set(values) for _, values in parts)))
    return np.array([sum(weight * values[seed] for weight, values in parts) for seed in shared])


def difference(runs: Runs, cell: Cell, one: str, other: str) -> np.ndarray:
    """By seed: an arm minus another."""
    return contrast((1.0, runs.of(cell, one)), (-1.0, runs.of(cell, other)))


def judge(rows: Sequence[Row]) -> dict[str, list[Verdict]]:
    """The families R, T, K, Z and I; those of which nothing was reached are left out."""
    runs = Runs(rows)
    families = {f"R, all but interior: {told(cell)}": _found(runs, cell) for cell in CELLS[:-1]}
    families["T, a net that does not train (ResNet-56, η one step above, dose 10)"] = _trains(runs)
    families["K, decoupled against coupled decay of γ (ResNet-14, dose 3)"] = _kinds(runs)
    families["Z, γ of residual_last that start at 0 (ResNet-14, dose 3)"] = _zero(runs)
    families["I, interior decay as a learning rate (ResNet-14, dose 30)"] = _interior(runs)
    return {
        name: judge_family(family)
        for name, family in families.items()
        if any(len(hypothesis.values) > 1 for hypothesis in family)
    }


def told(cell: Cell) -> str:
    """A cell in a few words."""
    above = "" if cell.rate == plan.RATE_OF[cell.depth] else ", η one step above"
    return f"ResNet-{cell.depth}, dose {cell.dose:g}{above}"


def _found(runs: Runs, cell: Cell) -> list[Hypothesis]:
    return [
        Hypothesis(
            f"all but interior − {NAMES[other]} > 0",
            1,
            difference(runs, cell, ALL_BUT_INTERIOR, other),
        )
        for other in (GUIDELINES, ALL, NONE)
    ]


def _trains(runs: Runs) -> list[Hypothesis]:
    signs = {plan.LAST_ALONE: 1, plan.SHORTCUT_ALONE: -1, GUIDELINES: 1, ALL_BUT_INTERIOR: 0}
    words = {1: " > 0", -1: " < 0", 0: ""}
    return [
        Hypothesis(
            f"{NAMES[arm]} − none{words[sign]}", sign, difference(runs, plan.HIGH, arm, NONE)
        )
        for arm, sign in signs.items()
    ]


def _kinds(runs: Runs) -> list[Hypothesis]:
    parts = [
        (sign * 0.5, runs.of(plan.PRIMARY, arm, variant))
        for arm in (GUIDELINES, ALL)
        for variant, sign in (("decoupled", 1), ("", -1))
    ]
    return [Hypothesis("decoupled − coupled within ±0.3", 0, contrast(*parts))]


def _zero(runs: Runs) -> list[Hypothesis]:
    without, decayed = plan.ALL_BUT_LAST_AND_INTERIOR, ALL_BUT_INTERIOR
    one, one_decayed = (runs.of(plan.PRIMARY, arm) for arm in (without, decayed))
    zero, zero_decayed = (runs.of(plan.PRIMARY, arm, "zero") for arm in (without, decayed))
    return [
        Hypothesis("decay > 0, for γ from 1", 1, contrast((1, one_decayed), (-1, one))),
        Hypothesis("start at 0 > 0, without decay", 1, contrast((1, zero), (-1, one))),
        Hypothesis(
            "decay × start at 0 < 0",
            -1,
            contrast((0.5, zero_decayed), (-0.5, zero), (-0.5, one_decayed), (0.5, one)),
        ),
    ]


def _interior(runs: Runs) -> list[Hypothesis]:
    here = plan.cell(14, plan.INTERIOR_DOSE)
    arms = (ALL, ALL_BUT_INTERIOR)
    untuned = [runs.of(here, arm) for arm in arms]
    tuned = [runs.of(dataclasses.replace(here, rate=plan.RETUNED[arm]), arm) for arm in arms]
    return [
        Hypothesis(
            "all − all but interior < 0 at η = 0.3", -1, contrast((1, untuned[0]), (-1, untuned[1]))
        ),
        Hypothesis(
            "the same at rates tuned for each, − that at 0.3, > 0",
            1,
            contrast((1, tuned[0]), (-1, tuned[1]), (-1, untuned[0]), (1, untuned[1])),
        ),
        Hypothesis(
            "all − all but interior at rates tuned for each: nothing",
            0,
            contrast((1, tuned[0]), (-1, tuned[1])),
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Fed:
    """An arm of a cell, with what its branches add.

    Args:
        cell: where.
        arm: which.
        total: S = joins × geometric mean of branch/skip at the end, mean over seeds.
        seen: its accuracy minus that of "none".
        p: Holm-corrected, one-sided: of a loss where `total` is below the limit, of no loss above
            the margin elsewhere.
        p_against: Holm-corrected, one-sided: of what contradicts.
    """

    cell: Cell
    arm: str
    total: float
    seen: Estimate
    p: float
    p_against: float

    @property
    def starved(self) -> bool:
        """Whether a loss is predicted."""
        return self.total < STARVED

    @property
    def text(self) -> str:
        """The verdict."""
        level = 1 - LEVEL
        if self.p < level:
            return "holds"
        return "refuted" if self.p_against < level else "cannot be told"


def feeding(rows: Sequence[Row]) -> list[Fed]:
    """Judges S."""
    accuracy, ratio = Runs(rows), Runs(rows, "ratio")
    found: list[tuple[Cell, str, float, np.ndarray]] = []
    for cell in CELLS:
        for arm in (GUIDELINES, plan.LAST_ALONE, ALL_BUT_INTERIOR):
            if arm == GUIDELINES and cell.dose != 10.0:
                continue
            values = difference(accuracy, cell, arm, NONE)
            if len(values) > 1:
                ratios = np.array(list(ratio.of(cell, arm).values()))
                total = joins(cell.depth) * float(np.exp(np.nanmean(np.log(ratios))))
                found.append((cell, arm, total, values))
    for_it = holm([_one_sided(values, total < STARVED) for _, _, total, values in found])
    against = holm([_against(values, total < STARVED) for _, _, total, values in found])
    return [
        Fed(cell, arm, total, estimate(values), p, q)
        for (cell, arm, total, values), p, q in zip(found, for_it, against, strict=True)
    ]


def overall(found: Sequence[Fed]) -> str:
    """The verdict of S: none contradicts, and one on each side of the limit is confirmed."""
    if any(one.text == "refuted" for one in found):
        return "refuted"
    sides = {one.starved for one in found if one.text == "holds"}
    return "holds" if sides == {True, False} else "cannot be told"


def joins(depth: int) -> int:
    """Residual joins of a ResNet v1 of a depth."""
    return (depth - 2) // 2


def _one_sided(values: np.ndarray, starved: bool) -> float:
    if starved:
        return float(stats.ttest_1samp(values, 0.0, alternative="less").pvalue)
    return float(stats.ttest_1samp(values, -MARGIN, alternative="greater").pvalue)


def _against(values: np.ndarray, starved: bool) -> float:
    if starved:
        return float(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue)
    return float(stats.ttest_1samp(values, -MARGIN, alternative="less").pvalue)
