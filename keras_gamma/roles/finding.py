"""`find_roles`: from a model to one entry per γ. Looks, and changes nothing."""

import collections
import dataclasses
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_gamma._keras.layers import flatten_layers, is_layer_of_keras
from keras_gamma.network import normalizations
from keras_gamma.network.calls import GainCall
from keras_gamma.network.inputs import trace
from keras_gamma.network.kernels import computes_kernels
from keras_gamma.network.network import Network
from keras_gamma.report.base import Report
from keras_gamma.report.columns import Column
from keras_gamma.roles.classification import Role, Verdict, classify, judge, weightiest
from keras_gamma.roles.joins import find_joins


@dataclasses.dataclass(frozen=True, eq=False)
class GammaRole:
    """One γ and its residual role.

    Args:
        path: string, the variable's path (unique within the report: a second variable of
            the same path gets `#2`).
        layer: the normalization layer.
        variable: the `keras.Variable`.
        kind: string, `"batch"`, `"layer"`, `"group"`, `"rms"`, ...
        role: a `Role`. For a layer that is called more than once, the weightiest of its
            calls' roles: trunk, other, shortcut, residual_last, interior, in this order.
        reason: string, one plain sentence.
        calls: tuple of `Verdict(role, reason)`, one for each call of the layer.
        neutral: 1.0, or 0.0 where the layer multiplies by `1 + variable`, or `None` where it
            is not known.
    """

    path: str
    layer: keras.Layer
    variable: keras.Variable
    kind: str
    role: Role
    reason: str
    calls: tuple[Verdict, ...]
    neutral: float | None = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Note:
    """A layer that has no γ to decide on, or another learned scale, and why it is mentioned.

    Args:
        path: string, the layer's path, or the variable's.
        layer: the layer.
        kind: string.
        reason: string, one plain sentence, or two.
        role: the `Role` of a learned gain that is no normalization's, by the same definitions.
        variable: the `keras.Variable` that holds such a gain.
        neutral: 1.0, or 0.0 where the layer multiplies by `1 + variable`.
        calls: tuple of `Verdict(role, reason)`, one for each use of such a gain.
    """

    path: str
    layer: keras.Layer
    kind: str
    reason: str
    role: Role | None = None
    variable: keras.Variable | None = None
    neutral: float | None = None
    calls: tuple[Verdict, ...] = ()


class RoleReport(Report[GammaRole]):
    """What `find_roles` found: a sequence of `GammaRole`, in data-flow order.

    Printed, it is a table, in which repeated blocks are folded; `table()` has a row for each γ.

    Attributes:
        notes: tuple of `Note`: normalizations without a scale; and learned gains that are no
            normalization's (LayerScale, ReZero, affines), with a role by the same definitions.
    """

    format = "keras_gamma.roles"
    columns = (
        Column("path", "γ"),
        Column("kind"),
        Column("role", colored=True),
        Column("reason", prose=True),
    )

    def __init__(self, entries: Iterable[GammaRole], notes: Iterable[Note] = ()) -> None:
        super().__init__(entries)
        self.notes = tuple(notes)

    def rows(self) -> Sequence[GammaRole | Note]:
        return (*self, *self.notes)

    def facts(self) -> dict[str, object]:
        return {"counts": {str(role): n for role, n in self.counts().items()}}

    def counts(self) -> dict[Role, int]:
        """How many γ have each role: a dict with every `Role`, zeros included."""
        return self._counts(Role, "role")

    def summary(self) -> str:
        counts = ", ".join(f"{role} {n}" for role, n in self.counts().items())
        return f"{len(self)} γ: {counts}"


@dataclasses.dataclass
class _Found:
    """A γ while it is looked for: whose it is, and the verdicts of its calls so far."""

    layer: keras.Layer
    entry: normalizations.Normalization
    variable: keras.Variable
    verdicts: list[Verdict]


def find_roles(model: keras.Model | Network, inputs: Any = None) -> RoleReport:
    """Finds the residual role of every normalization scale γ in `model`.

    The model is called once on symbolic tensors, in inference mode, and every layer in it is
    opened; layers with running statistics of their own are read as in training. Its weights,
    config, seeds, outputs and recorded calls stay as they are. A subclassed model that is not
    built yet is built, as its first call would do.

    The roles are defined in `docs/roles.md`: our reading of the four categories of Kim et
    al. (arXiv:2205.07260).

    Args:
        model: a `keras.Model`: Functional, Sequential, subclassed, or nested; or its
            `keras_gamma.network.Network`, which is not traced again.
        inputs: what `model` is called with, where it does not know its own inputs (a subclassed
            model). A shape with the batch dimension first, a `keras.KerasTensor`, an array,
            or a list, tuple or dict of these.

    Returns:
        A `RoleReport`: a sequence with one `GammaRole` for each γ, in data-flow order.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if its inputs are unknown, or it cannot be called on them.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8, 8, 4))
    >>> y = keras.layers.Conv2D(4, 3, padding="same")(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Add(name="join")([x, y]))
    >>> [(g.path, str(g.role)) for g in keras_gamma.find_roles(model)]
    [('bn/gamma', 'residual_last')]

    Reference:

    - [Kim et al., 2022](https://arxiv.org/abs/2205.07260)
    """
    network = trace(model, inputs)
    verdicts = network.derive(classify)
    found: dict[int, _Found] = {}
    for call in network.calls:
        variable = call.entry.variable(call.layer)
        if variable is not None:
            gamma = _Found(call.layer, call.entry, variable, [])
            found.setdefault(id(variable), gamma).verdicts.append(verdicts[call.node])
    notes: list[Note] = []
    for layer in flatten_layers(network.model):
        notes += _unseen(layer, network, found)
        notes += _with_computed_kernel(layer, network)
    for key, (role, shown) in network.measured.items():
        if key in found:
            found[key].verdicts = [Verdict(Role(role), shown)]
    gains = _gains(network, found)
    known = {id(note.variable) for note in gains}
    gains += _unrecognized(network, known | found.keys())
    notes = [n for n in notes if n.variable is None or id(n.variable) not in known] + gains
    seen: collections.Counter[str] = collections.Counter()
    return RoleReport([*_entries(found.values(), seen)], _numbered(notes, seen))


def _unseen(layer: keras.Layer, network: Network, found: dict[int, _Found]) -> list[Note]:
    """Total coverage: whatever may hold a γ gets an entry among `found`, or a note."""
    path = layer.path or layer.name
    if normalizations.is_layer_scale(layer):
        reason = "LayerScale's gain is not a normalization's: it is left alone."
        gains = normalizations.variables_by_name(layer).values()
        return [Note(v.path, layer, "layer_scale", reason, variable=v) for v in gains]
    entry = normalizations.registered(layer)
    if entry is None and normalizations.looks_like_normalization(layer):
        if id(layer) in network.rejected:
            return _rejected(layer, path)
        entry = normalizations.unverified(layer)
    if entry is None:
        is_known = layer.built or is_layer_of_keras(layer) or layer is network.model
        return [] if is_known else [Note(path, layer, "not built", _NOT_BUILT)]
    variable = entry.variable(layer)
    if variable is None and not layer.built and entry.scale is not None:
        return [Note(path, layer, entry.kind, _NOT_BUILT)]
    if variable is None:
        reason = "It has no scale (no γ): there is nothing to regularize."
        return [Note(path, layer, entry.kind, reason)]
    if id(variable) not in found:
        cause = network.opaque.get(id(layer))
        reason = (
            f"It is in a part that the walker cannot see into: {cause}"
            if cause
            else "No call of its layer on data that depends on the model's inputs was seen."
        )
        found[id(variable)] = _Found(layer, entry, variable, [Verdict(Role.OTHER, reason)])
    return []


def _with_computed_kernel(layer: keras.Layer, network: Network) -> list[Note]:
    """Weight normalization, spectral normalization: what is decayed is not the kernel itself."""
    path = layer.path or layer.name
    computed = network.computed.get(id(layer))
    if computed is not None:
        return [
            Note(
                path,
                layer,
                "computed kernel",
                f"Its kernel is computed by {computed.around!r}. {_DECAY}",
            )
        ]
    if computes_kernels(layer) and all(path != known.around for known in network.computed.values()):
        return [
            Note(path, layer, "computed kernel", f"It sets the kernel of a layer inside. {_DECAY}")
        ]
    return []


_DECAY = (
    "Decay on what a kernel is computed from does not shorten the kernel as it would elsewhere."
)
_UNRECOGNIZED = (
    "Its layer writes out a normalization, and how this variable enters was not recognized. If it "
    "is the γ, normalize in a layer of its own, and keras_gamma.register_normalization."
)
_NOT_BUILT = (
    "It is not built, and no call of it was seen: what it holds is not known yet. Call the model "
    "once on data, or pass `inputs` that reach it, then look again."
)


def _unrecognized(network: Network, known: Container[int]) -> list[Note]:
    """What may be the γ of a normalization that is written out, where none was recognized."""
    scaled = {call.node for call in network.calls}
    layers = {id(one): one for node, one in network.written_out.items() if node not in scaled}
    notes = []
    for layer in layers.values():
        if is_layer_of_keras(layer):
            continue
        for name, variable in normalizations.variables_by_name(layer).items():
            if id(variable) not in known and normalizations.may_be_scale(name, variable):
                notes.append(
                    Note(variable.path, layer, "unrecognized", _UNRECOGNIZED, variable=variable)
                )
    return notes


def _gains(network: Network, found: Container[int]) -> list[Note]:
    """Learned gains that are no normalization's: with a role, once each, and left alone."""
    calls: dict[int, list[GainCall]] = {}
    for gain in network.gains:
        if id(gain.variable) not in found:
            calls.setdefault(id(gain.variable), []).append(gain)
    if not calls:
        return []
    joins = network.derive(find_joins)
    notes = []
    for several in calls.values():
        gain = several[0]
        verdicts = tuple(judge(network.graph, joins, call.node) for call in several)
        verdict = weightiest(verdicts)
        kind = "layer_scale" if normalizations.is_layer_scale(gain.layer) else gain.kind
        notes.append(
            Note(
                path=gain.variable.path,
                layer=gain.layer,
                kind=kind,
                reason=f"A learned scale, no γ: left to Guidelines(scales=…). {verdict.reason}",
                role=verdict.role,
                variable=gain.variable,
                neutral=gain.neutral,
                calls=verdicts,
            )
        )
    return notes


def _numbered(notes: Iterable[Note], seen: collections.Counter[str]) -> Iterator[Note]:
    """Notes with unique paths: blocks may give their layers the same names."""
    for note in notes:
        seen[note.path] += 1
        path = note.path if seen[note.path] == 1 else f"{note.path}#{seen[note.path]}"
        yield dataclasses.replace(note, path=path)


def _rejected(layer: keras.Layer, path: str) -> list[Note]:
    if not re.search("norm", type(layer).__name__, re.IGNORECASE):
        return []
    reason = (
        f"{type(layer).__name__} does not behave as a normalization when it is run "
        "alone; if it is one, use keras_gamma.register_normalization."
    )
    return [Note(path, layer, normalizations.kind_from_name(type(layer)), reason)]


def _entries(found: Iterable[_Found], seen: collections.Counter[str]) -> Iterator[GammaRole]:
    for gamma in found:
        path, calls = gamma.variable.path, gamma.verdicts
        seen[path] += 1
        decisive = weightiest(calls)
        reason = decisive.reason
        if len({verdict.role for verdict in calls}) > 1:
            others = ", ".join(str(verdict.role) for verdict in calls)
            reason = f"Its layer is called {len(calls)} times, as {others}; decisive: {reason}"
        yield GammaRole(
            path=path if seen[path] == 1 else f"{path}#{seen[path]}",
            layer=gamma.layer,
            variable=gamma.variable,
            kind=gamma.entry.kind,
            role=decisive.role,
            reason=reason,
            calls=tuple(calls),
            neutral=gamma.entry.neutral,
        )
