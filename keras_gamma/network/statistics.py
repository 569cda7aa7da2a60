"""Layers that keep running statistics, to be read as they are trained.

A batch normalization that is written out inside a larger layer normalizes in training alone: in
inference it is an affine, by numbers. What counts is the function that is trained. So such a layer
is run with `training=True`; it alone, for what it calls is read as ever. What its statistics are
assigned meanwhile is kept here, and is their value until its call is over.
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import layers as _layers
from keras_gamma._keras import structure
from keras_gamma.network import operations
from keras_gamma.network.normalizations import holders
from keras_gamma.network.recording import Recording
from keras_gamma.network.symbols import symbols_in

Kwargs = dict[str, Any]
_REACH = 8  # operations between a statistic and what a moving average of it is assigned
_MIXING = (
    "Add",
    "Subtract",
    "Multiply",
    "Divide",
    "TrueDivide",
    "Cast",
    "StopGradient",
    "Negative",
)


class Statistics:
    """Which layers are read as they are trained, and what their statistics are meanwhile.

    Args:
        recording: the `Recording`.

    Attributes:
        is_training: bool, whether the layer that is being run, innermost, is read so.
        lags: bool, whether what was assigned to a variable in this call was read again: what it
            normalizes by follows the batch in the long run.
    """

    def __init__(self, recording: Recording) -> None:
        self.is_training = self.lags = False
        self._decided: dict[int, bool] = {}
        self._recording = recording
        self._values: dict[int, Any] = {}

    def is_undecided(self, layer: keras.Layer) -> bool:
        """Whether it is not known yet how `layer` is to be read."""
        return id(layer) not in self._decided

    def decide(self, layer: keras.Layer, as_trained: bool) -> None:
        """Says whether `layer` is to be read as it is trained."""
        self._decided[id(layer)] = as_trained

    def counts(self, layer: keras.Layer) -> bool:
        """Whether `layer` is to be read as it is trained."""
        return self._decided.get(id(layer), False)

    @contextlib.contextmanager
    def one_call(self, training: bool = False) -> Iterator[None]:
        """While it is open, one layer is run; what is assigned in it ends with it."""
        before = self.is_training, self.lags, self._values
        self.is_training, self.lags, self._values = training, False, dict(self._values)
        try:
            yield
        finally:
            self.is_training, self.lags, self._values = before

    def keep(self, variable: keras.Variable, value: Any) -> None:
        """Takes down what `variable` is assigned: data, or a tensor of a scratch graph.

        A moving average comes to what it is an average of, and that is kept.
        """
        if isinstance(value, keras.KerasTensor):
            value = self._averaged(value, variable.shape)
        self._values[id(variable)] = value

    def value_of(self, variable: Any) -> Any:
        """What `variable` was assigned in this call, or `None`."""
        value = self._values.get(id(variable))
        self.lags = self.lags or value is not None
        return value

    def put_in(self, arguments: Any) -> Any:
        """The arguments of a call, with what was assigned in place of the variables."""
        if not self._values:
            return arguments

        def value_of(leaf: Any) -> Any:
            value = self.value_of(leaf) if isinstance(leaf, keras.Variable) else None
            return value if isinstance(value, keras.KerasTensor) else leaf

        return tree.map_structure(value_of, arguments)

    def _averaged(self, value: keras.KerasTensor, shape: Any) -> keras.KerasTensor:
        """The statistic in `momentum * average + (1 - momentum) * statistic`."""
        made_by = {id(t): s for s in self._recording.steps for t in symbols_in(s.outputs)}
        found, current = value, value
        for _ in range(_REACH):
            step = made_by.get(id(current))
            operands = [] if step is None else symbols_in((step.args, step.kwargs))
            if step is None or len(operands) != 1:
                break
            if operations.name_of(step.operation) not in _MIXING:
                break
            (current,) = operands
            if tuple(current.shape) == tuple(shape):
                found = current
        return found


def may_keep_some(layer: keras.Layer) -> bool:
    """Whether `layer` may normalize by running statistics of its own, and by others in training."""
    if _layers.is_layer_of_keras(layer) or "training" not in _parameters(layer):
        return False
    return any(
        not trained and variable.shape and "float" in variable.dtype
        for holder in holders(layer)
        for variable, trained in structure.own_variables(holder)
    )


def told(training: bool, kwargs: Kwargs) -> Kwargs:
    """The keyword arguments of a call of a layer that is told whether it is in training.

    `False` in place of what it was told, if it was; `True` in any case. (By position Keras takes
    tensors alone.)
    """
    return {**kwargs, "training": training} if training or "training" in kwargs else kwargs


def _parameters(layer: keras.Layer) -> Any:
    call = getattr(layer.call, "python_function", layer.call)
    return inspect.signature(call).parameters


def are_alike(first: Any, second: Any) -> bool:
    """Whether two structures hold tensors of the same shapes at the same places."""
    if first is None or second is None:
        return False
    try:
        tree.assert_same_structure(first, second)
    except (ValueError, TypeError):
        return False
    shapes = [[tuple(t.shape) for t in symbols_in(s)] for s in (first, second)]
    return shapes[0] == shapes[1]
