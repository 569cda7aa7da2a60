"""Sizes for dimensions that a model leaves open, tried until everything opens."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import layers as _layers

# In this order. 224 suits image networks with windows, patches and five halvings; the rest are
# sequences.
_SPATIAL = (224, 64, 256, 512)
_SEQUENCE = (16, 64, 8, 256, 1024, 16000)


def filled_in(specs: Any, batch: int) -> Iterator[Any]:
    """The structure `specs` with every dimension known, in one way after the other."""
    for spatial, sequence in _candidates(specs):
        yield tree.map_structure(
            lambda spec, spatial=spatial, sequence=sequence: _fill_in(
                spec, batch, spatial, sequence
            ),
            specs,
        )


def _candidates(specs: Any) -> list[tuple[int, int]]:
    unknown = [
        s for s in tree.flatten(specs) if isinstance(s, keras.KerasTensor) and None in s.shape[1:]
    ]
    if not unknown:
        return [(0, 0)]
    if any(len(s.shape) >= 4 for s in unknown):
        return [(size, _SEQUENCE[0]) for size in _SPATIAL]
    return [(_SPATIAL[0], size) for size in _SEQUENCE]


def _fill_in(spec: Any, batch: int, spatial: int, sequence: int) -> Any:
    if not isinstance(spec, keras.KerasTensor):
        return spec
    size = spatial if len(spec.shape) >= 4 else sequence
    shape = [size if d is None else d for d in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch
    name = _layers.name_of_input(spec)
    return keras.KerasTensor(tuple(shape), dtype=spec.dtype, sparse=spec.sparse, name=name)
