"""Batch normalization over the batch of all replicas, for as long as a training takes."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def synchronized_batch_norm(model: keras.Model, wanted: bool) -> Iterator[None]:
    """Lets batch normalization see the global batch, and puts its setting back afterwards."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if wanted and isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.synchronized for layer in layers]
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.synchronized = value
