"""Loops and branches that run a function of the user's: unrolled, as far as roles need it.

Each round of a loop does the same, so that two rounds show what one does to the next; a short
loop is unrolled whole. A branch that data decide is taken both ways.
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_gamma.network import operations
from keras_gamma.network.graph import Kind
from keras_gamma.network.normalizations import takes_training
from keras_gamma.network.symbols import symbol, symbols_in
from keras_gamma.network.writing import Writer

_WHOLE = 4  # rounds up to which a loop is unrolled whole
_ROUNDS = 2


def slice_wise(writer: Writer, function: Callable[[Any], Any], tensors: Any, axis: int) -> Any:
    """Runs `function` on one slice of `tensors` along `axis`: it does the same to each."""
    size = symbols_in(tensors)[0].shape[axis]
    return _spread(writer, function(_slice(writer, tensors, 0, axis)), size, axis)


def run(writer: Writer, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The outputs of an operation that runs functions, which are opened.

    Raises:
        Exception: whatever the functions raise.
    """
    given = dict(inspect.signature(operation.call).bind(*args, **kwargs).arguments)
    match operations.name_of(operation):
        case "Map" | "VectorizedMap":
            function = given.pop("f", None) or operation.function
            (tensors,) = given.values()
            return slice_wise(writer, function, tensors, axis=0)
        case "Scan":
            xs = given.get("xs")
            length = given.get("length", getattr(operation, "length", None))  # before Keras 3.12
            rounds = length or symbols_in(xs)[0].shape[0]
            return _scan(writer, given["f"], given["init"], xs, int(rounds))
        case "AssociativeScan":
            return given["f"](given["elems"], given["elems"])
        case "WhileLoop":
            state = given["loop_vars"]
            for _ in range(min(_ROUNDS, operation.maximum_iterations or _ROUNDS)):
                state = _as(state, operation.body(*state))
            return state
        case "ForiLoop":
            state = given["init_val"]
            rounds = int(operation.upper) - int(operation.lower)
            for i in range(rounds if rounds <= _WHOLE else _ROUNDS):
                state = operation.body_fun(int(operation.lower) + i, state)
            return state
        case "Cond":
            return _either(writer, [given["true_fn"](), given["false_fn"]()])
        case "Switch":
            return _either(writer, [branch(*given["operands"]) for branch in given["branches"]])
    raise NotImplementedError(f"{type(operation).__name__} is not unrolled")


def recur(writer: Writer, layer: keras.layers.RNN, args: Any, kwargs: dict[str, Any]) -> Any:
    """The outputs of `keras.layers.RNN`, whose cell is opened.

    Raises:
        Exception: whatever the cell raises.
    """
    given = dict(inspect.signature(layer.call).bind(*args, **kwargs).arguments)
    sequences = given["sequences"]
    length = symbols_in(sequences)[0].shape[1]
    states = given.get("initial_state")
    if states is None:
        states = layer.get_initial_state(symbols_in(sequences)[0].shape[0])
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    extra = {"training": False} if takes_training(layer.cell) else {}
    output = None
    for i in range(length if length <= _WHOLE else _ROUNDS):
        output, states = layer.cell(_slice(writer, sequences, i, 1), states, **extra)
        states = list(states) if tree.is_nested(states) else [states]
    if layer.return_sequences:
        output = _spread(writer, output, length, 1)
    return (output, *states) if layer.return_state else output


def _scan(writer: Writer, function: Any, carry: Any, xs: Any, length: int) -> Any:
    y = None
    for i in range(length if length <= _WHOLE else _ROUNDS):
        x = None if xs is None else _slice(writer, xs, i, 0)
        carry, y = function(carry, x)
    return carry, _spread(writer, y, length, 0)


def _as(structure: Any, values: Any) -> Any:
    """`values`, as one loop variable, or as several."""
    if not isinstance(values, (list, tuple)):
        return [values]
    return tree.pack_sequence_as(structure, tree.flatten(values))


def _slice(writer: Writer, tensors: Any, index: int, axis: int) -> Any:
    def one(value: Any) -> Any:
        return keras.ops.take(value, index, axis=axis)

    def cut(tensor: Any) -> Any:
        if not isinstance(tensor, keras.KerasTensor):
            return one(tensor)
        return writer.view(tensor, (*tensor.shape[:axis], *tensor.shape[axis + 1 :]), one)

    return tree.map_structure(cut, tensors)


def _spread(writer: Writer, tensors: Any, size: int, axis: int) -> Any:
    def again(value: Any) -> Any:
        return keras.ops.repeat(keras.ops.expand_dims(value, axis), size, axis=axis)

    def stack(tensor: Any) -> Any:
        if not isinstance(tensor, keras.KerasTensor):
            return again(tensor)
        return writer.view(tensor, (*tensor.shape[:axis], size, *tensor.shape[axis:]), again)

    return tree.map_structure(stack, tensors)


def _either(writer: Writer, ways: list[Any]) -> Any:
    """One of several structures: which, data decide."""

    def choose(*tensors: Any) -> Any:
        if not symbols_in(list(tensors)):
            return tensors[0]
        shaped = next(t for t in tensors if isinstance(t, keras.KerasTensor))
        chosen = symbol(shaped.shape, shaped.dtype)
        return writer.call(
            lambda first, *_: first, Kind.LINEAR, tensors, {}, chosen, writer.label()
        )

    return tree.map_structure(choose, *ways)
