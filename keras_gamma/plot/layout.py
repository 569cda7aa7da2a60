"""Where to put the parts of a network in a picture. Pure: graph in, coordinates out.

The network runs downwards. What a skip carries stays in its lane; a branch moves one lane to the
right, from its fork to its join. Long networks are folded into several columns, at places where
nothing but the stream passes. Activations, reshaping and the like are left out: their edges pass
through.
"""

import bisect
import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence, Set

from keras_gamma.network.graph import Graph, Kind
from keras_gamma.roles.joins import Join, find_joins

# In points. A box is as high as its text; rows and lanes leave room for the edges.
BOX = (118.0, 15.0)
ROW = 24.0
LANE = 132.0
MARGIN = 26.0
_FEW_ROWS = 60  # Up to here, one column.
_ASPECT = 1.5  # Width over height to aim at when folding.


@dataclasses.dataclass
class Box:
    """One part of the network.

    Args:
        node: integer, its node in the graph.
        kind: a `Kind`.
        label: string.
        residual: bool, whether it is a residual join.
        lane, row, column: integers.
        x, y: floats, the centre, in points; y grows downwards.
    """

    node: int
    kind: Kind
    label: str
    residual: bool = False
    lane: int = 0
    row: int = 0
    column: int = 0
    x: float = 0.0
    y: float = 0.0


@dataclasses.dataclass
class Edge:
    """From one box to another.

    Args:
        start, end: `Box`es.
        skip: bool, whether it carries the skip of a residual join.
        around: bool, whether other boxes lie on the straight way.
    """

    start: Box
    end: Box
    skip: bool = False
    around: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """Boxes and edges, and the size of the picture in points."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float


def lay_out(graph: Graph, weighted: Set[int] = frozenset()) -> Layout:
    """Places what is worth seeing of a graph.

    Args:
        graph: a `keras_gamma.graph.Graph`.
        weighted: numbers of the nodes that have weights of their own: they get boxes, too.

    Returns:
        A `Layout`.
    """
    joins = find_joins(graph)
    boxes, edges = _condense(graph, joins, weighted)
    _choose_lanes(graph, joins, boxes)
    ordered = list(boxes.values())
    _fold(ordered, edges)
    _find_obstacles(ordered, edges)
    lanes = max((box.lane for box in ordered), default=0) + 1
    columns = max((box.column for box in ordered), default=0) + 1
    rows = max((box.row for box in ordered), default=0) + 1
    column_width = lanes * LANE + 1.5 * MARGIN
    for box in ordered:
        box.x = MARGIN + box.column * column_width + box.lane * LANE + LANE / 2
        box.y = MARGIN + box.row * ROW + ROW / 2
    width = MARGIN + columns * column_width
    return Layout(tuple(ordered), tuple(edges), width, 2 * MARGIN + rows * ROW)


def _condense(
    graph: Graph, joins: Mapping[int, Join], weighted: Set[int]
) -> tuple[dict[int, Box], list[Edge]]:
    """The boxes by node, and the edges between them; other nodes hand their input on."""
    boxes: dict[int, Box] = {}
    stands_for: dict[int, int] = {}  # A node, and the box whose value it passes on.
    edges = []
    skips = {(index, join.skip) for index, join in joins.items() if join.residual}
    for join in joins.values():
        if join.skip is not None and join.fork is not None and join.skip != join.fork:
            path = graph.between(join.fork, join.skip) | {join.fork}
            skips |= {(i, s) for i in path for s in graph.nodes[i].inputs if s in path}
    kinds = (Kind.INPUT, Kind.NORM, Kind.SUM, Kind.ATTENTION, Kind.OPAQUE)
    for index, node in enumerate(graph.nodes):
        if not graph.live[index]:
            continue
        sources = list(dict.fromkeys(stands_for[source] for source in node.inputs))
        seen = node.kind in kinds or index in weighted or index in graph.outputs
        # The kernel and the bias of one layer, say, are one box.
        if index in weighted and len(sources) == 1 and boxes[sources[0]].label == node.label:
            seen = node.kind in kinds
        if not seen and len(sources) == 1:
            stands_for[index] = sources[0]
            continue
        residual = index in joins and joins[index].residual
        boxes[index] = Box(index, node.kind, node.label, residual)
        stands_for[index] = index
        carried = {stands_for[s] for s in node.inputs if (index, s) in skips}
        for source in sources:
            edges.append(Edge(boxes[source], boxes[index], source in carried))
    return boxes, edges


def _choose_lanes(graph: Graph, joins: Mapping[int, Join], boxes: Mapping[int, Box]) -> None:
    """A branch lies to the right of its skip: one lane for each join that a box is inside of."""
    for join in joins.values():
        if join.skip is None or join.fork is None or join.merged_into is not None:
            continue
        skip = graph.between(join.fork, join.skip) if join.skip != join.fork else set()
        taken = set(skip)
        branches = [operand for operand in join.operands if operand != join.skip]
        for number, operand in enumerate(branches):
            inside = graph.between(join.fork, operand) - taken
            for node in inside & boxes.keys():
                boxes[node].lane += 1 + number
            taken |= inside
    # Nested joins, and several branches, may leave lanes without a box.
    used = sorted({box.lane for box in boxes.values()})
    for box in boxes.values():
        box.lane = used.index(box.lane)


def _fold(boxes: Sequence[Box], edges: Sequence[Edge]) -> None:
    """Rows and columns. A column ends after a box that the stream alone leaves, if one is near."""
    length = _column_length(len(boxes), max((box.lane for box in boxes), default=0) + 1)
    crossing = _crossing(boxes, edges)
    column = start = 0
    while start < len(boxes):
        # The best place to end the column: where least crosses over, and then the nearest.
        left = len(boxes) - start
        options = range(start + max(1, length * 3 // 4), start + length * 6 // 5 + 1)
        end = len(boxes)
        if left > length * 6 // 5:
            end = min(options, key=lambda i: (crossing[i], abs(i - start - length)))
        for row, box in enumerate(boxes[start:end]):
            box.column, box.row = column, row
        column, start = column + 1, end


def _crossing(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[int]:
    """For each i, how many of the first i boxes are read by one of the others."""
    place = {id(box): i for i, box in enumerate(boxes)}
    last = list(range(len(boxes)))
    for edge in edges:
        first = place[id(edge.start)]
        last[first] = max(last[first], place[id(edge.end)])
    steps = [0] * (len(boxes) + 1)
    for i, end in enumerate(last):
        if end > i:
            steps[i + 1] += 1
            steps[end + 1] -= 1
    return list(itertools.accumulate(steps))


def _find_obstacles(boxes: Sequence[Box], edges: Sequence[Edge]) -> None:
    """Marks the edges on whose way, within one lane, other boxes lie."""
    rows = collections.defaultdict(list)  # In ascending order.
    for box in boxes:
        rows[box.column, box.lane].append(box.row)
    for edge in edges:
        start, end = edge.start, edge.end
        if (start.column, start.lane) == (end.column, end.lane):
            taken = rows[start.column, start.lane]
            between = bisect.bisect_left(taken, end.row) - bisect.bisect_right(taken, start.row)
            edge.around = between > 0


def _column_length(rows: int, lanes: int) -> int:
    if rows <= _FEW_ROWS:
        return rows
    options = range(1, 40)
    width = lanes * LANE + 1.5 * MARGIN
    best = min(options, key=lambda n: abs(n * width / (rows / n * ROW) - _ASPECT))
    return -(-rows // best)
