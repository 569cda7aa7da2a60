"""What the factorial experiment trains: cells, arms, data. Pure, and the same on every machine."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_gamma import Role

MOMENTUM = 0.9
ROLES = (Role.RESIDUAL_LAST, Role.SHORTCUT, Role.INTERIOR, Role.TRUNK)
NONE, ALL, GUIDELINES = "0000", "1111", "1010"
ALL_BUT_INTERIOR = "1101"
# A bit for each role, in the order of ROLES.
ARMS = tuple("".join(bits) for bits in itertools.product("01", repeat=len(ROLES)))

_TRAIN, _VALIDATION = 600, 297  # The other 900 digits are for testing.


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of the map: everything but the seed and the arm.

    Args:
        depth: of the ResNet v1.
        examples: training images, drawn by the seed.
        rate: η at the start of the cosine schedule.
        kernels: λ of kernels, in torch's units.
        dose: D = Σ η·λ / (1 − m) of the γ that are decayed; 0 where none is.
        epochs: passes.
        batch: images in a step.
        width: filters of the first stage.
    """

    depth: int
    examples: int
    rate: float
    kernels: float
    dose: float
    epochs: int = 60
    batch: int = 30
    width: int = 8

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return self.epochs * (self.examples // self.batch)


@dataclasses.dataclass(frozen=True)
class Data:
    """Arrays of one seed.

    Args:
        train: images and labels to train on.
        order: indices of each step's examples, shape `(steps, batch)`.
    """

    train: tuple[np.ndarray, np.ndarray]
    order: np.ndarray


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    found = datasets.load_digits()
    place = np.random.default_rng(20260).permutation(len(found.target))
    images = (found.images[..., np.newaxis] / 8 - 1).astype("float32")
    return images[place], found.target[place].astype("int32")


def held_out(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `validation` (for settings) or `test` (for results)."""
    images, labels = _digits()
    begin, end = {
        "validation": (_TRAIN, _TRAIN + _VALIDATION),
        "test": (_TRAIN + _VALIDATION, len(labels)),
    }[split]
    return images[begin:end], labels[begin:end]


def data_of(cell: Cell, seed: int) -> Data:
    """The training images of a seed, and their order; all arms of the seed share them."""
    images, labels = _digits()
    random = np.random.default_rng([seed, cell.examples])
    chosen = random.choice(_TRAIN, cell.examples, replace=False)
    steps = cell.examples // cell.batch
    passes = [random.permutation(cell.examples)[: steps * cell.batch] for _ in range(cell.epochs)]
    return Data((images[chosen], labels[chosen]), np.concatenate(passes).reshape(-1, cell.batch))


def strengths_of(arm: str, strength: float) -> dict[str, float]:
    """λ by role, of an arm."""
    return {str(role): strength * int(bit) for role, bit in zip(ROLES, arm, strict=True)}


def jobs(cell: Cell, seeds: range, arms: tuple[str, ...] = ARMS) -> Iterator[dict[str, Any]]:
    """Seed by seed, so that an interrupted experiment has whole seeds."""
    for seed in seeds:
        for arm in arms:
            yield dataclasses.asdict(cell) | {"seed": seed, "arm": arm}


Run = tuple[Cell, str, str]  # With an arm and a variant: "", "decoupled", "zero" or "paced:k".


def blocks(runs: tuple[Run, ...], seeds: range) -> Iterator[dict[str, Any]]:
    """Runs in several cells with the same seeds, seed by seed."""
    for seed in seeds:
        for cell, arm, variant in runs:
            yield dataclasses.asdict(cell) | {"seed": seed, "arm": arm, "variant": variant}


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one job from another."""
    names = [field.name for field in dataclasses.fields(Cell)]
    return (*(row[name] for name in (*names, "seed", "arm")), row.get("variant", ""))
