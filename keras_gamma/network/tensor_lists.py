"""The lists of tensors in a backend's graph: written item by item, read whole or item by item.

A recurrence that is unrolled by hand keeps its outputs in a `tf.TensorArray`. The list itself has
no numbers; what is in each of its places is known from the graph.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

_NEW = frozenset(("TensorListReserve", "EmptyTensorList"))
UNSTACKED = "TensorListFromTensor"
_WRITES = frozenset(("TensorListSetItem", "TensorListPushBack"))
_READS = frozenset(("TensorListStack", "TensorListGetItem"))


@dataclasses.dataclass(frozen=True)
class TensorList:
    """A list of tensors, as the graph shows it.

    Args:
        items: dict from a place to the symbolic tensor, or constant, that is there.
        empty: the list as it was made, a constant: for a loop that fills it.
    """

    items: Mapping[int, Any]
    empty: Any = None

    def whole(self) -> list[Any]:
        """Its items, in order.

        Raises:
            NotImplementedError: if there is nothing in some place.
        """
        if set(self.items) != set(range(len(self.items))):
            raise NotImplementedError("a list of tensors is read that has empty places")
        return [self.items[place] for place in range(len(self.items))]


class Stack:
    """Stacks tensors; an operation of a backend's graph by the same signs as those."""

    type = "Pack"
    name = "stack"
    is_weighted = False

    def __call__(self, *items: Any) -> Any:
        return keras.ops.stack([i.number() if hasattr(i, "number") else i for i in items])


def is_about_lists(operation_type: str, inputs: Sequence[Any]) -> bool:
    """Whether an operation of TensorFlow's graph makes, writes or reads a list of this kind."""
    if operation_type in _NEW:
        return True
    if operation_type == UNSTACKED:
        return isinstance(inputs[0], keras.KerasTensor)
    known = bool(inputs) and isinstance(inputs[0], TensorList)
    return known and operation_type in _WRITES | _READS


def written(operation_type: str, inputs: Sequence[Any], empty: Any) -> TensorList | None:
    """The list that an operation yields, or `None` if it yields no list.

    Args:
        operation_type: string.
        inputs: what it reads: symbolic tensors, constants, and lists.
        empty: what it yields, if it makes a list.

    Raises:
        NotImplementedError: if data decide which place is written.
    """
    if operation_type in _NEW:
        return TensorList({}, empty)
    before = inputs[0].items
    if operation_type == "TensorListSetItem":
        return TensorList({**before, _place(inputs[1]): inputs[2]})
    if operation_type == "TensorListPushBack":
        return TensorList({**before, len(before): inputs[1]})
    return None


def as_input(value: Any) -> Any:
    """What an operation that is not known here reads.

    Raises:
        NotImplementedError: if it reads a list in which there is something.
    """
    if not isinstance(value, TensorList):
        return value
    if value.items:
        raise NotImplementedError("a loop goes on with a list of tensors that was begun before")
    return value.empty


def item(inputs: Sequence[Any]) -> Any:
    """What an operation that reads one item of a list yields.

    Raises:
        NotImplementedError: if data decide which place is read, or it is empty.
    """
    place = _place(inputs[1])
    if place not in inputs[0].items:
        raise NotImplementedError("a list of tensors is read where it is empty")
    return inputs[0].items[place]


def _place(index: Any) -> int:
    if isinstance(index, keras.KerasTensor):
        raise NotImplementedError("data decide which place of a list of tensors is meant")
    return int(index.number())
