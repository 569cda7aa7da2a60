"""Opening layers: every symbolic call is received here, and followed or written down.

A layer's `call` runs on `KerasTensor`s; each layer inside it is opened in turn, down to the
operations of `keras.ops`. Nothing is computed, no weight changes, and nothing is recorded on the
user's layers. A layer that refuses symbolic tensors (raw backend code, say) is read from the
backend's own graph; where that fails, too, it becomes one opaque node: its shape is inferred by
Keras, and its inside stays unknown.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gamma._keras import layers as _layers
from keras_gamma.network import control_flow, operations
from keras_gamma.network.calls import NormCall
from keras_gamma.network.causes import TraceError, first_sentence
from keras_gamma.network.following import Follower
from keras_gamma.network.gains import Gains
from keras_gamma.network.graph import Kind
from keras_gamma.network.plain_calls import is_plain
from keras_gamma.network.recognition import Recognition, entry_of_operation, kind_and_scale
from keras_gamma.network.recording import Recording
from keras_gamma.network.shapes import Shapes
from keras_gamma.network.symbols import are_two_alike, symbol
from keras_gamma.network.writing import Args, Kwargs, Writer

_SIMPLE = (Kind.LINEAR, Kind.IDENTITY, Kind.NONLINEAR)


class Opener:
    """Receives every symbolic call of a trace; a handler for `intercept_symbolic_calls`.

    Args:
        recording: a `Recording`, which it writes to.
        gains: a `Gains`, which looks for learned gains meanwhile.
        recognition: a `Recognition`, which tells normalizations.
        within: the layers that all calls are within, for labels.
    """

    def __init__(
        self,
        recording: Recording,
        gains: Gains,
        recognition: Recognition,
        within: Sequence[keras.Layer] = (),
    ) -> None:
        self.paused = False
        self._recognition = recognition
        self._recording = recording
        self._writer = Writer(recording, gains)
        self._writer.scope.extend(within)
        self._shapes = Shapes()
        self._follower = Follower(recording, self._writer, self._on_opaque_layer)

    def __call__(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        """The outputs of a call on symbolic tensors."""
        args, kwargs = self._follower.put_in((args, kwargs))
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
        kwargs = self._follower.passed_on(kwargs)
        if is_plain(self._shapes, self._recording, layer, args, kwargs):
            return self(layer, args, {})
        return self._follower.enter(layer, args, kwargs, call)

    def masks(self, layer: keras.Layer, inputs: Any, previous: Any) -> Any:
        """The mask of what a layer returned, where raw code computes it; `None` if out of reach."""
        return self._follower.masks(layer, inputs, previous)

    def assign(self, variable: keras.Variable, value: Any) -> bool:
        """Takes down a value that follows data, which Keras could not assign."""
        return self._follower.assign(variable, value)

    def value_of(self, variable: keras.Variable) -> Any:
        """What was assigned to `variable` in the call that is being run, or `None`."""
        return self._follower.value_of(variable)

    # Layers ---------------------------------------------------------------------------------

    def _on_layer(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        self.paused, before = True, self.paused
        try:
            entry = self._recognition.entry(layer, args, kwargs)
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
        return self._follower.follow(layer, args, kwargs)

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

    # Operations -----------------------------------------------------------------------------

    def _on_operation(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        kind = operations.kind_of_operation(operation)
        opened = None
        if kind is Kind.OPAQUE and operations.name_of(operation) is None:
            # An operation of the user's: open it.
            opened = self._follower.opened(operation.call, args, kwargs)
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
