"""What a reason says, to the letter: it names what a reader can look for in the model."""

from keras_gamma.network.graph import Kind
from tests.roles.by_hand import Drawing


def reasons(d, *outputs):
    return {label: verdict.reason for label, verdict in d.verdicts(*outputs).items()}


def test_a_residual_block():
    d = Drawing()
    x = d.node(Kind.NONLINEAR, d.norm(d.input(), "stem"), label="act")
    skip = d.norm(d.conv(x), "skip")
    y = d.node(Kind.SUM, skip, d.norm(d.mlp(x), "last"), label="join")
    found = reasons(d, d.node(Kind.LINEAR, d.norm(y, "final"), label="head"))
    assert found == {
        "stem": "On every path it is absorbed by a later normalization, 'skip' and 1 more.",
        "skip": "It scales the skip that joins at 'join', after the fork 'act'.",
        "last": "It sets the scale of the branch from 'act' that joins at 'join'.",
        "final": "It reaches an output of the model, that of 'head'.",
    }


def test_absorbed_by_one_and_by_several():
    d = Drawing()
    x = d.norm(d.input(), "first")
    assert reasons(d, d.norm(d.relu(x), "second"))["first"] == (
        "On every path it is absorbed by a later normalization, 'second'."
    )
    others = [d.norm(d.conv(x), name) for name in ("third", "fourth")]
    assert reasons(d, d.norm(d.relu(x), "fifth"), *others)["first"] == (
        "On every path it is absorbed by a later normalization, 'third' and 2 more."
    )


def test_the_same_normalization_twice_is_named_once():
    d = Drawing()
    x = d.norm(d.input(), "first")
    a, b = (d.norm(d.conv(x), "second") for _ in range(2))
    assert reasons(d, a, b)["first"] == (
        "On every path it is absorbed by a later normalization, 'second'."
    )


def test_absorbed_approximately():
    d = Drawing()
    x = d.norm(d.input(), "first")
    y = d.node(Kind.NONLINEAR, x, label="gelu", homogeneous=False)
    z = d.node(Kind.NONLINEAR, y, label="silu", homogeneous=False)
    assert reasons(d, d.norm(z, "second"))["first"] == (
        "On every path it is absorbed by a later normalization, 'second' "
        "(approximately: 'gelu' lies between)."
    )
    d = Drawing()
    x = d.norm(d.input(), "first")
    y = d.node(Kind.PRODUCT, d.conv(x), d.conv(x), label="gate")
    assert reasons(d, d.norm(y, "second"))["first"] == (
        "On every path it is absorbed by a later normalization, 'second' "
        "(approximately: 'gate' lies between)."
    )


def test_a_softmax_behind_which_a_normalization_comes():
    d = Drawing()
    x = d.norm(d.input(), "first")
    weights = d.node(Kind.SOFTMAX, d.conv(x), label="softmax")
    y = d.node(Kind.PRODUCT, weights, d.input(), label="weighed")
    assert reasons(d, d.norm(y, "second"))["first"] == (
        "It acts only through the softmax or gate 'softmax': it sets how sharp that is, not the "
        "scale of what flows on."
    )
    # The values are absorbed too: what the softmax leaves is why that is approximate.
    d = Drawing()
    x = d.norm(d.input(), "first")
    weights = d.node(Kind.SOFTMAX, d.conv(x), label="softmax")
    y = d.norm(weights, "second")
    z = d.norm(d.conv(x), "third")
    assert reasons(d, y, z)["first"] == (
        "On every path it is absorbed by a later normalization, 'third' "
        "(approximately: 'softmax' lies between)."
    )


def test_softmaxes_and_gates_are_named_by_the_first_on_the_way():
    d = Drawing()
    x = d.norm(d.input(), "norm")
    soft = d.node(Kind.SOFTMAX, d.conv(x), label="softmax")
    again = d.node(Kind.SOFTMAX, d.conv(soft), label="again")
    assert "'softmax'" in reasons(d, d.add(d.input(), d.times(again, d.input())))["norm"]
    d = Drawing()
    x = d.norm(d.input(), "norm")
    gate = d.node(Kind.NONLINEAR, d.conv(x), label="gate", bounded=True)
    assert "'gate'" in reasons(d, d.times(gate, d.input()))["norm"]
    second = d.node(Kind.NONLINEAR, gate, label="second", bounded=True)
    assert "'gate'" in reasons(d, d.times(second, d.input()))["norm"]
    d = Drawing()
    x, value = d.norm(d.input(), "norm"), d.input()
    fused = d.node(Kind.ATTENTION, x, x, value, label="fused")
    assert "'fused'" in reasons(d, d.add(value, fused))["norm"]
    assert "'fused'" in reasons(d, d.norm(fused, "later"))["norm"]
    d = Drawing()
    key, value = d.norm(d.input(), "key"), d.input()
    assert "'fused'" in reasons(d, d.node(Kind.ATTENTION, value, key, value, label="fused"))["key"]


def test_streams_and_branches_from_outside():
    d = Drawing()
    x = d.node(Kind.NONLINEAR, d.norm(d.input(), "stem"), label="act")
    y = d.node(Kind.SUM, x, d.mlp(x), label="join")
    assert reasons(d, y)["stem"] == (
        "It scales the stream that the skip carries from 'act' to 'join'."
    )
    d = Drawing()
    memory = d.norm(d.input(), "memory")
    x = d.node(Kind.INPUT, label="target")
    y = d.node(Kind.SUM, x, d.times(d.mlp(x), d.conv(memory)), label="join")
    assert reasons(d, y)["memory"] == (
        "It feeds the branch that joins at 'join' from outside its fork 'target'."
    )


def test_sums_without_a_skip():
    d = Drawing()
    y = d.node(Kind.SUM, d.norm(d.input(), "a"), d.norm(d.input(), "b"), label="sum")
    assert reasons(d, y)["a"] == (
        "It reaches the sum 'sum', which is not residual: its operands share no fork."
    )
    d = Drawing()
    x = d.input()
    y = d.node(Kind.SUM, d.norm(d.conv(x), "a"), d.norm(d.conv(x), "b"), label="sum")
    assert reasons(d, y)["a"] == (
        "It reaches the sum 'sum', which is not residual but re-parameterizable: all its operands "
        "are linear in one tensor."
    )
    d = Drawing()
    x = d.input()
    y = d.node(Kind.SUM, d.relu(d.norm(d.conv(x), "a")), d.mlp(x), label="sum")
    assert reasons(d, y)["a"] == (
        "It reaches the sum 'sum', which is not residual: no operand is a skip."
    )


def test_closed_parts_and_no_effect():
    d = Drawing()
    x = d.norm(d.input(), "norm")
    closed = d.opaque(x)
    assert reasons(d, closed)["norm"] == "It reaches a part that stays closed: secret."
    assert reasons(d, d.input())["norm"] == "No output of the model is computed from it."


def test_the_first_output_is_named():
    d = Drawing()
    x = d.norm(d.input(), "norm")
    one, two = (d.node(Kind.LINEAR, x, label=label) for label in ("one", "two"))
    assert reasons(d, one, two)["norm"] == "It reaches an output of the model, that of 'one'."
