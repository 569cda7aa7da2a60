"""Calls of Keras' own simple layers, that can be received without `Layer.__call__`."""

from typing import Any

import keras

from keras_gamma._keras import layers as _layers
from keras_gamma.network.graph import Kind
from keras_gamma.network.recording import Recording
from keras_gamma.network.shapes import Shapes, fits


def is_plain(
    shapes: Shapes,
    recording: Recording,
    layer: keras.Layer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether a call needs nothing of what `Layer.__call__` does around it.

    That is: building, casting, masks, checking the inputs (of the first layers that is done,
    for the inputs are the user's), and handing `training` down to layers inside.
    """
    if not shapes.is_simple(layer) or not layer.built or len(args) != 1:
        return False
    if kwargs:
        if kwargs.keys() - {"training", "mask"} or kwargs.get("mask") is not None:
            return False
        if kwargs.get("training"):
            return False
    if _layers.has_sublayers(layer):
        return False
    tensors = args[0] if isinstance(args[0], (list, tuple)) else args
    dtype = layer.compute_dtype
    for tensor in tensors:
        if not isinstance(tensor, keras.KerasTensor) or _layers.has_mask(tensor):
            return False
        number = recording.number_of(tensor)
        if number is None or tensor.dtype != dtype:
            return False
        if recording.nodes[number].kind is Kind.INPUT:
            return False
    # Else Keras is to say what is wrong.
    return layer.input_spec is None or fits(layer.input_spec, tensors)
