"""Which sums of a graph are joins, where each forks, and which operand is the skip. Pure."""

import bisect
import dataclasses
from collections.abc import Iterable

from keras_gamma.network.graph import Graph, Kind, Node
from keras_gamma.roles.logits import read_as_logits


@dataclasses.dataclass
class Join:
    """A sum, its operands after flattening, and, if it is residual, its fork and skip.

    Args:
        operands: tuple of node numbers: the terms that are data.
        fork: the node from which all of them are computed, or `None`.
        skip: the operand that carries the stream past the branches, or `None`.
        merged_into: the longer sum of which this one is a part, or `None`.
        spread: those operands that are spread over a larger one.
        logits: bool, whether only a softmax or a bounded gate reads it: then it is no join.
        inner: bool, whether it and its fork lie within a branch of another residual join.
        linear: bool, whether it has no skip because every operand is linear in the fork.
    """

    operands: tuple[int, ...]
    fork: int | None = None
    skip: int | None = None
    merged_into: int | None = None
    spread: frozenset[int] = frozenset()
    logits: bool = False
    inner: bool = False
    linear: bool = False

    @property
    def residual(self) -> bool:
        """Whether it has a skip."""
        return self.skip is not None

    @property
    def branches(self) -> tuple[int, ...]:
        """The operands that are not the skip."""
        return tuple(operand for operand in self.operands if operand != self.skip)


def find_joins(graph: Graph) -> dict[int, Join]:
    """Every live sum of two or more data tensors of `graph`: from node number to `Join`."""
    logits = read_as_logits(graph)
    joins: dict[int, Join] = {}
    for index, node in enumerate(graph.nodes):
        if node.kind is Kind.SUM and graph.live[index] and len(set(graph.sources[index])) > 1:
            join = _flattened(graph, joins, index)
            join.logits = logits[index]
            if not join.logits:
                _find_skip(graph, join)
            joins[index] = join
    _mark_inner(graph, joins)
    return joins


def final_sum(joins: dict[int, Join], index: int) -> int:
    """The sum that a chain of sums ends with: its operands are those of the whole chain."""
    while (longer := joins[index].merged_into) is not None:
        index = longer
    return index


def _flattened(graph: Graph, joins: dict[int, Join], index: int) -> Join:
    """The sum `index` with the terms of the sums that are parts of it."""
    smaller = set(graph.nodes[index].spread)
    operands: list[int] = []
    spread: set[int] = set()
    parts = _parts(graph, joins, index)
    for operand in graph.sources[index]:
        if operand in parts:
            part = joins[parts[operand]]
            part.merged_into = index
            operands.extend(part.operands)
            spread |= set(part.operands) if operand in smaller else part.spread
        else:
            operands.append(operand)
            spread |= {operand} & smaller
    return Join(tuple(operands), _fork(graph, operands), spread=frozenset(spread))


def _fork(graph: Graph, operands: Iterable[int]) -> int | None:
    fork = graph.fork({graph.roots[operand] for operand in operands})
    return None if fork is None else graph.roots[fork]


def _parts(graph: Graph, joins: dict[int, Join], index: int) -> dict[int, int]:
    """The operands of the sum `index` that are parts of it, each with the sum that it is.

    `x + attention(x) + mlp(x)` is one join of three operands, however it is written, with a
    dropout or a fixed factor on a part of it, too. A residual join whose fork is not that of the
    longer sum stays a join of its own.
    """
    parts: dict[int, int] = {}
    for operand in graph.sources[index]:
        inner = _sum_read_as(graph, joins, operand, index)
        if inner is not None and _is_one_sum(graph, joins[inner], inner, operand, index):
            parts[operand] = inner
    if len(parts) < 2:
        return parts
    # In `(x + a(n)) + (n + b(n))`, where n = norm(x), the fork of the whole is x.
    terms = [
        t for o in graph.sources[index] for t in (joins[parts[o]].operands if o in parts else (o,))
    ]
    whole = _fork(graph, terms)
    return {
        operand: inner
        for operand, inner in parts.items()
        if not joins[inner].residual
        or joins[inner].fork == whole
        or _is_one_call(graph, inner, index)
    }


def _sum_read_as(graph: Graph, joins: dict[int, Join], operand: int, outer: int) -> int | None:
    """The sum that the sum `outer`, and nothing else, reads as `operand`, or `None`."""
    inner, reader = operand, outer
    while graph.consumers[inner] == [reader] and inner not in graph.outputs:
        node = graph.nodes[inner]
        if inner in joins:
            return inner
        passing = node.kind is Kind.IDENTITY or (node.factor and not node.weighted)
        if not passing or len(graph.sources[inner]) != 1:
            return None
        inner, reader = graph.sources[inner][0], inner
    return None


def _is_one_call(graph: Graph, inner: int, outer: int) -> bool:
    """Whether both sums are made by one call of a layer."""
    group = graph.nodes[outer].group
    return group is not None and group == graph.nodes[inner].group


def _is_one_sum(graph: Graph, part: Join, inner: int, operand: int, outer: int) -> bool:
    if _is_one_call(graph, inner, outer):
        return True
    others = [source for source in graph.sources[outer] if source != operand]
    whole = _fork(graph, [*part.operands, *others])
    if whole is None or (part.residual and part.fork != whole):
        return False
    # `h + (a(h) + shift(t))` begins at its skip h, also where h itself was made with t.
    begins = _fork(graph, [operand, *others])
    return begins == whole or begins not in {graph.roots[other] for other in others}


def _find_skip(graph: Graph, join: Join) -> None:
    """Sets the skip, if there is one, or that all operands are linear in the fork."""
    fork, operands = join.fork, join.operands
    if fork is None:
        return
    same = [operand for operand in operands if graph.origins[operand] == graph.origins[fork]]
    if len(same) == len(operands):
        return  # x − ½x is x with a factor.
    whole = [operand for operand in same if operand not in join.spread]
    if whole:
        join.skip = whole[0]
        return
    linear = [o for o in operands if o in same or _is_linear(graph, fork, o)]
    join.linear = len(linear) == len(operands)
    if len(linear) == 1 and linear[0] not in join.spread:
        others = [operand for operand in operands if operand != linear[0]]
        if all(_is_worked_on(graph, fork, operand) for operand in others):
            join.skip = linear[0]


def _is_linear(graph: Graph, fork: int, operand: int) -> bool:
    allowed = (Kind.LINEAR, Kind.IDENTITY, Kind.NORM, Kind.SUM)
    return all(graph.nodes[index].kind in allowed for index in graph.between(fork, operand))


def _is_worked_on(graph: Graph, fork: int, operand: int) -> bool:
    """Whether some path from the fork passes through weights and an activation or a norm.

    A softmax is neither: `attention(v) + conv(v)` are two branches.
    """
    # For each node what the paths to it have passed: (weights, an activation or norm).
    passed: dict[int, set[tuple[bool, bool]]] = {fork: {(False, False)}}
    for index in sorted(graph.between(fork, operand)):
        weights, activation = _work_of(graph.nodes[index])
        before = [p for source in _carriers(graph, index) for p in passed.get(source, ())]
        passed[index] = {(w or weights, a or activation) for w, a in before}
    return (True, True) in passed[operand]


def _carriers(graph: Graph, index: int) -> tuple[int, ...]:
    """The inputs of a node whose scale goes on: not those that only weigh others."""
    kind = graph.nodes[index].kind
    if kind is Kind.SOFTMAX:
        return ()
    return graph.nodes[index].inputs[-1:] if kind is Kind.ATTENTION else graph.sources[index]


def _work_of(node: Node) -> tuple[bool, bool]:
    if node.kind is Kind.OPAQUE:
        return True, True  # Whatever is in it: a closed part is no projection.
    activation = node.kind in (Kind.NONLINEAR, Kind.NORM)
    return node.weighted and node.kind is not Kind.NORM, activation


def _mark_inner(graph: Graph, joins: dict[int, Join]) -> None:
    """Marks the joins that lie, fork and all, within a branch of another residual join."""
    numbers = sorted(joins)
    for index, outer in joins.items():
        if outer.fork is None or not outer.residual or outer.merged_into is not None:
            continue
        first = bisect.bisect_right(numbers, outer.fork)
        candidates = numbers[first : bisect.bisect_left(numbers, index)]
        if not candidates:
            continue
        inside = graph.between(outer.fork, *outer.branches)
        for candidate in candidates:
            if candidate in inside and joins[candidate].fork in inside:
                joins[candidate].inner = True
