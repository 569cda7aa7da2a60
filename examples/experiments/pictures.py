"""Pictures of results, as files."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.core.files import write_atomic
from examples.experiments.significance import Estimate


@dataclasses.dataclass
class Panel:
    """One panel of lines.

    Args:
        title: of the panel.
        x: label of the x-axis.
        y: label of the y-axis.
        lines: by label, `(x, y, style)` as matplotlib takes them.
        xscale: linear or log.
        yscale: linear or log.
    """

    title: str
    x: str
    y: str
    lines: dict[str, tuple[Any, Any, str]]
    xscale: str = "linear"
    yscale: str = "linear"


def confusion_matrix(counts: np.ndarray, path: Path) -> None:
    """Draws how many examples of each class were taken for each.

    Args:
        counts: shape `(classes, classes)`: true class, class found.
        path: the PNG file to write.
    """
    classes = len(counts)
    size = min(3.0 + 0.35 * classes, 12.0)
    figure, axes = subplots(1, 1, (size, size))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if classes <= 20:
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        for (row, column), number in np.ndenumerate(counts):
            if number:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=8)
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    title = f"{counts.sum()} test examples, {accuracy:.2%} right"
    axes.set(xlabel="found", ylabel="true", title=title)
    save(figure, path)


def learning_curves(
    curves: dict[str, np.ndarray], differences: dict[str, Estimate], base: str, path: Path
) -> None:
    """Draws the arms of an experiment: mean curves, and final differences with their intervals.

    Args:
        curves: by arm, accuracies in percent, shape `(seeds, epochs)`.
        differences: by arm, that from the base arm, in points.
        base: name of the arm that the others are compared with.
        path: the PNG file to write.
    """
    figure, (left, right) = subplots(1, 2, (13.0, 5.0))
    for arm, values in curves.items():
        epochs = np.arange(1, values.shape[1] + 1)
        left.plot(epochs, values.mean(axis=0), label=arm, linewidth=1.4)
    low = min(values[:, values.shape[1] // 4 :].mean(axis=0).min() for values in curves.values())
    left.set_ylim(low - 1, None)
    left.set(xlabel="epoch", ylabel="test accuracy, %", title="mean over the seeds")
    left.legend(fontsize=8)
    for place, (_, found) in enumerate(differences.items()):
        finite = np.isfinite([found.low, found.high]).all()
        spread = [[found.mean - found.low], [found.high - found.mean]] if finite else None
        right.errorbar([found.mean], [-place], xerr=spread, fmt="o", capsize=4, color="black")
    right.axvline(0.0, color="gray", linewidth=0.8)
    right.set_yticks([-place for place in range(len(differences))], list(differences))
    right.set(xlabel="points", title=f"final accuracy minus that of {base}, 95 % intervals")
    save(figure, path)


def lines(panels: Sequence[Panel], path: Path) -> None:
    """Draws panels of lines.

    Args:
        panels: what to draw.
        path: the PNG file to write.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = subplots(rows, columns, (5.0 * columns, 4.0 * rows))
    for axis, panel in zip(np.ravel(axes), panels, strict=False):
        for label, (x, y, style) in panel.lines.items():
            axis.plot(x, y, style, label=label, linewidth=1.3, markersize=5)
        axis.set(xlabel=panel.x, ylabel=panel.y, xscale=panel.xscale, yscale=panel.yscale)
        axis.set_title(panel.title, fontsize=10)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.25)
    for axis in np.ravel(axes)[len(panels) :]:
        figure.delaxes(axis)
    save(figure, path)


def subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Returns a figure of the given size in inches, and its axes; no window is opened."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomic(path, content.getvalue())
