"""The hypotheses of docs/experiments/preregistration.md, judged by the rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.experiments import factorial_plan as plan
from examples.experiments.factorial_cells import (
    ALL,
    ARMS,
    GUIDELINES,
    NONE,
    ROLES,
    Cell,
)
from examples.experiments.factorial_statistics import Design, Hypothesis, Verdict, judge_family
from examples.experiments.significance import Estimate, estimate

Row = Mapping[str, Any]
Designs = dict[Cell, Design]

PRESETS = {"none": NONE, "all": ALL, "guidelines": GUIDELINES}
LAST, SHORTCUT, INTERIOR, TRUNK = map(str, ROLES)
TRAINED = 60.0  # A run below this share of right answers has not trained, in per cent.


def by_cell(rows: Sequence[Row], column: str = "accuracy") -> Designs:
    """The designs of all cells that have a whole seed, by depth and dose."""
    names = [field.name for field in dataclasses.fields(Cell)]
    results: dict[Cell, dict[tuple[int, str], float]] = {}
    for row in rows:
        value = row[column]
        cell = Cell(**{name: row[name] for name in names})
        found = results.setdefault(cell, {})
        found[row["seed"], row["arm"]] = np.nan if value is None else value
    switches = tuple(map(str, ROLES))
    designs = {cell: Design.of(switches, found) for cell, found in results.items()}
    whole = {cell: design for cell, design in designs.items() if design.seeds}
    return dict(sorted(whole.items(), key=lambda item: (item[0].depth, item[0].rate, item[0].dose)))


def name_of(cell: Cell) -> str:
    """A cell in a few words."""
    above = "" if cell.rate == plan.RATE_OF[cell.depth] else ", η one step above"
    return f"ResNet-{cell.depth}, dose {cell.dose:g}{above}"


def best_arm(design: Design) -> tuple[str, float]:
    """The arm with the best mean, and that mean: biased upwards, since the same seeds choose."""
    means = {arm: float(design.arm(arm).mean()) for arm in ARMS}
    arm = max(means, key=lambda one: means[one])
    on = [str(role) for role, bit in zip(ROLES, arm, strict=True) if bit == "1"]
    return " + ".join(on) or "none", means[arm]


def judge(rows: Sequence[Row]) -> dict[str, list[Verdict]]:
    """Every family of hypotheses, judged."""
    designs = by_cell(rows)
    families = {"P, primary: signs by role (ResNet-14, dose 3)": _signs(designs)}
    for cell, design in designs.items():
        families[f"A, presets: {name_of(cell)}"] = _presets(design)
    families["B, the pilots' shallow net again (ResNet-14, dose 10)"] = _again(designs)
    families["C, dose (ResNet-14)"] = _dose(designs)
    families["D, depth (dose 10)"] = _depth(designs)
    families["G, trainability (ResNet-56, η one step above)"] = _trainability(designs)
    found = {name: judge_family(family) for name, family in families.items() if family}
    if mediated := _mediation(rows):
        found["F, mediation by the branch/skip ratio (ResNet-14, dose 10)"] = mediated
    return found


@dataclasses.dataclass(frozen=True)
class Turn:
    """Where the sign of residual_last's effect turns (E).

    Args:
        ratios: by depth, the mean log ratio of branch to skip at "none".
        effects: by depth, residual_last's effect.
        text: the verdict.
    """

    ratios: dict[int, Estimate]
    effects: dict[int, Estimate]
    text: str


def turn(rows: Sequence[Row]) -> Turn:
    """Judges E."""
    accuracy, ratio = by_cell(rows), by_cell(rows, "ratio")
    cells = [plan.cell(depth, 10.0) for depth in sorted(plan.RATE_OF)]
    cells = [cell for cell in cells if cell in accuracy and len(accuracy[cell].seeds) > 1]
    effects = {cell.depth: estimate(accuracy[cell].effect(LAST)) for cell in cells}
    ratios = {cell.depth: estimate(np.log(ratio[cell].arm(NONE))) for cell in cells}
    below = any(effect.high < 0 for effect in effects.values())
    above = any(effect.low > 0 for effect in effects.values())
    if not (below and above):
        return Turn(ratios, effects, "cannot be told")
    by_ratio = sorted(effects, key=lambda depth: ratios[depth].mean)
    by_effect = sorted(effects, key=lambda depth: effects[depth].mean)
    same = by_ratio in (by_effect, by_effect[::-1])
    return Turn(ratios, effects, "holds" if same else "refuted")


def _signs(designs: Designs) -> list[Hypothesis]:
    design = designs.get(plan.PRIMARY)
    if design is None:
        return []
    signs = {LAST: 1, INTERIOR: 1, SHORTCUT: -1, TRUNK: -1}
    return [
        Hypothesis(f"{role} {'>' if sign > 0 else '<'} 0", sign, design.effect(role))
        for role, sign in signs.items()
    ]


def _presets(design: Design) -> list[Hypothesis]:
    return [
        Hypothesis("guidelines − none > 0", 1, design.difference(GUIDELINES, NONE)),
        Hypothesis("guidelines − all > 0", 1, design.difference(GUIDELINES, ALL)),
        Hypothesis("all − none", 0, design.difference(ALL, NONE)),
    ]


def _again(designs: Designs) -> list[Hypothesis]:
    design = designs.get(plan.cell(14, 10.0))
    if design is None:
        return []
    return [
        Hypothesis("residual_last < 0", -1, design.effect(LAST)),
        Hypothesis("shortcut > 0", 1, design.effect(SHORTCUT)),
        Hypothesis("trunk > 0", 1, design.effect(TRUNK)),
        Hypothesis("guidelines − none < 0", -1, design.difference(GUIDELINES, NONE)),
        Hypothesis("all − none > 0", 1, design.difference(ALL, NONE)),
        Hypothesis("residual_last × shortcut > 0", 1, design.effect(LAST, SHORTCUT)),
        Hypothesis("residual_last × trunk > 0", 1, design.effect(LAST, TRUNK)),
    ]


def _slopes(designs: Designs, cells: dict[float, Cell], role: str) -> np.ndarray:
    """By seed: the slope of a role's effect over the keys, in the seeds that all cells share."""
    if any(cell not in designs for cell in cells.values()):
        return np.array([])
    shared = set.intersection(*(set(designs[cell].seeds) for cell in cells.values()))
    chosen = {x: designs[cell].only(sorted(shared)) for x, cell in cells.items()}
    effects = np.array([design.effect(role) for design in chosen.values()])
    x = np.array(list(chosen))
    slopes: np.ndarray = (x - x.mean()) @ effects / np.sum((x - x.mean()) ** 2)
    return slopes


def _dose(designs: Designs) -> list[Hypothesis]:
    cells = {float(np.log10(dose)): plan.cell(14, dose) for dose in (3.0, 10.0, 30.0)}
    return [
        Hypothesis(
            f"slope of {role} over log10 of the dose < 0", -1, _slopes(designs, cells, role), None
        )
        for role in (SHORTCUT, TRUNK)
    ]


def _depth(designs: Designs) -> list[Hypothesis]:
    cells = {float(np.log2(depth)): plan.cell(depth, 10.0) for depth in sorted(plan.RATE_OF)}
    slopes = _slopes(designs, cells, LAST)
    return [Hypothesis("slope of residual_last over log2 of the depth > 0", 1, slopes, None)]


def _mediation(rows: Sequence[Row]) -> list[Verdict]:
    """How much of residual_last's coefficient goes once the ratio is in the regression.

    The values are jackknife pseudo-values, whose mean and spread are those of the difference of
    the two coefficients.
    """
    cell = plan.cell(14, 10.0)
    accuracy, ratio = by_cell(rows).get(cell), by_cell(rows, "ratio").get(cell)
    if accuracy is None or ratio is None or len(accuracy.seeds) < 3:
        return []
    y = accuracy.values.reshape(len(accuracy.seeds), -1)
    log = np.log(ratio.values.reshape(y.shape))
    switches = np.array([[int(bit) for bit in arm] for arm in ARMS], float)

    def removed(keep: np.ndarray) -> float:
        plain, mediated = _coefficients(y[keep], log[keep], switches)
        return plain - mediated

    seeds = np.arange(len(y))
    whole = removed(seeds)
    without = np.array([removed(np.delete(seeds, seed)) for seed in seeds])
    pseudo = len(seeds) * whole - (len(seeds) - 1) * without
    plain, mediated = _coefficients(y, log, switches)
    text = f"of residual_last's {plain:.2f} the ratio takes at least half; left: {mediated:.2f}"
    sign = 1 if plain > 0 else -1
    verdict = judge_family([Hypothesis(text, sign, pseudo, None)])[0]
    if verdict.text == "holds" and abs(mediated) > abs(plain) / 2:
        verdict = dataclasses.replace(verdict, text="refuted")
    return [verdict]


def _coefficients(y: np.ndarray, log: np.ndarray, switches: np.ndarray) -> tuple[float, float]:
    """residual_last's coefficient, without and with the log ratio and its square."""

    def centred(table: np.ndarray) -> np.ndarray:
        found: np.ndarray = (table - table.mean(axis=1, keepdims=True)).ravel()
        return found

    plain = np.tile(switches - switches.mean(axis=0), (len(y), 1))
    mediators = np.stack([centred(log), centred(log**2)], axis=1)
    target = centred(y)
    first = np.linalg.lstsq(plain, target, rcond=None)[0]
    second = np.linalg.lstsq(np.hstack([plain, mediators]), target, rcond=None)[0]
    return float(first[0]), float(second[0])


def _trainability(designs: Designs) -> list[Hypothesis]:
    design = designs.get(plan.cell(56, 10.0, plan.ONE_STEP_ABOVE))
    if design is None:
        return []
    return [
        Hypothesis("residual_last > 0", 1, design.effect(LAST)),
        Hypothesis("shortcut < 0", -1, design.effect(SHORTCUT)),
    ]
