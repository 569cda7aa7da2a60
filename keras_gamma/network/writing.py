"""Writing calls down as nodes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_gamma.network import algebra, operations, traits
from keras_gamma.network.calls import NormCall, takes_weights
from keras_gamma.network.gains import Gains
from keras_gamma.network.graph import Kind
from keras_gamma.network.labels import label_of
from keras_gamma.network.normalizations import Normalization
from keras_gamma.network.reading import read, traits_of
from keras_gamma.network.recording import Recording
from keras_gamma.network.stacks import Stacks
from keras_gamma.network.symbols import known, symbol, symbols_in

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Writer:
    """Turns calls into nodes of a `Recording`.

    Attributes:
        recording: the `Recording`.
        gains: the `Gains` that looks at products.
        scope: list of the layers being run, outermost first.
    """

    def __init__(self, recording: Recording, gains: Gains) -> None:
        self.recording = recording
        self.gains = gains
        self.scope: list[keras.Layer] = []
        self._stacks = Stacks(recording)
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
        numbers, constant = known([recording.number_of(source)]), not recording.varies(source)
        number = recording.write(Kind.NORM, numbers, self.label(), constant=constant)
        recording.calls.append(NormCall(layer, entry, number))
        recording.assign(outputs, number)
        recording.note_step(layer, args, kwargs, outputs, (number,))
        return outputs

    def note_scale(self, operand: Any, kind: str) -> None:
        """Says that the node that is written next is a normalization with `operand` as its γ."""
        gain = self.gains.of(operand, self.scope)
        if gain is not None:
            entry = Normalization(kind, gain.name, gain.neutral)
            self.recording.calls.append(NormCall(gain.layer, entry, len(self.recording.nodes)))

    def view(self, tensor: Any, shape: tuple[int, ...], function: Callable[[Any], Any]) -> Any:
        """Writes a view of a tensor: its values, moved or repeated by `function`."""
        seen = symbol(shape, tensor.dtype)
        number, constant = self.recording.number_of(tensor), not self.recording.varies(tensor)
        if number is not None:
            number = self.recording.write(Kind.IDENTITY, (number,), self.label(), constant=constant)
            self.recording.assign(seen, number)
        elif constant:
            self.recording.fix(seen)
        else:
            self.recording.assign(seen, None)
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
        cause: str = "",
    ) -> Any:
        """Writes a node for each tensor in `outputs`, and returns `outputs`."""
        recording = self.recording
        summed = self._stacks.summed(operation, args, kwargs)
        if summed is not None:
            kind, label = Kind.SUM, label or self.label(operation)
            operation, args = summed[0], tuple(summed[1])
        tensors = symbols_in((args, kwargs))
        data = [t for t in tensors if recording.number_of(t) is not None]
        varies = any(map(recording.varies, tensors)) and not traits.ignores_values(operation)
        if not varies and (kind is None or not data):
            return self._without_node(operation, args, kwargs, outputs, recording.fix)
        # Computed from indices alone, without a weight: a mask, or positions.
        if kind is None or not (data or takes_weights(operation, args, kwargs)):
            return self._without_node(operation, args, kwargs, outputs, recording.assign)
        call = read(recording, operation, kind, args, data)
        if label is None:
            label = self.label(None if isinstance(operation, keras.Layer) else operation)
        group = self._group if call.kind is Kind.SUM else None
        more = traits_of(recording, operation, call.kind, args, kwargs, outputs)
        more["cause"] = cause
        for place, tensor in enumerate(symbols_in(outputs)):
            kind, power = call.kind, call.power
            if operations.name_of(operation) == "Moments":  # The mean, and the variance.
                kind, power = ((Kind.LINEAR, 1.0), (Kind.NONLINEAR, 2.0))[place]
            number = recording.write(
                kind, call.inputs, label, call.homogeneous, group, constant=not varies, **more
            )
            recording.assign(tensor, number)
            recording.powers[number] = power
            if kind is Kind.NORM and self.scope:
                recording.written_out[number] = self.scope[-1]
            if call.parts:
                self.gains.absorb(number, call.parts)
            self.gains.look(operation, args, number, self.scope)
        self._stacks.note(operation, args, kwargs, outputs)
        recording.note_step(operation, args, kwargs, outputs)
        return outputs

    def layer_on_one(
        self, layer: keras.Layer, kind: Kind, tensor: keras.KerasTensor, outputs: Any
    ) -> Any:
        """`call` for the most frequent case, to the same end: a layer of Keras on one tensor.

        Args:
            layer: a layer of Keras that need not be opened.
            kind: what it does: linear, identity or nonlinear.
            tensor: what it is called on; it must vary, and be a node.
            outputs: the symbolic tensor that it returns.
        """
        recording = self.recording
        number = recording.number_of(tensor)
        assert number is not None
        nonlinear = kind is Kind.NONLINEAR
        homogeneous = not nonlinear or operations.is_homogeneous(layer)
        written = recording.write(
            kind,
            (number,),
            self.label(),
            homogeneous,
            weighted=bool(layer.weights),
            factor=kind is Kind.LINEAR and traits.is_factor(layer, (tensor,), outputs),
            bounded=nonlinear and traits.is_bounded(layer),
        )
        recording.assign(outputs, written)
        recording.powers[written] = 1.0 if homogeneous else None
        if len(self.scope) > 2:  # A layer between the model and this one may compute its kernel.
            self.gains.look(layer, (tensor,), written, self.scope)
        recording.note_step(layer, (tensor,), {}, outputs, (written,))
        return outputs

    def sum_of_two(self, layer: keras.Layer, operands: Any, outputs: keras.KerasTensor) -> Any:
        """`call` for the next frequent case: an `Add` of two tensors of one shape.

        Args:
            layer: the `Add`.
            operands: pair of symbolic tensors.
            outputs: the symbolic tensor that it returns.
        """
        recording = self.recording
        numbers = known(map(recording.number_of, operands))
        both = len(set(numbers)) == 2 and all(map(recording.varies, operands))
        if not both or algebra.shifted(recording.nodes, recording.powers, numbers) is not None:
            return self.call(layer, Kind.SUM, (operands,), {}, outputs)
        written = recording.write(Kind.SUM, numbers, self.label(), False, self._group)
        recording.assign(outputs, written)
        recording.powers[written] = 1.0
        recording.note_step(layer, (operands,), {}, outputs, (written,))
        return outputs

    def _without_node(
        self,
        operation: Any,
        args: Args,
        kwargs: Kwargs,
        outputs: Any,
        assign: Callable[..., None],
    ) -> Any:
        for tensor in symbols_in(outputs):
            assign(tensor)
        self.recording.note_step(operation, args, kwargs, outputs)
        return outputs
