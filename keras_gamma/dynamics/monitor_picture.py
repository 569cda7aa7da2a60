"""The measurements of `GammaMonitor` as one picture."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_gamma.report.palette import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Header = dict[str, Any]
Rows = list[dict[str, Any]]

_FORMATS = ("pdf", "png", "svg")
_BUSY = 12  # So many lines are told apart by a legend; more are drawn thin, without one.


def check(path: str | os.PathLike[str]) -> Path:
    """The path of a picture, as a `Path`: called before training, so that it fails before.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for a suffix that it cannot be drawn as.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("A picture needs matplotlib: pip install matplotlib.")
    path = Path(path)
    if path.suffix.lstrip(".").lower() not in _FORMATS:
        raise ValueError(
            f"A picture is drawn as {', '.join(_FORMATS)}, by the file's suffix. "
            f"Received: {str(path)!r}"
        )
    return path


def draw(header: Header, rows: Rows, path: str | os.PathLike[str]) -> None:
    """Draws what a `GammaMonitor` measured.

    Args:
        header: dict, as `GammaMonitor.header`.
        rows: list of dicts, as `GammaMonitor.history`.
        path: of the file to write; PNG, SVG or PDF by its suffix.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for another suffix.
    """
    path = check(path)
    panels = [_draw_loss]
    if header["gammas"]:
        panels.append(_draw_gammas)
    if header["kernels"]:
        panels += [_draw_norms, _draw_rates, _draw_angles]
    if any(row["branches"] for row in rows):
        panels.append(_draw_branches)
    figure, axes = _new_figure(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, header, rows, [row["step"] for row in rows])
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _new_figure(count: int) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 2 if count == 4 else 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.5 * columns, 3.75 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[count:]:
        figure.delaxes(axis)
    return figure, axes[:count]


def _draw_norms(axis: "Axes", header: Header, rows: Rows, steps: list[int]) -> None:
    kernels = list(header["kernels"])
    _draw_each(axis, kernels, rows, steps, "kernels", "norm")
    _draw_predicted(axis, kernels, rows, steps, "predicted_norm")
    axis.set_title("‖w‖ of scale-invariant kernels (dashed: predicted)", fontsize=9)


def _draw_rates(axis: "Axes", header: Header, rows: Rows, steps: list[int]) -> None:
    _draw_each(axis, list(header["kernels"]), rows, steps, "kernels", "effective_learning_rate")
    axis.set_title(f"effective learning rate {header['effective_learning_rate']}", fontsize=9)


def _draw_angles(axis: "Axes", header: Header, rows: Rows, steps: list[int]) -> None:
    kernels = list(header["kernels"])
    _draw_each(axis, kernels, rows, steps, "kernels", "rms_angle")
    _draw_predicted(axis, kernels, rows, steps, "predicted_angle")
    axis.set_title("angle per step, RMS, in radians (dashed: predicted)", fontsize=9)


def _draw_branches(axis: "Axes", header: Header, rows: Rows, steps: list[int]) -> None:
    labels = list(dict.fromkeys(label for row in rows for label in row["branches"]))
    _draw_each(axis, labels, rows, steps, "branches", "ratio")
    axis.set_title("variance of the branch over that of the skip", fontsize=9)


def _draw_loss(axis: "Axes", header: Header, rows: Rows, steps: list[int]) -> None:
    axis.plot(steps, [_number(row["loss"]) for row in rows], color="black", linewidth=1.2)
    axis.set_title("loss since the last measurement (solid), learning rate (dotted)", fontsize=9)
    if all((row["loss"] or 0) > 0 for row in rows):
        axis.set_yscale("log")
    right = axis.twinx()
    right.plot(steps, [_number(row["learning_rate"]) for row in rows], ":", color="gray")
    right.tick_params(labelsize=8)


def _draw_gammas(axis: "Axes", header: Header, rows: Rows, steps: list[int]) -> None:
    """Every γ's median thin, and its role's thick."""
    for path, about in header["gammas"].items():
        values = [row["gammas"].get(path, {}).get("quantiles") for row in rows]
        medians = [np.nan if v is None else v[2] for v in values]
        axis.plot(steps, medians, color=COLORS[about["role"]], linewidth=0.5, alpha=0.4)
    for role, color in COLORS.items():
        if any(role in row["roles"] for row in rows):
            medians = [_number(row["roles"].get(role, {}).get("median")) for row in rows]
            axis.plot(steps, medians, color=color, linewidth=2.2, label=role)
    axis.set_title("γ: medians by role", fontsize=9)
    axis.legend(fontsize=7)


def _draw_each(
    axis: "Axes", keys: Sequence[str], rows: Rows, steps: list[int], group: str, name: str
) -> None:
    for i, key in enumerate(keys):
        values = [_number(row[group].get(key, {}).get(name)) for row in rows]
        axis.plot(
            steps, values, color=_shade(i, len(keys)), linewidth=1.2 if len(keys) <= _BUSY else 0.7,
            label=key,
        )  # fmt: skip
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in axis.lines]
    if any(np.nanmax(one, initial=0) > 0 for one in drawn):
        axis.set_yscale("log")
    if 0 < len(keys) <= _BUSY:
        axis.legend(fontsize=6)
    elif keys:
        axis.text(
            0.01, 0.02, f"{len(keys)} lines, first (dark) to last (light)",
            transform=axis.transAxes, fontsize=7,
        )  # fmt: skip


def _draw_predicted(
    axis: "Axes", kernels: Sequence[str], rows: Rows, steps: list[int], name: str
) -> None:
    for i, key in enumerate(kernels):
        values = [_number(row["kernels"].get(key, {}).get(name)) for row in rows]
        if np.isfinite(values).any():
            axis.plot(steps, values, "--", color=_shade(i, len(kernels)), linewidth=0.9)


def _shade(index: int, count: int) -> Any:
    """From the first to the last line, from dark to light."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.9 * index / max(count - 1, 1))


def _number(value: float | None) -> float:
    return np.nan if value is None else value
