"""The measurements of `GammaMonitor` as one picture."""

import importlib.util
from pathlib import Path

import numpy as np

from keras_gamma.palette import COLORS

_FORMATS = ("pdf", "png", "svg")
_BUSY = 12  # So many lines are told apart by a legend; more are drawn thin, without one.


def check(path):
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


def draw(header, rows, path):
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
    figure, axes = _new_figure(bool(any(row["branches"] for row in rows)))
    steps = [row["step"] for row in rows]
    _draw_loss(axes[0], rows, steps)
    _draw_gammas(axes[1], header, rows, steps)
    kernels = list(header["kernels"])
    _draw_each(axes[2], kernels, rows, steps, "kernels", "norm", log=True)
    axes[2].set_title("‖w‖ of scale-invariant kernels (dashed: predicted)", fontsize=9)
    _draw_each(axes[3], kernels, rows, steps, "kernels", "effective_learning_rate", log=True)
    axes[3].set_title(f"effective learning rate {header['effective_learning_rate']}", fontsize=9)
    _draw_each(axes[4], kernels, rows, steps, "kernels", "rms_angle", log=True)
    axes[4].set_title("angle per step, RMS, in radians (dashed: predicted)", fontsize=9)
    for axis, name in ((axes[2], "predicted_norm"), (axes[4], "predicted_angle")):
        _draw_predicted(axis, kernels, rows, steps, name)
    if len(axes) > 5:
        labels = list(dict.fromkeys(label for row in rows for label in row["branches"]))
        _draw_each(axes[5], labels, rows, steps, "branches", "ratio", log=True)
        axes[5].set_title("variance of the branch over that of the skip", fontsize=9)
    for axis in axes:
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _new_figure(with_branches):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(2, 3).ravel())
    if not with_branches:
        figure.delaxes(axes.pop())
    return figure, axes


def _draw_loss(axis, rows, steps):
    axis.plot(steps, [_number(row["loss"]) for row in rows], color="black", linewidth=1.2)
    axis.set_title("loss since the last measurement (solid), learning rate (dotted)", fontsize=9)
    if all((row["loss"] or 0) > 0 for row in rows):
        axis.set_yscale("log")
    right = axis.twinx()
    right.plot(steps, [_number(row["learning_rate"]) for row in rows], ":", color="gray")
    right.tick_params(labelsize=8)


def _draw_gammas(axis, header, rows, steps):
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
    if header["gammas"]:
        axis.legend(fontsize=7)


def _draw_each(axis, keys, rows, steps, group, name, log):
    for i, key in enumerate(keys):
        values = [_number(row[group].get(key, {}).get(name)) for row in rows]
        axis.plot(
            steps, values, color=_shade(i, len(keys)), linewidth=1.2 if len(keys) <= _BUSY else 0.7,
            label=key,
        )  # fmt: skip
    if log and any(line.get_ydata().size and np.nanmax(line.get_ydata(), initial=0) > 0
                   for line in axis.lines):  # fmt: skip
        axis.set_yscale("log")
    if 0 < len(keys) <= _BUSY:
        axis.legend(fontsize=6)
    elif keys:
        axis.text(
            0.01, 0.02, f"{len(keys)} lines, first (dark) to last (light)",
            transform=axis.transAxes, fontsize=7,
        )  # fmt: skip


def _draw_predicted(axis, kernels, rows, steps, name):
    for i, key in enumerate(kernels):
        values = [_number(row["kernels"].get(key, {}).get(name)) for row in rows]
        if np.isfinite(values).any():
            axis.plot(steps, values, "--", color=_shade(i, len(kernels)), linewidth=0.9)


def _shade(index, count):
    """From the first to the last line, from dark to light."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.9 * index / max(count - 1, 1))


def _number(value):
    return np.nan if value is None else value
