"""Writing a call down as nodes: what it is, given which of its operands are data."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_gamma.network import algebra, operations
from keras_gamma.network.calls import NormCall, takes_weights
from keras_gamma.network.graph import Kind
from keras_gamma.network.labels import label_of
from keras_gamma.network.normalizations import Normalization
from keras_gamma.network.recording import Recording
from keras_gamma.network.symbols import have_same_shape, known, symbol, symbols_in

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Writer:
    """Turns calls into nodes of a `Recording`.

    Attributes:
        recording: the `Recording`.
        scope: list of the layers being run, outermost first.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.scope: list[keras.Layer] = []
        self._groups = 0
        self._group: int | None = None

    def label(self, operation: Any = None) -> str:
        """What a reader calls a call within the layers being run."""
        return label_of(self.scope, operation)

    @contextlib.contextmanager
    def one_sum(self) -> Iterator[None]:
        """While it is open, sums are parts of one call of a layer."""
        self._groups += 1
        self._group, before = self._groups, self._group
        try:
            yield
        finally:
            self._group = before

    def attempt(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, or `None`, and nothing written, if it raises."""
        mark = self.recording.mark()
        try:
            return function()
        except Exception:
            self.recording.forget_since(mark)
            return None

    def normalization(
        self, layer: keras.Layer, entry: Normalization, args: Args, kwargs: Kwargs
    ) -> Any:
        """Writes one call of a normalization layer; only its first tensor is normalized."""
        source = symbols_in((args, kwargs))[0]
        outputs = symbol(source.shape, layer.compute_dtype)
        recording = self.recording
        number = recording.write(Kind.NORM, known([recording.number_of(source)]), self.label())
        recording.calls.append(NormCall(layer, entry, number))
        recording.assign(outputs, number)
        recording.note_step(layer, args, kwargs, outputs)
        return outputs

    def view(self, tensor: Any, shape: tuple[int, ...], function: Callable[[Any], Any]) -> Any:
        """Writes a view of a tensor: its values, moved or repeated by `function`."""
        seen = symbol(shape, tensor.dtype)
        number = self.recording.number_of(tensor)
        if number is not None:
            number = self.recording.write(Kind.IDENTITY, (number,), self.label())
        self.recording.assign(seen, number)
        self.recording.note_step(function, (tensor,), {}, seen)
        return seen

    def source(self, value: Any, name: str) -> Any:
        """Writes data that the model holds itself: an input like those that it is called with."""
        shape, dtype = tuple(value.shape), keras.backend.standardize_dtype(value.dtype)
        held = symbol(shape, dtype)
        self.recording.assign(held, self.recording.write(Kind.INPUT, (), name))
        self.recording.note_step(lambda: value, (), {}, held)
        return held

    def constant(self, number: Callable[[], Any], shape: Any, dtype: str) -> Any:
        """A symbolic tensor that no input takes part in: no node."""
        fixed = symbol(tuple(shape), dtype)
        self.recording.fix(fixed)
        self.recording.note_step(number, (), {}, fixed)
        return fixed

    def call(
        self,
        operation: Any,
        kind: Kind | None,
        args: Args,
        kwargs: Kwargs,
        outputs: Any,
        label: str | None = None,
    ) -> Any:
        """Writes a node for each tensor in `outputs`, and returns `outputs`."""
        recording = self.recording
        tensors = symbols_in((args, kwargs))
        if tensors and all(map(recording.is_constant, tensors)):
            for tensor in symbols_in(outputs):
                recording.fix(tensor)
            recording.note_step(operation, args, kwargs, outputs)
            return outputs
        data = [t for t in tensors if recording.number_of(t) is not None]
        # Computed from indices alone, without a weight: a mask, or positions.
        if kind is None or not (data or takes_weights(operation, args, kwargs)):
            for tensor in symbols_in(outputs):
                recording.assign(tensor, None)
            recording.note_step(operation, args, kwargs, outputs)
            return outputs
        numbers = known(recording.number_of(t) for t in data)
        if kind is Kind.ATTENTION:
            kind, numbers = self._split_attention(operation, args, numbers)
        power = operations.power_of(operation, args)
        if kind is Kind.PRODUCT and len(numbers) == 2:
            sign = 1.0 if operations.divides(operation) else -1.0
            source = algebra.normalized(recording.nodes, recording.powers, numbers, sign)
            if source is not None:
                kind, numbers, power = Kind.NORM, [source], None
        kind = algebra.refine(
            kind,
            numbers,
            same_shape=kind is not Kind.SUM or have_same_shape(data),
            inverts=operations.inverts(args, data),
        )
        # What joins several tensors (a concatenation) scales with all of them, not with one.
        homogeneous = len(set(numbers)) < 2
        if kind is Kind.NONLINEAR:
            homogeneous = homogeneous and operations.is_homogeneous(operation)
        if label is None:
            label = self.label(None if isinstance(operation, keras.Layer) else operation)
        group = self._group if kind is Kind.SUM else None
        for tensor in symbols_in(outputs):
            number = recording.write(kind, numbers, label, homogeneous, group)
            recording.assign(tensor, number)
            recording.powers[number] = power
        recording.note_step(operation, args, kwargs, outputs)
        return outputs

    def _split_attention(
        self, operation: Any, args: Args, numbers: list[int]
    ) -> tuple[Kind, list[int]]:
        """Puts the value last; all other operands only decide how values are weighed."""
        # `AdditiveAttention([query, value, key])`, but `dot_product_attention(query, key, value)`.
        operands, place = (args[0], 1) if isinstance(operation, keras.Layer) else (args, 2)
        value = self.recording.number_of(operands[place]) if len(operands) > place else None
        if value is None:
            return Kind.OPAQUE, numbers
        others = list(numbers)
        others.remove(value)
        return Kind.ATTENTION, [*others, value]
