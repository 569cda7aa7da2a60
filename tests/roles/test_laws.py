"""Laws that hold in any graph, on random ones: no Keras, no backend."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_gamma.network.graph import Graph, Kind, Node
from keras_gamma.roles.classification import PRECEDENCE, Role, Verdict, classify, weightiest
from keras_gamma.roles.joins import final_sum, find_joins
from tests.roles.by_hand import Drawing

MAKERS = {
    "norm": lambda d, a, b: d.norm(a, f"n{len(d.nodes)}"),
    "conv": lambda d, a, b: d.conv(a),
    "relu": lambda d, a, b: d.relu(a),
    "add": lambda d, a, b: d.add(a, b) if a != b else d.factor(a),
    "residual": lambda d, a, b: d.add(a, d.mlp(d.norm(a, f"n{len(d.nodes)}"))),
    "projected": lambda d, a, b: d.add(
        d.norm(d.conv(a), f"n{len(d.nodes)}"), d.norm(d.mlp(a), f"m{len(d.nodes)}")
    ),
    "inner": lambda d, a, b: d.add(a, d.conv(d.relu(a))),
    "attend": lambda d, a, b: d.add(a, d.attend(d.norm(a, f"n{len(d.nodes)}"))),
    "excite": lambda d, a, b: d.times(a, d.sigmoid(d.conv(d.pool(a)))),
    "spread": lambda d, a, b: d.add(a, c := d.mlp(d.pool(b)), spread=(c,)),
    "table": lambda d, a, b: d.add(a, d.weight()),
    "logits": lambda d, a, b: d.times(d.softmax(d.add(d.times(a, b), d.conv(a))), d.conv(b)),
    "concatenate": lambda d, a, b: d.pool(a, b),
    "factor": lambda d, a, b: d.factor(a),
    "same": lambda d, a, b: d.same(a),
}


@st.composite
def drawings(draw):
    d = Drawing()
    pool = [d.input(), d.input()]
    for name in draw(st.lists(st.sampled_from(sorted(MAKERS)), min_size=2, max_size=14)):
        a, b = (pool[-1 - draw(st.integers(0, 2)) % len(pool)] for _ in range(2))
        pool.append(MAKERS[name](d, a, b))
    return d, tuple(pool[-1 - draw(st.integers(0, 1)) :])


def roles(nodes, outputs):
    graph = Graph(nodes, outputs)
    return [verdict.role for verdict in classify(graph).values()]


def remapped(node, number):
    """The node with other numbers for its inputs."""
    return node._replace(
        inputs=tuple(number[i] for i in node.inputs), spread=tuple(number[i] for i in node.spread)
    )


@settings(max_examples=120, deadline=None)
@given(drawings())
def test_names_do_not_matter(drawing):
    d, outputs = drawing
    renamed = [node._replace(label="shortcut") for node in d.nodes]
    assert roles(renamed, outputs) == roles(d.nodes, outputs)


@settings(max_examples=120, deadline=None)
@given(drawings(), st.integers())
def test_the_order_of_operands_does_not_matter(drawing, seed):
    d, outputs = drawing
    shuffle = random.Random(seed)
    mixed = [
        node._replace(inputs=tuple(shuffle.sample(node.inputs, len(node.inputs))))
        if node.kind in (Kind.SUM, Kind.PRODUCT)
        else node
        for node in d.nodes
    ]
    assert roles(mixed, outputs) == roles(d.nodes, outputs)


@settings(max_examples=120, deadline=None)
@given(drawings(), st.data())
@pytest.mark.parametrize("how", ["same", "factor"])
def test_what_only_passes_on_may_stand_anywhere(how, drawing, data):
    """An identity, or a fixed factor, behind any node, for all that read it."""
    d, outputs = drawing
    places = data.draw(st.sets(st.integers(0, len(d.nodes) - 1), max_size=6))
    fresh = Drawing()
    number = {}
    for index, node in enumerate(d.nodes):
        fresh.nodes.append(remapped(node, number))
        number[index] = len(fresh.nodes) - 1
        if index in places:
            number[index] = getattr(fresh, how)(number[index])
            fresh.nodes[-1] = fresh.nodes[-1]._replace(constant=node.constant)
    assert roles(fresh.nodes, [number[o] for o in outputs]) == roles(d.nodes, outputs)


@settings(max_examples=120, deadline=None)
@given(drawings())
def test_what_no_output_reads_does_not_matter(drawing):
    d, outputs = drawing
    before = roles(d.nodes, outputs)
    norms = len(before)
    last = len(d.nodes) - 1
    d.add(d.norm(d.conv(last), "dead"), outputs[0])
    assert roles(d.nodes, outputs)[:norms] == before


@settings(max_examples=120, deadline=None)
@given(drawings())
def test_a_model_in_a_branch_keeps_its_inner_roles(drawing):
    """Whatever has a role inside, apart from the streams' own, has it in a branch, too."""
    d, outputs = drawing
    before = roles(d.nodes, outputs[:1])
    x = d.input()
    whole = d.add(x, d.norm(d.conv(d.relu(d.times(outputs[0], x))), "last"))
    after = roles(d.nodes, (whole,))
    assert after[-1] is Role.RESIDUAL_LAST or after[-1] is Role.TRUNK
    for role, now in zip(before, after, strict=False):
        if role is Role.INTERIOR:
            assert now is Role.INTERIOR


@settings(max_examples=120, deadline=None)
@given(drawings())
def test_joins_are_what_they_say(drawing):
    d, outputs = drawing
    graph = d.graph(*outputs)
    joins = find_joins(graph)
    for index, join in joins.items():
        assert final_sum(joins, index) in joins
        assert len(set(join.operands)) > 1
        assert join.spread <= set(join.operands)
        if join.residual:
            assert join.skip in join.operands and join.skip not in join.spread
            assert set(join.branches) == set(join.operands) - {join.skip}
            for operand in join.operands:
                root = graph.roots[operand]
                assert root == join.fork or graph.is_computed_from(root, join.fork)
        if join.inner:
            assert join.fork is not None


@settings(max_examples=80, deadline=None)
@given(drawings())
def test_every_norm_has_a_role_and_one_sentence(drawing):
    d, outputs = drawing
    graph = d.graph(*outputs)
    verdicts = classify(graph)
    assert verdicts.keys() == {i for i, node in enumerate(d.nodes) if node.kind is Kind.NORM}
    for verdict in verdicts.values():
        assert isinstance(verdict.role, Role)
        assert verdict.reason.endswith(".")


# --- forks -------------------------------------------------------------------


def ancestors(nodes, index):
    found, stack = {index}, [index]
    while stack:
        new = set(nodes[stack.pop()].inputs) - found
        found |= new
        stack.extend(new)
    return found


@st.composite
def plain_graphs(draw):
    nodes = [Node(Kind.INPUT, (), "x")]
    for index in range(1, draw(st.integers(2, 24))):
        inputs = draw(st.lists(st.integers(0, index - 1), min_size=0, max_size=3, unique=True))
        nodes.append(Node(Kind.LINEAR, tuple(inputs), ""))
    return Graph(nodes, [len(nodes) - 1])


@settings(max_examples=160, deadline=None)
@given(plain_graphs(), st.data())
def test_questions_about_graphs(graph, data):
    """Against the slowest answers there are."""
    index = st.integers(0, len(graph.nodes) - 1)
    operands = data.draw(st.sets(index, min_size=1, max_size=3))
    shared = set.intersection(*(ancestors(graph.nodes, o) for o in operands))
    assert graph.fork(operands) == max(shared, default=None)
    a, b, c = (data.draw(index) for _ in range(3))
    assert graph.is_computed_from(a, b) == (a != b and b in ancestors(graph.nodes, a))
    behind = {
        i
        for end in (b, c)
        for i in ancestors(graph.nodes, end)
        if i != a and a in ancestors(graph.nodes, i)
    }
    assert graph.between(a, b, c) == behind
    live = ancestors(graph.nodes, len(graph.nodes) - 1)
    assert graph.live == [i in live for i in range(len(graph.nodes))]
    readers = [[j for j in live if i in graph.nodes[j].inputs] for i in range(len(graph.nodes))]
    assert graph.consumers == [sorted(r) for r in readers]


@settings(max_examples=120, deadline=None)
@given(plain_graphs(), st.data())
def test_dominators(graph, data):
    """A node dominates another if without it no source leads there."""
    a, b = (data.draw(st.integers(0, len(graph.nodes) - 1)) for _ in range(2))
    reached = set()
    for index, node in enumerate(graph.nodes):
        if index != a and (not node.inputs or reached & set(node.inputs)):
            reached.add(index)
    assert graph._dominators.dominates(a, b) == (b not in reached)


class Counting(list):
    """A list that counts how often it is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_ancestors_are_found_in_few_steps():
    """Jump pointers: a chain of 4,000 is walked in some 2 · log₂ 4,000 = 24 steps."""
    nodes = [Node(Kind.INPUT, (), "")] + [Node(Kind.LINEAR, (i,), "") for i in range(3_999)]
    dominators = Graph(nodes, [3_999])._dominators
    for first, last in ((0, 3_999), (1, 3_998), (1_234, 3_210), (2_047, 2_048), (7, 1_025)):
        dominators._jump = Counting(dominators._jump)
        assert dominators.dominates(first, last)
        assert not dominators.dominates(last, first)
        assert dominators._jump.reads <= 30
    assert dominators._depth == list(range(4_001))


def test_spread_operands_of_a_chain():
    d = Drawing()
    x, c = d.input(), d.input()
    inner = d.add(x, c, spread=(c,), group=1)
    outer = d.add(e := d.conv(c), inner, d.mlp(x), spread=(e,), group=1)
    join = find_joins(d.graph(outer))[outer]
    assert set(join.operands) == {x, c, e, outer - 1}
    assert join.spread == {c, e}
    d = Drawing()
    x, c = d.input(), d.input()
    small = d.add(c, d.relu(c), group=1)
    outer = d.add(small, x, spread=(small,), group=1)
    assert find_joins(d.graph(outer))[outer].spread == {c, c + 1}


# --- several verdicts --------------------------------------------------------


def test_precedence_is_withheld_first():
    """By default trunk, other and shortcut are withheld, the other two applied."""
    assert PRECEDENCE == ("trunk", "other", "shortcut", "residual_last", "interior")


@pytest.mark.parametrize("several", list(itertools.combinations(Role, 2)), ids=str)
def test_the_weightiest_stands_for_several(several):
    order = ["trunk", "other", "shortcut", "residual_last", "interior"]
    verdicts = [Verdict(role, f"{role}.") for role in several]
    first = min((str(role) for role in several), key=order.index)
    for given_order in itertools.permutations(verdicts):
        assert weightiest(given_order) == (first, f"{first}.")
