"""The data flow of a model as a plain graph, and questions about its connectivity.

This module knows no Keras. A node is one *call* that yields one data tensor; nodes are
numbered in the order of computation, so the inputs of a node have smaller numbers.
Constants, masks and integer indices carry no scale and are no nodes.
"""

import functools
import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from keras_gamma._enums import StrEnum


class Kind(StrEnum):
    """What a call does to the scale of what flows through it."""

    INPUT = "input"
    NORM = "norm"  # fixes the scale of its input
    SUM = "sum"  # elementwise sum of tensors, of one shape or spread over each other
    IDENTITY = "identity"  # dropout, reshaping, casts
    LINEAR = "linear"  # projections, pooling, concatenation, sums with constants
    NONLINEAR = "nonlinear"
    PRODUCT = "product"  # of two data tensors: gates, attention-weighted values
    SOFTMAX = "softmax"
    ATTENTION = "attention"  # fused; inputs are (query, key, value)
    OPAQUE = "opaque"  # could not be opened


class Node(NamedTuple):
    """One call.

    Args:
        kind: a `Kind`.
        inputs: tuple of node numbers.
        label: string, how a reader finds the call: a layer's name, or path.
        homogeneous: bool, whether scaling the input by c > 0 scales the output by c
            (ReLU does, GELU does not). Asked of nonlinear calls.
        group: the number of the layer call this node is a part of, for sums.
        weighted: bool, whether a weight of the model takes part.
        factor: bool, whether the result is the input times a factor, element by element: one
            that is fixed, or learned. Asked of linear calls.
        bounded: bool, whether the result lies between bounds away from which it does not
            scale (a sigmoid). Asked of nonlinear calls.
        constant: bool, whether it is computed from weights and constants alone.
        spread: tuple of those inputs that are spread over a larger one, for sums.
        cause: why it could not be opened, in one sentence.
    """

    kind: Kind
    inputs: tuple[int, ...]
    label: str
    homogeneous: bool = True
    group: int | None = None
    weighted: bool = False
    factor: bool = False
    bounded: bool = False
    constant: bool = False
    spread: tuple[int, ...] = ()
    cause: str = ""


class Graph:
    """Nodes in order of computation, and which of them are the model's outputs.

    Args:
        nodes: sequence of `Node`.
        outputs: iterable of node numbers.

    Example:

    >>> from keras_gamma.network.graph import Graph, Kind, Node
    >>> stem = Node(Kind.INPUT, (), "x")
    >>> branch = Node(Kind.NONLINEAR, (0,), "f")
    >>> graph = Graph([stem, branch, Node(Kind.SUM, (0, 1), "add")], outputs=[2])
    >>> graph.fork((0, 1))
    0
    """

    def __init__(self, nodes: Iterable[Node], outputs: Iterable[int]) -> None:
        self.nodes = tuple(nodes)
        self.outputs = frozenset(outputs)
        self.live = self._find_live()
        # What is computed from weights alone is no data: it forks nothing, and joins nothing.
        self.sources = tuple(
            tuple(source for source in node.inputs if not self.nodes[source].constant)
            for node in self.nodes
        )

    def _find_live(self) -> list[bool]:
        """Marks what some output is computed from; the rest of the trace has no effect."""
        live = [False] * len(self.nodes)
        for output in self.outputs:
            live[output] = True
        for index in range(len(self.nodes) - 1, -1, -1):
            if live[index]:
                for source in self.nodes[index].inputs:
                    live[source] = True
        return live

    @functools.cached_property
    def consumers(self) -> list[list[int]]:
        """For each node the live nodes that read it, each once."""
        consumers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            if self.live[index]:
                for source in dict.fromkeys(node.inputs):
                    consumers[source].append(index)
        return consumers

    @functools.cached_property
    def roots(self) -> list[int]:
        """For each node the node it is equal to, up to identity operations."""
        return self._origins(factors=False)

    @functools.cached_property
    def origins(self) -> list[int]:
        """For each node the node it is equal to, up to identity operations and factors."""
        return self._origins(factors=True)

    def _origins(self, factors: bool) -> list[int]:
        origins: list[int] = []
        for index, node in enumerate(self.nodes):
            same = node.kind is Kind.IDENTITY or (factors and node.factor)
            sources = self.sources[index]
            origins.append(origins[sources[0]] if same and len(sources) == 1 else index)
        return origins

    @functools.cached_property
    def _dominators(self) -> "_Dominators":
        return _Dominators(self.sources)

    def fork(self, operands: Iterable[int]) -> int | None:
        """The nearest node from which all `operands` are computed, or `None`.

        An operand counts as computed from itself. Costs O(log n) where one operand
        dominates the others (an identity skip); else it walks back from the operands, as
        far as the fork.
        """
        operands = set(operands)
        first = min(operands)
        if all(self._dominators.dominates(first, other) for other in operands):
            return first
        everything = (1 << len(operands)) - 1
        reached = {operand: 1 << bit for bit, operand in enumerate(operands)}
        heap = [-operand for operand in reached]
        heapq.heapify(heap)
        while heap:
            index = -heapq.heappop(heap)
            mask = reached[index]
            if mask == everything:
                return index
            for source in self.sources[index]:
                if source not in reached:
                    heapq.heappush(heap, -source)
                    reached[source] = mask
                else:
                    reached[source] |= mask
        return None

    def between(self, start: int, *ends: int) -> set[int]:
        """The nodes computed from `start` that any of `ends` is computed from, `ends` included."""
        seen, stack = set(ends), list(ends)
        while stack:
            for source in self.sources[stack.pop()]:
                if source > start and source not in seen:
                    seen.add(source)
                    stack.append(source)
        inside = {start}
        for index in sorted(seen):
            if any(source in inside for source in self.sources[index]):
                inside.add(index)
        inside.discard(start)
        return inside

    def is_computed_from(self, index: int, start: int) -> bool:
        """Whether `start` is a strict ancestor of `index`."""
        if index <= start:
            return False
        if self._dominators.dominates(start, index):
            return True
        seen, stack = {index}, [index]
        while stack:
            for source in self.sources[stack.pop()]:
                if source == start:
                    return True
                if source > start and source not in seen:
                    seen.add(source)
                    stack.append(source)
        return False


class _Dominators:
    """Dominator tree of a graph whose nodes are in topological order.

    The nearest common ancestor in the tree is found with skew-binary jump pointers
    (Myers, *An applicative random-access stack*, 1983): O(log n) each, O(n) memory.
    """

    def __init__(self, sources: Sequence[Sequence[int]]) -> None:
        # Entry 0 is a virtual root above all nodes without inputs; node i is entry i + 1.
        self._parent = [0] * (len(sources) + 1)
        self._jump = [0] * (len(sources) + 1)
        self._depth = [0] * (len(sources) + 1)
        for index, inputs in enumerate(sources):
            parent = functools.reduce(self._meet, (s + 1 for s in inputs)) if inputs else 0
            self._attach(index + 1, parent)

    def _attach(self, entry: int, parent: int) -> None:
        depth, jump = self._depth, self._jump
        self._parent[entry] = parent
        depth[entry] = depth[parent] + 1
        far = jump[jump[parent]]
        same = depth[parent] - depth[jump[parent]] == depth[jump[parent]] - depth[far]
        jump[entry] = far if same else parent

    def _ancestor_at(self, entry: int, depth: int) -> int:
        while self._depth[entry] > depth:
            jump = self._jump[entry]
            entry = jump if self._depth[jump] >= depth else self._parent[entry]
        return entry

    def _meet(self, a: int, b: int) -> int:
        if self._depth[a] > self._depth[b]:
            a = self._ancestor_at(a, self._depth[b])
        else:
            b = self._ancestor_at(b, self._depth[a])
        while a != b:
            if self._jump[a] != self._jump[b]:
                a, b = self._jump[a], self._jump[b]
            else:
                a, b = self._parent[a], self._parent[b]
        return a

    def dominates(self, a: int, b: int) -> bool:
        """Whether every path to node `b` passes through node `a` (or they are one)."""
        return self._ancestor_at(b + 1, self._depth[a + 1]) == a + 1
