"""Opening layers: every symbolic call is received here, and followed or written down.

A layer's `call` runs on `KerasTensor`s; each layer inside it is opened in turn, down to the
operations of `keras.ops`. Nothing is computed, no weight changes, and nothing is recorded on the
user's layers. A layer that refuses symbolic tensors (raw backend code, say) becomes one opaque
node: its shape is inferred by Keras, and its inside stays unknown.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import layers as _layers
from keras_gamma.network import algebra, operations
from keras_gamma.network.calls import NormCall, takes_weights
from keras_gamma.network.causes import TraceError, first_sentence
from keras_gamma.network.graph import Kind
from keras_gamma.network.labels import label_of
from keras_gamma.network.normalizations import Normalization
from keras_gamma.network.recognition import Recognition, entry_of_operation
from keras_gamma.network.recording import Recording
from keras_gamma.network.shapes import Shapes, fits
from keras_gamma.network.symbols import are_two_alike, have_same_shape, known, symbol, symbols_in

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
_SUM_LAYERS = (keras.layers.Add, keras.layers.Subtract, keras.layers.Average)


class Opener:
    """Receives every symbolic call of a trace; a handler for `intercept_symbolic_calls`.

    Args:
        recording: a `Recording`, which it writes to.
    """

    def __init__(self, recording: Recording) -> None:
        self.paused = False
        self.recognition = Recognition()
        self._recording = recording
        self._shapes = Shapes()
        self._scope: list[keras.Layer] = []  # Layers being run, outermost first.
        self._sum_layers = 0
        self._group: int | None = None

    def __call__(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        """The outputs of a call on symbolic tensors."""
        if isinstance(operation, keras.Layer):
            self._scope.append(operation)
            try:
                return self._on_layer(operation, args, kwargs)
            finally:
                self._scope.pop()
        if isinstance(operation, keras.Function):
            return operation.call(*args, **kwargs)
        return self._on_operation(operation, args, kwargs)

    def knows(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> bool:
        """Whether a call needs nothing of what `Layer.__call__` does around it.

        That is: building, casting, masks, checking the inputs (of the first layers that is done,
        for the inputs are the user's), and handing `training` down to layers inside.
        """
        if not self._shapes.is_simple(layer) or not layer.built or len(args) != 1:
            return False
        if kwargs.keys() - {"training", "mask"} or kwargs.get("mask") is not None:
            return False
        if kwargs.get("training") or _layers.sublayers(layer):
            return False
        tensors = args[0] if isinstance(args[0], (list, tuple)) else args
        dtype = layer.compute_dtype
        for tensor in tensors:
            if not isinstance(tensor, keras.KerasTensor) or _layers.has_mask(tensor):
                return False
            number = self._recording.number_of(tensor)
            if number is None or tensor.dtype != dtype:
                return False
            if self._recording.nodes[number].kind is Kind.INPUT:
                return False
        # Else Keras is to say what is wrong.
        return layer.input_spec is None or fits(layer.input_spec, tensors)

    # Layers ---------------------------------------------------------------------------------

    def _on_layer(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        with self._pause():
            entry = self.recognition.entry(layer, args, kwargs)
        if entry is not None:
            return self._on_normalization(layer, entry, args, kwargs)
        if isinstance(layer, keras.layers.TimeDistributed):
            # It calls `layer.layer.call`, past `__call__`, once for each step.
            return self._slice_wise(layer.layer, args[0], axis=1)
        if type(layer) is keras.layers.Add and are_two_alike(args):
            # Opening it would come to the same.
            outputs = symbol(args[0][0].shape, layer.compute_dtype)
            return self._record(layer, Kind.SUM, args, kwargs, outputs)
        kind = operations.kind_of_layer(layer)
        if kind is not None:
            return self._record(layer, kind, args, kwargs, self._infer(layer, args, kwargs))
        return self._open(layer, args, kwargs)

    def _on_normalization(
        self, layer: keras.Layer, entry: Normalization, args: Args, kwargs: Kwargs
    ) -> Any:
        # Further tensors are masks; only the first is normalized.
        source = symbols_in((args, kwargs))[0]
        outputs = symbol(source.shape, layer.compute_dtype)
        recording = self._recording
        inputs = known([recording.number_of(source)])
        number = recording.write(Kind.NORM, inputs, label_of(self._scope))
        recording.calls.append(NormCall(layer, entry, number))
        recording.assign(outputs, number)
        recording.note_step(layer, args, kwargs, outputs)
        return outputs

    def _open(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Any:
        mark, group = self._recording.mark(), self._group
        if isinstance(layer, _SUM_LAYERS):
            self._sum_layers += 1
            self._group = self._sum_layers
        try:
            outputs = layer.call(*args, **kwargs)
            if not all(map(self._recording.has, symbols_in(outputs))):
                raise TypeError("its call returned a tensor that no operation made")
            return outputs
        except Exception as error:
            self._recording.forget_since(mark)
            return self._on_opaque_layer(layer, error, args, kwargs)
        finally:
            self._group = group

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
            return self._record(layer, kind, args, kwargs, outputs)
        reason = f"{label_of(self._scope)!r} ({type(layer).__name__}) could not be opened: {cause}"
        self._recording.close(_layers.flatten_layers(layer), reason)
        return self._record(layer, Kind.OPAQUE, args, kwargs, outputs, reason)

    # Operations -----------------------------------------------------------------------------

    def _on_operation(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        kind = operations.kind_of_operation(operation)
        if kind is Kind.OPAQUE and not _layers.is_operation_class_of_keras(operation):
            # An operation of the user's: open it.
            opened = self._attempt(lambda: operation.call(*args, **kwargs))
            if opened is not None:
                return opened
        if operations.is_map(operation):
            mapped = inspect.signature(operation.call).bind(*args, **kwargs).arguments
            function = mapped.pop("f", None) or operation.function
            (tensors,) = mapped.values()
            opened = self._attempt(lambda: self._slice_wise(function, tensors, axis=0))
            if opened is not None:
                return opened
        outputs = self._infer(operation, args, kwargs)
        if kind is Kind.NORM and self._scope:
            entry = entry_of_operation(operation, args, kwargs, self._scope[-1])
            if entry is not None:
                number = len(self._recording.nodes)
                self._recording.calls.append(NormCall(self._scope[-1], entry, number))
        label = None
        if kind is Kind.OPAQUE:
            name = label_of(self._scope, operation)
            label = f"{name!r}, an unknown operation ({type(operation).__name__})"
        return self._record(operation, kind, args, kwargs, outputs, label)

    def _attempt(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, or `None`, and nothing written, if it raises."""
        mark = self._recording.mark()
        try:
            return function()
        except Exception:
            self._recording.forget_since(mark)
            return None

    def _slice_wise(self, function: Callable[[Any], Any], tensors: Any, axis: int) -> Any:
        """Runs `function` on one slice of `tensors` along `axis`: it does the same to each."""
        size = symbols_in(tensors)[0].shape[axis]

        def one(value: Any) -> Any:
            return keras.ops.take(value, 0, axis=axis)

        def again(value: Any) -> Any:
            return keras.ops.repeat(keras.ops.expand_dims(value, axis), size, axis=axis)

        slices = tree.map_structure(
            lambda t: self._view(t, (*t.shape[:axis], *t.shape[axis + 1 :]), one), tensors
        )
        return tree.map_structure(
            lambda t: self._view(t, (*t.shape[:axis], size, *t.shape[axis:]), again),
            function(slices),
        )

    def _view(self, tensor: Any, shape: tuple[int, ...], function: Callable[[Any], Any]) -> Any:
        view = symbol(shape, tensor.dtype)
        number = self._recording.number_of(tensor)
        if number is not None:
            number = self._recording.write(Kind.IDENTITY, (number,), label_of(self._scope))
        self._recording.assign(view, number)
        self._recording.note_step(function, (tensor,), {}, view)
        return view

    # Both -----------------------------------------------------------------------------------

    def _infer(self, operation: Any, args: Args, kwargs: Kwargs) -> Any:
        with self._pause():
            return self._shapes.infer(operation, args, kwargs)

    @contextlib.contextmanager
    def _pause(self) -> Iterator[None]:
        self.paused, before = True, self.paused
        try:
            yield
        finally:
            self.paused = before

    def _record(
        self,
        operation: Any,
        kind: Kind | None,
        args: Args,
        kwargs: Kwargs,
        outputs: Any,
        label: str | None = None,
    ) -> Any:
        """Writes a node for each tensor in `outputs`, and returns `outputs`."""
        recording = self._recording
        data = [t for t in symbols_in((args, kwargs)) if recording.number_of(t) is not None]
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
            is_layer = isinstance(operation, keras.Layer)
            label = label_of(self._scope, None if is_layer else operation)
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
        value = self._recording.number_of(operands[place]) if len(operands) > place else None
        if value is None:
            return Kind.OPAQUE, numbers
        others = list(numbers)
        others.remove(value)
        return Kind.ATTENTION, [*others, value]
