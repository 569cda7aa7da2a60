"""Layers that are alike: whatever running one of them shows holds for the others, too.

They are of one class, their attributes have the same values (or are the same objects), and their
weights the same numbers. Blocks are built one after another from the same arguments, so that most
of what a model holds is like something that was looked at before.
"""

from collections.abc import Hashable
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import layers as _layers
from keras_gamma._keras import structure

_LARGEST = 1 << 12  # numbers in a weight that are compared: kernels are never alike
_DEPTH = 4  # of containers within containers
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_MADE_FROM_CONFIG = (
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)


class _Itself:
    """An object that is like nothing but itself. (Kept, so that no other one gets its id.)"""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def likeness(layer: keras.Layer, whatever: keras.Variable | None = None) -> Hashable:
    """What two layers without layers inside have in common if they do the same.

    Args:
        layer: a built `keras.Layer`.
        whatever: a variable of `layer` whose numbers do not matter.
    """
    own = {id(variable) for variable, _ in structure.own_variables(layer)}
    attributes = _layers.own_attributes(layer)
    listed = {id(value) for value in attributes.values()}
    rest = [v for v, _ in structure.own_variables(layer) if id(v) not in listed]

    def of(value: Any, depth: int) -> Hashable:
        if isinstance(value, keras.Variable):
            if id(value) not in own:
                return _Itself(value)
            return _variable(value, with_numbers=value is not whatever)
        if isinstance(value, _PLAIN):
            return type(value), value
        if depth and isinstance(value, (list, tuple)):
            return type(value), tuple(of(item, depth - 1) for item in value)
        if depth and isinstance(value, dict):
            pairs = ((of(k, 0), of(v, depth - 1)) for k, v in value.items())
            return type(value), tuple(pairs)
        if isinstance(value, np.ndarray) and value.size <= _LARGEST and value.dtype != object:
            return value.shape, value.dtype.str, value.tobytes()
        if isinstance(value, keras.random.SeedGenerator):
            return (type(value),)  # Which noise it is makes no difference.
        if depth and isinstance(value, _MADE_FROM_CONFIG):
            return type(value), of(_config(value), depth - 1)
        return _Itself(value)

    return (
        type(layer),
        (layer.dtype_policy.name, layer.autocast, layer.trainable),
        tuple((name, of(value, _DEPTH)) for name, value in attributes.items()),
        tuple(of(value, _DEPTH) for value in rest),
    )


def _variable(variable: keras.Variable, with_numbers: bool) -> Hashable:
    what = tuple(variable.shape), variable.dtype, variable.trainable
    if not with_numbers:
        return what
    if np.prod(what[0], dtype="int64") > _LARGEST:
        return _Itself(variable)
    return what, np.asarray(keras.ops.convert_to_numpy(variable)).tobytes()


def _config(value: Any) -> Any:
    try:
        return value.get_config()
    except Exception:  # Foreign code may raise anything.
        return value
