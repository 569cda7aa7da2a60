"""Graphs drawn by hand, and the roles of their norms: no Keras, no backend."""

from keras_gamma.network.graph import Graph, Kind, Node
from keras_gamma.roles.classification import Verdict, classify


class Drawing:
    """Collects nodes; each method adds one and returns its number. Labels are for the norms."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def node(self, kind: Kind, *inputs: int, label: str = "", **traits) -> int:
        self.nodes.append(Node(kind, inputs, label or f"{kind}{len(self.nodes)}", **traits))
        return len(self.nodes) - 1

    def input(self) -> int:
        return self.node(Kind.INPUT)

    def norm(self, x: int, label: str, **traits) -> int:
        return self.node(Kind.NORM, x, label=label, weighted=True, **traits)

    def conv(self, *xs: int) -> int:
        return self.node(Kind.LINEAR, *xs, weighted=True)

    def pool(self, *xs: int) -> int:
        return self.node(Kind.LINEAR, *xs)

    def relu(self, x: int) -> int:
        return self.node(Kind.NONLINEAR, x)

    def gelu(self, x: int) -> int:
        return self.node(Kind.NONLINEAR, x, homogeneous=False)

    def sigmoid(self, x: int) -> int:
        return self.node(Kind.NONLINEAR, x, homogeneous=False, bounded=True)

    def factor(self, x: int, learned: bool = False) -> int:
        return self.node(Kind.LINEAR, x, factor=True, weighted=learned)

    def same(self, x: int) -> int:
        return self.node(Kind.IDENTITY, x)

    def add(self, *xs: int, **traits) -> int:
        return self.node(Kind.SUM, *xs, **traits)

    def times(self, *xs: int) -> int:
        return self.node(Kind.PRODUCT, *xs)

    def softmax(self, x: int) -> int:
        return self.node(Kind.SOFTMAX, x)

    def attention(self, query: int, key: int, value: int) -> int:
        return self.node(Kind.ATTENTION, query, key, value)

    def attend(self, x: int) -> int:
        """Attention written out: projections, logits, softmax, weighed values."""
        q, k, v = self.conv(x), self.conv(x), self.conv(x)
        return self.conv(self.times(self.softmax(self.times(q, k)), v))

    def mlp(self, x: int) -> int:
        return self.conv(self.relu(self.conv(x)))

    def opaque(self, *xs: int) -> int:
        return self.node(Kind.OPAQUE, *xs, label="secret")

    def weight(self) -> int:
        """A tensor that is computed from weights alone."""
        return self.node(Kind.LINEAR, constant=True, weighted=True)

    def graph(self, *outputs: int) -> Graph:
        return Graph(self.nodes, outputs)

    def verdicts(self, *outputs: int) -> dict[str, Verdict]:
        graph = self.graph(*outputs)
        return {graph.nodes[index].label: verdict for index, verdict in classify(graph).items()}

    def roles(self, *outputs: int) -> dict[str, str]:
        return {label: str(verdict.role) for label, verdict in self.verdicts(*outputs).items()}
