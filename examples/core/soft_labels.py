"""Labels as distributions over classes, for label smoothing and for mixed images.

Keras' `SparseCategoricalCrossentropy` knows no smoothing (arXiv:1512.00567, section 7), so that
integer labels become rows of 0 and 1, and losses and metrics those of such rows.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from examples.data.graphs import AT_A_TIME

_OF_ROWS: dict[type, Callable[..., keras.metrics.Metric]] = {
    keras.metrics.SparseCategoricalAccuracy: keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy: keras.metrics.TopKCategoricalAccuracy,
    keras.metrics.SparseCategoricalCrossentropy: keras.metrics.CategoricalCrossentropy,
}


def make_loss(smoothing: float, *, soft: bool) -> keras.losses.Loss:
    """Returns the crossentropy of integer labels, or of rows, smoothed.

    Args:
        smoothing: ε; a label counts 1 − ε, and every class ε / classes more.
        soft: whether labels come as rows.
    """
    if not soft:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)


class SoftLabels:
    """A task whose labels are rows; everything else is the task's.

    Args:
        task: with integer labels.
        classes: how many there are.
    """

    def __init__(self, task: Any, classes: int):
        self._task = task
        self._classes = classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def make_metrics(self) -> list[keras.metrics.Metric]:
        """Makes the task's metrics, for rows."""
        return [_for_rows(metric) for metric in self._task.make_metrics()]

    def train_batches(self, **arguments: Any) -> tf.data.Dataset:
        """Returns the task's batches, with rows for labels."""
        return self._soft(self._task.train_batches(**arguments))

    def train_part(self, **arguments: Any) -> tf.data.Dataset | None:
        """Returns a worker's part of the batches, if the task can read it by itself."""
        if not hasattr(self._task, "train_part"):
            return None
        part = self._task.train_part(**arguments)
        return None if part is None else self._soft(part)

    def validation_batches(self) -> tf.data.Dataset | None:
        """Returns the task's batches, with rows for labels."""
        batches = self._task.validation_batches()
        return None if batches is None else self._soft(batches)

    def test_batches(self) -> tf.data.Dataset:
        """Returns the task's batches, with rows for labels."""
        return self._soft(self._task.test_batches())

    def _soft(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        def soft(inputs: Any, labels: tf.Tensor, *weights: tf.Tensor) -> tuple[Any, ...]:
            if labels.dtype.is_integer:  # Images that were mixed bring rows.
                labels = tf.one_hot(labels, self._classes)
            return inputs, labels, *weights

        return batches.map(soft, num_parallel_calls=AT_A_TIME)


def _for_rows(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    config = metric.get_config()
    config = {name: config[name] for name in ("name", "k", "from_logits") if name in config}
    return _OF_ROWS[type(metric)](**config)
