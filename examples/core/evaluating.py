"""Scores a model that was trained before (--eval_only)."""

from pathlib import Path
from typing import Any

import keras

import keras_gamma
from examples.core.cli import UsageError
from examples.core.soft_labels import SoftLabels


def evaluate(path: Path, task: Any) -> dict[str, float]:
    """Returns the scores of a saved model on a task's test.

    Args:
        path: a `.keras` file, or a folder with `model.keras` in it.
        task: whose test.

    Raises:
        UsageError: there is no such file, or it was saved without its loss and metrics.
    """
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"--eval_only: there is no {file}; train first, or pass --init_from")
    model = keras_gamma.load_model(file)
    if not model.compiled:
        raise UsageError(f"--eval_only: {file} was saved without its loss and metrics")
    if isinstance(model.loss, keras.losses.CategoricalCrossentropy):
        task = SoftLabels(task, task.classes)  # so it was trained
    shown = keras.tree.map_structure(lambda x: tuple(x.shape[1:]), task.test_batches().element_spec)
    wanted = keras.tree.map_structure(lambda x: tuple(x.shape[1:]), model.input)
    classes = model.output_shape[-1]
    if (shown[0], task.classes) != (wanted, classes):
        raise UsageError(
            f"--eval_only: {file} takes examples of shape {wanted} and {classes} classes; received "
            f"{shown[0]} and {task.classes}. Repeat the flags that it was trained with"
        )
    found: dict[str, float] = model.evaluate(task.test_batches(), verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}
