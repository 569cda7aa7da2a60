"""The map: accuracy, and how many runs train, by depth, learning rate and dose, for each preset."""

import dataclasses
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from examples.experiments import factorial_plan as plan
from examples.experiments.factorial_amendment import Runs, contrast
from examples.experiments.factorial_cells import (
    ALL,
    ALL_BUT_INTERIOR,
    ARMS,
    GUIDELINES,
    NONE,
    Cell,
)
from examples.experiments.factorial_findings import TRAINED

PANELS = {
    "none": NONE,
    "all": ALL,
    "guidelines": GUIDELINES,
    "all but interior": ALL_BUT_INTERIOR,
}
BEST = "best of 16 (chosen by the same seeds)"


@dataclasses.dataclass(frozen=True)
class Place:
    """One field of a panel.

    Args:
        accuracy: mean in per cent.
        gain: mean difference from "none" in the same seeds, points.
        trained: share of runs that ended above 60 %.
        seeds: how many.
    """

    accuracy: float
    gain: float
    trained: float
    seeds: int


Panel = dict[tuple[str, float], Place]


def values(rows: Sequence[dict[str, Any]]) -> dict[str, Panel]:
    """By panel: the places, by name of the row and by dose.

    Args:
        rows: of the stages `test` and `amendment` together; their seeds differ.
    """
    runs = Runs(rows)
    cells = [
        *(plan.cell(depth, dose) for depth in plan.RATE_OF for dose in (0.3, 3.0, 10.0, 30.0)),
        plan.HIGH,
    ]
    panels: dict[str, Panel] = {name: {} for name in (*PANELS, BEST)}
    for cell in cells:
        above = cell.rate != plan.RATE_OF[cell.depth]
        place = (f"{cell.depth}, η {cell.rate:g}" + ("\n(above tuned)" if above else ""), cell.dose)
        for name, arm in PANELS.items():
            if found := _place(runs, cell, arm):
                panels[name][place] = found
        if best := _best(runs, cell):
            panels[BEST][place] = best
    # "none" has no dose: shown only where something is there to compare it with.
    compared = {place for name in PANELS if name != "none" for place in panels[name]}
    panels["none"] = {place: one for place, one in panels["none"].items() if place in compared}
    return panels


def _best(runs: Runs, cell: Cell) -> Place | None:
    """The arm with the best mean of the seeds that have all 16, if they are three or more."""
    whole = set.intersection(*(set(runs.of(cell, arm)) for arm in ARMS))
    if len(whole) < 3:
        return None
    places = [_place(runs, cell, arm, whole) for arm in ARMS]
    return max((one for one in places if one), key=lambda one: one.accuracy)


def _place(runs: Runs, cell: Cell, arm: str, seeds: Set[int] | None = None) -> Place | None:
    shared = set(runs.of(cell, arm)) & set(runs.of(cell, NONE))
    shared = shared if seeds is None else shared & seeds
    if not shared:
        return None
    here, base = ({s: runs.of(cell, one)[s] for s in shared} for one in (arm, NONE))
    gains = contrast((1.0, here), (-1.0, base))
    accuracy = np.array(list(here.values()))
    return Place(
        float(accuracy.mean()),
        float(gains.mean()),
        float((accuracy >= TRAINED).mean()),
        len(gains),
    )
