"""What a reader calls a call: the names of the layers around it."""

from collections.abc import Sequence

import keras

from keras_gamma._keras import layers as _layers


def label_of(scope: Sequence[keras.Layer], operation: keras.Operation | None = None) -> str:
    """The path of a call.

    Args:
        scope: the layers being run, outermost first.
        operation: the operation called within the last of them, if it is not the layer itself.
    """
    names = [layer.name for layer in scope]
    known = False
    # A layer of Keras without sub-layers (Add, ReLU) goes by its own name.
    if operation is not None and not _is_leaf_of_keras(scope):
        known = _layers.is_graph_operation(operation)
        names.append(operation.name if known else type(operation).__name__.lower())
    # The model's own name goes without saying, unless there is nothing else to say.
    inner = names[1:] if len(scope) > 1 or known else names
    return "/".join(inner or names)


def _is_leaf_of_keras(scope: Sequence[keras.Layer]) -> bool:
    if not scope or isinstance(scope[-1], keras.Model):
        return False
    return _layers.is_layer_of_keras(scope[-1]) and not _layers.has_sublayers(scope[-1])
