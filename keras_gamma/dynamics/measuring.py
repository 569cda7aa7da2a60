"""What `GammaMonitor` measures of γ and kernels, as plain numbers: each quantity once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_gamma.dynamics.scale_invariance import ScaleInvariant
from keras_gamma.dynamics.setting import Setting, as_float
from keras_gamma.roles.finding import GammaRole

_MEMORY = 0.9  # Of the running means of squares: they reach back about ten measurements.

Numbers = dict[str, Any]  # The quantities of one variable or group, by name.


def measure_gammas(
    gammas: Iterable[GammaRole], setting: Setting, rate: float | None
) -> dict[str, Numbers]:
    """Norm, quantiles and effective learning rate of each γ, by path."""
    found = {}
    for gamma in gammas:
        # A scale stored as the difference from 1 acts as 1 + variable.
        scale = copy_of(gamma.variable) + (1.0 if gamma.neutral == 0.0 else 0.0)
        norm = float(np.linalg.norm(scale))
        found[gamma.path] = {
            "norm": norm,
            "quantiles": [float(q) for q in np.quantile(scale, (0, 0.25, 0.5, 0.75, 1))],
            "effective_learning_rate": setting.effective(rate, norm),
        }
    return found


def by_role(gammas: Iterable[GammaRole], measured: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Medians over the γ of each role."""
    groups: dict[str, list[Numbers]] = {}
    for gamma in gammas:
        groups.setdefault(gamma.role.value, []).append(measured[gamma.path])
    return {
        role: {
            "norm": _median(g["norm"] for g in group),
            "median": _median(g["quantiles"][2] for g in group),
            "effective_learning_rate": _median(g["effective_learning_rate"] for g in group),
        }
        for role, group in groups.items()
    }


class KernelMeter:
    """Measures scale-invariant kernels before and after a step.

    Args:
        kernels: sequence of `ScaleInvariant`.
        setting: the `Setting` of the run, with a decay for each of them.
    """

    def __init__(self, kernels: Sequence[ScaleInvariant], setting: Setting) -> None:
        self._kernels = tuple(kernels)
        self._setting = setting
        self._means: dict[str, tuple[tuple[float, ...], int]] = {}

    def copies(self) -> list[np.ndarray[Any, Any]]:
        """The kernels as they are: to be handed to `measure` after the step."""
        return [copy_of(entry.variable) for entry in self._kernels]

    def measure(
        self, rate: float | None, before: Sequence[np.ndarray[Any, Any]], steps: int
    ) -> dict[str, Numbers]:
        """The quantities of each kernel, by path.

        Args:
            rate: float, the learning rate of the step, or `None`.
            before: what `copies` returned before it.
            steps: integer, the number of steps since; angles are those of one.
        """
        found: dict[str, Numbers] = {}
        for i, (entry, old) in enumerate(zip(self._kernels, before, strict=True)):
            old, new = _units(entry, old), _units(entry, copy_of(entry.variable))
            turned = _angles(old, new)
            squares = np.einsum("ij,ij->j", old, old)
            effective = self._setting.effective(rate, np.sqrt(squares))
            numbers: Numbers = {
                "norm": math.sqrt(squares.mean()),
                "effective_learning_rate": _median([effective]),
            }
            if steps == 1 and turned.any():
                numbers["angle"] = math.sqrt(np.square(turned).mean())
                moved = np.tan(turned) * squares  # ‖step‖·‖w‖
                angle, step_times_norm = self._running(
                    entry.path, np.square(turned).mean(), np.square(moved).mean()
                )
                numbers["rms_angle"] = angle
                numbers |= self._setting.predict(i, rate, len(old), step_times_norm)
            found[entry.path] = numbers
        return found

    def _running(self, path: str, *squares: float) -> tuple[float, ...]:
        """Roots of the running means of squares."""
        known, count = self._means.get(path, ((0.0,) * len(squares), 0))
        keep = min(_MEMORY, count / (count + 1))
        mean = tuple(keep * k + (1 - keep) * s for k, s in zip(known, squares, strict=True))
        self._means[path] = mean, count + 1
        return tuple(math.sqrt(m) for m in mean)


class LossMeter:
    """The mean loss since the last measurement, from Keras' mean since the epoch began."""

    def __init__(self) -> None:
        self._count, self._mean = 0, 0.0

    def start_epoch(self) -> None:
        self._count, self._mean = 0, 0.0

    def measure(self, logs: Mapping[str, Any] | None, count: int) -> float | None:
        """The mean since the last call; `count` batches were taken since the epoch began."""
        if logs is None or logs.get("loss") is None:
            return None
        mean = as_float(logs["loss"])
        since = (count * mean - self._count * self._mean) / (count - self._count)
        self._count, self._mean = count, mean
        return since


def copy_of(variable: keras.Variable) -> np.ndarray[Any, Any]:
    """The values of a variable, in memory of their own."""
    return np.array(keras.ops.convert_to_numpy(variable), dtype="float32", copy=True)


def _units(entry: ScaleInvariant, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A kernel as a matrix: a column for each part whose norm does not matter."""
    size = math.prod(value.shape[axis] for axis in entry.axes)
    return value.reshape(size, -1)


def _angles(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The angle between each column of two matrices, accurate for small ones."""
    difference = new - old
    along = np.einsum("ij,ij->j", old, difference, dtype="float64")
    squares = np.einsum("ij,ij->j", old, old, dtype="float64")
    squares[squares == 0] = np.nan
    across = np.einsum("ij,ij->j", difference, difference, dtype="float64")
    across = np.sqrt(np.maximum(across - along**2 / squares, 0.0))
    angles = np.arctan2(across, np.sqrt(squares) + along / np.sqrt(squares))
    return np.asarray(np.nan_to_num(angles))


def _median(values: Iterable[Any]) -> float | None:
    known = [np.asarray(value).ravel() for value in values if value is not None]
    return float(np.median(np.concatenate(known))) if known else None
