"""Draws the pictures of the documentation: `python docs/tools/pictures.py`.

`how_it_works.svg` is the path of a model through the rooms; `imports.svg` is what imports what,
read from the source, on the layers that pyproject.toml lays down. An arrow upward is an error.
"""

import collections
import io
import pathlib
import sys

import grimp
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
INK, FACE, ACCENT = "#333333", "#F4F4F4", "#0072B2"

STATIONS = (
    ("model", "any Keras 3 model"),
    ("network", "a graph of calls,\ntraced once"),
    ("roles", "joins, forks, skips:\na role for every γ"),
    ("plan", "guidelines:\nwhat decays, and why"),
    ("application", "penalties, or the\noptimizer's decay"),
    ("checks", "run the model, take\na step, look"),
)
ROOMS = ("", "network/", "roles/", "decay/", "decay/", "checks/")


def layers() -> list[list[str]]:
    """The rooms of the first contract, from the top down, those side by side together."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = content["tool"]["importlinter"]["contracts"][0]
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def imports() -> collections.Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    graph = grimp.build_graph("keras_gamma", cache_dir=None)
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            ends = [name.split(".")[1] for name in (module, target) if "." in name]
            if len(ends) == 2 and ends[0] != ends[1]:
                found[ends[0], ends[1]] += 1
    return found


def upward(rows: list[list[str]], arrows: collections.Counter[tuple[str, str]]) -> list[str]:
    """The arrows that do not lead down."""
    level = {room: i for i, row in enumerate(rows) for room in row}
    return [f"{a} -> {b}" for a, b in arrows if level[a] >= level[b]]


def draw_imports() -> Figure:
    rows, arrows = layers(), imports()
    wrong = upward(rows, arrows)
    if wrong:
        raise SystemExit(f"imports that do not lead down: {', '.join(wrong)}")
    figure, axes = _canvas(10.0, 0.9 * len(rows))
    place = {}
    for i, row in enumerate(rows):
        for j, room in enumerate(row):
            # Every other layer is moved aside, so that arrows pass beside boxes.
            x = 5.0 + (j - (len(row) - 1) / 2) * 2.1 + (0.7 if i % 2 else -0.7)
            place[room] = x, (len(rows) - i - 0.5) * 0.9
    for (a, b), count in sorted(arrows.items()):
        _arrow(axes, place[a], place[b], 0.4 + 0.25 * count**0.5, "#99999999")
    for room, (x, y) in place.items():
        _box(axes, x, y, 1.8, 0.42, room, bold=True)
    return figure


def draw_path() -> Figure:
    figure, axes = _canvas(12.0, 2.0)
    for i, ((title, text), room) in enumerate(zip(STATIONS, ROOMS, strict=True)):
        x = 1.0 + 2.0 * i
        if i:
            _arrow(axes, (x - 1.14, 1.2), (x - 0.85, 1.2), 1.6, ACCENT, shrink=0)
        _box(axes, x, 1.2, 1.7, 1.0, "")
        axes.text(x, 1.5, title, ha="center", weight="bold", color=ACCENT, fontsize=11)
        axes.text(x, 1.1, text, ha="center", va="center", color=INK, fontsize=8)
        axes.text(x, 0.5, room, ha="center", color=INK, fontsize=8, family="monospace")
    # The checks look at the model, not at what was written down about it.
    _arrow(axes, (11.0, 0.42), (1.0, 0.62), 1.0, "#999999", bend=-0.06, shrink=0)
    axes.text(6.0, 0.06, "checked by running it", ha="center", color="#666666", fontsize=8)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return figure, axes


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, bold: bool = False
) -> None:
    corner = x - width / 2, y - height / 2
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=FACE, ec=INK, zorder=3))
    weight = "bold" if bold else "normal"
    axes.text(x, y, text, ha="center", va="center", color=INK, weight=weight, fontsize=9, zorder=4)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float,
    color: str,
    bend: float = 0.0,
    shrink: float = 16,
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, lw=width, color=color,
            shrinkA=0, shrinkB=shrink, connectionstyle=f"arc3,rad={bend}",
        )
    )  # fmt: skip


def main() -> None:
    sys.path.insert(0, str(ROOT))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "keras_gamma"}):
        for name, draw in (("how_it_works", draw_path), ("imports", draw_imports)):
            content = io.StringIO()
            draw().savefig(content, format="svg", metadata={"Date": None})
            # matplotlib leaves blanks at the ends of lines.
            lines = [line.rstrip() for line in content.getvalue().splitlines()]
            (PICTURES / f"{name}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
