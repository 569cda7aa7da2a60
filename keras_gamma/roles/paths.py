"""Where the paths of one γ lead: through the graph in the order of computation. Pure."""

import dataclasses
import enum
import heapq

from keras_gamma.network.graph import Graph, Kind, Node
from keras_gamma.roles.joins import Join, final_sum


class Mode(enum.IntEnum):
    """What a path of γ still carries."""

    SCALE = 0  # the scale itself
    GATE = 1  # a bounded value, which may come to multiply something else
    SOFT = 2  # weights out of a softmax
    WEIGHED = 3  # something else, weighed by what came out of a gate or softmax


_SCALING = (Mode.SCALE, Mode.GATE)


@dataclasses.dataclass
class Ends:
    """Where the paths of one γ end.

    Attributes:
        outputs: numbers of outputs that it scales.
        sums: final sum -> its operands that it scales, for sums that its paths end at.
        absorbed: labels of normalizations that absorb it.
        closed: closed parts that it reaches, each with its cause.
        weighed: labels of softmaxes and gates through which it reaches a sum or an output.
        faded: labels of softmaxes and gates through which it reaches a normalization.
        inexact: labels of what passes a factor through only approximately.
    """

    outputs: list[int] = dataclasses.field(default_factory=list)
    sums: dict[int, set[int]] = dataclasses.field(default_factory=dict)
    absorbed: list[str] = dataclasses.field(default_factory=list)
    closed: list[str] = dataclasses.field(default_factory=list)
    weighed: list[str] = dataclasses.field(default_factory=list)
    faded: list[str] = dataclasses.field(default_factory=list)
    inexact: list[str] = dataclasses.field(default_factory=list)


def follow(graph: Graph, joins: dict[int, Join], start: int) -> Ends:
    """Follows γ of the node `start` to the ends of all its paths."""
    walk = _Walk(graph, joins)
    walk.visit(start, Mode.SCALE, "")
    return walk.run()


class _Walk:
    """Visits nodes in the order of computation: of a sum, all operands come before it."""

    def __init__(self, graph: Graph, joins: dict[int, Join]) -> None:
        self._graph = graph
        self._joins = joins
        self._ends = Ends()
        self._modes: dict[int, dict[Mode, str]] = {}  # node -> mode -> label of the gate
        self._arrived: dict[int, set[int]] = {}  # final sum -> operands that it scales
        self._weighed: dict[int, set[int]] = {}  # final sum -> operands that it only weighs
        self._heap: list[int] = []

    def visit(self, index: int, mode: Mode, label: str) -> None:
        """Says that γ reaches the node `index`, which is visited later."""
        if index not in self._modes:
            self._modes[index] = {}
            heapq.heappush(self._heap, index)
        self._modes[index].setdefault(mode, label)

    def run(self) -> Ends:
        """Visits all there is to visit."""
        graph = self._graph
        while self._heap:
            index = heapq.heappop(self._heap)
            is_end = index in self._arrived or index in self._weighed
            if is_end and not self._passes(index):
                self._end_at_sum(index)
            for mode, label in self._modes[index].items():
                if index in graph.outputs:
                    self._end_at_output(index, mode, label)
                for reader in graph.consumers[index]:
                    self._step(index, reader, mode, label)
        return self._ends

    def _passes(self, final: int) -> bool:
        """Whether γ acts on the sum as a whole, so that its path goes on.

        Either it scales all operands, or it only weighs all of them: the difference of two
        attention maps is one, too.
        """
        join = self._joins[final]
        reached = self._arrived.get(final) or self._weighed.get(final, set())
        whole = reached >= set(join.operands)
        return whole and (join.inner or bool(join.spread) or not join.residual)

    def _end_at_sum(self, final: int) -> None:
        if final in self._arrived:
            self._ends.sums[final] = self._arrived[final]
        modes = self._modes[final]
        self._ends.weighed += [label for mode, label in modes.items() if mode not in _SCALING]
        modes.clear()

    def _end_at_output(self, index: int, mode: Mode, label: str) -> None:
        if mode is Mode.WEIGHED:
            self._ends.weighed.append(label)
        else:
            self._ends.outputs.append(index)

    def _step(self, current: int, reader: int, mode: Mode, label: str) -> None:
        """One path goes on from `current` to its reader, or ends there."""
        node = self._graph.nodes[reader]
        match node.kind:
            case Kind.NORM:
                self._end_at_norm(node, mode, label)
            case Kind.OPAQUE:
                self._ends.closed.append(node.cause or node.label)
            case Kind.SUM if reader in self._joins and not self._joins[reader].logits:
                self._add(current, reader, mode, label)
            case Kind.ATTENTION:
                self._attend(current, reader, mode, label)
            case Kind.SOFTMAX if mode in _SCALING:
                self.visit(reader, Mode.SOFT, node.label)
            case Kind.PRODUCT:
                self._ends.inexact.append(node.label)
                self.visit(reader, mode if mode is Mode.SCALE else Mode.WEIGHED, label)
            case _:
                if not node.homogeneous:
                    self._ends.inexact.append(node.label)
                self.visit(reader, *_through(node, mode, label))

    def _end_at_norm(self, node: Node, mode: Mode, label: str) -> None:
        if mode in _SCALING:
            self._ends.absorbed.append(node.label)
        else:
            self._ends.faded.append(label)
            self._ends.inexact.append(label)

    def _add(self, current: int, reader: int, mode: Mode, label: str) -> None:
        final = final_sum(self._joins, reader)
        scales = mode in _SCALING
        reached = self._arrived if scales else self._weighed
        reached.setdefault(final, set()).add(current)
        self.visit(final, *((Mode.SCALE, "") if scales else (mode, label)))

    def _attend(self, current: int, reader: int, mode: Mode, label: str) -> None:
        node = self._graph.nodes[reader]
        if current in node.inputs[:-1]:
            self.visit(reader, Mode.WEIGHED, label or node.label)
        if current == node.inputs[-1]:
            self.visit(reader, mode, label)


def _through(node: Node, mode: Mode, label: str) -> tuple[Mode, str]:
    """What a path carries behind a linear or nonlinear call."""
    if mode in _SCALING:
        if node.bounded:
            return Mode.GATE, label or node.label
        mixes = node.kind is Kind.NONLINEAR or (node.weighted and not node.factor)
        if mixes and node.kind is not Kind.IDENTITY:
            return Mode.SCALE, ""
    return mode, label
