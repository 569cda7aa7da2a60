"""The tables of the amendment, as Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from examples.experiments import factorial_amendment as amendment
from examples.experiments import factorial_plan as plan
from examples.experiments.factorial_cells import ALL, ALL_BUT_INTERIOR, GUIDELINES, NONE
from examples.experiments.factorial_findings import TRAINED
from examples.experiments.factorial_statistics import Verdict
from examples.experiments.reports import markdown_table, tell
from examples.experiments.significance import estimate

Families = Callable[[str, dict[str, list[Verdict]]], str]
_FOUR = (NONE, GUIDELINES, ALL, ALL_BUT_INTERIOR)


def tables(rows: Sequence[dict[str, Any]], table_of: Families) -> str:
    """Everything that the amendment's rows say.

    Args:
        rows: of the stage `amendment`.
        table_of: from a title and families of verdicts by name to a table.
    """
    if not rows:
        return "**The amendment**: not reached."
    families = amendment.judge(rows)
    found = {name: family for name, family in families.items() if name.startswith("R, ")}
    parts = [_cells(rows), _untrained(rows)]
    parts += [table_of("R, all but interior, in every cell", found)] if found else []
    parts += [table_of(name, {"": f}) for name, f in families.items() if name not in found]
    return "\n\n".join([*parts, _feeding(rows)])


def _cells(rows: Sequence[dict[str, Any]]) -> str:
    runs = amendment.Runs(rows)
    lines = []
    for cell in amendment.CELLS:
        if len(amendment.difference(runs, cell, GUIDELINES, NONE)) < 2:
            continue
        values = [list(runs.of(cell, arm).values()) for arm in _FOUR]
        contrasts = [(GUIDELINES, NONE), (ALL, NONE), (GUIDELINES, ALL)]
        lines.append(
            [
                amendment.told(cell),
                str(len(amendment.difference(runs, cell, GUIDELINES, NONE))),
                *(f"{np.mean(one):.1f}" if one else "–" for one in values),
                *(tell(estimate(amendment.difference(runs, cell, *two))) for two in contrasts),
            ]
        )
    header = ["cell", "seeds", *(amendment.NAMES[arm] for arm in _FOUR)]
    header += ["guidelines − none", "all − none", "guidelines − all"]
    title = "New seeds (from 100 on): test accuracy, %, and differences (points, not corrected):"
    return f"{title}\n\n{markdown_table(header, lines)}"


def _untrained(rows: Sequence[dict[str, Any]]) -> str:
    """Shares of runs that did not train, where there are any."""
    runs = amendment.Runs(rows)
    arms = [*_FOUR, plan.LAST_ALONE, plan.SHORTCUT_ALONE]
    lines = []
    for cell in amendment.CELLS:
        values = [np.array(list(runs.of(cell, arm).values())) for arm in arms]
        if any((one < TRAINED).any() for one in values):
            shares = [
                f"{(one < TRAINED).sum()} of {len(one)}" if len(one) else "–" for one in values
            ]
            lines.append([amendment.told(cell), *shares])
    if not lines:
        return f"None of the new runs ended below {TRAINED:g} %."
    header = ["cell", *(amendment.NAMES[arm] for arm in arms)]
    return f"New runs below {TRAINED:g} %:\n\n{markdown_table(header, lines)}"


def _feeding(rows: Sequence[dict[str, Any]]) -> str:
    found = amendment.feeding(rows)
    lines = [
        [
            amendment.told(one.cell),
            amendment.NAMES[one.arm],
            f"{one.total:.2f}",
            "< 0" if one.starved else "> −0.3",
            tell(one.seen),
            f"{one.p:.2g}",
            one.text,
        ]
        for one in found
    ]
    header = ["cell", "arm", "S", "minus none", "seen (95 %)", "p", "verdict"]
    title = (
        f"**S, branches starve below the same sum at every depth ({amendment.STARVED:g})**: "
        f"{amendment.overall(found)}"
    )
    return f"{title}\n\n{markdown_table(header, lines)}"
