"""The nodes that a trace has written so far, and how to take some of them back."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras

from keras_gamma.network.calls import GainCall, NormCall, Step
from keras_gamma.network.graph import Kind, Node
from keras_gamma.network.kernels import Computed
from keras_gamma.network.normalizations import holders, kind_from_name
from keras_gamma.network.symbols import symbols_in


class Mark(NamedTuple):
    """How far a recording has come."""

    nodes: int
    calls: int
    gains: int
    steps: int
    tensors: int
    opaque: int
    unresolved: int


class Recording:
    """Nodes, calls and steps, in the order of computation, and which tensor is which node.

    Attributes:
        nodes: list of `Node`.
        calls: list of `NormCall`.
        gains: list of `GainCall`.
        steps: list of `Step`.
        inputs: list of the symbolic inputs.
        opaque: dict from the id of each layer in a part that could not be opened to the cause.
        computed: dict from the id of each layer whose kernel was computed to a `Computed`.
        powers: dict from a node's number to how it depends on the scale of its inputs, see
            `operations.power_of`.
        written_out: dict from the number of each normalization that is written out to the layer
            whose `call` does so.
        unresolved: integer, products with numbers that may come from variables.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.calls: list[NormCall] = []
        self.gains: list[GainCall] = []
        self.steps: list[Step] = []
        self.inputs: list[keras.KerasTensor] = []
        self.opaque: dict[int, str] = {}
        self.computed: dict[int, Computed] = {}
        self.powers: dict[int, float | str | None] = {}
        self.written_out: dict[int, keras.Layer] = {}
        self.unresolved = 0
        # id(tensor) -> number of its node, or None for a tensor without a scale (a mask).
        self._number: dict[int, int | None] = {}
        self._constant: set[int] = set()  # ids of tensors that no input takes part in
        self._alive: list[Any] = []  # Their ids are keys, so they must live as long.

    def add_input(self, tensor: keras.KerasTensor, name: str) -> None:
        """Writes an input of the model; integers and booleans other than images have no scale."""
        self.inputs.append(tensor)
        indices = tensor.dtype == "bool" or ("int" in tensor.dtype and len(tensor.shape) < 3)
        self.assign(tensor, None if indices else self.write(Kind.INPUT, (), name))

    def write(
        self,
        kind: Kind,
        numbers: Iterable[int],
        label: str,
        homogeneous: bool = True,
        group: int | None = None,
        **more: Any,
    ) -> int:
        """Appends a node, and returns its number; `more` are further fields of a `Node`."""
        self.nodes.append(Node(kind, tuple(numbers), label, homogeneous, group, **more))
        return len(self.nodes) - 1

    def assign(self, tensor: Any, number: int | None = None) -> None:
        """Says which node `tensor` is."""
        self._alive.append(tensor)
        self._number[id(tensor)] = number

    def number_of(self, tensor: Any) -> int | None:
        """The number of the node that `tensor` is, `None` if it is none."""
        return self._number.get(id(tensor))

    def fix(self, tensor: Any) -> None:
        """Says that no input takes part in `tensor`: a constant, or a table of weights."""
        self.assign(tensor, None)
        self._constant.add(id(tensor))

    def varies(self, tensor: Any) -> bool:
        """Whether an input takes part in `tensor`."""
        number = self.number_of(tensor)
        if number is None:
            return id(tensor) not in self._constant
        return not self.nodes[number].constant

    def has(self, tensor: Any) -> bool:
        """Whether `tensor` was made by an operation that was seen."""
        return id(tensor) in self._number

    def note_step(
        self,
        operation: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: Any,
        numbers: tuple[int | None, ...] | None = None,
    ) -> None:
        """Writes down a call that is not opened any further; its outputs are assigned."""
        if numbers is None:
            numbers = tuple(self._number[id(t)] for t in symbols_in(outputs))
        self.steps.append(Step(operation, args, kwargs, outputs, numbers))

    def close(self, layers: Iterable[keras.Layer], cause: str) -> None:
        """Says why none of `layers` could be looked into."""
        for layer in layers:
            self.opaque.setdefault(id(layer), cause)

    def mark(self) -> Mark:
        """How far it has come, for `forget_since`."""
        return Mark(
            len(self.nodes),
            len(self.calls),
            len(self.gains),
            len(self.steps),
            len(self._alive),
            len(self.opaque),
            self.unresolved,
        )

    def norms_since(self, mark: Mark) -> int:
        """How many normalizations were written since."""
        return sum(node.kind is Kind.NORM for node in self.nodes[mark.nodes :])

    def name_kind(self, mark: Mark, layer: keras.Layer, kind: str) -> None:
        """Says of what kind the normalizations are that `layer` has written out since."""
        own = {id(holder) for holder in holders(layer)}
        for place, call in enumerate(self.calls[mark.calls :], mark.calls):
            named = kind_from_name(type(call.layer))
            if id(call.layer) in own and call.entry.kind == named:
                entry = dataclasses.replace(call.entry, kind=kind)
                self.calls[place] = dataclasses.replace(call, entry=entry)

    def forget_since(self, mark: Mark) -> None:
        """Takes back all that was written since."""
        for number in range(mark.nodes, len(self.nodes)):
            self.powers.pop(number, None)
            self.written_out.pop(number, None)
        for tensor in self._alive[mark.tensors :]:
            self._number.pop(id(tensor), None)
            self._constant.discard(id(tensor))
        for key in list(self.opaque)[mark.opaque :]:
            del self.opaque[key]
        del self.nodes[mark.nodes :]
        del self.calls[mark.calls :]
        del self.gains[mark.gains :]
        del self.steps[mark.steps :]
        del self._alive[mark.tensors :]
        self.unresolved = mark.unresolved
