"""Sums that are written as a stack and a reduction: `sum(stack([x, f(x)]), 0)` is `x + f(x)`.

A stack of tensors along an axis of its own is remembered while it is scaled, or weighed, element
by element. Where it is summed over that axis, each tensor in it is an operand of a sum: what was
done to the stack is written as done to each of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_gamma.network.calls import takes_weights
from keras_gamma.network.operations import name_of
from keras_gamma.network.recording import Recording
from keras_gamma.network.symbols import known, symbol, symbols_in

_STACKS = frozenset(("Stack", "Concatenate"))
_SUMS = frozenset(("Sum", "Mean", "Average"))
# What is done to all tensors of a stack alike, and moves none of them.
_ELEMENTWISE = frozenset(("Cast", "StopGradient", "Copy", "Multiply", "Divide", "Negative"))


@dataclasses.dataclass(frozen=True)
class _Done:
    """An operation on a stack.

    Args:
        operation: what was called.
        args: its arguments.
        place: which of them is the stack.
        number: the node that was written for it.
    """

    operation: Any
    args: tuple[Any, ...]
    place: int
    number: int


@dataclasses.dataclass(frozen=True)
class _Stack:
    """Tensors that lie along an axis of a larger one.

    Args:
        axis: integer, not negative.
        items: tuple of the tensors.
        is_new_axis: whether they lack the axis; otherwise they have the size 1 along it.
        done: tuple of what was done to the stack since.
    """

    axis: int
    items: tuple[keras.KerasTensor, ...]
    is_new_axis: bool
    done: tuple[_Done, ...] = ()


@dataclasses.dataclass(frozen=True)
class _OnOne:
    """What an operation does to one tensor of a stack; called with numbers, it computes."""

    done: _Done
    stack: _Stack
    index: int
    is_weighted: bool

    def __call__(self, *args: Any) -> Any:
        ops, axis, place = keras.ops, self.stack.axis, self.done.place
        one = ops.expand_dims(args[place], axis) if self.stack.is_new_axis else args[place]
        several = ops.repeat(one, len(self.stack.items), axis=axis)
        result = self.done.operation(*args[:place], several, *args[place + 1 :])
        result = result[0] if isinstance(result, (list, tuple)) else result
        return ops.take(result, self.index if self.stack.is_new_axis else [self.index], axis=axis)


@dataclasses.dataclass(frozen=True)
class SumOfStack:
    """The reduction of a stack, as a function of the tensors in it."""

    operation: Any
    rest: tuple[Any, ...]
    stack: _Stack

    def __call__(self, *items: Any) -> Any:
        join = keras.ops.stack if self.stack.is_new_axis else keras.ops.concatenate
        return self.operation(join(items, axis=self.stack.axis), *self.rest)


class Stacks:
    """The stacks of a trace.

    Args:
        recording: the `Recording`.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._known: dict[int, tuple[Any, _Stack]] = {}  # by the id of a tensor, which is kept

    def summed(self, operation: Any, args: Any, kwargs: Any) -> tuple[SumOfStack, list[Any]] | None:
        """The sum that an operation makes of a stack, and the tensors that it adds; or `None`.

        What was done to the stack is written, for each tensor in it.
        """
        if not self._known or kwargs or not args or name_of(operation) not in _SUMS:
            return None
        stack = self._of(args[0])
        if stack is None or _axis_of(operation, args, args[0]) != stack.axis:
            return None
        terms = [self._write(index, stack) for index in range(len(stack.items))]
        # A gain of the stack is now one of each tensor in it.
        numbers = {done.number for done in stack.done}
        gains = self._recording.gains
        gains[:] = [gain for gain in gains if gain.node not in numbers]
        return SumOfStack(operation, tuple(args[1:]), stack), terms

    def note(self, operation: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        """Remembers what an operation that was written yields, if it is a stack."""
        name = name_of(operation)
        if kwargs or not (name in _STACKS or (self._known and name in _ELEMENTWISE)):
            return
        made = symbols_in(outputs)
        if len(made) == 1:
            found = self._made if name in _STACKS else self._passed
            stack = found(operation, args, made[0])
            if stack is not None:
                self._known[id(made[0])] = (made[0], stack)

    def _of(self, tensor: Any) -> _Stack | None:
        found = self._known.get(id(tensor))
        return found[1] if found is not None and self._recording.has(tensor) else None

    def _made(self, operation: Any, args: Any, output: keras.KerasTensor) -> _Stack | None:
        axis = _axis_of(operation, args, output)
        items = symbols_in(args)
        if axis is None or output.shape[axis] != len(items) or len(set(map(id, items))) < 2:
            return None
        data = [t for t in items if self._recording.varies(t)]
        if len(known(map(self._recording.number_of, data))) < len(items):
            return None
        return _Stack(axis, tuple(items), len(items[0].shape) < len(output.shape))

    def _passed(self, operation: Any, args: Any, output: keras.KerasTensor) -> _Stack | None:
        places = [i for i, arg in enumerate(args) if self._of(arg) is not None]
        number = self._recording.number_of(output)
        if len(places) != 1 or number is None or args[places[0]].shape != output.shape:
            return None
        before = self._of(args[places[0]])
        assert before is not None
        done = _Done(operation, tuple(args), places[0], number)
        return dataclasses.replace(before, done=(*before.done, done))

    def _write(self, index: int, stack: _Stack) -> keras.KerasTensor:
        """Does to one tensor of a stack what was done to the stack."""
        recording, item = self._recording, stack.items[index]
        for done in stack.done:
            before = recording.number_of(done.args[done.place])
            node, own = recording.nodes[done.number], recording.number_of(item)
            assert own is not None
            inputs = tuple(own if i == before else i for i in node.inputs)
            recording.nodes.append(node._replace(inputs=inputs))
            number = len(recording.nodes) - 1
            recording.powers[number] = recording.powers.get(done.number)
            new = symbol(item.shape, item.dtype)
            recording.assign(new, number)
            args = (*done.args[: done.place], item, *done.args[done.place + 1 :])
            run = _OnOne(done, stack, index, takes_weights(done.operation, args, {}))
            recording.note_step(run, args, {}, new)
            of_stack = [gain for gain in recording.gains if gain.node == done.number]
            recording.gains += [dataclasses.replace(gain, node=number) for gain in of_stack]
            item = new
        return item


def _axis_of(operation: Any, args: Sequence[Any], tensor: keras.KerasTensor) -> int | None:
    """The one axis along which an operation works, of a tensor; `None` if there is not one."""
    axis: Any = getattr(operation, "axis", None)
    if not isinstance(operation, keras.Operation):  # of a backend's graph
        last: Any = args[-1] if args else None
        if getattr(operation, "type", None) == "Pack" and hasattr(operation, "attribute"):
            axis = operation.attribute("axis")
        elif hasattr(last, "number"):
            axis = keras.ops.convert_to_numpy(last.number()).reshape(-1).tolist()
    if isinstance(axis, (list, tuple)):
        axis = axis[0] if len(axis) == 1 else None
    return axis % len(tensor.shape) if isinstance(axis, int) else None
