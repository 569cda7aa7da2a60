"""Roles in graphs drawn by hand: the definition, clause by clause, without Keras or a backend."""

import pytest

from tests.roles.by_hand import Drawing

DRAWINGS = {}


def draws(**expected):
    """Registers a function that draws a graph and returns its outputs, with the roles by hand."""

    def register(function):
        DRAWINGS[function.__name__] = (function, expected)
        return function

    return register


def v1(d, x, name, project=False):
    y = d.norm(d.conv(d.relu(d.norm(d.conv(x), f"{name}_1"))), f"{name}_2")
    return d.relu(d.add(d.norm(d.conv(x), f"{name}_0") if project else x, y))


# --- residual joins ----------------------------------------------------------


@draws(stem="trunk", a_1="interior", a_2="residual_last", b_1="interior", b_2="residual_last",
       b_0="shortcut")  # fmt: skip
def identity_then_projection(d):
    x = d.relu(d.norm(d.conv(d.input()), "stem"))
    return d.conv(d.pool(v1(d, v1(d, x, "a"), "b", project=True)))


@draws(stem="interior", a_1="interior", a_2="residual_last", a_0="shortcut")
def both_paths_absorb_the_stem(d):
    return v1(d, d.relu(d.norm(d.conv(d.input()), "stem")), "a", project=True)


@draws(pre="trunk", last="residual_last", post="trunk")
def pre_activation_in_front_of_a_projection(d):
    h = d.relu(d.norm(d.conv(d.input()), "pre"))
    y = d.conv(d.relu(d.norm(d.conv(h), "last")))
    return d.norm(d.add(d.conv(h), y), "post")


@draws(one="residual_last", two="residual_last", final="trunk")
def pre_norm_transformer(d):
    x = d.input()
    x = d.add(x, d.attend(d.norm(x, "one")))
    x = d.add(x, d.mlp(d.norm(x, "two")))
    return d.conv(d.norm(x, "final"))


@draws(emb="trunk", one="trunk", two="trunk")
def post_norm_transformer(d):
    x = d.norm(d.input(), "emb")
    x = d.norm(d.add(x, d.attend(x)), "one")
    return d.conv(d.norm(d.add(x, d.mlp(x)), "two"))


@draws(norm="trunk")
def outside_of_its_fork(d):
    memory, x = d.norm(d.input(), "norm"), d.input()
    return d.add(x, d.conv(d.relu(d.times(x, d.conv(memory)))))


@draws(norm="residual_last")
def the_fork_is_the_input_through_identities(d):
    x = d.input()
    return d.add(d.same(d.same(x)), d.conv(d.norm(d.same(x), "norm")))


@draws(stem="trunk", norm="residual_last")
def a_factor_on_the_skip(d):
    x = d.norm(d.conv(d.input()), "stem")
    return d.add(d.factor(x), d.factor(d.norm(d.conv(x), "norm")))


@draws(stem="trunk", norm="residual_last")
def a_learned_factor_on_the_skip(d):
    x = d.norm(d.conv(d.input()), "stem")
    return d.add(d.norm(d.conv(x), "norm"), d.factor(x, learned=True))


@draws(norm="trunk")
def only_factors_of_one_tensor(d):
    """x − ½x is x: what reaches it goes on."""
    x = d.norm(d.conv(d.input()), "norm")
    return d.conv(d.relu(d.add(x, d.factor(x))))


@draws(norm="interior", post="trunk")
def only_factors_of_one_tensor_then_a_norm(d):
    x = d.norm(d.conv(d.input()), "norm")
    return d.norm(d.add(x, d.factor(x)), "post")


@draws(a="residual_last", m="residual_last")
def a_chain_is_one_join(d):
    x = d.input()
    a, m = d.attend(d.norm(x, "a")), d.mlp(d.norm(x, "m"))
    return d.add(d.add(a, m), x)


@draws(a="residual_last", m="residual_last")
def a_chain_with_dropout_and_a_factor_on_a_part(d):
    x = d.input()
    a, m = d.attend(d.norm(x, "a")), d.mlp(d.norm(x, "m"))
    return d.add(x, d.factor(d.same(d.add(a, m))))


@draws(a="other", m="other")
def a_chain_cut_by_a_projection(d):
    """Behind a convolution the inner sum is a sum of its own, and has no skip."""
    x = d.input()
    a, m = d.attend(d.norm(x, "a")), d.mlp(d.norm(x, "m"))
    return d.add(x, d.conv(d.add(a, m)))


@draws(a="shortcut", m="residual_last")
def a_chain_whose_inner_sum_is_an_output(d):
    """The inner sum is read by itself: it is no part of a longer one, of which `a` is a branch."""
    x = d.input()
    a, m = d.norm(d.conv(x), "a"), d.norm(d.conv(d.relu(x)), "m")
    inner = d.add(a, m)
    return inner, d.add(x, inner)


@draws(a="trunk", m="other")
def a_chain_whose_inner_sum_is_read_twice(d):
    x = d.input()
    inner = d.add(d.relu(d.norm(d.conv(x), "m")), d.mlp(x))
    y = d.add(x, inner)
    return d.add(y, d.conv(d.relu(d.times(d.norm(inner, "a"), y))))


@draws(a="residual_last", b="residual_last")
def a_residual_part_with_a_fork_of_its_own(d):
    x = d.input()
    y = d.conv(d.relu(x))
    inner = d.add(y, d.norm(d.conv(y), "a"))
    return d.add(d.add(x, inner), d.norm(d.mlp(x), "b"))


@draws(a="residual_last", b="residual_last")
def a_term_from_outside(d):
    """A last term from outside leaves the residual sums before it what they are."""
    x, c = d.input(), d.input()
    a = d.norm(d.mlp(x), "a")
    inner = d.add(x, a)
    return d.add(d.add(inner, d.norm(d.mlp(inner), "b")), c)


@draws(a="other")
def terms_of_one_layer_without_a_fork(d):
    x, c = d.input(), d.input()
    inner = d.add(x, d.norm(d.mlp(x), "a"), group=1)
    return d.add(inner, c, group=1)


@draws(a="residual_last")
def two_sums_without_a_common_fork(d):
    x, c = d.input(), d.input()
    return d.add(d.add(x, d.norm(d.mlp(x), "a"), group=1), c, group=2)


# --- linear skips ------------------------------------------------------------


@draws(skip="shortcut", branch="residual_last")
def a_sum_inside_a_linear_skip(d):
    x = d.input()
    skip = d.norm(d.conv(d.add(d.conv(x), d.pool(x))), "skip")
    return d.add(skip, d.norm(d.mlp(x), "branch"))


@draws(a="other", b="other")
def two_linear_operands(d):
    x = d.input()
    return d.add(d.norm(d.conv(x), "a"), d.norm(d.conv(x), "b"))


@draws(a="other", stem="other")
def two_operands_that_are_not_linear(d):
    x = d.relu(d.norm(d.conv(d.input()), "stem"))
    return d.add(d.relu(d.conv(x)), d.relu(d.norm(d.conv(x), "a")))


@draws(local="other", ln="other")
def attention_and_convolution_of_the_values(d):
    h = d.norm(d.input(), "ln")
    q, k, v = d.conv(h), d.conv(h), d.conv(h)
    a = d.times(d.softmax(d.times(q, k)), v)
    return d.conv(d.add(a, d.norm(d.conv(v), "local")))


@draws(local="other", ln="other", q_norm="other")
def a_norm_of_the_queries_is_no_work_on_the_values(d):
    h = d.norm(d.input(), "ln")
    q, k, v = d.norm(d.conv(h), "q_norm"), d.conv(h), d.conv(h)
    a = d.times(d.softmax(d.times(q, k)), v)
    return d.conv(d.add(a, d.norm(d.conv(v), "local")))


@draws(local="other", ln="other")
def fused_attention_is_no_work_on_the_values(d):
    h = d.norm(d.input(), "ln")
    q, k, v = d.relu(d.conv(h)), d.conv(h), d.conv(h)
    return d.conv(d.add(d.attention(q, k, v), d.norm(d.conv(v), "local")))


@draws(skip="shortcut")
def fused_attention_of_worked_values_is_a_branch(d):
    x = d.input()
    v = d.relu(d.conv(x))
    return d.add(d.attention(x, x, v), d.norm(d.conv(x), "skip"))


@draws(skip="other")
def an_activation_without_weights_is_no_branch(d):
    x = d.input()
    return d.add(d.norm(d.conv(x), "skip"), d.relu(x))


@draws(skip="other")
def weights_without_an_activation_are_no_branch(d):
    x = d.input()
    return d.add(d.norm(d.conv(x), "skip"), d.times(d.conv(x), x))


@draws(skip="shortcut", norm="residual_last")
def weights_and_a_norm_are_a_branch(d):
    x = d.input()
    y = d.times(d.norm(d.conv(x), "norm"), x)
    return d.add(d.norm(d.conv(x), "skip"), y)


@draws(skip="other")
def weights_on_one_way_and_an_activation_on_another(d):
    x = d.input()
    return d.add(d.norm(d.conv(x), "skip"), d.times(d.conv(x), d.relu(x)))


@draws(skip="shortcut")
def a_closed_part_is_a_branch(d):
    x = d.input()
    return d.add(d.norm(d.conv(x), "skip"), d.opaque(x))


@draws(norm="other")
def a_scale_of_the_skips_own_norm_is_no_weight(d):
    """A norm alone passes an activation or norm, but no weights."""
    x = d.input()
    return d.add(d.conv(x), d.relu(d.norm(x, "norm")))


# --- inner joins -------------------------------------------------------------


@draws(ln="residual_last")
def a_skip_around_the_hidden_layer(d):
    x = d.input()
    h = d.conv(d.norm(x, "ln"))
    return d.add(x, d.conv(d.gelu(d.add(h, d.conv(h)))))


@draws(ln="trunk", dw="residual_last")
def a_skip_around_a_norm_in_the_hidden_layer(d):
    x = d.input()
    h = d.conv(d.norm(x, "ln"))
    return d.add(x, d.conv(d.gelu(d.add(h, d.norm(d.conv(h), "dw")))))


@draws(ln="residual_last")
def inner_joins_in_inner_joins(d):
    x = d.input()
    h = d.norm(x, "ln")
    for _ in range(3):
        inside = d.conv(d.relu(h))
        h = d.add(h, d.conv(d.relu(d.add(inside, d.conv(d.relu(inside))))))
    return d.add(x, d.conv(h))


@draws(start="interior", post="residual_last")
def an_inner_join_in_front_of_a_norm(d):
    x = d.input()
    h = d.norm(d.conv(x), "start")
    return d.add(x, d.conv(d.norm(d.add(h, d.mlp(h)), "post")))


@draws(start="trunk", post="residual_last")
def it_starts_where_the_outer_one_does(d):
    x = d.norm(d.conv(d.input()), "start")
    return d.add(x, d.conv(d.norm(d.add(x, d.mlp(x)), "post")))


@draws(start="trunk", skip="shortcut", post="residual_last")
def it_lies_on_the_outer_skip(d):
    """A sum on the skip is not within a branch."""
    x = d.input()
    h = d.norm(d.conv(x), "start")
    inner = d.add(h, d.conv(d.pool(h)))
    return d.conv(d.add(d.norm(d.conv(inner), "skip"), d.norm(d.mlp(x), "post")))


@draws(stem="trunk", down="trunk", b_1="interior", b_2="residual_last", up="residual_last")
def a_long_skip_around_v1_blocks(d):
    e = d.relu(d.norm(d.conv(d.input()), "stem"))
    h = v1(d, d.relu(d.norm(d.conv(e), "down")), "b")
    return d.conv(d.add(e, d.relu(d.norm(d.conv(h), "up"))))


@draws(ln="residual_last", grn="residual_last")
def response_normalization(d):
    x = d.input()
    h = d.conv(d.norm(x, "ln"))
    n = d.norm(d.pool(h), "grn")
    return d.add(x, d.conv(d.add(d.factor(d.times(h, n), learned=True), h)))


@draws(norm="residual_last", final="trunk")
def the_outer_join_is_not_its_own_inner_one(d):
    x = d.input()
    return d.norm(d.add(x, d.conv(d.norm(x, "norm"))), "final")


@draws(first="trunk", second="trunk")
def blocks_in_a_row_are_not_inner(d):
    x = d.norm(d.conv(d.input()), "first")
    x = d.norm(d.add(x, d.mlp(x)), "second")
    return d.add(x, d.mlp(x))


# --- spreading ---------------------------------------------------------------


def spread_sum(d, large, small):
    return d.add(large, small, spread=(small,))


@draws(norm="interior", final="trunk")
def the_mean_removed(d):
    x = d.norm(d.conv(d.input()), "norm")
    return d.norm(spread_sum(d, x, d.pool(x)), "final")


@draws(norm="trunk", context="residual_last", final="trunk")
def context_with_a_norm(d):
    x = d.relu(d.norm(d.conv(d.input()), "norm"))
    c = d.conv(d.relu(d.norm(d.conv(d.pool(x)), "context")))
    return d.norm(d.conv(spread_sum(d, x, c)), "final")


@draws(norm="interior", final="trunk")
def context_without_a_norm(d):
    x = d.relu(d.norm(d.conv(d.input()), "norm"))
    return d.norm(d.conv(spread_sum(d, x, d.mlp(d.pool(x)))), "final")


@draws(one="other", two="residual_last")
def conditioning(d):
    x, t = d.input(), d.input()
    h = spread_sum(d, d.conv(d.relu(d.norm(x, "one"))), d.mlp(t))
    return d.add(x, d.conv(d.relu(d.norm(h, "two"))))


@draws(one="other", two="residual_last", three="other", four="residual_last")
def conditioning_twice(d):
    """The second block's stream depends on the condition: it is no skip all the same."""
    x, t = d.input(), d.relu(d.input())
    for first, last in (("one", "two"), ("three", "four")):
        h = spread_sum(d, d.conv(d.relu(d.norm(x, first))), d.conv(t))
        x = d.add(x, d.conv(d.relu(d.norm(h, last))))
    return x


@draws(x="other", c="other")
def what_is_spread_is_no_skip(d):
    c = d.input()
    x = d.norm(d.mlp(c), "x")
    return d.conv(d.relu(spread_sum(d, x, d.norm(d.conv(c), "c"))))


@draws(x="other")
def what_is_spread_is_no_skip_in_a_chain(d):
    """The parts' spreading is the whole's: first spread over each other, then added."""
    c = d.input()
    small = d.add(d.factor(c), d.factor(c))
    x = d.norm(d.mlp(c), "x")
    return d.conv(d.relu(spread_sum(d, x, small)))


# --- sums that are not residual ----------------------------------------------


@draws(norm="interior", final="trunk")
def all_operands_scale(d):
    x = d.relu(d.norm(d.conv(d.input()), "norm"))
    return d.norm(d.add(d.relu(d.conv(x)), d.relu(d.conv(x))), "final")


@draws(norm="trunk")
def all_operands_scale_up_to_an_output(d):
    x = d.relu(d.norm(d.conv(d.input()), "norm"))
    return d.conv(d.add(d.relu(d.conv(x)), d.relu(d.conv(x))))


@draws(a="other", b="other")
def no_fork(d):
    return d.add(d.norm(d.input(), "a"), d.norm(d.input(), "b"))


# --- weights -----------------------------------------------------------------


@draws(norm="trunk")
def a_position_table_is_no_operand(d):
    x = d.norm(d.input(), "norm")
    return d.add(x, d.weight())


@draws(norm="residual_last")
def a_table_in_a_branch(d):
    x = d.input()
    return d.add(x, d.relu(d.add(d.conv(d.norm(x, "norm")), d.weight())))


@draws(a="other", b="other")
def a_shared_table_is_no_fork(d):
    table = d.weight()
    a, b = (d.times(d.norm(d.input(), name), table) for name in "ab")
    return d.add(a, b)


@draws(query="other", value="trunk", mlp="residual_last")
def learned_queries(d):
    """What attention adds to is a variable: the stream begins with the values."""
    latents, x = d.weight(), d.input()
    q = d.conv(d.norm(latents, "query", constant=True))
    k, v = d.conv(x), d.conv(d.norm(x, "value"))
    z = d.add(latents, d.conv(d.times(d.softmax(d.times(q, k)), v)))
    return d.add(z, d.mlp(d.norm(z, "mlp")))


# --- softmaxes and gates -----------------------------------------------------


@draws(ln="residual_last", q="other", k="other")
def query_and_key_norms(d):
    x = d.input()
    h = d.norm(x, "ln")
    q, k = d.norm(d.conv(h), "q"), d.norm(d.conv(h), "k")
    return d.add(x, d.conv(d.times(d.softmax(d.times(q, k)), d.conv(h))))


@draws(ln="residual_last", q="other")
def relative_positions(d):
    x = d.input()
    h = d.norm(x, "ln")
    q, k = d.norm(d.conv(h), "q"), d.conv(h)
    logits = d.factor(d.same(d.add(d.times(q, k), d.conv(q))))
    return d.add(x, d.conv(d.times(d.softmax(logits), d.conv(h))))


@draws(ln="residual_last", q="other")
def relative_positions_into_fused_attention(d):
    x = d.input()
    h = d.norm(x, "ln")
    q = d.norm(d.conv(h), "q")
    bias = d.add(d.times(q, d.conv(h)), d.conv(q))
    return d.add(x, d.attention(bias, bias, d.conv(h)))


@draws(one="residual_last", two="residual_last")
def logits_of_one_layer_in_the_next(d):
    x, before = d.input(), None
    for name in ("one", "two"):
        h = d.norm(x, name)
        logits = d.times(d.conv(h), d.conv(h))
        before = logits if before is None else d.add(logits, before)
        x = d.add(x, d.conv(d.times(d.softmax(before), d.conv(h))))
    return x


@draws(norm="trunk", last="residual_last")
def a_softmax_at_the_output_weighs_nothing(d):
    x = d.norm(d.conv(d.input()), "norm")
    return d.softmax(d.add(x, d.norm(d.mlp(x), "last")))


@draws(norm="trunk", last="residual_last")
def logits_that_are_an_output_as_well(d):
    x = d.norm(d.conv(d.input()), "norm")
    y = d.add(x, d.norm(d.mlp(x), "last"))
    return y, d.times(d.softmax(y), d.conv(x))


@draws(norm="trunk", last="residual_last")
def weights_between_the_sum_and_the_softmax(d):
    x = d.norm(d.conv(d.input()), "norm")
    y = d.add(x, d.norm(d.mlp(x), "last"))
    return d.times(d.softmax(d.conv(y)), x)


@draws(ln="other", v="residual_last")
def a_norm_on_the_values(d):
    x = d.input()
    h = d.norm(x, "ln")
    q, k, v = d.conv(h), d.conv(h), d.norm(d.conv(h), "v")
    return d.add(x, d.conv(d.times(d.softmax(d.times(q, k)), v)))


@draws(ln="interior", post="residual_last")
def a_norm_behind_the_attention(d):
    x = d.input()
    return d.add(x, d.norm(d.attend(d.norm(x, "ln")), "post"))


@draws(q="other", post="residual_last")
def a_query_norm_in_a_sandwich(d):
    x = d.input()
    q = d.norm(d.conv(x), "q")
    y = d.times(d.softmax(d.times(q, d.conv(x))), d.conv(x))
    return d.add(x, d.norm(d.conv(y), "post"))


@draws(query="other", value="residual_last")
def fused_attention(d):
    x = d.input()
    q = d.norm(x, "query")
    return d.add(x, d.conv(d.attention(q, q, d.norm(x, "value"))))


@draws(all="residual_last")
def fused_attention_of_one_tensor(d):
    x = d.input()
    h = d.norm(x, "all")
    return d.add(x, d.conv(d.attention(h, h, h)))


@draws(main="residual_last", gate="other")
def squeeze_and_excite(d):
    x = d.input()
    y = d.norm(d.mlp(x), "main")
    g = d.sigmoid(d.conv(d.relu(d.norm(d.conv(d.pool(y)), "gate"))))
    return d.add(x, d.times(y, g))


@draws(main="interior", gate="other", last="residual_last")
def squeeze_and_excite_in_front_of_a_norm(d):
    x = d.input()
    y = d.norm(d.mlp(x), "main")
    g = d.sigmoid(d.conv(d.relu(d.norm(d.conv(d.pool(y)), "gate"))))
    return d.add(x, d.norm(d.conv(d.times(y, g)), "last"))


@draws(main="interior", gate="other", last="residual_last")
def one_minus_a_gate(d):
    x = d.input()
    y = d.norm(d.mlp(x), "main")
    g = d.pool(d.sigmoid(d.conv(d.norm(d.conv(y), "gate"))))
    return d.add(x, d.norm(d.conv(d.times(y, g)), "last"))


@draws(gate="other")
def a_gate_of_a_sum(d):
    """What a sigmoid makes a gate of is no join: x + f(x) inside of it has no stream."""
    x = d.input()
    g = d.sigmoid(d.add(x, d.norm(d.conv(x), "gate")))
    return d.conv(d.times(d.conv(x), g))


@draws(norm="residual_last")
def a_sigmoid_as_an_activation(d):
    x = d.input()
    return d.add(x, d.conv(d.sigmoid(d.conv(d.norm(x, "norm")))))


@draws(norm="residual_last")
def a_sigmoid_without_weights_behind_it(d):
    x = d.input()
    return d.add(x, d.sigmoid(d.conv(d.norm(x, "norm"))))


@draws(norm="residual_last", gate="other")
def an_activation_of_sigmoids_that_is_gated_later(d):
    """Weights lie between the first sigmoid and the product: it is no gate."""
    x = d.input()
    y = d.conv(d.sigmoid(d.conv(d.norm(x, "norm"))))
    return d.add(x, d.times(y, d.sigmoid(d.norm(d.conv(x), "gate"))))


@draws(norm="trunk")
def a_sigmoid_at_the_output(d):
    return d.sigmoid(d.conv(d.norm(d.input(), "norm")))


@draws(norm="other")
def only_a_gate_at_the_output(d):
    x = d.input()
    return d.times(x, d.sigmoid(d.norm(d.conv(x), "norm")))


@draws(norm="interior", post="trunk")
def a_sigmoid_in_front_of_a_norm(d):
    return d.norm(d.sigmoid(d.norm(d.input(), "norm")), "post")


@draws(norm="trunk")
def a_softmax_of_a_norm_at_the_output(d):
    return d.softmax(d.conv(d.norm(d.input(), "norm")))


@draws(a="residual_last")
def a_condition_is_added_first(d):
    """c + x is linear in x: in whatever order, x is what the branch is added to."""
    c, x = d.input(), d.input()
    return d.add(d.add(c, x), d.norm(d.mlp(x), "a"))


@draws(a="residual_last")
def a_part_that_is_not_residual_with_a_fork_of_its_own(d):
    x = d.input()
    y = d.relu(d.conv(x))
    return d.add(x, d.add(d.relu(d.norm(d.conv(y), "a")), d.relu(d.conv(y))))


@draws(a="other")
def a_chain_cut_by_a_pooling(d):
    x = d.input()
    return d.add(x, d.pool(d.add(d.relu(d.norm(d.conv(x), "a")), d.mlp(x))))


@draws(local="other")
def worked_on_queries_of_fused_attention_are_no_work_on_the_values(d):
    v = d.conv(d.input())
    worked = d.relu(d.conv(v))
    return d.conv(d.add(d.attention(worked, v, v), d.norm(d.conv(v), "local")))


@draws(local="other")
def worked_on_keys_of_fused_attention_are_no_work_on_the_values(d):
    v = d.conv(d.input())
    worked = d.relu(d.conv(v))
    return d.conv(d.add(d.attention(v, worked, v), d.norm(d.conv(v), "local")))


@draws(start="trunk")
def within_an_operand_of_a_sum_without_a_skip(d):
    """Only branches of residual joins make a join an inner one."""
    x = d.input()
    h = d.norm(d.conv(x), "start")
    return d.add(d.relu(d.conv(d.add(h, d.mlp(h)))), d.mlp(d.relu(x)))


@draws(first="residual_last", ln="residual_last")
def an_inner_join_in_the_second_block(d):
    x = d.input()
    x = d.add(x, d.mlp(d.norm(x, "first")))
    h = d.conv(d.norm(x, "ln"))
    return d.add(x, d.conv(d.gelu(d.add(h, d.conv(h)))))


@draws(start="trunk", skip="shortcut", post="residual_last")
def it_starts_where_the_outer_one_does_and_norms_follow(d):
    x = d.norm(d.conv(d.input()), "start")
    branch = d.conv(d.norm(d.add(x, d.mlp(x)), "post"))
    return d.add(d.norm(d.conv(x), "skip"), branch)


@draws(key="other")
def a_key_norm_in_front_of_fused_attention(d):
    x = d.input()
    return d.attention(x, d.norm(x, "key"), x)


@draws(query="other")
def a_query_norm_in_front_of_fused_attention_at_the_output(d):
    x = d.input()
    return d.attention(d.norm(x, "query"), x, x)


@draws(start="trunk", last="residual_last")
def a_residual_sum_as_the_value_of_fused_attention(d):
    x = d.norm(d.conv(d.input()), "start")
    y = d.add(x, d.norm(d.mlp(x), "last"))
    z = d.input()
    return d.attention(z, z, y)


@draws(start="trunk", last="residual_last")
def a_sigmoid_with_weights_behind_it_is_no_gate(d):
    """So what it is made of is a join."""
    x = d.norm(d.conv(d.input()), "start")
    y = d.add(x, d.norm(d.mlp(x), "last"))
    return d.times(d.input(), d.conv(d.sigmoid(y)))


@draws(start="trunk", last="residual_last")
def a_sigmoid_that_multiplies_nothing(d):
    x = d.norm(d.conv(d.input()), "start")
    return d.conv(d.sigmoid(d.add(x, d.norm(d.mlp(x), "last"))))


@draws(start="trunk", last="residual_last")
def a_sigmoid_that_an_activation_reads(d):
    x = d.norm(d.conv(d.input()), "start")
    y = d.sigmoid(d.add(x, d.norm(d.mlp(x), "last")))
    return d.times(d.relu(y), d.input())


@draws(start="trunk", last="residual_last")
def a_softmax_that_an_activation_reads(d):
    x = d.norm(d.conv(d.input()), "start")
    y = d.softmax(d.add(x, d.norm(d.mlp(x), "last")))
    return d.times(d.relu(y), d.input())


@draws(q="other", post="trunk")
def logits_of_a_softmax_that_is_read_twice(d):
    """What it weighs is one reader, a norm the other."""
    x = d.input()
    q = d.norm(d.conv(x), "q")
    weights = d.softmax(d.add(d.times(q, d.conv(x)), d.conv(q)))
    return d.times(weights, d.conv(x)), d.norm(d.conv(weights), "post")


@draws(q="other")
def logits_and_a_mix_of_heads_behind_the_softmax(d):
    x = d.input()
    q = d.norm(d.conv(x), "q")
    weights = d.conv(d.softmax(d.add(d.times(q, d.conv(x)), d.conv(q))))
    return d.times(weights, d.conv(x))


@draws(gate="other")
def a_gate_that_is_one_minus_a_sigmoid_of_a_sum(d):
    x = d.input()
    g = d.pool(d.sigmoid(d.add(x, d.norm(d.conv(x), "gate"))))
    return d.times(d.conv(x), g)


@draws(last="other", post="trunk")
def a_softmax_that_weighs_and_is_looked_at(d):
    """One reader that it weighs something for is enough."""
    x = d.input()
    weights = d.softmax(d.add(x, d.norm(d.mlp(x), "last")))
    return d.times(weights, d.conv(x)), d.norm(d.conv(weights), "post")


@draws(last="other", post="trunk")
def a_gate_that_is_looked_at(d):
    x = d.input()
    gate = d.sigmoid(d.add(x, d.norm(d.mlp(x), "last")))
    return d.times(gate, d.conv(x)), d.norm(d.relu(gate), "post")


@draws(ln="residual_last")
def an_inner_join_behind_a_sum_without_a_skip(d):
    x = d.input()
    x = d.add(d.mlp(x), d.relu(x))
    h = d.conv(d.norm(x, "ln"))
    return d.add(x, d.conv(d.gelu(d.add(h, d.conv(h)))))


@draws(norm="trunk")
def an_output_and_a_branch(d):
    """What is certain about the output is not forgotten at the join."""
    x = d.input()
    h = d.norm(d.conv(x), "norm")
    return h, d.add(x, d.conv(d.relu(h)))


# --- the rest ----------------------------------------------------------------


@draws(norm="other")
def a_closed_part(d):
    return d.conv(d.opaque(d.norm(d.input(), "norm")))


@draws(norm="trunk")
def a_closed_part_and_an_output(d):
    x = d.norm(d.input(), "norm")
    return x, d.opaque(x)


@draws(dead="other", norm="trunk")
def a_part_that_no_output_reads(d):
    x = d.norm(d.input(), "norm")
    d.add(d.norm(d.conv(x), "dead"), x)
    return d.conv(x)


@draws(norm="trunk")
def a_sum_that_no_output_reads(d):
    """A branch that a subclassed model computes, and throws away."""
    x = d.norm(d.input(), "norm")
    d.relu(d.add(x, d.conv(x)))
    return d.conv(x)


@draws(skip="shortcut")
def on_the_skip_and_on_the_branch(d):
    """Between fork and join twice over: withholding wins."""
    x = d.input()
    h = d.norm(d.conv(x), "skip")
    return d.add(d.pool(h), d.mlp(x), d.conv(d.relu(d.times(h, x))))


@draws(norm="residual_last", post="residual_last")
def absorbed_on_one_way_and_last_on_the_other(d):
    x = d.input()
    h = d.norm(d.conv(x), "norm")
    return d.add(x, d.conv(d.relu(h)), d.norm(d.mlp(h), "post"))


# --- what only weighs --------------------------------------------------------


@draws(ln="interior", post="residual_last")
def the_difference_of_two_softmaxes_weighs(d):
    """Both maps follow γ; what they weigh is absorbed."""
    x = d.input()
    h = d.norm(x, "ln")
    q, k, r, v = (d.conv(h) for _ in range(4))
    weights = d.add(d.softmax(d.times(q, k)), d.factor(d.softmax(d.times(r, k)), learned=True))
    return d.add(x, d.conv(d.norm(d.times(weights, v), "post")))


@draws(ln="other", post="residual_last")
def a_sum_of_which_one_map_follows(d):
    """The other map does not: how the sum weighs follows γ in part."""
    x, c = d.input(), d.input()
    h = d.norm(x, "ln")
    weights = d.add(d.softmax(d.times(d.conv(h), d.conv(h))), d.softmax(c))
    return d.add(x, d.conv(d.norm(d.times(weights, d.conv(x)), "post")))


@draws(gn="interior", post="residual_last")
def a_gate_of_its_own_in_front_of_an_inner_join(d):
    x = d.input()
    h = d.norm(d.conv(x), "gn")
    h = d.times(d.conv(h), d.sigmoid(d.conv(h)))
    return d.add(x, d.conv(d.norm(d.add(h, d.mlp(h)), "post")))


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_roles_are_those_by_hand(name):
    draw, expected = DRAWINGS[name]
    drawing = Drawing()
    outputs = draw(drawing)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    found = drawing.roles(*outputs)
    assert {label: role for label, role in found.items() if label in expected} == expected
    assert found.keys() == expected.keys()
