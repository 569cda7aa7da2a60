"""What an analysis of roles asks of a call beyond its kind: weights, factors, bounds, spreading."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_gamma.network.operations import name_of
from keras_gamma.network.symbols import symbols_in

_GATES = frozenset(("Sigmoid", "HardSigmoid", "SparseSigmoid"))
_GATE_ACTIVATIONS = tuple(
    getattr(keras.activations, name)
    for name in ("sigmoid", "hard_sigmoid", "sparse_sigmoid")
    if hasattr(keras.activations, name)
)
_FACTORS = frozenset(("Multiply", "Divide", "TrueDivide", "DivideNoNan", "Negative"))
# Their results are the same whatever the data.
_LIKES = frozenset(("OnesLike", "ZerosLike", "EmptyLike", "FullLike"))


def is_bounded(operation: Any) -> bool:
    """Whether a nonlinear operation is a sigmoid, or ends with one.

    A hyperbolic tangent is none: near 0 it passes the scale of its input on.
    """
    if isinstance(operation, keras.Layer):
        return getattr(operation, "activation", None) in _GATE_ACTIVATIONS
    return name_of(operation) in _GATES


def is_factor(operation: Any, data: Sequence[Any], outputs: Any) -> bool:
    """Whether a linear operation multiplies each element of its one operand by a factor.

    Args:
        operation: what is called.
        data: its operands, without constants.
        outputs: what it returns.
    """
    if isinstance(operation, keras.layers.Rescaling):
        return not operation.offset
    if len(data) != 1 or name_of(operation) not in _FACTORS:
        return False
    (result,) = symbols_in(outputs)
    return tuple(data[0].shape) == tuple(result.shape)


def ignores_values(operation: Any) -> bool:
    """Whether the result follows nothing but the shape of the input."""
    return name_of(operation) in _LIKES


def spread_among(tensors: Sequence[Any]) -> list[bool]:
    """For each operand of an elementwise operation whether it is spread over a larger one.

    A dimension that Keras could not infer agrees with any.
    """
    rank = max(len(tensor.shape) for tensor in tensors)
    shapes = [(1,) * (rank - len(t.shape)) + tuple(t.shape) for t in tensors]
    largest = [
        max((d for d in dims if d is not None), default=1) for dims in zip(*shapes, strict=True)
    ]
    return [
        len(tensor.shape) < rank
        or any(d is not None and d < most for d, most in zip(shape, largest, strict=True))
        for tensor, shape in zip(tensors, shapes, strict=True)
    ]
