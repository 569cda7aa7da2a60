"""A scratch graph of TensorFlow's, in which raw TensorFlow code can be run and looked at.

A `call` that hands its tensors to `tf.concat`, or asks for `x.shape.rank`, takes no `KerasTensor`.
It takes the placeholders of a `FuncGraph`, and leaves behind the operations that it is made of.

Private names used here, and why there is no public way:

* `tf.__internal__.FuncGraph`: the graph of a `tf.function` while it is being traced, in which
  calls of layers can be cut out. (Keras infers shapes in the same way.)
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_gamma._keras.replacement import replace
from keras_gamma._keras.tensorflow_loops import patches


class GraphOperation:
    """One operation of the scratch graph; called with numbers, it computes.

    Args:
        operation: a `tf.Operation`.
        is_weighted: bool, whether a weight takes part in it.
    """

    def __init__(self, operation: Any, is_weighted: bool) -> None:
        self.type: str = operation.type
        self.name: str = operation.name
        self.is_weighted = is_weighted
        self._operation = operation

    def attribute(self, name: str) -> Any:
        """An attribute of the operation."""
        return self._operation.get_attr(name)

    def __call__(self, *inputs: Any) -> Any:
        import tensorflow as tf

        operation, given = self._operation, list(inputs)
        if self.type == "Const":
            return tf.constant(tf.make_ndarray(operation.get_attr("value")))
        function = getattr(tf.raw_ops, self.type)
        attributes = {attribute.name for attribute in operation.op_def.attr}
        names = [name for name in inspect.signature(function).parameters if name != "name"]
        # `raw_ops` calls some inputs otherwise than the operation does, in the same order.
        places = iter([name for name in names if name not in attributes])
        arguments: dict[str, Any] = {}
        for argument in operation.op_def.input_arg:
            many = argument.number_attr or argument.type_list_attr
            name = (
                argument.name
                if argument.name in names
                else next(place for place in places if place not in arguments)
            )
            if not many:
                arguments[name] = given.pop(0)
                continue
            size = operation.get_attr(many)
            size = size if isinstance(size, int) else len(size)
            arguments[name], given = given[:size], given[size:]
        # Likewise some attributes: Squeeze's `squeeze_dims` is its function's `axis`.
        inferred = {
            one
            for argument in operation.op_def.input_arg
            for one in (argument.type_attr, argument.number_attr, argument.type_list_attr)
        }
        renamed = iter(
            [
                attribute.name
                for attribute in operation.op_def.attr
                if attribute.name not in inferred and attribute.name not in names
            ]
        )
        for name in names:
            if name not in arguments:
                arguments[name] = operation.get_attr(name if name in attributes else next(renamed))
        arguments = {
            name: [_number(v) for v in value] if isinstance(value, list) else _number(value)
            for name, value in arguments.items()
        }
        outputs = function(**arguments)
        return list(outputs) if isinstance(outputs, (list, tuple)) else outputs


class Constant:
    """A tensor of the scratch graph that no input takes part in.

    Attributes:
        handles: dict from the id of the handle of each TensorFlow variable behind it to the handle.
    """

    def __init__(self, graph: "ScratchGraph", tensor: Any) -> None:
        self.handles = graph.handles_behind(tensor)
        self.shape = tuple(tensor.shape) if tensor.shape.rank is not None else None
        self._graph = graph
        self._tensor = tensor

    def number(self) -> Any:
        """Its value."""
        return self._graph.evaluate(self._tensor)


def _number(value: Any) -> Any:
    return value.number() if isinstance(value, Constant) else value


class ScratchGraph:
    """A graph to run raw code in."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        self._graph = tf.__internal__.FuncGraph("keras_gamma_scratch")
        self._handles: dict[str, dict[int, Any]] = {}  # name of a tensor -> see `handles_behind`

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """While it is open, TensorFlow's functions write to this graph: operations, one by one.

        Compiled functions are run as they are written, and loops are unrolled.
        """
        with contextlib.ExitStack() as stack:
            replace(stack, patches(self))
            stack.enter_context(self._graph.as_default())
            yield

    def is_entered(self) -> bool:
        """Whether this thread writes to this graph: others are served as ever."""
        return self._tf.compat.v1.get_default_graph() is self._graph

    def known(self, tensor: Any) -> bool | None:
        """The value of a condition, or `None` if inputs decide it."""
        if not self.holds(tensor):
            return bool(tensor)
        captured = {inside.name for _, inside in self._graph.captures}
        behind = self.operations_behind(tensor, captured)
        if any(operation.type == "Placeholder" for operation in behind):
            return None
        return bool(self.evaluate(tensor))

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """While it is open, within `entered`, TensorFlow computes at once again."""
        with self._tf.init_scope():
            yield

    def placeholder(self, symbol: keras.KerasTensor) -> Any:
        """A tensor of this graph that stands for `symbol`."""
        with self._graph.as_default():
            return self._tf.compat.v1.placeholder(symbol.dtype, tuple(symbol.shape))

    def holds(self, value: Any) -> bool:
        """Whether `value` is a tensor of this graph."""
        return self._tf.is_tensor(value) and getattr(value, "graph", None) is self._graph

    def constant(self, tensor: Any) -> Constant:
        """A tensor of this graph that no input takes part in."""
        return Constant(self, tensor)

    def operation(self, operation: Any, is_weighted: bool) -> GraphOperation:
        """An operation of this graph, that computes when it is called with numbers."""
        return GraphOperation(operation, is_weighted)

    def operations_behind(self, tensor: Any, known: Any) -> list[Any]:
        """The operations that `tensor` is made by, in order, back to tensors named in `known`."""
        ordered: list[Any] = []
        seen: set[str] = set()
        stack = [(tensor, False)]
        while stack:
            current, done = stack.pop()
            operation = current.op
            if done:
                ordered.append(operation)
            elif current.name not in known and operation.name not in seen:
                seen.add(operation.name)
                stack.append((current, True))
                stack.extend((source, False) for source in operation.inputs)
        return ordered

    def handles_behind(self, tensor: Any) -> dict[int, Any]:
        """The handles of the TensorFlow variables that a tensor is computed from."""
        new = self.operations_behind(tensor, self._handles)
        captured = {inside.name: outside for outside, inside in self._graph.captures} if new else {}
        for operation in new:
            behind: dict[int, Any] = {}
            for source in operation.inputs:
                behind.update(self._handles[source.name])
            for output in operation.outputs:
                outside = captured.get(output.name)
                if outside is not None and outside.dtype == self._tf.resource:
                    behind[id(outside)] = outside
                self._handles[output.name] = behind
        return self._handles[tensor.name]

    def evaluate(self, tensor: Any) -> Any:
        """The value of a tensor that depends on nothing that is fed."""
        values: dict[str, Any] = {i.name: o for o, i in self._graph.captures}
        for operation in self.operations_behind(tensor, dict(values)):
            if operation.outputs and operation.outputs[0].name in values:
                continue
            with self._tf.init_scope():  # Also while this graph is being written.
                run = GraphOperation(operation, False)
                outputs = run(*(values[source.name] for source in operation.inputs))
            listed = outputs if isinstance(outputs, list) else [outputs]
            values.update((o.name, v) for o, v in zip(operation.outputs, listed, strict=True))
        return values[tensor.name]


def handle_of(variable: keras.Variable) -> Any:
    """The handle of the TensorFlow variable behind a Keras variable, or `None`."""
    return getattr(variable.value, "handle", None)
