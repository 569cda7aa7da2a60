"""The figures of a factorial experiment: effects by role, and the map by depth and dose."""

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.experiments.factorial_map import Panel
from examples.experiments.factorial_statistics import MARGIN, Design
from examples.experiments.pictures import save, subplots
from examples.experiments.significance import estimate

_COLOURS = ("#1b6ca8", "#c8553d", "#5a8f3c", "#7a5195")
_TICKS = (-20, -5, -2, -1, 0, 1, 2, 5, 20)

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
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)


def maps(panels: Mapping[str, Panel], base: str, path: Path) -> None:
    """Draws accuracy, and how many runs train, by depth and dose, a panel for each preset.

    Args:
        panels: by preset, as `factorial_map.values` gives them.
        base: the preset that the others are compared with; colours are differences from it.
        path: the PNG file to write.
    """
    names = list(dict.fromkeys(name for found in panels.values() for name, _ in found))
    doses = sorted({dose for found in panels.values() for _, dose in found})
    figure, all_axes = subplots(1, len(panels), (3.6 * len(panels), 1.2 + 0.85 * len(names)))
    image = None
    for axes, (title, found) in zip(all_axes, panels.items(), strict=True):
        table = np.full((len(names), len(doses)), np.nan)
        for (name, dose), place in found.items():
            y, x = names.index(name), doses.index(dose)
            table[y, x] = place.gain
            text = f"{place.accuracy:.1f} %" + ("" if title == base else f"\n{place.gain:+.1f}")
            if place.trained < 1:
                text += f"\n{place.trained:.0%} train"
            colour = "white" if abs(place.gain) > 3 else "black"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
        image = axes.imshow(table, cmap="RdBu", vmin=-4, vmax=4, origin="lower", aspect="auto")
        axes.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
        axes.set_yticks(range(len(names)), names if axes is all_axes[0] else [""] * len(names))
        axes.set_xlabel("dose D of the γ that are decayed")
        axes.set_title(title, fontsize=10)
    all_axes[0].set_ylabel("depth, learning rate")
    label = f"points above “{base}”; no colour: not run"
    figure.colorbar(image, ax=all_axes, label=label, shrink=0.9)
    save(figure, path)
