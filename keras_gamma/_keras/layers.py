"""Layers, operations and symbolic tensors: what Keras knows of them and does not say.

Private names used here, and why there is no public way:

* `Layer._flatten_layers`, `Layer._layers`: every sub-layer of any layer, also of one that is
  not a `Model`.
* `Operation._inbound_nodes`: tells an operation of a Functional graph, whose name the user sees
  in `model.summary()`, from one that was made a moment ago.
* `KerasTensor._keras_history`: the input layer behind an input, whose name the user knows.
* `KerasTensor._keras_mask`: whether a mask goes along.
* The attributes of a layer that does nothing: Keras' bookkeeping, which any layer has. (What begins
  with `_self_` is TensorFlow's.)
"""

import functools
from typing import Any

import keras

from keras_gamma._keras import older


def flatten_layers(layer: keras.Layer) -> list[keras.Layer]:
    """All layers below `layer`, itself first, each once."""
    found: list[keras.Layer] = layer._flatten_layers(include_self=True, recursive=True)
    return found


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that `layer` owns directly."""
    return list(layer._layers)


def has_sublayers(layer: keras.Layer) -> bool:
    """Whether `layer` owns any layer."""
    return bool(layer._layers)


def own_attributes(layer: keras.Layer) -> dict[str, Any]:
    """The attributes that `layer` was given by its own class, without Keras' bookkeeping."""
    skipped = _bookkeeping()
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in skipped and not name.startswith("_self_")
    }


@functools.cache
def _bookkeeping() -> frozenset[str]:
    return frozenset(vars(keras.Layer(name="bookkeeping")))


def has_mask(tensor: keras.KerasTensor) -> bool:
    """Whether Keras passes a mask along with a tensor."""
    return getattr(tensor, "_keras_mask", None) is not None


def is_graph_operation(operation: keras.Operation) -> bool:
    """Whether `operation` was recorded in a Functional graph (its name is one the user knows)."""
    return bool(operation._inbound_nodes)


def is_layer_of_keras(layer: keras.Layer) -> bool:
    """Whether the class of `layer` is one of Keras' own `keras.layers`."""
    return type(layer).__module__.startswith("keras.src.")


def is_operation_class_of_keras(operation: keras.Operation) -> bool:
    """Whether the class of `operation` is one of Keras' own `keras.ops`."""
    of_keras = type(operation).__module__.startswith(("keras.src.ops.", "keras.src.activations."))
    return of_keras or older.is_of_this_room(operation)


def name_of_input(tensor: keras.KerasTensor) -> str:
    """The name of the `InputLayer` behind a model's symbolic input, else the tensor's own."""
    history = getattr(tensor, "_keras_history", None)
    operation = getattr(history, "operation", None)
    return str(tensor.name if operation is None else operation.name)
