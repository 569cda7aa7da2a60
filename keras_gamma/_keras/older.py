"""What older versions of Keras do otherwise, brought into the form of newer ones.

* `keras.src.ops.nn.RMSNorm`: before Keras 3.11 it holds its scale, which is no operand then.
* `keras.src.ops.nn.BatchNorm`: in Keras 3.8 it infers shapes, and cannot be called with numbers.
* `keras.src.ops.core.Map`, `WhileLoop`: what `keras.ops.vectorized_map` and `while_loop` are as
  operations; older versions hand their arguments to the backend at once.
* Callbacks: before Keras 3.11 the end of a call of several steps bears the number of its first
  batch.
* `clone_model`: Keras 3.8 leaves it to the caller to compile the clone.
"""

from typing import Any

import keras
from keras.src.ops import core as _core
from keras.src.ops import nn as _nn

_OF_KERAS = getattr(_nn, "RMSNorm", None)
_BATCH_NORM = None if "call" in vars(_nn.BatchNorm) else _nn.BatchNorm


class RMSNorm(keras.Operation):  # type: ignore[misc]
    """Normalization by the root mean square, with its scale as an operand."""

    def __init__(self, axis: Any = -1, epsilon: float | None = None) -> None:
        super().__init__()
        self.axis = axis
        self.epsilon = epsilon

    def compute_output_spec(self, x: Any, scale: Any = None) -> keras.KerasTensor:
        """Shape and dtype of the output."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def call(self, x: Any, scale: Any = None) -> Any:
        """Computes it."""
        scale = 1 if scale is None else scale
        return keras.ops.rms_normalization(x, scale=scale, axis=self.axis, epsilon=self.epsilon)


class BatchNorm(keras.Operation):  # type: ignore[misc]
    """Normalization by a mean and a variance that are operands."""

    def __init__(self, axis: int, epsilon: float) -> None:
        super().__init__()
        self.axis = axis
        self.epsilon = epsilon

    def compute_output_spec(
        self, x: Any, mean: Any, variance: Any, offset: Any = None, scale: Any = None
    ) -> keras.KerasTensor:
        """Shape and dtype of the output."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def call(self, x: Any, mean: Any, variance: Any, offset: Any = None, scale: Any = None) -> Any:
        """Computes it."""
        return keras.ops.batch_normalization(
            x, mean, variance, self.axis, offset, scale, self.epsilon
        )


def with_all_operands(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A call, all operands of which are among its arguments."""
    if type(operation) is _BATCH_NORM:
        return BatchNorm(operation.axis, operation.epsilon), args, kwargs
    if type(operation) is not _OF_KERAS or not hasattr(operation, "scale"):
        return operation, args, kwargs
    return RMSNorm(operation.axis, operation.epsilon), args, {**kwargs, "scale": operation.scale}


def while_loop(
    cond: Any, body: Any, loop_vars: Any, maximum_iterations: int | None = None
) -> tuple[Any, tuple[Any, ...]]:
    """A loop as an operation, and its operands."""
    return _core.WhileLoop(cond, body, maximum_iterations), (loop_vars,)


def vectorized_map(function: Any, elements: Any) -> tuple[Any, tuple[Any, ...]]:
    """A map as an operation, and its operands."""
    return _core.Map(), (function, elements)


def clone_model(model: keras.Model, **kwargs: Any) -> keras.Model:
    """`keras.models.clone_model`, whose clone is compiled if `model` is."""
    clone: keras.Model = keras.models.clone_model(model, **kwargs)
    if model.compiled and not clone.compiled:
        clone.compile_from_config(model.get_compile_config())
    return clone


def last_batch(begun: int, ended: int, steps_per_call: int) -> int:
    """The last batch of a call of the training function, for callbacks.

    Args:
        begun: integer, what `on_train_batch_begin` was given.
        ended: integer, what `on_train_batch_end` was given.
        steps_per_call: integer, the model's `steps_per_execution`.
    """
    return ended if ended > begun else begun + max(1, steps_per_call) - 1


def is_of_this_room(operation: Any) -> bool:
    """Whether an operation stands in for one of Keras'."""
    return type(operation) in (RMSNorm, BatchNorm)
