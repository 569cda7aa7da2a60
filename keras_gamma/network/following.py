"""Following layers into their `call`s, on symbolic tensors, in whatever way serves.

A `call` of `keras.ops` and layers is run as it is; raw backend code in the backend's own graph; and
code that cannot be read at all where at least the layers that it calls can be seen. A layer that
keeps running statistics is read as it is trained (`statistics`).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import layers as _layers
from keras_gamma.network import control_flow, normalizations
from keras_gamma.network.causes import first_sentence
from keras_gamma.network.closed_code import ClosedCode
from keras_gamma.network.raw_code import RawCode, open_raw
from keras_gamma.network.recording import Recording
from keras_gamma.network.statistics import Statistics, are_alike, may_keep_some, told
from keras_gamma.network.symbols import mapped, symbols_in, symbols_returned
from keras_gamma.network.writing import Args, Kwargs, Writer

_SUM_LAYERS = (keras.layers.Add, keras.layers.Subtract, keras.layers.Average)
Call = Callable[..., Any]


class Follower:
    """Runs the `call`s of layers.

    Args:
        recording: what is written to.
        writer: who writes.
        otherwise: what gives the outputs of a layer that cannot be followed: a function of the
            layer, the exception, and its arguments.
    """

    def __init__(
        self,
        recording: Recording,
        writer: Writer,
        otherwise: Callable[[keras.Layer, Exception, Args, Kwargs], Any],
    ) -> None:
        self._recording = recording
        self._writer = writer
        self._otherwise = otherwise
        self._statistics = Statistics(recording)
        self._raw: RawCode | ClosedCode | None = None  # The run of raw code that is going on.

    def put_in(self, arguments: Any) -> Any:
        """The arguments of a call, with what was assigned in place of the variables."""
        return self._statistics.put_in(arguments)

    def passed_on(self, kwargs: Kwargs) -> Kwargs:
        """The keyword arguments for what a layer calls: only the layer is read as it is trained."""
        return told(False, kwargs) if self._statistics.is_training else kwargs

    def enter(self, layer: keras.Layer, args: Args, kwargs: Kwargs, call: Call) -> Any:
        """The outputs of `layer(*args, **kwargs)`, which is `call`, within raw code or not."""
        if args and isinstance(args[0], keras.KerasTensor) and self._raw is None:
            return call(layer, *args, **kwargs)
        raw = self._raw
        if raw is not None and raw.takes_part(args, kwargs):
            with self._running(None):
                return raw.call(lambda *a, **k: call(layer, *a, **k), args, kwargs)
        if not symbols_in((args, kwargs)) and normalizations.holds_one(layer):
            return self._on_held_data(layer, args, kwargs, call)
        return call(layer, *args, **kwargs)

    def masks(self, layer: keras.Layer, inputs: Any, previous: Any) -> Any:
        """The mask of what a layer returned, where raw code computes it; `None` if out of reach."""
        raw = open_raw(self._writer)
        if raw is None:
            return None
        with self._running(raw):
            return self._writer.attempt(lambda: raw.run(layer.compute_mask, (inputs, previous), {}))

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

    def follow(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        """The outputs of a layer, whose `call` is run on symbolic tensors."""
        self._writer.gains.watch(layer)
        if may_keep_some(layer) and self._statistics.is_undecided(layer):
            return self._decide(layer, args, kwargs)
        return self._as_decided(layer, args, kwargs)

    def opened(self, call: Call, args: Args, kwargs: Kwargs) -> Any:
        """The outputs of a user's operation; `None`, and nothing written, if out of reach."""
        return self._attempted(lambda raw: self._run(raw, call, args, kwargs))

    def _as_decided(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        outputs = None
        if self._statistics.counts(layer):
            outputs = self._read_as_trained(layer, args, kwargs)
        return self._read(layer, args, kwargs) if outputs is None else outputs

    def _decide(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        """Reads a layer as it is trained if it normalizes then, and is the same otherwise."""
        # As it is trained first, for most layers are to be read otherwise: that stays written.
        mark = self._recording.mark()
        as_trained = self._read_as_trained(layer, args, kwargs)
        norms = self._recording.norms_since(mark)
        self._recording.forget_since(mark)
        outputs = self._read(layer, args, kwargs)
        more = norms > self._recording.norms_since(mark)
        self._statistics.decide(layer, more and are_alike(as_trained, outputs))
        if not self._statistics.counts(layer):
            return outputs
        self._recording.forget_since(mark)
        return self._as_decided(layer, args, kwargs)

    def _read_as_trained(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        """The outputs in training, or `None`, and nothing written, if that cannot be read."""
        kwargs = told(True, kwargs)
        call = self._call_of(layer)

        def read(raw: RawCode | None) -> Any:
            with self._statistics.one_call(training=True):
                outputs = self._run(raw, call, args, kwargs)
                kind = "running" if self._statistics.lags else "batch"
                self._recording.name_kind(mark, layer, kind)
                return outputs

        mark = self._recording.mark()
        return self._attempted(read)

    def _attempted(self, read: Callable[[RawCode | None], Any]) -> Any:
        """What `read` returns: on symbolic tensors, else on raw code's, else `None`."""
        outputs = self._writer.attempt(lambda: read(None))
        raw = open_raw(self._writer) if outputs is None else None
        return outputs if raw is None else self._writer.attempt(lambda: read(raw))

    def _run(self, raw: RawCode | None, call: Call, args: Args, kwargs: Kwargs) -> Any:
        if raw is None:
            return self._followed(call, args, kwargs)
        return self._on_raw_code(raw, call, args, kwargs)

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
        for open_it in (self._raw_code, self._closed):
            raw = open_it(layer, cause)
            if raw is not None:
                try:
                    return self._on_raw_code(raw, call, args, kwargs)
                except Exception as error:
                    self._recording.forget_since(mark)
                    cause = error if isinstance(raw, RawCode) else cause
        return self._otherwise(layer, cause, args, kwargs)

    def _raw_code(self, layer: keras.Layer, cause: Exception) -> RawCode | None:
        """For code whose graph can be read."""
        return open_raw(self._writer)

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
        with self._running(raw):
            return self._followed(lambda *a, **k: raw.run(call, a, k), args, kwargs)

    @contextlib.contextmanager
    def _running(self, raw: RawCode | ClosedCode | None) -> Iterator[None]:
        before, self._raw = self._raw, raw
        try:
            yield
        finally:
            self._raw = before

    def _on_held_data(
        self, layer: keras.Layer, args: Args, kwargs: Kwargs, call: Callable[..., Any]
    ) -> Any:
        """A layer with a normalization, called on data that the model holds: a source like inputs.

        (Where there is no normalization, what comes out is a table: a constant.)
        """

        def hold(value: Any) -> Any:
            if not keras.ops.is_tensor(value) or not _is_float(value):
                return value
            if isinstance(raw, RawCode) and raw.holds(value):  # computed in the run, from weights
                value = raw.number_of(value)
            return self._writer.source(value, f"data held by {layer.name}")

        raw = self._raw
        args, kwargs = tree.map_structure(hold, (args, kwargs))
        with self._running(None):
            outputs = call(layer, *args, **kwargs)
        return outputs if raw is None else raw.take_in(outputs)


def _is_float(value: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(value.dtype)
