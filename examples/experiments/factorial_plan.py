"""The runs of the factorial experiment, in the order in which they are done."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from examples.core.cli import UsageError
from examples.experiments.factorial_cells import (
    ALL,
    ALL_BUT_INTERIOR,
    GUIDELINES,
    NONE,
    Cell,
    Run,
    blocks,
    jobs,
)

Job = dict[str, Any]

# Settings are chosen with these, results are seen with others.
TUNING_SEEDS = range(1000, 1003)
DEPTHS = (14, 8, 56, 32)
RATES = (0.3, 0.1, 0.03, 0.01)
KERNELS = (5e-4, 5e-3, 2e-2)


def _no_lines(line: int | None) -> None:
    if line is not None:
        raise UsageError(f"--line: tuning has no lines. Received: {line}")


def tune(line: int | None = None) -> Iterator[Job]:
    """The arm "none": λ of kernels at depth 14, and η at every depth."""
    _no_lines(line)
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


def test(line: int | None = None) -> Iterator[Job]:
    """All 16 arms of every cell; or of one line of the plan, counted from 1."""
    for place, seeds in PLAN if line is None else PLAN[line - 1 : line]:
        yield from jobs(place, seeds)


# The amendment: docs/experiments/preregistration.md has its questions.

INTERIOR_DOSE = 30.0
INTERIOR_RATES = (0.1, 0.2, 0.3, 0.5)
PACES = (3, 10, 30, 100)
INTERIOR_TUNING_SEEDS = range(1003, 1007)


def tune_interior(line: int | None = None) -> Iterator[Job]:
    """Learning rates of two arms, and a pace of interior γ that does what their decay does."""
    _no_lines(line)
    kinds = [
        (Cell(14, 150, rate, KERNEL_DECAY, INTERIOR_DOSE), arm, "")
        for rate in INTERIOR_RATES
        for arm in (ALL, ALL_BUT_INTERIOR)
    ]
    here = cell(14, INTERIOR_DOSE)
    kinds += [(here, ALL, "paced:1")]
    kinds += [(here, ALL_BUT_INTERIOR, f"paced:{pace}") for pace in PACES]
    yield from blocks(tuple(kinds), INTERIOR_TUNING_SEEDS)


# By arm, on validation: what `tune_interior` found.
RETUNED = {ALL: 0.1, ALL_BUT_INTERIOR: 0.5}

LAST_ALONE, SHORTCUT_ALONE, ALL_BUT_LAST_AND_INTERIOR = "1000", "0100", "0101"
FOUR = (NONE, GUIDELINES, ALL, ALL_BUT_INTERIOR)
HIGH = cell(56, 10.0, ONE_STEP_ABOVE)


def _of(place: Cell, arms: tuple[str, ...], variant: str = "") -> tuple[Run, ...]:
    """Arms of a cell; "none" has no dose, so that cells of one depth and rate share its runs."""
    return tuple(
        (dataclasses.replace(place, dose=0.0) if arm == NONE else place, arm, variant)
        for arm in arms
    )


_DECOUPLED = _of(PRIMARY, FOUR[1:]) + _of(PRIMARY, (GUIDELINES, ALL), "decoupled")
_ZERO = _of(PRIMARY, (ALL_BUT_LAST_AND_INTERIOR,)) + _of(
    PRIMARY, (ALL_BUT_LAST_AND_INTERIOR, ALL_BUT_INTERIOR), "zero"
)
_INTERIOR = _of(cell(14, INTERIOR_DOSE), (ALL, ALL_BUT_INTERIOR)) + tuple(
    (Cell(14, 150, rate, KERNEL_DECAY, INTERIOR_DOSE), arm, "") for arm, rate in RETUNED.items()
)
# In the order of the amendment in docs/experiments/preregistration.md.
AMENDMENT: tuple[tuple[tuple[Run, ...], range], ...] = (
    (_of(HIGH, (*FOUR, LAST_ALONE, SHORTCUT_ALONE)), range(100, 106)),
    (_of(cell(14, 10.0), FOUR), range(100, 124)),
    (_DECOUPLED, range(100, 124)),
    (_of(cell(32, 10.0), FOUR), range(100, 108)),
    (_ZERO, range(100, 124)),
    (_INTERIOR, range(100, 116)),
    (_of(cell(56, 10.0), FOUR), range(100, 106)),
    (_of(cell(14, 10.0), FOUR), range(124, 140)),
    (_DECOUPLED, range(124, 140)),
    (_of(cell(32, 3.0), FOUR[1:]), range(100, 108)),
    (_of(cell(56, 3.0), FOUR[1:]), range(100, 106)),
    (_ZERO, range(124, 140)),
)


def amendment(line: int | None = None) -> Iterator[Job]:
    """A few arms each, with seeds that no earlier run had; all lines, or one, counted from 1."""
    for runs, seeds in AMENDMENT if line is None else AMENDMENT[line - 1 : line]:
        yield from blocks(runs, seeds)


# The second amendment: residual_last's effect by depth, with and without decay of what balances it.
DEPTH_ARMS = (NONE, LAST_ALONE, ALL_BUT_LAST_AND_INTERIOR, ALL_BUT_INTERIOR)
DEPTH_SEEDS = range(200, 220)


def depth(line: int | None = None) -> Iterator[Job]:
    """Four arms at every depth, seed by seed, so that every whole seed has all depths."""
    _no_lines(line)
    runs = tuple(run for deep in sorted(RATE_OF) for run in _of(cell(deep, 10.0), DEPTH_ARMS))
    yield from blocks(runs, DEPTH_SEEDS)


# The third amendment: vision transformers with AdamW. A norm at the start of each branch is
# `residual_last`; the last norm, and every one between blocks, is `trunk`.
NORM_POSITIONS = ("pre", "post")
TRUNK_ALONE, LAST_AND_TRUNK = "0001", "1001"
TRANSFORMER_RATES = (3e-2, 1e-2, 3e-3, 1e-3)
TRANSFORMER_DOSES = (3.0, 10.0)
TRANSFORMER_SEEDS = range(300, 324)
_KERNELS_DOSE = 3.0


def transformer(rate: float, dose: float) -> Cell:
    """Four blocks of width 32; λ of kernels is decoupled and has a dose of 3."""
    found = Cell(4, 500, rate, 0.0, dose, epochs=30, width=32)
    # A cosine over all steps sums up to half of them (and half a step).
    kernels = _KERNELS_DOSE / (rate * (found.steps + 1) / 2)
    return dataclasses.replace(found, kernels=round(kernels, 4))


def tune_transformers(line: int | None = None) -> Iterator[Job]:
    """Learning rates of "none"."""
    _no_lines(line)
    kinds = tuple(
        (transformer(rate, 0.0), NONE, position)
        for position in NORM_POSITIONS
        for rate in TRANSFORMER_RATES
    )
    yield from blocks(kinds, TUNING_SEEDS)


# By the position of the norm, of "none", on validation: what `tune_transformers` found.
TRANSFORMER_RATE_OF = {"pre": 1e-2, "post": 3e-3}


def _transformers(cells: Sequence[dict[str, Cell]], seeds: range) -> Iterator[Job]:
    """All subsets of the roles that there are, in cells by the position of the norm."""
    runs: list[Run] = []
    for position, rate in TRANSFORMER_RATE_OF.items():
        arms = (LAST_ALONE, TRUNK_ALONE, LAST_AND_TRUNK) if position == "pre" else (TRUNK_ALONE,)
        runs.append((transformer(rate, 0.0), NONE, position))
        runs += [(cell[position], arm, position) for cell in cells for arm in arms]
    yield from blocks(tuple(runs), seeds)


def transformers_at(dose: float) -> dict[str, Cell]:
    """The cells of a dose, by the position of the norm."""
    return {position: transformer(rate, dose) for position, rate in TRANSFORMER_RATE_OF.items()}


def transformers(line: int | None = None) -> Iterator[Job]:
    """The third amendment, seed by seed."""
    _no_lines(line)
    yield from _transformers(list(map(transformers_at, TRANSFORMER_DOSES)), TRANSFORMER_SEEDS)


# The fourth amendment: the same at a λ that is usual for AdamW.
USUAL_STRENGTH = 0.3
USUAL_SEEDS = range(400, 424)


def transformers_as_usual() -> dict[str, Cell]:
    """The cells of that λ; their doses follow from it, and differ."""
    found = {}
    for position, rate in TRANSFORMER_RATE_OF.items():
        total = rate * (transformer(rate, 0.0).steps + 1) / 2
        found[position] = transformer(rate, round(USUAL_STRENGTH * total, 6))
    return found


def usual(line: int | None = None) -> Iterator[Job]:
    """The fourth amendment, seed by seed."""
    _no_lines(line)
    yield from _transformers([transformers_as_usual()], USUAL_SEEDS)


STAGES = {
    "tune": tune,
    "test": test,
    "tune_interior": tune_interior,
    "amendment": amendment,
    "depth": depth,
    "tune_transformers": tune_transformers,
    "transformers": transformers,
    "usual": usual,
}
