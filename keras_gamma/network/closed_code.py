"""Raw backend code whose graph cannot be read: closed itself, but not the layers that it calls.

The `call` is run as Keras runs it to infer shapes. What it hands from one layer to the next as it
is keeps its node; what raw code made of anything before is one opaque node. With numbers, the code
is run again as far as that place, and what its layers returned is handed to it.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_gamma._keras.interception import intercept_symbolic_calls
from keras_gamma.network.graph import Kind
from keras_gamma.network.normalizations import variables_by_name
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
        self._name = writer.label()
        self._reason = f"{self._name!r} ({type(layer).__name__}) could not be opened: {cause}"
        self._symbols: dict[int, Any] = {}  # id(tensor) -> what it stands for
        self._alive: list[Any] = []
        self._before: list[Any] = []  # symbolic tensors that raw code may have read
        self._returned: list[Any] = []  # what each layer inside returned, on symbolic tensors
        self._code: Callable[..., Any] | None = None

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `function` returns, on symbolic tensors."""
        self._before += symbols_in((args, kwargs))
        given = tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(given) if isinstance(leaf, keras.KerasTensor)]
        found: list[Any] = []

        def code(known: Callable[[Any], Any]) -> Any:
            leaves = [known(leaf) if _is_symbol(leaf) else leaf for leaf in given]
            new_args, new_kwargs = tree.pack_sequence_as((args, kwargs), leaves)
            return function(*new_args, **new_kwargs)

        def call(*tensors: Any) -> Any:
            stand_ins = {id(given[i]): t for i, t in zip(places, tensors, strict=True)}
            for place, tensor in zip(places, tensors, strict=True):
                self._know(tensor, given[place])
            outputs = code(lambda leaf: stand_ins[id(leaf)])
            found[:] = [self.to_symbols(outputs, None)]
            return outputs

        self._code = code
        _Call(call).compute_output_spec(*(given[place] for place in places))
        self._writer.recording.close([self._layer], self._reason)
        return found[0]

    def takes_part(self, args: Any, kwargs: Any) -> bool:
        """Whether a call is made on tensors of this run."""
        return _holds_tensors((args, kwargs))

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a layer inside the run, on symbolic tensors."""
        args, kwargs = self.to_symbols((args, kwargs), len(self._returned))
        outputs = function(*args, **kwargs)
        self._returned.append(outputs)
        return self.take_in(outputs)

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

    def to_symbols(self, structure: Any, place: int | None) -> Any:
        """Tensors of this run as symbolic ones; those that raw code made are opaque.

        Args:
            structure: what holds them.
            place: the number of the inner call that they are handed to; `None`: they are returned.
        """
        converted = []
        for leaf, value in enumerate(tree.flatten(structure)):
            if _is_symbol(value) or not keras.ops.is_tensor(value):
                converted.append(value)
                continue
            if id(value) not in self._symbols:
                dtype = keras.backend.standardize_dtype(value.dtype)
                made = symbol(tuple(value.shape), dtype)
                kind = Kind.OPAQUE if "float" in dtype else None
                before = tuple(self._before)
                operation = _Made(self, before, place, leaf)
                self._writer.call(operation, kind, before, {}, made, self._name, self._reason)
                self._know(value, made)
            converted.append(self._symbols[id(value)])
        return tree.pack_sequence_as(structure, converted)

    @property
    def is_weighted(self) -> bool:
        """Whether the layer has weights of its own, that its code may use."""
        return bool(variables_by_name(self._layer))

    def compute(self, values: dict[int, Any], place: int | None, leaf: int) -> Any:
        """What the code made of numbers: a value that it hands on at some place, or returns.

        Args:
            values: dict from the id of each symbolic tensor before that place to its value.
            place: see `to_symbols`.
            leaf: which of the values there.
        """
        assert self._code is not None
        player = _Player(self._returned, values, place)
        with intercept_symbolic_calls(player):
            try:
                outputs = self._code(lambda symbolic: values[id(symbolic)])
            except _Reached as reached:
                outputs = reached.structure
        return tree.flatten(outputs)[leaf]

    def _know(self, tensor: Any, stands_for: Any) -> None:
        self._alive.append(tensor)
        self._symbols[id(tensor)] = stands_for


class _Made:
    """What raw code made of anything before; called with numbers, it computes."""

    def __init__(
        self, code: ClosedCode, before: tuple[Any, ...], place: int | None, leaf: int
    ) -> None:
        self._code, self._before, self._place, self._leaf = code, before, place, leaf
        self.is_weighted = code.is_weighted

    def __call__(self, *numbers: Any) -> Any:
        values = {id(s): n for s, n in zip(self._before, numbers, strict=True)}
        return self._code.compute(values, self._place, self._leaf)


class _Reached(Exception):
    """The code has come to the place that was asked for."""

    def __init__(self, structure: Any) -> None:
        super().__init__()
        self.structure = structure


class _Player:
    """Hands what the layers inside returned to raw code that is run again."""

    paused = False

    def __init__(self, returned: list[Any], values: dict[int, Any], place: int | None) -> None:
        self._returned, self._values, self._place = returned, values, place
        self._calls = 0

    def enter(self, layer: keras.Layer, args: Any, kwargs: Any, call: Callable[..., Any]) -> Any:
        if not _holds_tensors((args, kwargs)):
            return call(layer, *args, **kwargs)
        if self._calls == self._place:
            raise _Reached((args, kwargs))
        outputs = self._returned[self._calls]
        self._calls += 1
        return tree.map_structure(lambda x: self._values[id(x)] if _is_symbol(x) else x, outputs)

    def __call__(self, operation: Any, args: Any, kwargs: Any) -> Any:
        return operation.compute_output_spec(*args, **kwargs)

    def masks(self, layer: keras.Layer, inputs: Any, previous: Any) -> Any:
        return None

    def assign(self, variable: keras.Variable, value: Any) -> bool:
        return False

    def value_of(self, variable: keras.Variable) -> Any:
        return None


class _Call(keras.Operation):  # type: ignore[misc]
    """A function, run by Keras on what the backend infers shapes with."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def call(self, *tensors: Any) -> Any:
        return self._function(*tensors)


def _is_symbol(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _holds_tensors(structure: Any) -> bool:
    """Whether numbers, or what stands for them in a run of raw code, are in a structure."""
    leaves = tree.flatten(structure)
    return any(keras.ops.is_tensor(leaf) and not _is_symbol(leaf) for leaf in leaves)
