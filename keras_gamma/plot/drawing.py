"""A `Layout` drawn with matplotlib: PNG, SVG or PDF."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_gamma.network.graph import Kind
from keras_gamma.plot.layout import BOX, LANE, MARGIN, ROW, Box, Edge, Layout
from keras_gamma.report import palette
from keras_gamma.report.palette import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("html", "pdf", "png", "svg")
_LABEL = 24  # Letters that fit into a box.
_HEADER = 34.0  # Points above the network, for the legend.
_LEGEND = 440.0  # Points that the legend takes.
_DOTS = 144  # Per inch, of a PNG.
_MOST_PIXELS = 30_000  # Per side: what viewers open.


def draw(
    layout: Layout, roles: Mapping[int, str], title: str, kind: str, *, legend: bool = True
) -> bytes:
    """Draws a network.

    Args:
        layout: a `Layout`.
        roles: dict from node number to `Role`, for the normalizations that have a γ.
        title: string.
        kind: `"png"`, `"svg"` or `"pdf"`.
        legend: bool, whether title and legend stand above the network.

    Returns:
        The file's content: bytes. In an SVG, each box is a group with the id `node<number>`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    head = _HEADER if legend else 0.0
    width = max(layout.width, _LEGEND if legend else 0.0)
    height = layout.height + head
    # Text stays text, and ids do not change from one run to the next.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "keras_gamma"}):
        figure = Figure(figsize=(width / 72, height / 72))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(layout.height, -head)
        axes.axis("off")
        for edge in layout.edges:
            _draw_edge(axes, edge, layout.height)
        for box in layout.boxes:
            _draw_box(axes, box, roles.get(box.node))
        if legend:
            _draw_legend(axes, roles, title)
        content = io.BytesIO()
        dots = min(_DOTS, _MOST_PIXELS / max(width, height) * 72)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, dpi=dots, metadata=metadata)
    return content.getvalue()


def _draw_box(axes: "Axes", box: Box, role: str | None) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    if box.kind is Kind.SUM:
        face, ink = (palette.INK, palette.PAPER) if box.residual else (palette.PAPER, palette.INK)
        patch: Any = Circle((box.x, box.y), 6.5, facecolor=face, edgecolor=palette.INK, zorder=3)
        text, size = "+", 8.0
    else:
        face, ink = _colors(box, role)
        patch = FancyBboxPatch(
            (box.x - BOX[0] / 2, box.y - BOX[1] / 2),
            *BOX,
            boxstyle="round,pad=0,rounding_size=3",
            facecolor=face,
            edgecolor="none" if role else palette.RIM,
            linewidth=0.6,
            zorder=3,
        )
        text, size = shorten(box.label, _LABEL), 6.5
    patch.set_gid(f"node{box.node}")
    axes.add_patch(patch)
    axes.text(
        box.x, box.y, text, fontsize=size, color=ink, ha="center", va="center_baseline",
        zorder=4, gid=f"text{box.node}", parse_math=False,
    )  # fmt: skip


def _colors(box: Box, role: str | None) -> tuple[str, str]:
    if role is not None:
        return COLORS[role], palette.ink_on(COLORS[role])
    if box.kind is Kind.NORM:  # Without a γ.
        return palette.BARE, palette.INK
    if box.kind is Kind.OPAQUE:
        return palette.CLOSED, palette.PAPER
    return palette.PLAIN, palette.PLAIN_INK


def _draw_edge(axes: "Axes", edge: Edge, height: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    start, end = edge.start, edge.end
    x0, y0 = start.x, start.y
    x1, y1 = end.x, end.y
    curve, line, move = Path.CURVE4, Path.LINETO, Path.MOVETO
    if start.column != end.column:
        # Down and around: below the one column, up in the gap, into the other from above.
        gap = x1 - end.lane * LANE - LANE / 2 - MARGIN / 2
        low, top = height - MARGIN / 2, MARGIN / 2
        side = x0 if start.lane == 0 and _is_last(start, low) else x0 - LANE / 2 + 3
        points = [(x0, y0), (side, y0), (side, low), (gap, low), (gap, top), (x1, top), (x1, y1)]
        codes = [move] + [line] * 6
    elif edge.around:
        # On the left, past other boxes of the same lane.
        bulge = BOX[0] / 2 + 8
        points = [(x0, y0), (x0 - bulge, y0 + ROW), (x0 - bulge, y1 - ROW), (x1, y1)]
        codes = [move, curve, curve, curve]
    elif x1 > x0:  # Into its lane at once.
        points, codes = [(x0, y0), (x1, y0), (x1, y1)], [move, line, line]
    else:  # Or late, if it moves back.
        points, codes = [(x0, y0), (x0, y1), (x1, y1)], [move, line, line]
    color, thickness = (palette.INK, 1.6) if edge.skip else (palette.EDGE, 0.8)
    axes.add_patch(
        PathPatch(
            Path(points, codes),
            fill=False,
            edgecolor=color,
            linewidth=thickness,
            zorder=1,
            joinstyle="round",
        )
    )


def _is_last(box: Box, low: float) -> bool:
    return low - box.y < 2 * ROW


def _draw_legend(axes: "Axes", roles: Mapping[int, str], title: str) -> None:
    from matplotlib.patches import Rectangle

    axes.text(MARGIN, -_HEADER + 12, title, fontsize=9, weight="bold", parse_math=False)
    x = MARGIN
    found = list(roles.values())
    for role, color in COLORS.items():
        axes.add_patch(Rectangle((x, -12), 9, 9, facecolor=color))
        text = f"{role} {found.count(role)}"
        axes.text(x + 12, -4.5, text, fontsize=7, va="baseline")
        x += 24 + 4.4 * len(text)


def shorten(label: str, length: int) -> str:
    """A label of at most `length` letters: of a path its end, of a name beginning and end."""
    if len(label) <= length:
        return label
    if "/" in label:
        return f"…{label[-(length - 1) :]}"
    head = (length - 1) // 2
    return f"{label[:head]}…{label[-(length - 1 - head) :]}"
