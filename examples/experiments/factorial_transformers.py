"""The third amendment in docs/experiments/preregistration.md: transformers with AdamW."""

from collections.abc import Sequence
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


class Transformers:
    """The runs of the seeds that have all arms at both doses.

    Args:
        rows: of the stage `transformers`.
    """

    def __init__(self, rows: Rows):
        self._runs = Runs(rows)
        parts = [
            set(self._runs.of(cell_of(position, dose), arm, position))
            for position, arms in ARMS.items()
            for dose in plan.TRANSFORMER_DOSES
            for arm in arms.values()
        ]
        self.seeds = sorted(set.intersection(*parts))

    def of(self, position: str, dose: float, arm: str) -> By:
        """Accuracies by seed."""
        found = self._runs.of(cell_of(position, dose), arm, position)
        return {seed: found[seed] for seed in self.seeds}

    def contrast(self, position: str, dose: float, weights: dict[str, float]) -> np.ndarray:
        """By seed: a weighted sum of arms."""
        return contrast(*((w, self.of(position, dose, arm)) for arm, w in weights.items()))


def cell_of(position: str, dose: float) -> Cell:
    """The cell of a position of the norm and a dose."""
    return plan.transformer(plan.TRANSFORMER_RATE_OF[position], dose)


_LAST = {NONE: -0.5, plan.LAST_ALONE: 0.5, plan.TRUNK_ALONE: -0.5, plan.LAST_AND_TRUNK: 0.5}
_TRUNK = {NONE: -0.5, plan.LAST_ALONE: -0.5, plan.TRUNK_ALONE: 0.5, plan.LAST_AND_TRUNK: 0.5}
_BOTH = {NONE: 0.5, plan.LAST_ALONE: -0.5, plan.TRUNK_ALONE: -0.5, plan.LAST_AND_TRUNK: 0.5}


def judge(found: Transformers) -> dict[float, list[Verdict]]:
    """The families X3 and X10, by dose."""
    return {dose: judge_family(_family(found, dose)) for dose in plan.TRANSFORMER_DOSES}


def _family(found: Transformers, dose: float) -> list[Hypothesis]:
    last_or_both = {plan.LAST_ALONE: 1.0, plan.LAST_AND_TRUNK: -1.0}
    return [
        Hypothesis("pre-norm: residual_last > 0", 1, found.contrast(PRE, dose, _LAST)),
        Hypothesis("pre-norm: trunk < 0", -1, found.contrast(PRE, dose, _TRUNK)),
        Hypothesis(
            "post-norm: trunk < 0",
            -1,
            found.contrast(POST, dose, {plan.TRUNK_ALONE: 1.0, NONE: -1.0}),
        ),
        Hypothesis("pre-norm: guidelines − all > 0", 1, found.contrast(PRE, dose, last_or_both)),
    ]


def tables(rows: Rows) -> str:
    """Everything that the rows say, as Markdown."""
    if not rows:
        return "**The third amendment, transformers**: not reached."
    found = Transformers(rows)
    if len(found.seeds) < 2:
        return "**The third amendment, transformers**: not reached."
    judged = [
        [f"{dose:g}", v.hypothesis.text, tell(v.hypothesis.seen), f"{v.p:.2g}",
         f"{v.p_equivalence:.2g}", v.text]
        for dose, family in judge(found).items()
        for v in family
    ]  # fmt: skip
    seen = [
        [f"{position}-norm", f"{plan.TRANSFORMER_RATE_OF[position]:g}", name]
        + [
            tell(estimate(list(found.of(position, dose, arm).values())))
            for dose in plan.TRANSFORMER_DOSES
        ]
        for position, arms in ARMS.items()
        for name, arm in arms.items()
    ]
    crossed = ", ".join(
        f"{tell(estimate(found.contrast(PRE, dose, _BOTH)))} at dose {dose:g}"
        for dose in plan.TRANSFORMER_DOSES
    )
    doses = [f"accuracy at dose {dose:g}, %" for dose in plan.TRANSFORMER_DOSES]
    parts = (
        f"**X, transformers with AdamW ({len(found.seeds)} new seeds)**",
        markdown_table(
            ["dose", "predicted", "seen (95 %)", "p", "p of equivalence", "verdict"], judged
        ),
        markdown_table(["", "η", "decayed", *doses], seen),
        f"residual_last × trunk (pre-norm): {crossed}.",
    )
    return "\n\n".join(parts)
