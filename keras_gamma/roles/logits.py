"""Which sums are logits: read by nothing but a softmax or a gate. Pure."""

from keras_gamma.network.graph import Graph, Kind, Node

_PASSING = (Kind.IDENTITY, Kind.LINEAR, Kind.SUM)


def read_as_logits(graph: Graph) -> list[bool]:
    """For each node whether nothing reads it but a softmax, or a gate, that weighs other data.

    On the way there it may be scaled, masked, reshaped, or added to other logits. A softmax or
    sigmoid at the model's output weighs nothing.
    """
    nodes = graph.nodes
    weighs = [False] * len(nodes)  # multiplies other data, by whatever way
    gates = [False] * len(nodes)  # likewise, and no weights come before
    logits = [False] * len(nodes)
    for index in range(len(nodes) - 1, -1, -1):
        readers = graph.consumers[index]
        for reader in readers:
            product, passing = nodes[reader].kind is Kind.PRODUCT, nodes[reader].kind in _PASSING
            weighs[index] |= product or (passing and weighs[reader])
            gates[index] |= product or (passing and gates[reader] and not _mixes(nodes[reader]))
        logits[index] = (
            bool(readers)
            and index not in graph.outputs
            and all(_is_logit_of(graph, index, r, weighs, gates, logits) for r in readers)
        )
    return logits


def _mixes(node: Node) -> bool:
    return node.weighted and not node.factor


def _is_logit_of(
    graph: Graph,
    index: int,
    reader: int,
    weighs: list[bool],
    gates: list[bool],
    logits: list[bool],
) -> bool:
    node = graph.nodes[reader]
    if node.kind is Kind.ATTENTION:
        return index != node.inputs[-1]
    if _mixes(node):
        return False
    if node.kind is Kind.SOFTMAX:
        return weighs[reader]
    return gates[reader] if node.bounded else node.kind in _PASSING and logits[reader]
