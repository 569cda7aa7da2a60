"""The runs of the factorial experiment, in the order in which they are done."""

from collections.abc import Iterator
from typing import Any

from examples.experiments.factorial_cells import NONE, Cell, jobs

Job = dict[str, Any]

# Settings are chosen with these, results are seen with others.
TUNING_SEEDS = range(1000, 1003)
DEPTHS = (14, 8, 56, 32)
RATES = (0.3, 0.1, 0.03, 0.01)
KERNELS = (5e-4, 5e-3, 2e-2)


def tune() -> Iterator[Job]:
    """The arm "none": λ of kernels at depth 14, and η at every depth."""
    for kernels in KERNELS:
        for rate in RATES[:3]:
            yield from jobs(Cell(14, 150, rate, kernels, 0.0), TUNING_SEEDS, (NONE,))
    for depth in DEPTHS[1:]:
        for rate in RATES:
            yield from jobs(Cell(depth, 150, rate, 5e-3, 0.0), TUNING_SEEDS, (NONE,))
    # The largest rate of the grid was the best at depths 8 and 14: one more.
    for depth in (14, 8):
        yield from jobs(Cell(depth, 150, 1.0, 5e-3, 0.0), TUNING_SEEDS, (NONE,))


# By depth, of "none", on validation: what `tune` found.
RATE_OF = {8: 0.3, 14: 0.3, 32: 0.1, 56: 0.03}
KERNEL_DECAY = 5e-3


def cell(depth: int, dose: float, factor: float = 1.0) -> Cell:
    """The cell of a depth and a dose, at `factor` times the tuned learning rate."""
    return Cell(depth, 150, round(RATE_OF[depth] * factor, 6), KERNEL_DECAY, dose)


PRIMARY = cell(14, 3.0)
ONE_STEP_ABOVE = 10 / 3
# In the order of docs/experiments/preregistration.md.
PLAN: tuple[tuple[Cell, range], ...] = (
    (PRIMARY, range(16)),
    (cell(14, 10.0), range(10)),
    (cell(56, 10.0), range(3)),
    (cell(14, 30.0), range(6)),
    (cell(8, 10.0), range(6)),
    (cell(32, 10.0), range(4)),
    (PRIMARY, range(16, 40)),
    (cell(56, 10.0, ONE_STEP_ABOVE), range(2)),
    (cell(14, 0.3), range(4)),
)


def test() -> Iterator[Job]:
    """All 16 arms of every cell."""
    for place, seeds in PLAN:
        yield from jobs(place, seeds)


STAGES = {"tune": tune, "test": test}
