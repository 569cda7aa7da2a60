"""`verify`: every role checked by running the model."""

import collections
import dataclasses
import json

import keras
import numpy as np
from keras import tree

from keras_gamma._enums import StrEnum
from keras_gamma._keras import names as _keras
from keras_gamma.network.graph import Kind
from keras_gamma.network.inputs import trace
from keras_gamma.network.replay import CONSTANT, Replay
from keras_gamma.report import tables
from keras_gamma.roles.classification import Role
from keras_gamma.roles.finding import find_roles
from keras_gamma.roles.joins import final_sum, find_joins

FACTOR = 4.0
_MOVED = 1.3  # A spread has moved if its ratio is beyond this, either way.
_MOVED_BEHIND = 2.0  # The same, behind another normalization: half of the factor, in logarithms.
_BATCH = 8
# What a γ is told by, the weightiest first, as in `roles`.
_ORDER = (Role.TRUNK, Role.OTHER, Role.SHORTCUT, Role.RESIDUAL_LAST, Role.INTERIOR)


class Agreement(StrEnum):
    """Whether running the model agrees with the role that was found by reading it."""

    AGREE = "agree"
    DISAGREE = "disagree"
    NOT_TESTABLE = "not testable"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What running the model says on one γ.

    Args:
        path: string, the variable's path, as in `find_roles`.
        role: the `Role` that `find_roles` found.
        measured: the `Role` that running shows, or `None` if it could not be tested.
        agreement: an `Agreement`.
        evidence: string, what moved, and by how much; or why nothing could be told.
    """

    path: str
    role: Role
    measured: Role | None
    agreement: Agreement
    evidence: str


class Verification(collections.abc.Sequence):
    """What `verify` found: a sequence of `Evidence`. Printed, it is a table.

    Args:
        entries: iterable of `Evidence`.
        plan: the `GammaPlan` beside which it is to be printed, or `None`.
    """

    def __init__(self, entries, plan=None):
        self._entries = tuple(entries)
        self._plan = plan

    def __getitem__(self, index):
        return self._entries[index]

    def __len__(self):
        return len(self._entries)

    def counts(self):
        """How many γ have each `Agreement`, zeros included: a dict."""
        return {one: sum(e.agreement is one for e in self) for one in Agreement}

    @property
    def ok(self):
        """Whether no γ disagrees."""
        return not self.counts()[Agreement.DISAGREE]

    def __str__(self):
        header = ["γ", "role", "measured", "verdict", "evidence"]
        rows = [[e.path, e.role, e.measured or "–", e.agreement, e.evidence] for e in self]
        if self._plan is not None:
            decisions = {entry.path: entry.decision for entry in self._plan}
            header.insert(2, "decision")
            for row in rows:
                row.insert(2, decisions.get(row[0], "–"))
        counts = ", ".join(f"{one} {n}" for one, n in self.counts().items())
        caption = f"{len(self)} γ run with γ and β ×{FACTOR:g}: {counts}"
        return tables.table(tuple(header), rows, caption)

    def __repr__(self):
        return f"<Verification of {len(self)} γ: {self.counts()[Agreement.DISAGREE]} disagree>"

    def to_json(self):
        """The evidence as a JSON text, for records."""
        content = {
            "format": "keras_gamma.verification",
            "ok": self.ok,
            "entries": [dataclasses.asdict(entry) for entry in self],
        }
        return json.dumps(content, indent=1, ensure_ascii=False)


def verify(model, inputs=None, *, plan=None, seed=0):
    """Checks the role of every γ in `model` by running it.

    γ and β of one normalization at a time are multiplied by 4, with ε near 0 and the statistics of
    the batch, and the spreads (standard deviations) of the operands of every sum and of the
    outputs are compared with before. Only branch operands move: `residual_last`. Only the skip
    moves: `shortcut`. Both, an output, or a sum whose fork is not in front of γ:
    `trunk`. Some operands of a sum without a skip: `other`. Nothing: `interior`. Softmax weights
    are held meanwhile, for a path carries scale by the values only.

    Structure and not number is only which sums there are, their forks and their skips. The
    weights are those of the model; where one of them holds a path at zero (a
    kernel of zeros), nothing can be told, and the verdict is "not testable"; so it is where a
    strong stream drowns the only place where the role that was read would show.

    Args:
        model: a built `keras.Model`. Its weights, statistics and seeds stay as they are.
        inputs: see `find_roles`. Arrays are used as they are; else inputs are made up: normal
            noise, tokens within the embeddings, masks of ones.
        plan: a `GammaPlan` to print beside the evidence, or `None`.
        seed: integer, of the inputs that are made up.

    Returns:
        A `Verification`: one `Evidence` for each γ, in data-flow order. `verification.ok` is
        whether none disagrees.

    Raises:
        TypeError, ValueError: as `find_roles`.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8, 8, 4))
    >>> y = keras.layers.Conv2D(4, 3, padding="same")(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Add(name="join")([x, y]))
    >>> [(e.path, str(e.measured), str(e.agreement)) for e in keras_gamma.verify(model)]
    [('bn/gamma', 'residual_last', 'agree')]
    """
    network = trace(model, inputs, batch=_BATCH)
    roles = find_roles(network)
    arrays = _arrays(network.model, network.inputs, inputs, np.random.default_rng(seed))
    joins = network.derive(find_joins)
    measured = collections.defaultdict(list)
    try:
        with Replay(network.model, network, arrays, seed) as replay:
            for call in network.calls:
                variable = call.entry.variable(call.layer)
                if variable is not None:
                    measured[id(variable)].append(_measure(replay, network.graph, joins, call.node))
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        why = f"The model could not be run step by step: {type(error).__name__}: {text}"
        measured.clear()
        return Verification([_entry(gamma, [], why) for gamma in roles], plan)
    return Verification([_entry(gamma, measured[id(gamma.variable)]) for gamma in roles], plan)


def _entry(gamma, found, why="Its layer was not seen in a call that could be run."):
    """The calls of one γ, as one piece of evidence."""
    if not found or any(one.role is None for one in found):
        why = next((one.text for one in found if one.role is None), why)
        return Evidence(gamma.path, gamma.role, None, Agreement.NOT_TESTABLE, why)
    decisive = min(found, key=lambda one: _WITHHELD_FIRST.index(one.role))
    role, text = decisive.role, decisive.text
    if len(found) > 1:
        text = f"{len(found)} calls; decisive: {text}"
    faint = next((one.faint[gamma.role] for one in found if gamma.role in one.faint), None)
    if role is gamma.role:
        agreement = Agreement.AGREE
    elif faint is not None:
        agreement = Agreement.NOT_TESTABLE
        text = f"{text} But it may be that {faint[0].lower()}{faint[1:-1]}: too little to tell."
    elif gamma.role is Role.OTHER:
        agreement = Agreement.NOT_TESTABLE  # "other" claims nothing that could be refuted.
    else:
        agreement = Agreement.DISAGREE
    return Evidence(gamma.path, gamma.role, role, agreement, text)


# Of several calls the weightiest counts, as in `find_roles`.
_WITHHELD_FIRST = (Role.OTHER, Role.TRUNK, Role.SHORTCUT, Role.RESIDUAL_LAST, Role.INTERIOR)


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What one call of a normalization shows: no role if nothing can be told.

    `faint` has the evidence for what would hold if whatever changes at all counted as moving: a
    strong stream that a weak one is added to, or put beside, drowns it.
    """

    role: Role | None
    text: str
    faint: dict[Role, str] = dataclasses.field(default_factory=dict)


def _measure(replay, graph, joins, norm):
    """What one call of a normalization shows, as `_Measured`."""
    ratios = {norm: FACTOR}  # node -> ratio of its spreads, where its values change
    held: list[str] = []
    absorbed: list[int] = []
    behind: set[int] = set()  # Nodes that are reached through another normalization only.

    def ends(node):
        """A path ends at a residual join, and at a sum not all of whose operands move."""
        if node not in joins:
            return False
        join = joins[final_sum(joins, node)]
        if join.logits or joins[node].merged_into is not None:
            return join.residual and not join.inner
        if join.residual and not (join.inner or join.spread):
            return True
        moved = [
            _moved(ratios.get(operand, 1.0))
            for operand in join.operands
            if operand in ratios or not replay.is_constant(operand)
        ]
        return any(moved) and not all(moved)

    for node, before, after in replay.scaled(norm, FACTOR, ends):
        label = repr(graph.nodes[node].label)
        if after is None:
            held.append(label)
            continue
        if before.std() < CONSTANT or not np.isfinite(after).all():
            return _Measured(
                None, f"{label} is constant, or not finite: nothing can be told behind it."
            )
        ratios[node] = float(after.std() / before.std())
        sources = [source for source in graph.nodes[node].inputs if source in ratios]
        if sources and all(
            source in behind or (source != norm and graph.nodes[source].kind is Kind.NORM)
            for source in sources
        ):
            behind.add(node)
            # Absorbed approximately (a gate, a concatenation): what is left is no scale.
            if not _moved(ratios[node], _MOVED_BEHIND):
                ratios[node] = 1.0
        if graph.nodes[node].kind is Kind.NORM and not _moved(ratios[node]):
            absorbed.append(node)
    findings = _findings(replay, graph, joins, norm, ratios, _moved)
    open_ = {n: r for n, r in ratios.items() if n not in behind and not _absorbs(graph, norm, n)}
    faint = _findings(replay, graph, joins, norm, open_, lambda ratio: ratio != 1.0)
    for role in _ORDER:
        if role in findings:
            return _Measured(role, findings[role], faint)
    # Nothing moves. Is it absorbed, or does it act through the weights of a softmax alone?
    if held and _reaches_through_softmax(replay, graph, joins, norm, set(ratios)):
        return _Measured(
            Role.OTHER, f"Only the weights of the softmax {held[0]} change what flows on."
        )
    if absorbed:
        name = repr(graph.nodes[absorbed[0]].label)
        text = f"Nothing moves; behind {name} values change, but not their spread."
        return _Measured(Role.INTERIOR, text, faint)
    whole = [join for join in joins.values() if join.residual and join.merged_into is None]
    operands = {operand for join in whole for operand in join.operands}
    touched = (operands | graph.outputs) & set(ratios)
    if touched:
        node = max(touched)
        label = repr(graph.nodes[node].label)
        return _Measured(
            None, f"{label} changes, but its spread only ×{ratios[node]:.3g}: a gate, perhaps."
        )
    if len(ratios) == 1 and not graph.consumers[norm]:
        return _Measured(Role.OTHER, "Nothing is computed from it.")
    return _Measured(Role.INTERIOR, "No operand of a sum changes, and no output.")


def _absorbs(graph, norm, node):
    """Whether `node` is another normalization: its scale is its own, whatever changes."""
    return node != norm and graph.nodes[node].kind is Kind.NORM


def _findings(replay, graph, joins, norm, ratios, is_moved):
    """Role -> evidence, from every place where something moves, that is, `is_moved(its ratio)`."""
    found: dict[Role, str] = {}
    for index, join in joins.items():
        moved = [operand for operand in join.operands if is_moved(ratios.get(operand, 1.0))]
        if not moved or join.merged_into is not None or join.logits:
            continue
        still = [o for o in join.operands if o not in moved and not replay.is_constant(o)]
        if not still and (join.inner or join.spread or not join.residual):
            continue
        at = f"at {graph.nodes[index].label!r}"
        if not join.residual:
            some = f"{len(moved)} of {len(join.operands)} operands move"
            found.setdefault(Role.OTHER, f"{some} {at}, which has no skip.")
            continue
        inside = graph.is_computed_from(norm, join.fork)
        if not inside:
            ratio = ratios[moved[0]]
            text = f"An operand moves ×{ratio:.3g} {at}; its fork is not in front of γ."
            found.setdefault(Role.TRUNK, text)
        elif join.skip in moved:
            text = f"The skip moves ×{ratios[join.skip]:.3g} {at}."
            found.setdefault(Role.SHORTCUT, text)
        else:
            text = f"The branch moves ×{ratios[moved[0]]:.3g} {at}, the skip does not."
            found.setdefault(Role.RESIDUAL_LAST, text)
    for output in graph.outputs:
        if is_moved(ratios.get(output, 1.0)):
            text = f"The output of {graph.nodes[output].label!r} moves ×{ratios[output]:.3g}."
            found.setdefault(Role.TRUNK, text)
    return found


def _reaches_through_softmax(replay, graph, joins, norm, without):
    """Whether, with softmax weights free, a sum or an output changes in front of any other norm.

    `without` are the nodes that change with the weights held.
    """

    def ends(node):
        return graph.nodes[node].kind is Kind.NORM

    operands = {operand for join in joins.values() for operand in join.operands}
    changed = {node for node, *_ in replay.scaled(norm, FACTOR, ends, hold=False)}
    return bool((changed - without) & (operands | graph.outputs))


def _moved(ratio, limit=_MOVED):
    return not 1 / limit < ratio < limit


def _arrays(model, tensors, inputs, random):
    """An array for each input of the trace."""
    given = [] if inputs is None else tree.flatten(inputs)
    given = [g for g in given if hasattr(g, "__array__") and not isinstance(g, keras.KerasTensor)]
    if given:
        return given
    tokens = [
        layer.input_dim
        for layer in _keras.flatten_layers(model)
        if isinstance(layer, keras.layers.Embedding)
    ]
    limit = max(1, min(tokens, default=2))
    arrays = []
    for tensor in tensors:
        if tensor.dtype == "bool" or "mask" in tensor.name:
            arrays.append(np.ones(tensor.shape, tensor.dtype))
        elif "int" in tensor.dtype:
            arrays.append(random.integers(0, limit, tensor.shape))
        else:
            arrays.append(random.standard_normal(tensor.shape))
    return arrays
