"""`--design=factorial` of the ablation: its power, its clock, and what its report says."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.experiments import factorial_pictures
from examples.experiments.factorial_statistics import (
    MARGIN,
    Design,
    Hypothesis,
    detectable,
    half_width,
    judge_family,
)
from examples.experiments.reports import Report, tell
from examples.experiments.significance import estimate
from keras_gamma import Guidelines


def arms_of(roles: Sequence[str]) -> list[str]:
    """Names of all subsets: `none`, `trunk`, `interior+trunk`, …"""
    counts = range(len(roles) + 1)
    subsets = itertools.chain.from_iterable(itertools.combinations(roles, n) for n in counts)
    return ["+".join(subset) or "none" for subset in subsets]


def bits_of(arm: str, roles: Sequence[str]) -> str:
    """An arm's name as bits in the order of the roles.

    Example:

    >>> from examples.experiments.factorial_sections import bits_of
    >>> bits_of("interior+trunk", ["residual_last", "interior", "trunk"])
    '011'
    """
    return "".join(str(int(role in arm.split("+"))) for role in roles)


def power(seeds: int, deviation: float) -> str:
    """What the seeds will be able to tell, in words.

    Args:
        seeds: how many.
        deviation: standard deviation of a main effect between seeds, in points.
    """
    if seeds < 2:
        return "1 seed: no interval, and nothing can be told. Give 2 seeds or more."
    half, found = half_width(deviation, seeds), detectable(deviation, seeds)
    needed = next((n for n in range(2, 10_000) if half_width(deviation, n) <= 0.5 * MARGIN), None)
    return (
        f"{seeds} seeds, if a main effect varies by {deviation:g} points between seeds: intervals "
        f"of ±{half:.2g} points; an effect of {found:.2g} points is found in 8 cases of 10. "
        f"±{0.5 * MARGIN:g} points need {needed} seeds."
    )


class Clock:
    """A bar with the time that is left.

    Args:
        total: runs.
    """

    def __init__(self, total: int):
        self._total = total
        self._before: int | None = None
        self._began = time.monotonic()

    def tick(self, done: int) -> str:
        """Returns the bar.

        Args:
            done: runs that have ended, those of an earlier start included.
        """
        if self._before is None:
            self._before = done - 1
        each = (time.monotonic() - self._began) / max(done - self._before, 1)
        minutes = math.ceil(each * (self._total - done) / 60)
        filled = 20 * done // self._total
        return f"{'█' * filled}{'░' * (20 - filled)} {minutes} min left"


def add(
    report: Report,
    accuracies: Mapping[tuple[int, str], float],
    roles: Sequence[str],
    directory: Path,
) -> None:
    """Adds effects, interactions, equivalence tests and the figure to a report.

    Args:
        report: to add to.
        accuracies: in percent, by seed and name of the arm.
        roles: that were crossed.
        directory: where the figure is written.
    """
    results = {(seed, bits_of(arm, roles)): value for (seed, arm), value in accuracies.items()}
    design = Design.of(roles, results)
    if not design.seeds:
        return
    report.heading("Effects")
    _table(report, [Hypothesis(role, 0, design.effect(role)) for role in roles])
    report.text(
        "Decaying the γ of a role: the mean of the arms that do minus that of the arms that do "
        f"not, in points. Equivalence: two one-sided tests, margin {MARGIN:g} points. p-values "
        "are Holm-corrected within each table."
    )
    if len(roles) > 1:
        report.heading("Interactions")
        pairs = itertools.combinations(roles, 2)
        _table(report, [Hypothesis(f"{a} × {b}", 0, design.effect(a, b)) for a, b in pairs])
        report.text(
            "Half the difference between the effect of one role with and without decay of the "
            "other, in points."
        )
    report.heading("Presets")
    contrasts = presets(roles)
    _table(
        report, [Hypothesis(name, 0, design.difference(*two)) for name, two in contrasts.items()]
    )
    spread = [float(design.effect(role).std(ddof=1)) for role in roles if len(design.seeds) > 1]
    if spread:
        report.text(
            f"Main effects varied by {min(spread):.2g} to {max(spread):.2g} points between seeds. "
            + power(len(design.seeds), max(max(spread), 1e-6))
        )
    path = directory / "effects.png"
    factorial_pictures.effects({"here": design}, contrasts, path)
    report.picture(path, "Effects with 95 % intervals; grey: nothing that matters.")


def presets(roles: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The presets' arms against each other, as far as they differ on these roles."""
    bits = {
        name: "".join(str(int(Guidelines.parse(word).factor(role) > 0)) for role in roles)
        for name, word in (("none", "none"), ("all", "all"), ("guidelines", "paper"))
    }
    pairs = (("guidelines", "none"), ("all", "none"), ("guidelines", "all"))
    return {f"{a} − {b}": (bits[a], bits[b]) for a, b in pairs if bits[a] != bits[b]}


def _table(report: Report, family: Sequence[Hypothesis]) -> None:
    rows: list[list[Any]] = [
        [v.hypothesis.text, tell(estimate(v.hypothesis.values)), f"{v.p:.2g}",
         f"{v.p_equivalence:.2g}", v.text]
        for v in judge_family(family)
    ]  # fmt: skip
    report.table(["", "points (95 %)", "p", "p of equivalence", "verdict"], rows)
