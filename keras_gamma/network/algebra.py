"""How the scale of a result follows from the scale of its operands. Pure.

`operations` says what one operation does; here that is put together over several: `x / ‖x‖`, or
`x * rsqrt(mean(x²))`, is a normalization of x, however it is written out.
"""

import heapq
from collections.abc import Mapping, Sequence

from keras_gamma.network.graph import Kind, Node

_WIDTH = 8  # ancestors looked at: a norm that is written out is a handful of operations
_DEPTH = 24
Powers = Mapping[int, float | str | None]


def normalized(
    nodes: Sequence[Node], powers: Powers, pair: Sequence[int], sign: float
) -> int | None:
    """The node that a product, or a quotient, of two others normalizes.

    Args:
        nodes: what was written so far.
        powers: how each node depends on the scale of its inputs.
        pair: numbers of both operands.
        sign: 1.0 for a quotient, -1.0 for a product.

    Returns:
        The number of a node whose scale cancels out, or `None`.
    """
    first, second = pair
    for source in _ancestors(nodes, first, _WIDTH):
        degrees = (
            _degree(nodes, powers, first, source, _DEPTH),
            _degree(nodes, powers, second, source, _DEPTH),
        )
        if None not in degrees and degrees[0] == sign * (degrees[1] or 0.0) != 0:
            return source
    return None


def shifted(nodes: Sequence[Node], powers: Powers, pair: Sequence[int]) -> int | None:
    """The node that a sum of two normalizes: `x·s + (β - mean(x)·s)`, where s is rsqrt(var(x)).

    Returns:
        The number of the node that both operands normalize, in one and the same layer, or `None`.
    """
    first, second = (_behind(nodes, number) for number in pair)
    norms = nodes[first], nodes[second]
    if first == second or any(node.kind is not Kind.NORM or not node.inputs for node in norms):
        return None
    layers = {node.label.rpartition("/")[0] for node in norms}
    sources = {node.inputs for node in norms}
    # Two layers that normalize one tensor are two, and have no powers.
    is_written_out = first in powers and second in powers
    return norms[0].inputs[0] if len(layers) == len(sources) == 1 and is_written_out else None


def _behind(nodes: Sequence[Node], number: int) -> int:
    """Back over what has one operand, as far as a normalization."""
    for _ in range(_WIDTH):
        node = nodes[number]
        if node.kind not in (Kind.LINEAR, Kind.IDENTITY) or len(node.inputs) != 1:
            break
        (number,) = node.inputs
    return number


def _ancestors(nodes: Sequence[Node], node: int, limit: int) -> list[int]:
    """The nodes that `node` is computed from, itself first, later ones first; a few."""
    found: list[int] = []
    heap = [-node]
    while heap and len(found) < limit:
        current = -heapq.heappop(heap)
        if current not in found:
            found.append(current)
            for source in nodes[current].inputs:
                heapq.heappush(heap, -source)
    return found


def _degree(
    nodes: Sequence[Node], powers: Powers, node: int, source: int, steps: int
) -> float | None:
    """The d for which `node` scales by c^d if `source` scales by c; `None` if it does not."""
    if node == source:
        return 1.0
    power = powers.get(node)
    if node < source or power is None or steps == 0:
        return None
    degrees = [_degree(nodes, powers, i, source, steps - 1) for i in nodes[node].inputs]
    known = [degree for degree in degrees if degree is not None]
    if not degrees or len(known) < len(degrees):
        return None
    if isinstance(power, str):
        if len(known) == 1:  # of a node with itself
            return 2 * known[0] if power == "product" else 0.0
        return known[0] + known[1] if power == "product" else known[0] - known[1]
    return power * known[0] if len(set(known)) == 1 else None


def refine(kind: Kind, numbers: Sequence[int], *, inverts: bool) -> Kind:
    """What an operation is, given how many of its operands are data.

    Args:
        kind: what it is in general.
        numbers: the nodes of its data operands.
        inverts: whether it divides a constant by data.
    """
    if kind is Kind.SUM:
        # A sum with a bias or a mask is no join.
        return Kind.SUM if len(set(numbers)) > 1 else Kind.LINEAR
    if kind is Kind.PRODUCT and len(numbers) < 2:
        # `a / x` with a constant `a` inverts x; every other product with a constant is linear.
        return Kind.NONLINEAR if inverts else Kind.LINEAR
    if kind is Kind.PRODUCT and len(set(numbers)) == 1:
        return Kind.NONLINEAR
    return kind
