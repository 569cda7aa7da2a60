"""The second amendment in docs/experiments/preregistration.md: residual_last by depth."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.experiments import factorial_plan as plan
from examples.experiments.factorial_amendment import By, Runs, contrast, told
from examples.experiments.factorial_cells import ALL_BUT_INTERIOR, NONE, Cell
from examples.experiments.factorial_statistics import Hypothesis, Verdict, judge_family
from examples.experiments.reports import markdown_table, tell
from examples.experiments.significance import Estimate, estimate

Rows = Sequence[dict[str, Any]]

CELLS = tuple(plan.cell(depth, 10.0) for depth in sorted(plan.RATE_OF))
_BALANCED = plan.ALL_BUT_LAST_AND_INTERIOR


class Depths:
    """The runs of the seeds that have all arms at all depths.

    Args:
        rows: of the stage `depth`.
    """

    def __init__(self, rows: Rows):
        self._accuracy, self._ratio = Runs(rows), Runs(rows, "ratio")
        parts = [set(self._accuracy.of(cell, arm)) for cell in CELLS for arm in plan.DEPTH_ARMS]
        self.seeds = sorted(set.intersection(*parts))

    def _of(self, cell: Cell, arm: str) -> By:
        found = self._accuracy.of(cell, arm)
        return {seed: found[seed] for seed in self.seeds}

    def alone(self, cell: Cell) -> np.ndarray:
        """By seed: residual_last alone − none."""
        return contrast((1, self._of(cell, plan.LAST_ALONE)), (-1, self._of(cell, NONE)))

    def balanced(self, cell: Cell) -> np.ndarray:
        """By seed: all but interior − (shortcut and trunk)."""
        return contrast((1, self._of(cell, ALL_BUT_INTERIOR)), (-1, self._of(cell, _BALANCED)))

    def effect(self, cell: Cell) -> np.ndarray:
        """By seed: the mean of the two."""
        mean: np.ndarray = (self.alone(cell) + self.balanced(cell)) / 2
        return mean

    def slope(self) -> np.ndarray:
        """By seed: of the effect, over log2 of the depth."""
        x = np.log2([cell.depth for cell in CELLS])
        x = x - x.mean()
        slopes: np.ndarray = x @ np.array([self.effect(cell) for cell in CELLS]) / np.sum(x**2)
        return slopes

    def ratio(self, cell: Cell) -> Estimate:
        """Log of branch/skip at "none"."""
        found = self._ratio.of(cell, NONE)
        return estimate(np.log([found[seed] for seed in self.seeds]))


def judge(depths: Depths) -> list[Verdict]:
    """The family H."""
    shallow, deep = CELLS[0], CELLS[2]
    return judge_family(
        [
            Hypothesis(
                "b: slope of residual_last over log2 of the depth > 0", 1, depths.slope(), None
            ),
            Hypothesis(f"h: residual_last < 0 at {told(shallow)}", -1, depths.effect(shallow)),
            Hypothesis(f"h: residual_last > 0 at {told(deep)}", 1, depths.effect(deep)),
        ]
    )


def turns(depths: Depths, verdicts: Sequence[Verdict]) -> str:
    """The verdict on h as a whole."""
    halves = [verdict.text for verdict in verdicts[1:]]
    if "refuted" in halves:
        return "refuted"
    if halves != ["holds", "holds"]:
        return "cannot be told"
    by_ratio = sorted(CELLS, key=lambda cell: depths.ratio(cell).mean)
    by_effect = sorted(CELLS, key=lambda cell: float(depths.effect(cell).mean()))
    return "holds" if by_ratio in (by_effect, by_effect[::-1]) else "refuted"


def tables(rows: Rows) -> str:
    """Everything that the rows say, as Markdown."""
    depths = Depths(rows)
    if len(depths.seeds) < 2:
        return "**The second amendment, depth**: not reached."
    verdicts = judge(depths)
    judged = [[v.hypothesis.text, tell(v.hypothesis.seen), f"{v.p:.2g}", v.text] for v in verdicts]
    seen = [
        [
            told(cell),
            tell(depths.ratio(cell)),
            *(tell(estimate(f(cell))) for f in (depths.alone, depths.balanced, depths.effect)),
        ]
        for cell in CELLS
    ]
    title = f"**H, depth ({len(depths.seeds)} new seeds)**; h as a whole: {turns(depths, verdicts)}"
    header = ["cell", "log of branch/skip at “none”", "residual_last − none"]
    header += ["all but interior − (shortcut and trunk)", "their mean"]
    found = (
        markdown_table(["predicted", "seen (95 %)", "p", "verdict"], judged),
        markdown_table(header, seen),
    )
    return "\n\n".join([title, *found])
