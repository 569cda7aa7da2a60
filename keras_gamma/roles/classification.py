"""From a graph to the residual role of every normalization call. Pure.

The definitions are those of `docs/roles.md`. They are derived in this project from the two
analyses that Kim et al. (arXiv:2205.07260) name in their abstract; the body of that paper was
not at hand. See `docs/roles.md` for what is the paper's and what is ours.
"""

import dataclasses
from typing import NamedTuple

from keras_gamma._enums import StrEnum
from keras_gamma.network.graph import Kind


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


@dataclasses.dataclass
class Join:
    """A sum, its operands after flattening, and, if it is residual, its fork and skip."""

    operands: tuple[int, ...]
    fork: int | None = None
    skip: int | None = None
    merged_into: int | None = None

    @property
    def residual(self):
        return self.skip is not None


# Findings along the paths of one γ, the weightiest first: withholding wins over applying,
# and what is certain wins over what is not.
_ORDER = ("trunk", "other", "shortcut", "residual_last", "temperature", "interior", "weighed")


def classify(graph):
    """The verdict for every normalization call.

    Args:
        graph: a `keras_gamma.graph.Graph`.

    Returns:
        A dict from node number to `Verdict`, one entry for each node of kind `NORM`.
    """
    joins = find_joins(graph)
    return {
        index: _judge(graph, joins, index)
        for index, node in enumerate(graph.nodes)
        if node.kind is Kind.NORM
    }


def find_joins(graph):
    """Every live sum of `graph`: a dict from node number to `Join`."""
    joins: dict[int, Join] = {}
    for index, node in enumerate(graph.nodes):
        if node.kind is not Kind.SUM or not graph.live[index]:
            continue
        operands: list[int] = []
        for operand in node.inputs:
            inner = joins.get(operand)
            if inner is not None and _is_one_sum(graph, inner, operand, index):
                inner.merged_into = index
                operands.extend(inner.operands)
            else:
                operands.append(operand)
        join = Join(tuple(operands), _fork(graph, operands))
        join.skip = _find_skip(graph, join)
        joins[index] = join
    return joins


def _fork(graph, operands):
    fork = graph.fork({graph.roots[operand] for operand in operands})
    return None if fork is None else graph.roots[fork]


def _is_one_sum(graph, inner, operand, outer):
    """Whether the sum `operand` and the sum `outer` that reads it are one sum of more terms.

    `x + attention(x) + mlp(x)` is one join of three operands, however it is written. A
    residual join whose fork is not that of the longer sum stays a join of its own.
    """
    if graph.consumers[operand] != [outer] or operand in graph.outputs:
        return False
    node = graph.nodes[outer]
    if node.group is not None and node.group == graph.nodes[operand].group:
        return True
    others = [source for source in node.inputs if source != operand]
    return not inner.residual or inner.fork == _fork(graph, [*inner.operands, *others])


def _find_skip(graph, join):
    if join.fork is None:
        return None
    for operand in join.operands:
        if graph.roots[operand] == join.fork:
            return operand
    linear = [operand for operand in join.operands if _is_linear(graph, join.fork, operand)]
    return linear[0] if len(linear) == 1 else None


def _is_linear(graph, fork, operand):
    allowed = (Kind.LINEAR, Kind.IDENTITY, Kind.NORM, Kind.SUM)
    return all(graph.nodes[index].kind in allowed for index in graph.between(fork, operand))


def _judge(graph, joins, norm):
    findings = _follow(graph, joins, norm)
    for name in _ORDER:
        if name in findings:
            role = Role.OTHER if name in ("temperature", "weighed") else Role(name)
            return Verdict(role, findings[name])
    return Verdict(Role.OTHER, "No output of the model is computed from it.")


def _follow(graph, joins, norm):
    """Walks every path of γ to its end: finding -> reason of the first path that ends so."""
    nodes = graph.nodes
    findings: dict[str, str] = {}
    absorbed, inexact = [], []
    arrived: dict[int, set[int]] = {}  # final sum -> its operands that γ has reached
    seen = set()
    # (node, label of the softmax gone through, whether that weighed values since)
    stack: list[tuple[int, str | None, bool]] = [(norm, None, False)]
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        current, softmax, weighed = state
        if current in graph.outputs and not weighed:
            findings.setdefault(
                "trunk", f"It reaches an output of the model, that of {nodes[current].label!r}."
            )
        elif current in graph.outputs:
            findings.setdefault("temperature", _temperature(softmax))
        for index in graph.consumers[current]:
            node = nodes[index]
            match node.kind:
                case Kind.NORM if softmax:
                    # Counts only where values of the same γ are absorbed too (post-norm blocks).
                    findings.setdefault("weighed", _temperature(softmax))
                    inexact.append(softmax)
                case Kind.NORM:
                    absorbed.append(node.label)
                case Kind.OPAQUE:
                    findings.setdefault(
                        "other", f"It reaches a part that stays closed: {node.label}."
                    )
                case Kind.SUM if softmax:
                    findings.setdefault("temperature", _temperature(softmax))
                case Kind.SUM:
                    final = final_sum(joins, index)
                    arrived.setdefault(final, set()).add(current)
                    join = joins[final]
                    if not join.residual and arrived[final] >= set(join.operands):
                        stack.append((final, None, False))
                case Kind.ATTENTION:
                    if current in node.inputs[:-1]:
                        stack.append((index, softmax or node.label, True))
                    if current == node.inputs[-1]:
                        stack.append((index, softmax, weighed))
                case Kind.SOFTMAX:
                    stack.append((index, softmax or node.label, weighed))
                case Kind.PRODUCT:
                    inexact.append(node.label)
                    stack.append((index, softmax, weighed or softmax is not None))
                case _:
                    if not node.homogeneous:
                        inexact.append(node.label)
                    stack.append((index, softmax, weighed))
    for final, operands in arrived.items():
        _add_join_findings(graph, joins[final], final, operands, norm, findings)
    if absorbed:
        names = _name_a_few(absorbed)
        how = f" (approximately: {inexact[0]!r} lies between)" if inexact else ""
        findings["interior"] = (
            f"On every path it is absorbed by a later normalization, {names}{how}."
        )
    return findings


def _temperature(softmax):
    return (
        f"It acts only through the softmax {softmax!r}: it sets a temperature there, not the "
        "scale of what flows on."
    )


def final_sum(joins, index):
    """The sum that a chain of sums ends with: its operands are those of the whole chain."""
    while joins[index].merged_into is not None:
        index = joins[index].merged_into
    return index


def _name_a_few(labels):
    labels = list(dict.fromkeys(labels))
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    return f"{labels[0]!r}{more}"


def _add_join_findings(graph, join, final, operands, norm, findings):
    name = repr(graph.nodes[final].label)
    if not join.residual:
        if not operands >= set(join.operands):
            why = "its operands share no fork" if join.fork is None else "no operand is a skip"
            findings.setdefault(
                "other", f"It reaches the sum {name}, which is not residual: {why}."
            )
        return
    fork = repr(graph.nodes[join.fork].label)
    inside = graph.is_computed_from(norm, join.fork)
    for operand in sorted(operands):
        if operand == join.skip and inside:
            findings.setdefault(
                "shortcut", f"It scales the skip that joins at {name}, after the fork {fork}."
            )
        elif operand == join.skip:
            findings.setdefault(
                "trunk", f"It scales the stream that the skip carries from {fork} to {name}."
            )
        elif inside:
            findings.setdefault(
                "residual_last",
                f"It sets the scale of the branch from {fork} that joins at {name}.",
            )
        else:
            findings.setdefault(
                "trunk", f"It feeds the branch that joins at {name} from outside its fork {fork}."
            )
