"""Raw backend code in a layer's `call`, read from the backend's own graph.

The `call` is run on placeholders. What it does to them is in the graph afterwards, operation by
operation; where it calls a layer, that layer is opened as ever, on symbolic tensors.
"""

import operator
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import backends
from keras_gamma.network import operations, tensor_lists
from keras_gamma.network.graph import Kind
from keras_gamma.network.symbols import mapped, symbol, symbols_in
from keras_gamma.network.writing import Writer


class RawCode:
    """One run of one layer's `call` on tensors of the backend.

    Args:
        writer: a `Writer`.
        graph: see `backends.scratch_graph`.
    """

    def __init__(self, writer: Writer, graph: Any) -> None:
        self._writer = writer
        self._graph = graph
        self._symbols: dict[str, Any] = {}  # name of a tensor of the graph -> what it stands for
        self._alive: list[Any] = []

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `function` returns, on symbolic tensors."""
        args, kwargs = self._to_graph((args, kwargs))
        with self._graph.entered():
            outputs = function(*args, **kwargs)
            return self._to_symbols(outputs)

    def takes_part(self, args: Any, kwargs: Any) -> bool:
        """Whether a call is made on tensors of this run that follow from its inputs."""
        leaves = [leaf for leaf in tree.flatten((args, kwargs)) if self._graph.holds(leaf)]
        return any(isinstance(self._symbol_of(leaf), keras.KerasTensor) for leaf in leaves)

    def holds(self, value: Any) -> bool:
        """Whether `value` is a tensor of this run."""
        return bool(self._graph.holds(value))

    def number_of(self, value: Any) -> Any:
        """The numbers in a tensor of this run that follows from no input."""
        return self._graph.evaluate(value)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a layer inside the run: on symbolic tensors, outside of the graph."""
        args, kwargs = self._to_symbols((args, kwargs))
        with self._graph.left():
            outputs = function(*args, **kwargs)
        return self._to_graph(outputs)

    def take_in(self, outputs: Any) -> Any:
        """Symbolic tensors that came from elsewhere, as tensors of this run."""
        return self._to_graph(outputs)

    def _to_graph(self, structure: Any) -> Any:
        def convert(value: Any) -> Any:
            if not isinstance(value, keras.KerasTensor):
                return value
            placeholder = self._graph.placeholder(value)
            self._symbols[placeholder.name] = value
            self._alive.append(placeholder)
            mask = getattr(value, "_keras_mask", None)
            if isinstance(mask, keras.KerasTensor):
                placeholder._keras_mask = convert(mask)
            return placeholder

        return mapped(convert, structure)

    def _to_symbols(self, structure: Any) -> Any:
        def convert(value: Any) -> Any:
            if not self._graph.holds(value):
                return value
            found = self._symbol_of(value)
            if isinstance(found, keras.KerasTensor):
                return found
            # Computed from no input: a constant, whose value is not asked for while tracing.
            return self._writer.constant(found.number, value.shape, value.dtype.name)

        return mapped(convert, structure)

    def _symbol_of(self, tensor: Any) -> Any:
        """The symbolic tensor for a tensor of the graph, or a constant."""
        for operation in self._graph.operations_behind(tensor, self._symbols):
            self._write(operation)
        return self._symbols[tensor.name]

    def _write(self, operation: Any) -> None:
        if all(output.name in self._symbols for output in operation.outputs):
            return
        inputs = tuple(self._symbols[source.name] for source in operation.inputs)
        if tensor_lists.is_about_lists(operation.type, inputs):
            self._write_list(operation, inputs)
            return
        inputs = tuple(map(tensor_lists.as_input, inputs))
        if not symbols_in(list(inputs)):
            for output in operation.outputs:
                self._symbols[output.name] = self._graph.constant(output)
            return
        weighted = any(
            not isinstance(value, keras.KerasTensor) and value.handles for value in inputs
        )
        run = self._graph.operation(operation, weighted)
        kind = operations.kind_of_operation(run)
        outputs = [symbol(_shape(o, kind), _dtype(o)) for o in operation.outputs]
        fused = kind is Kind.NORM and len(inputs) > 2  # data, scale, offset, statistics
        if fused and run.attribute("is_training"):
            self._writer.note_scale(inputs[1], "batch")
        elif fused:  # By given statistics it is an affine.
            kind = Kind.LINEAR
        label, cause = self._writer.label(), ""
        if kind is Kind.OPAQUE:
            cause = f"{label!r}, an unknown operation ({operation.type})"
            label = f"{label}/{operation.type}"
        self._writer.call(run, kind, inputs, {}, outputs, label, cause)
        for output, written in zip(operation.outputs, outputs, strict=True):
            self._symbols[output.name] = written
        number = self._writer.recording.number_of(outputs[0]) if fused else None
        if number is not None:
            self._writer.gains.look_at(inputs[1], number, self._writer.scope)

    def _write_list(self, operation: Any, inputs: tuple[Any, ...]) -> None:
        (output,) = operation.outputs
        constant = self._graph.constant(output)
        if operation.type == tensor_lists.UNSTACKED:
            self._symbols[output.name] = tensor_lists.TensorList(
                self._slices_of(inputs[0]), constant
            )
            return
        found: Any = tensor_lists.written(operation.type, inputs, constant)
        if found is None and operation.type == "TensorListGetItem":
            found = tensor_lists.item(inputs)
        elif found is None:
            items = tuple(inputs[0].whole())
            if symbols_in(list(items)):
                found = symbol(_shape(output), _dtype(output))
                label = self._writer.label()
                self._writer.call(tensor_lists.Stack(), Kind.LINEAR, items, {}, found, label)
            else:
                found = constant
        self._symbols[output.name] = found

    def _slices_of(self, tensor: keras.KerasTensor) -> dict[int, Any]:
        """Views of a tensor, one for each place along its first axis."""
        shape = tuple(tensor.shape[1:])
        return {
            i: self._writer.view(tensor, shape, operator.itemgetter(i))
            for i in range(tensor.shape[0])
        }


def _dtype(tensor: Any) -> str:
    """The dtype, or any for what only an opaque operation reads (the lists of a loop)."""
    name = str(tensor.dtype.name)
    return "float32" if name in ("variant", "resource") else name


def _shape(tensor: Any, kind: Kind | None = None) -> tuple[int | None, ...]:
    if tensor.shape.rank is None:
        # Of Python code nothing is known in any case; what nobody reads need not be.
        if kind is Kind.OPAQUE or not tensor.consumers():
            return (None,)
        raise TypeError(f"the rank of what {tensor.op.type} yields is not known")
    return tuple(tensor.shape)


def open_raw(writer: Writer) -> RawCode | None:
    """A run of raw code on this backend, or `None` where its graph cannot be read."""
    graph = backends.scratch_graph()
    return None if graph is None else RawCode(writer, graph)
