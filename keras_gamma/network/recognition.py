"""Which calls of a trace are normalizations: layers, and operations with a gain of their own."""

import inspect
from collections.abc import Hashable, Sequence
from typing import Any

import keras

from keras_gamma.network import normalizations, probing
from keras_gamma.network.gains import Gains
from keras_gamma.network.graph import Kind
from keras_gamma.network.normalizations import Normalization
from keras_gamma.network.recording import Recording
from keras_gamma.network.symbols import symbols_in

# What a probe found, by what the layer has in common with others, and the shape of its input.
Probed = dict[Hashable, Normalization | None]


class Recognition:
    """Looks layers up in the registry, and probes those that nobody registered, once each.

    Layers that are alike are probed once between them.

    Args:
        probed: what probes have found before, and what more they find.

    Attributes:
        rejected: ids of layers that look like normalizations but do not behave as one.
    """

    def __init__(self, probed: Probed) -> None:
        self.rejected: set[int] = set()
        self._entries: dict[int, Normalization | None] = {}
        self._probed = probed

    def entry(
        self, layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Normalization | None:
        """The entry of `layer`, called so, or `None` if it is no normalization."""
        if id(layer) not in self._entries:
            entry = normalizations.registered(layer)
            if entry is None and normalizations.may_be_normalization(layer):
                tensors = symbols_in((args, kwargs))
                if len(tensors) == 1:
                    entry = self._probe(layer, tuple(tensors[0].shape))
                    if entry is None:
                        self.rejected.add(id(layer))
            self._entries[id(layer)] = entry
        return self._entries[id(layer)]

    def _probe(self, layer: keras.Layer, shape: tuple[int, ...]) -> Normalization | None:
        key = shape, probing.like_for_probes(layer)
        if key not in self._probed:
            self._probed[key] = probing.probe(layer, shape)
        return self._probed[key]


def kind_and_scale(
    operation: keras.Operation,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    recording: Recording,
) -> tuple[Kind, Any]:
    """What an operation of Keras' that normalizes is, and the operand that is its scale, or `None`.

    By a mean and a variance that no data take part in `ops.batch_normalization` is an affine.
    """
    given = inspect.signature(operation.call).bind(*args, **kwargs).arguments
    by = [given[name] for name in ("mean", "variance") if name in given]
    follows = any(isinstance(one, keras.KerasTensor) and recording.varies(one) for one in by)
    kind = Kind.LINEAR if by and not follows else Kind.NORM
    return kind, given.get("gamma", given.get("scale"))


def entry_of_operation(
    operation: keras.Operation, scale: Any, scope: Sequence[keras.Layer], gains: Gains
) -> tuple[keras.Layer, Normalization] | None:
    """`ops.layer_normalization(x, self.gain)` in a layer's `call`: a γ like any other.

    Returns:
        The layer that holds γ, and its entry; `None` if the operation has no scale.
    """
    gain = gains.of(scale, scope)
    if gain is None:
        return None
    kind = type(operation).__name__.lower().removesuffix("norm")
    return gain.layer, Normalization(kind, gain.name, gain.neutral)
