"""Two amendments in docs/experiments/preregistration.md: transformers with AdamW."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.experiments import factorial_plan as plan
from examples.experiments.factorial_amendment import By, Runs, contrast
from examples.experiments.factorial_cells import NONE, Cell
from examples.experiments.factorial_statistics import Hypothesis, Verdict, judge_family
from examples.experiments.reports import markdown_table, tell
from examples.experiments.significance import estimate

Rows = Sequence[dict[str, Any]]

PRE, POST = plan.NORM_POSITIONS
ARMS = {
    PRE: {
        "none": NONE,
        "residual_last (the guidelines)": plan.LAST_ALONE,
        "trunk": plan.TRUNK_ALONE,
        "both (all)": plan.LAST_AND_TRUNK,
    },
    POST: {"none (the guidelines)": NONE, "trunk (all)": plan.TRUNK_ALONE},
}


# By how strong decay is, and by the position of the norm.
BY_DOSE = {f"dose {dose:g}": plan.transformers_at(dose) for dose in plan.TRANSFORMER_DOSES}
AS_USUAL = {f"λ = {plan.USUAL_STRENGTH:g}": plan.transformers_as_usual()}
Cells = Mapping[str, Mapping[str, Cell]]


class Transformers:
    """The runs of the seeds that have all arms at all strengths.

    Args:
        rows: of one stage.
        cells: its cells.
    """

    def __init__(self, rows: Rows, cells: Cells):
        self.cells = cells
        self._runs = Runs(rows)
        parts = [
            set(self._runs.of(cell[position], arm, position))
            for cell in cells.values()
            for position, arms in ARMS.items()
            for arm in arms.values()
        ]
        self.seeds = sorted(set.intersection(*parts))

    def of(self, position: str, strength: str, arm: str) -> By:
        """Accuracies by seed."""
        found = self._runs.of(self.cells[strength][position], arm, position)
        return {seed: found[seed] for seed in self.seeds}

    def contrast(self, position: str, strength: str, weights: Mapping[str, float]) -> np.ndarray:
        """By seed: a weighted sum of arms."""
        return contrast(*((w, self.of(position, strength, arm)) for arm, w in weights.items()))


_LAST = {NONE: -0.5, plan.LAST_ALONE: 0.5, plan.TRUNK_ALONE: -0.5, plan.LAST_AND_TRUNK: 0.5}
_TRUNK = {NONE: -0.5, plan.LAST_ALONE: -0.5, plan.TRUNK_ALONE: 0.5, plan.LAST_AND_TRUNK: 0.5}
_BOTH = {NONE: 0.5, plan.LAST_ALONE: -0.5, plan.TRUNK_ALONE: -0.5, plan.LAST_AND_TRUNK: 0.5}


def judge(found: Transformers) -> dict[str, list[Verdict]]:
    """A family for each strength."""
    return {strength: judge_family(_family(found, strength)) for strength in found.cells}


def _family(found: Transformers, strength: str) -> list[Hypothesis]:
    last_or_both = {plan.LAST_ALONE: 1.0, plan.LAST_AND_TRUNK: -1.0}
    in_post = {plan.TRUNK_ALONE: 1.0, NONE: -1.0}
    return [
        Hypothesis("pre-norm: residual_last > 0", 1, found.contrast(PRE, strength, _LAST)),
        Hypothesis("pre-norm: trunk < 0", -1, found.contrast(PRE, strength, _TRUNK)),
        Hypothesis("post-norm: trunk < 0", -1, found.contrast(POST, strength, in_post)),
        Hypothesis(
            "pre-norm: guidelines − all > 0", 1, found.contrast(PRE, strength, last_or_both)
        ),
    ]


def tables(rows: Rows, cells: Cells, name: str) -> str:
    """Everything that the rows say, as Markdown."""
    found = Transformers(rows, cells)
    if len(found.seeds) < 2:
        return f"**{name}**: not reached."
    judged = [
        [strength, v.hypothesis.text, tell(v.hypothesis.seen), f"{v.p:.2g}",
         f"{v.p_equivalence:.2g}", v.text]
        for strength, family in judge(found).items()
        for v in family
    ]  # fmt: skip
    seen = [
        [f"{position}-norm", f"{plan.TRANSFORMER_RATE_OF[position]:g}", decayed]
        + [tell(estimate(list(found.of(position, one, arm).values()))) for one in cells]
        for position, arms in ARMS.items()
        for decayed, arm in arms.items()
    ]
    crossed = ", ".join(
        f"{tell(estimate(found.contrast(PRE, strength, _BOTH)))} at {strength}"
        for strength in cells
    )
    accuracies = [f"accuracy at {strength}, %" for strength in cells]
    parts = (
        f"**{name} ({len(found.seeds)} new seeds)**",
        markdown_table(
            ["strength", "predicted", "seen (95 %)", "p", "p of equivalence", "verdict"], judged
        ),
        markdown_table(["", "η", "decayed", *accuracies], seen),
        f"residual_last × trunk (pre-norm): {crossed}.",
    )
    return "\n\n".join(parts)
