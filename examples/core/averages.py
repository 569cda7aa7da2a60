"""Exponential moving averages of the weights (--use_ema), which Keras' optimizers keep.

Training goes on with the weights themselves; scores, the best epoch and the result are of the
averages. A checkpoint holds both. Keras puts the averages into the model at the end of each `fit`,
which would be too early where an epoch that was interrupted has a `fit` of its own.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_gamma.decay.inner_optimizers import parts


def use(model: keras.Model) -> None:
    """Puts the averages into a model, if its optimizer keeps any."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def used(model: keras.Model) -> Iterator[None]:
    """Puts the averages, if there are any, into a model for a while; its weights come back."""
    if not any(part.use_ema for part in parts(model.optimizer)):
        yield
        return
    weights = _weights(model)
    use(model)
    try:
        yield
    finally:
        _assign(model, weights)


class ScoreAverages(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Has a model scored with the averages, and leaves it with the weights when `fit` ends.

    Keras' own `SwapEMAWeights` adds and subtracts on TensorFlow, so that weights come back rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: list[Any] = []

    def on_test_begin(self, logs: Any = None) -> None:
        self._weights = _weights(self.model)
        use(self.model)

    def on_test_end(self, logs: Any = None) -> None:
        _assign(self.model, self._weights)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._weights = _weights(self.model)

    def on_train_end(self, logs: Any = None) -> None:
        _assign(self.model, self._weights)


def _weights(model: keras.Model) -> list[Any]:
    return [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]


def _assign(model: keras.Model, weights: list[Any]) -> None:
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
