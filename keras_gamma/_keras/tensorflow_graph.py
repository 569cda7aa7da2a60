"""A scratch graph of TensorFlow's, in which raw TensorFlow code can be run and looked at.

A `call` that hands its tensors to `tf.concat`, or asks for `x.shape.rank`, takes no `KerasTensor`.
It takes the placeholders of a `FuncGraph`, and leaves behind the operations that it is made of.

Private names used here, and why there is no public way:

* `tf.__internal__.FuncGraph`: the graph of a `tf.function` while it is being traced, in which
  calls of layers can be cut out. (Keras infers shapes in the same way.)
* `FuncGraph._create_op_internal`: where a constant becomes an operation, so that each is made once.
* `keras.Variable._value`: the TensorFlow variable itself; `value` may be a cast of it.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
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
        self._behind = graph.captured_behind(tensor)
        self.handles = {key: one for key, one in self._behind.items() if graph.is_handle(one)}
        self.shape = tuple(tensor.shape) if tensor.shape.rank is not None else None
        self._graph = graph
        self._tensor = tensor

    def number(self) -> Any:
        """Its value."""
        return self._graph.evaluate(self._tensor)

    def number_with(self, values: Iterable[tuple[keras.Variable, Any]]) -> Any:
        """Its value if variables had other ones; `None` if none of these takes part.

        Args:
            values: pairs of a variable and the array that is to be read in its place.

        Raises:
            NotImplementedError: if it cannot be told which variables take part, or such a variable
                is not read as a whole.
        """
        given = [(handle_of(variable), value) for variable, value in values]
        if len(self.handles) < len(self._behind) or any(handle is None for handle, _ in given):
            raise NotImplementedError("something takes part that was computed elsewhere")
        instead = {id(handle): value for handle, value in given if id(handle) in self.handles}
        return self._graph.evaluate(self._tensor, instead) if instead else None


def _number(value: Any) -> Any:
    return value.number() if isinstance(value, Constant) else value


@functools.cache
def _graph_class() -> Any:
    """`FuncGraph`, that holds each constant once.

    Two of three operations of an unrolled loop are constants (where a slice begins, a shape), a few
    of them time and again; making one takes longer than anything else here.
    """
    import tensorflow as tf

    class Graph(tf.__internal__.FuncGraph):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self._constants: dict[bytes, Any] = {}

        def _create_op_internal(
            self, op_type: str, inputs: Any, dtypes: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            create = functools.partial(super()._create_op_internal, op_type, inputs, dtypes)
            attributes = kwargs.get("attrs") or {}
            if op_type != "Const" or set(attributes) != {"value", "dtype"}:
                return create(*args, **kwargs)
            key = attributes["value"].SerializeToString()
            if key not in self._constants:
                self._constants[key] = create(*args, **kwargs)
            return self._constants[key]

    return Graph


class ScratchGraph:
    """A graph to run raw code in."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        self._graph = _graph_class()("keras_gamma_scratch")
        self._behind: dict[str, dict[int, Any]] = {}  # name of a tensor -> see `captured_behind`

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

    def captured_behind(self, tensor: Any) -> dict[int, Any]:
        """What a tensor is computed from that is not of this graph, by id.

        Handles of TensorFlow variables, and tensors that were computed before.
        """
        new = self.operations_behind(tensor, self._behind)
        captured = {inside.name: outside for outside, inside in self._graph.captures} if new else {}
        for operation in new:
            behind: dict[int, Any] = {}
            for source in operation.inputs:
                behind.update(self._behind[source.name])
            for output in operation.outputs:
                outside = captured.get(output.name)
                if outside is not None:
                    behind[id(outside)] = outside
                self._behind[output.name] = behind
        return self._behind[tensor.name]

    def is_handle(self, captured: Any) -> bool:
        """Whether something captured is the handle of a TensorFlow variable."""
        return bool(captured.dtype == self._tf.resource)

    def evaluate(self, tensor: Any, instead: Mapping[int, Any] | None = None) -> Any:
        """The value of a tensor that depends on nothing that is fed.

        Args:
            tensor: a tensor of this graph.
            instead: dict from the id of a variable's handle to a value to be read instead.

        Raises:
            NotImplementedError: if such a variable is not read as a whole.
        """
        instead = instead or {}
        values: dict[str, Any] = {i.name: o for o, i in self._graph.captures}
        for operation in self.operations_behind(tensor, dict(values)):
            if operation.outputs and operation.outputs[0].name in values:
                continue
            given = [values[source.name] for source in operation.inputs]
            replaced = next((instead[id(one)] for one in given if id(one) in instead), None)
            with self._tf.init_scope():  # Also while this graph is being written.
                if replaced is None:
                    outputs = GraphOperation(operation, False)(*given)
                elif operation.type == "ReadVariableOp":
                    outputs = self._tf.cast(replaced, operation.outputs[0].dtype)
                else:
                    raise NotImplementedError(f"{operation.type} reads a part of a variable")
            listed = outputs if isinstance(outputs, list) else [outputs]
            values.update((o.name, v) for o, v in zip(operation.outputs, listed, strict=True))
        return values[tensor.name]


def handle_of(variable: keras.Variable) -> Any:
    """The handle of the TensorFlow variable behind a Keras variable, or `None`."""
    try:
        return variable._value.handle
    except (AttributeError, ValueError):  # Not there yet; or one of several devices.
        return None
