"""Opening layers: every symbolic call is received here, and followed or written down.

A layer's `call` runs on `KerasTensor`s; each layer inside it is opened in turn, down to the
operations of `keras.ops`. Nothing is computed, no weight changes, and nothing is recorded on the
user's layers. A layer that refuses symbolic tensors (raw backend code, say) is read from the
backend's own graph; where that fails, too, it becomes one opaque node: its shape is inferred by
Keras, and its inside stays unknown.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import layers as _layers
from keras_gamma.network import control_flow, normalizations, operations
from keras_gamma.network.calls import NormCall
from keras_gamma.network.causes import TraceError, first_sentence
from keras_gamma.network.closed_code import ClosedCode
from keras_gamma.network.gains import Gains
from keras_gamma.network.graph import Kind
from keras_gamma.network.plain_calls import is_plain
from keras_gamma.network.raw_code import RawCode, open_raw
from keras_gamma.network.recognition import Recognition, entry_of_operation, kind_and_scale
from keras_gamma.network.recording import Recording
from keras_gamma.network.shapes import Shapes
from keras_gamma.network.statistics import Statistics, are_alike, may_keep_some, told
from keras_gamma.network.symbols import are_two_alike, mapped, symbol, symbols_in, symbols_returned
from keras_gamma.network.writing import Args, Kwargs, Writer

_SUM_LAYERS = (keras.layers.Add, keras.layers.Subtract, keras.layers.Average)
_SIMPLE = (Kind.LINEAR, Kind.IDENTITY, Kind.NONLINEAR)


class Opener:
    """Receives every symbolic call of a trace; a handler for `intercept_symbolic_calls`.

    Args:
        recording: a `Recording`, which it writes to.
        gains: a `Gains`, which looks for learned gains meanwhile.
        within: the layers that all calls are within, for labels.
    """

    def __init__(
        self, recording: Recording, gains: Gains, within: Sequence[keras.Layer] = ()
    ) -> None:
        self.paused = False
        self.recognition = Recognition()
        self._recording = recording
        self._writer = Writer(recording, gains)
        self._writer.scope.extend(within)
        self._shapes = Shapes()
        self._statistics = Statistics(recording)
        self._raw: RawCode | ClosedCode | None = None  # The run of raw code that is going on.

    def __call__(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        """The outputs of a call on symbolic tensors."""
        args, kwargs = self._statistics.put_in((args, kwargs))
        if isinstance(operation, keras.Layer):
            self._writer.scope.append(operation)
            try:
                return self._on_layer(operation, args, kwargs)
            finally:
                self._writer.scope.pop()
        if isinstance(operation, keras.Function):
            return operation.call(*args, **kwargs)
        return self._on_operation(operation, args, kwargs)

    def enter(
        self, layer: keras.Layer, args: Args, kwargs: Kwargs, call: Callable[..., Any]
    ) -> Any:
        """Receives `layer(*args, **kwargs)`, which is `call` if nothing is to be done about it."""
        if self._statistics.is_training:  # It is only who calls that is read so.
            kwargs = told(False, kwargs)
        if is_plain(self._shapes, self._recording, layer, args, kwargs):
            return self(layer, args, {})
        if args and isinstance(args[0], keras.KerasTensor) and self._raw is None:
            return call(layer, *args, **kwargs)
        if self._raw is not None and self._raw.takes_part(args, kwargs):
            raw, self._raw = self._raw, None
            try:
                return raw.call(lambda *a, **k: call(layer, *a, **k), args, kwargs)
            finally:
                self._raw = raw
        if not symbols_in((args, kwargs)) and normalizations.holds_one(layer):
            return self._on_held_data(layer, args, kwargs, call)
        return call(layer, *args, **kwargs)

    def masks(self, layer: keras.Layer, inputs: Any, previous: Any) -> Any:
        """The mask of what a layer returned, where raw code computes it; `None` if out of reach."""
        raw = open_raw(self._writer)
        if raw is None:
            return None
        before, self._raw = self._raw, raw
        try:
            return self._writer.attempt(lambda: raw.run(layer.compute_mask, (inputs, previous), {}))
        finally:
            self._raw = before

    def assign(self, variable: keras.Variable, value: Any) -> bool:
        """Takes down a value that follows data, which Keras could not assign."""
        raw = isinstance(self._raw, RawCode) and self._raw.holds(value)
        if not raw and not isinstance(value, keras.KerasTensor):
            return False
        self._statistics.keep(variable, value)
        return True

    def value_of(self, variable: keras.Variable) -> Any:
        """What was assigned to `variable` in the call that is being run, or `None`."""
        return self._statistics.value_of(variable)

    # Layers ---------------------------------------------------------------------------------

    def _on_layer(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        self.paused, before = True, self.paused
        try:
            entry = self.recognition.entry(layer, args, kwargs)
        finally:
            self.paused = before
        if entry is not None:
            return self._writer.normalization(layer, entry, args, kwargs)
        if type(layer) is keras.layers.Add and not kwargs and are_two_alike(args):
            # Opening it would come to the same.
            outputs = symbol(args[0][0].shape, layer.compute_dtype)
            return self._writer.sum_of_two(layer, args[0], outputs)
        kind = operations.kind_of_layer(layer)
        if kind is not None:
            outputs = self._infer(layer, args, kwargs)
            simple = kind in _SIMPLE and not kwargs and isinstance(outputs, keras.KerasTensor)
            if simple and self._is_one_node(args):
                return self._writer.layer_on_one(layer, kind, args[0], outputs)
            return self._writer.call(layer, kind, args, kwargs, outputs)
        return self._open(layer, args, kwargs)

    def _open(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        self._writer.gains.watch(layer)
        if not may_keep_some(layer):
            return self._read(layer, args, kwargs)
        if self._statistics.is_undecided(layer):
            return self._decide(layer, args, kwargs)
        outputs = None
        if self._statistics.counts(layer):
            outputs = self._read_as_trained(layer, args, kwargs)
        return self._read(layer, args, kwargs) if outputs is None else outputs

    def _decide(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        """Reads a layer as it is trained if it normalizes then, and is the same otherwise."""
        mark = self._recording.mark()
        expected = self._read(layer, args, kwargs)
        norms = self._recording.norms_since(mark)
        self._recording.forget_since(mark)
        outputs = self._read_as_trained(layer, args, kwargs)
        more = self._recording.norms_since(mark) > norms
        self._statistics.decide(layer, more and are_alike(outputs, expected))
        if self._statistics.counts(layer):
            return outputs
        self._recording.forget_since(mark)
        return self._read(layer, args, kwargs)

    def _read_as_trained(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        """The outputs in training, or `None`, and nothing written, if that cannot be read."""
        kwargs = told(True, kwargs)
        call = self._call_of(layer)

        def read(raw: RawCode | None) -> Any:
            with self._statistics.one_call(training=True):
                if raw is None:
                    outputs = self._followed(call, args, kwargs)
                else:
                    outputs = self._on_raw_code(raw, call, args, kwargs)
                kind = "running" if self._statistics.lags else "batch"
                self._recording.name_kind(mark, layer, kind)
                return outputs

        mark = self._recording.mark()
        outputs = self._writer.attempt(lambda: read(None))
        raw = open_raw(self._writer) if outputs is None else None
        if raw is not None:
            outputs = self._writer.attempt(lambda: read(raw))
        return outputs

    def _read(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        with self._statistics.one_call():
            return self._read_once(layer, args, kwargs)

    def _read_once(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        call = self._call_of(layer)
        mark = self._recording.mark()
        sums = self._writer.one_sum() if isinstance(layer, _SUM_LAYERS) else None
        try:
            with sums or contextlib.nullcontext():
                return self._followed(call, args, kwargs)
        except Exception as error:
            self._recording.forget_since(mark)
            cause = error
        raw: RawCode | ClosedCode | None = open_raw(self._writer)
        if raw is not None:
            try:
                return self._on_raw_code(raw, call, args, kwargs)
            except Exception as error:
                self._recording.forget_since(mark)
                cause = error
        raw = self._closed(layer, cause)
        if raw is not None:
            try:
                return self._on_raw_code(raw, call, args, kwargs)
            except Exception:
                self._recording.forget_since(mark)
        return self._on_opaque_layer(layer, cause, args, kwargs)

    def _closed(self, layer: keras.Layer, cause: Exception) -> ClosedCode | None:
        """For code whose graph cannot be read: worth it only for what it calls."""
        if not _layers.has_sublayers(layer) or isinstance(layer, keras.layers.RNN):
            return None
        return ClosedCode(self._writer, layer, first_sentence(cause))

    def _call_of(self, layer: keras.Layer) -> Callable[..., Any]:
        """What to run in place of `layer.call`."""
        if isinstance(layer, keras.layers.TimeDistributed):
            # It calls `layer.layer.call`, past `__call__`, once for each step.
            return lambda inputs, **_: control_flow.slice_wise(
                self._writer, layer.layer, inputs, axis=1
            )
        if isinstance(layer, keras.layers.RNN) and type(layer).call is keras.layers.RNN.call:
            return lambda *args, **kwargs: control_flow.recur(self._writer, layer, args, kwargs)
        # Under `tf.function` it would be traced in a graph apart, and only once.
        call: Callable[..., Any] = getattr(layer.call, "python_function", layer.call)
        return call

    def _followed(self, function: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        outputs = mapped(self._fixed, function(*args, **kwargs))
        if not all(map(self._recording.has, symbols_returned(outputs))):
            raise TypeError("its call returned a tensor that no operation made")
        return outputs

    def _fixed(self, value: Any) -> Any:
        """A number that a `call` returned, a class token say, as a symbolic constant."""
        if isinstance(value, keras.KerasTensor) or not keras.ops.is_tensor(value):
            return value
        dtype = keras.backend.standardize_dtype(value.dtype)
        return self._writer.constant(lambda: value, value.shape, dtype)

    def _on_raw_code(
        self, raw: RawCode | ClosedCode, call: Callable[..., Any], args: Args, kwargs: Kwargs
    ) -> Any:
        before, self._raw = self._raw, raw
        try:
            return self._followed(lambda *a, **k: raw.run(call, a, k), args, kwargs)
        finally:
            self._raw = before

    def _on_opaque_layer(
        self, layer: keras.Layer, error: Exception, args: Args, kwargs: Kwargs
    ) -> Any:
        cause = first_sentence(error)
        try:
            outputs = self._infer(layer, args, kwargs)
        except Exception as e:
            raise TraceError(cause) from e
        kind = operations.kind_of_layer(layer, closed=True)
        if kind is not None:
            return self._writer.call(layer, kind, args, kwargs, outputs)
        name = self._writer.label()
        reason = f"{name!r} ({type(layer).__name__}) could not be opened: {cause}"
        self._recording.close(_layers.flatten_layers(layer), reason)
        return self._writer.call(layer, Kind.OPAQUE, args, kwargs, outputs, name, reason)

    def _on_held_data(
        self, layer: keras.Layer, args: Args, kwargs: Kwargs, call: Callable[..., Any]
    ) -> Any:
        """A layer with a normalization, called on data that the model holds: a source like inputs.

        (Where there is no normalization, what comes out is a table: a constant.)
        """

        def hold(value: Any) -> Any:
            if not keras.ops.is_tensor(value) or not _is_float(value):
                return value
            return self._writer.source(value, f"data held by {layer.name}")

        args, kwargs = tree.map_structure(hold, (args, kwargs))
        raw, self._raw = self._raw, None
        try:
            outputs = call(layer, *args, **kwargs)
        finally:
            self._raw = raw
        return outputs if raw is None else raw.take_in(outputs)

    # Operations -----------------------------------------------------------------------------

    def _on_operation(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        kind = operations.kind_of_operation(operation)
        opened = None
        if kind is Kind.OPAQUE and operations.name_of(operation) is None:
            # An operation of the user's: open it.
            opened = self._writer.attempt(lambda: operation.call(*args, **kwargs))
        elif operations.is_unseen(operation):
            opened = self._writer.attempt(
                lambda: control_flow.run(self._writer, operation, args, kwargs)
            )
        if opened is not None:
            return opened
        outputs = self._infer(operation, args, kwargs)
        scope, gains = self._writer.scope, self._writer.gains
        scale: Any = None
        if kind is Kind.NORM:
            kind, scale = kind_and_scale(operation, args, kwargs, self._recording)
        if kind is Kind.NORM and scope:
            found = entry_of_operation(operation, scale, scope, gains)
            if found is not None:
                self._recording.calls.append(NormCall(*found, len(self._recording.nodes)))
        label = None
        if kind is Kind.OPAQUE:
            name = self._writer.label(operation)
            label = f"{name!r}, an unknown operation ({type(operation).__name__})"
        self._writer.call(operation, kind, args, kwargs, outputs, label)
        number = self._recording.number_of(outputs) if scale is not None else None
        if number is not None:
            gains.look_at(scale, number, scope)
        return outputs

    # Both -----------------------------------------------------------------------------------

    def _is_one_node(self, args: Args) -> bool:
        """Whether a call is on one tensor that varies and is a node."""
        if len(args) != 1 or not isinstance(args[0], keras.KerasTensor):
            return False
        number = self._recording.number_of(args[0])
        return number is not None and not self._recording.nodes[number].constant

    def _infer(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        self.paused, before = True, self.paused
        try:
            return self._shapes.infer(operation, args, kwargs)
        finally:
            self.paused = before


def _is_float(value: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(value.dtype)
