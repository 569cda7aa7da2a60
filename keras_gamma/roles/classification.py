"""From a graph to the residual role of every normalization call. Pure.

The definitions are those of `docs/roles.md`. They are derived in this project from the two
analyses that Kim et al. (arXiv:2205.07260) name in their abstract; the body of that paper was
not at hand. See `docs/roles.md` for what is the paper's and what is ours.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keras_gamma._enums import StrEnum
from keras_gamma.network.graph import Graph, Kind
from keras_gamma.roles.joins import Join, find_joins
from keras_gamma.roles.paths import Ends, follow


class Role(StrEnum):
    """Where a γ sits in the residual data flow. Values are plain strings.

    - `residual_last`: the last γ of a branch; it sets the branch's scale at a residual join.
    - `shortcut`: on the skip path, between the fork and the join.
    - `interior`: on every path a later normalization absorbs it.
    - `trunk`: scales the stream that the skips carry, a branch from outside, or an output.
    - `other`: none of these, or it could not be told; `reason` says why.

    Example:

    >>> import keras_gamma
    >>> keras_gamma.Role("trunk") is keras_gamma.Role.TRUNK
    True
    """

    RESIDUAL_LAST = "residual_last"
    SHORTCUT = "shortcut"
    INTERIOR = "interior"
    TRUNK = "trunk"
    OTHER = "other"


class Verdict(NamedTuple):
    """The role of one call of a normalization, and one sentence that says why."""

    role: Role
    reason: str


# Withholding wins over applying, and what is certain over what is not.
PRECEDENCE = (Role.TRUNK, Role.OTHER, Role.SHORTCUT, Role.RESIDUAL_LAST, Role.INTERIOR)


def weightiest(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that stands for several: the first of `PRECEDENCE` among them."""
    return min(verdicts, key=lambda verdict: PRECEDENCE.index(verdict.role))


def classify(graph: Graph) -> dict[int, Verdict]:
    """The verdict for every normalization call.

    Args:
        graph: a `keras_gamma.network.graph.Graph`.

    Returns:
        A dict from node number to `Verdict`, one entry for each node of kind `NORM`.
    """
    joins = find_joins(graph)
    norms = (index for index, node in enumerate(graph.nodes) if node.kind is Kind.NORM)
    return {index: judge(graph, joins, index) for index in norms}


def judge(graph: Graph, joins: dict[int, Join], index: int) -> Verdict:
    """The verdict for one node that sets a scale: a normalization, or any learned gain.

    Args:
        graph: a `keras_gamma.network.graph.Graph`.
        joins: what `find_joins` returns for it.
        index: the node's number.
    """
    ends = follow(graph, joins, index)
    found = [*_at_outputs(graph, ends), *_at_closed_parts(ends)]
    for final, operands in ends.sums.items():
        found += _at_join(graph, joins[final], final, operands, index)
    if found:
        return weightiest(found)
    if ends.weighed or (ends.faded and not ends.absorbed):
        return Verdict(Role.OTHER, _temperature((ends.weighed or ends.faded)[0]))
    if ends.absorbed:
        return Verdict(Role.INTERIOR, _absorption(ends))
    return Verdict(Role.OTHER, "No output of the model is computed from it.")


def _at_outputs(graph: Graph, ends: Ends) -> Iterator[Verdict]:
    for output in ends.outputs:
        label = graph.nodes[output].label
        yield Verdict(Role.TRUNK, f"It reaches an output of the model, that of {label!r}.")


def _at_closed_parts(ends: Ends) -> Iterator[Verdict]:
    for label in ends.closed:
        yield Verdict(Role.OTHER, f"It reaches a part that stays closed: {label}.")


def _temperature(label: str) -> str:
    return (
        f"It acts only through the softmax or gate {label!r}: it sets how sharp that is, not the "
        "scale of what flows on."
    )


def _absorption(ends: Ends) -> str:
    labels = list(dict.fromkeys(ends.absorbed))
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    how = f" (approximately: {ends.inexact[0]!r} lies between)" if ends.inexact else ""
    return f"On every path it is absorbed by a later normalization, {labels[0]!r}{more}{how}."


def _at_join(
    graph: Graph, join: Join, final: int, operands: set[int], start: int
) -> Iterator[Verdict]:
    name = repr(graph.nodes[final].label)
    if join.fork is None or not join.residual:
        yield Verdict(Role.OTHER, f"It reaches the sum {name}, which {_why_not_residual(join)}.")
        return
    fork = repr(graph.nodes[join.fork].label)
    inside = graph.is_computed_from(start, join.fork)
    for operand in sorted(operands):
        if operand == join.skip:
            yield (
                Verdict(
                    Role.SHORTCUT,
                    f"It scales the skip that joins at {name}, after the fork {fork}.",
                )
                if inside
                else Verdict(
                    Role.TRUNK, f"It scales the stream that the skip carries from {fork} to {name}."
                )
            )
        elif inside:
            yield Verdict(
                Role.RESIDUAL_LAST,
                f"It sets the scale of the branch from {fork} that joins at {name}.",
            )
        else:
            yield Verdict(
                Role.TRUNK,
                f"It feeds the branch that joins at {name} from outside its fork {fork}.",
            )


def _why_not_residual(join: Join) -> str:
    if join.fork is None:
        return "is not residual: its operands share no fork"
    if join.linear:
        return "is not residual but re-parameterizable: all its operands are linear in one tensor"
    return "is not residual: no operand is a skip"
