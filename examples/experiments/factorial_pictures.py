"""The figures of a factorial experiment: effects by role, and the map by depth and dose."""

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.experiments.factorial_statistics import MARGIN, Design
from examples.experiments.pictures import save, subplots
from examples.experiments.significance import estimate

_COLOURS = ("#1b6ca8", "#c8553d", "#5a8f3c", "#7a5195")
_TICKS = (-20, -10, -5, -2, -1, -0.3, 0, 0.3, 1, 2, 5, 10, 20)

Series = Mapping[str, Callable[[Design], np.ndarray]]


def effects(
    designs: Mapping[str, Design], contrasts: Mapping[str, tuple[str, str]], path: Path
) -> None:
    """Draws the effect of each switch, and arms against each other, with intervals and margin.

    Args:
        designs: by name.
        contrasts: by name, two arms as bits: the first minus the second.
        path: the PNG file to write.
    """
    switches = next(iter(designs.values())).switches
    figure, (left, right) = subplots(1, 2, (15.0, 2.2 + 0.8 * len(designs)))
    _intervals(left, designs, {s: operator.methodcaller("effect", s) for s in switches})
    left.set_title("decaying the γ of a role: the arms that do minus those that do not")
    pairs: Series = {
        name: operator.methodcaller("difference", *pair) for name, pair in contrasts.items()
    }
    _intervals(right, designs, pairs)
    right.set_title("one arm against another")
    save(figure, path)


def _intervals(axes: Any, designs: Mapping[str, Design], series: Series) -> None:
    axes.axvspan(-MARGIN, MARGIN, color="#e8e8e8", label=f"±{MARGIN:g}: nothing that matters")
    axes.axvline(0.0, color="gray", linewidth=0.8)
    for number, (name, values_of) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot([], [], "o", color=colour, label=name)
        for place, design in enumerate(designs.values()):
            found = estimate(values_of(design))
            y = -place - 0.8 / (len(series) + 1) * (number - (len(series) - 1) / 2)
            known = np.isfinite(found.low)
            spread = [[found.mean - found.low], [found.high - found.mean]] if known else None
            axes.errorbar([found.mean], [y], xerr=spread, fmt="o", capsize=3, color=colour)
    counts = {name: len(design.seeds) for name, design in designs.items()}
    names = [f"{name}\n{n} seed{'s' if n > 1 else ''}" for name, n in counts.items()]
    axes.set_yticks([-place for place in range(len(designs))], names)
    axes.set_xlabel("points of accuracy, 95 % intervals over seeds")
    # Effects of a third of a point and of twenty are both to be read.
    axes.set_xscale("symlog", linthresh=1.0)
    low, high = axes.get_xlim()
    shown = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=5)


def maps(values: Mapping[str, Mapping[tuple[int, float], float]], base: str, path: Path) -> None:
    """Draws accuracy by depth and dose, a panel for each preset.

    Args:
        values: by preset, accuracy in percent by depth and dose.
        base: the preset that the others are compared with; colours are differences from it.
        path: the PNG file to write.
    """
    depths = sorted({depth for depth, _ in values[base]})
    doses = sorted({dose for _, dose in values[base]})
    figure, panels = subplots(1, len(values), (4.3 * len(values), 4.2))
    image = None
    for axes, (name, found) in zip(panels, values.items(), strict=True):
        table = np.full((len(depths), len(doses)), np.nan)
        for (depth, dose), value in found.items():
            y, x = depths.index(depth), doses.index(dose)
            gain = table[y, x] = value - values[base][depth, dose]
            text = f"{value:.1f} %" + ("" if name == base else f"\n{gain:+.1f}")
            colour = "white" if abs(gain) > 3 else "black"
            axes.text(x, y, text, ha="center", va="center", fontsize=9, color=colour)
        image = axes.imshow(table, cmap="RdBu", vmin=-4, vmax=4, origin="lower", aspect="auto")
        axes.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
        axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        axes.set(title=name, xlabel="dose D of the γ that are decayed")
    panels[0].set_ylabel("depth")
    label = f"points above “{base}”; no colour: not run"
    figure.colorbar(image, ax=panels, label=label, shrink=0.9)
    save(figure, path)
