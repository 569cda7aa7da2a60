"""Raw backend code whose graph cannot be read: closed itself, but not the layers that it calls.

The `call` is run as Keras runs it to infer shapes. What it hands from one layer to the next as it
is keeps its node; what raw code made of anything before is one opaque node.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_gamma.network.graph import Kind
from keras_gamma.network.symbols import symbol, symbols_in
from keras_gamma.network.writing import Writer


class ClosedCode:
    """One run of one layer's `call`, of which only calls of layers are seen.

    Args:
        writer: a `Writer`.
        layer: the layer.
        cause: string, why it cannot be opened.
    """

    def __init__(self, writer: Writer, layer: keras.Layer, cause: str) -> None:
        self._writer = writer
        self._layer = layer
        name = f"{writer.label()!r} ({type(layer).__name__})"
        self._reason = f"{name} could not be opened: {cause}"
        self._symbols: dict[int, Any] = {}  # id(tensor) -> what it stands for
        self._alive: list[Any] = []
        self._before: list[Any] = []  # symbolic tensors that raw code may have read

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `function` returns, on symbolic tensors."""
        self._before += symbols_in((args, kwargs))
        given = tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(given) if isinstance(leaf, keras.KerasTensor)]
        found: list[Any] = []

        def call(*tensors: Any) -> Any:
            leaves = list(given)
            for place, tensor in zip(places, tensors, strict=True):
                self._know(tensor, given[place])
                leaves[place] = tensor
            new_args, new_kwargs = tree.pack_sequence_as((args, kwargs), leaves)
            outputs = function(*new_args, **new_kwargs)
            found[:] = [self.to_symbols(outputs)]
            return outputs

        _Call(call).compute_output_spec(*(given[place] for place in places))
        self._writer.recording.close([self._layer], self._reason)
        return found[0]

    def takes_part(self, args: Any, kwargs: Any) -> bool:
        """Whether a call is made on tensors of this run."""
        leaves = tree.flatten((args, kwargs))
        return any(keras.ops.is_tensor(leaf) and not _is_symbol(leaf) for leaf in leaves)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a layer inside the run, on symbolic tensors."""
        args, kwargs = self.to_symbols((args, kwargs))
        return self.take_in(function(*args, **kwargs))

    def take_in(self, outputs: Any) -> Any:
        """Symbolic tensors that came from elsewhere, as tensors of this run."""

        def convert(value: Any) -> Any:
            if not _is_symbol(value):
                return value
            self._before.append(value)
            tensor = keras.ops.zeros(value.shape, dtype=value.dtype)
            self._know(tensor, value)
            return tensor

        return tree.map_structure(convert, outputs)

    def to_symbols(self, structure: Any) -> Any:
        """Tensors of this run as symbolic ones; those that raw code made are opaque."""

        def convert(value: Any) -> Any:
            if _is_symbol(value) or not keras.ops.is_tensor(value):
                return value
            if id(value) not in self._symbols:
                dtype = keras.backend.standardize_dtype(value.dtype)
                made = symbol(tuple(value.shape), dtype)
                kind = Kind.OPAQUE if "float" in dtype else None
                self._writer.call(self, kind, tuple(self._before), {}, made, self._reason)
                self._know(value, made)
            return self._symbols[id(value)]

        return tree.map_structure(convert, structure)

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(self._reason)  # It cannot be run by itself, with numbers.

    def _know(self, tensor: Any, stands_for: Any) -> None:
        self._alive.append(tensor)
        self._symbols[id(tensor)] = stands_for


class _Call(keras.Operation):  # type: ignore[misc]
    """A function, run by Keras on what the backend infers shapes with."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def call(self, *tensors: Any) -> Any:
        return self._function(*tensors)


def _is_symbol(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)
