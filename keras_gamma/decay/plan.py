"""`GammaPlan`: what is done to every γ, decided once, as data."""

import collections
import dataclasses
import json
import math
import pathlib
import warnings

import keras

from keras_gamma._enums import StrEnum
from keras_gamma._version import __version__
from keras_gamma.decay import paths, records, regularizers, shrinkage
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.units import check_strength
from keras_gamma.report import tables
from keras_gamma.roles.classification import Role

_FORMAT = "keras_gamma.plan"
_FORMAT_VERSION = 1


class Decision(StrEnum):
    """`apply`: L2 acts on it; `withhold`: it does not; `none`: there is no γ to decide on."""

    APPLY = "apply"
    WITHHOLD = "withhold"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class PlanEntry:
    """What is done to one γ.

    Args:
        path: string, the variable's path (the layer's, where there is no γ).
        kind: string, `"batch"`, `"layer"`, ...
        role: a `Role`, or `None` where there is no γ.
        decision: a `Decision`.
        strength: float, the `l2` of the penalty `l2 · Σγ²`; 0.0 if nothing is applied.
        reason: string, one plain sentence, or two.
        neutral: 1.0, or 0.0 where the layer stores γ − 1, or `None` where it is not known.
    """

    path: str
    kind: str
    role: Role | None
    decision: Decision
    strength: float
    reason: str
    neutral: float | None = 1.0


def decide(roles, guidelines, l2):
    """The plan for a `RoleReport`. Pure: nothing is set.

    Args:
        roles: a `RoleReport` (or anything alike: entries, and `notes`).
        guidelines: a `Guidelines`.
        l2: float, Keras' convention, before the factors.

    Returns:
        A tuple of `PlanEntry`.
    """
    entries = []
    for gamma in roles:
        # A shared layer has a role per call, and is regularized as the strictest allows.
        factor = min(guidelines.factor(call.role) for call in gamma.calls)
        strength, reason = factor * l2, gamma.reason
        if not gamma.variable.trainable:
            strength, reason = 0.0, f"Frozen (trainable=False): no penalty. {reason}"
        elif strength and gamma.neutral is None:
            strength = 0.0
            reason += " How its scale is stored is not known: register_normalization tells."
        elif strength and gamma.neutral == 0.0:
            reason += " The layer multiplies by γ = 1 + variable; the penalty is on 1 + variable."
        decision = Decision.APPLY if strength > 0 else Decision.WITHHOLD
        entries.append(
            PlanEntry(gamma.path, gamma.kind, gamma.role, decision, strength, reason, gamma.neutral)
        )
    for note in roles.notes:
        entries.append(PlanEntry(note.path, note.kind, None, Decision.NONE, 0.0, note.reason))
    return tuple(entries)


class GammaPlan(collections.abc.Sequence):
    """What keras_gamma does to every γ of a model: a sequence of `PlanEntry`.

    Printed, it is a table. It can be stored, and put onto a rebuilt or reloaded model.

    Args:
        entries: iterable of `PlanEntry`.
        guidelines: the `Guidelines` it came from.
        l2: float, the strength before the factors, in Keras' convention.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.LayerNormalization(name="ln")(x))
    >>> plan = keras_gamma.apply_guidelines(model, weight_decay=1e-4, guidelines="all")
    >>> [(entry.path, entry.strength) for entry in plan]
    [('ln/gamma', 5e-05)]
    >>> model.get_layer("ln").gamma_regularizer.l2
    5e-05
    >>> plan.remove()
    >>> model.get_layer("ln").gamma_regularizer is None
    True
    """

    def __init__(self, entries, guidelines, l2):
        self._entries = tuple(entries)
        self.guidelines = guidelines
        self.l2 = l2
        self._model, self._undos = None, ()  # Of the last `apply`.
        twice = [p for p, n in collections.Counter(e.path for e in self).items() if n > 1]
        if twice:
            raise ValueError(f"A plan has one entry for each path. Twice: {', '.join(twice)}")

    def __getitem__(self, index):
        return self._entries[index]

    def __len__(self):
        return len(self._entries)

    def __eq__(self, other):
        if not isinstance(other, GammaPlan):
            return NotImplemented
        return (self._entries, self.guidelines, self.l2) == (
            other._entries,
            other.guidelines,
            other.l2,
        )

    __hash__ = None  # type: ignore[assignment]

    # Reading --------------------------------------------------------------------------------

    def counts(self):
        """How many entries have each decision: a dict with every `Decision`."""
        return {decision: sum(e.decision is decision for e in self) for decision in Decision}

    def __str__(self):
        rows = [
            (
                e.path,
                e.kind,
                e.role or "–",
                e.decision,
                f"{e.strength:.4g}" if e.strength else "–",
                e.reason,
            )
            for e in self
        ]
        header = ("γ", "kind", "role", "decision", "l2", "reason")
        return tables.table(header, rows, self._caption())

    def _caption(self):
        if not len(self):
            return "No normalization layer in this model: there is no γ, and nothing was done."
        counts = self.counts()
        total = counts[Decision.APPLY] + counts[Decision.WITHHOLD]
        roles = ", ".join(f"{r} {n}" for r in Role if (n := sum(e.role is r for e in self)))
        return (
            f"{total} γ: apply {counts[Decision.APPLY]}, withhold {counts[Decision.WITHHOLD]} "
            f"({roles or 'none'}). l2 = {self.l2:.4g} (penalty l2·Σγ²; "
            f"weight_decay = {2 * self.l2:.4g} in torch's units). Guidelines: {self.guidelines}"
        )

    def diff(self, stored):
        """What differs from a stored plan: for a golden file under version control.

        Compared are path, role, decision and strength (of the reasons, which are prose, nothing).

        Args:
            stored: a `GammaPlan`.

        Returns:
            A list of sentences, one for each γ that differs; empty if none does.

        Example:

        >>> import keras, keras_gamma
        >>> x = keras.Input((4,))
        >>> model = keras.Model(x, keras.layers.LayerNormalization(name="ln")(x))
        >>> stored = keras_gamma.apply_guidelines(model, l2=0.5)
        >>> keras_gamma.apply_guidelines(model, l2=0.5, guidelines="all").diff(stored)
        ['ln/gamma: decision withhold -> apply, l2 0 -> 0.5']
        """
        here, there = {e.path: e for e in self}, {e.path: e for e in stored}
        lines = []
        for path in list(dict.fromkeys([*there, *here])):
            if path not in here or path not in there:
                only, entry = (
                    ("here", here[path]) if path in here else ("in the stored plan", there[path])
                )
                lines.append(
                    f"{path}: only {only} ({entry.role or 'no γ'}, {entry.decision}, "
                    f"l2 {entry.strength:.4g})"
                )
                continue
            new, old = here[path], there[path]
            changes = [
                f"{name} {before} -> {after}"
                for name, before, after in (
                    ("role", old.role or "none", new.role or "none"),
                    ("decision", old.decision, new.decision),
                )
                if before != after
            ]
            if not math.isclose(old.strength, new.strength, rel_tol=1e-9):
                changes.append(f"l2 {old.strength:.4g} -> {new.strength:.4g}")
            if changes:
                lines.append(f"{path}: {', '.join(changes)}")
        return lines

    def __repr__(self):
        counts = self.counts()
        return (
            f"<GammaPlan of {len(self)} entries: apply {counts[Decision.APPLY]}, "
            f"withhold {counts[Decision.WITHHOLD]}, l2={self.l2:g}>"
        )

    # Storing --------------------------------------------------------------------------------

    def to_json(self):
        """The plan as a JSON text that `from_json` reads back to an equal plan."""
        content = {
            "format": _FORMAT,
            "version": _FORMAT_VERSION,
            "keras_gamma": __version__,
            "guidelines": dataclasses.asdict(self.guidelines),
            "l2": self.l2,
            "entries": [dataclasses.asdict(entry) for entry in self],
        }
        return json.dumps(content, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text):
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if `text` is not such a plan; the message says where.
        """
        try:
            content = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Not a keras_gamma plan: this is not JSON ({error}).") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f'Not a keras_gamma plan: expected a JSON object with "format": "{_FORMAT}".'
            )
        if content.get("version") != _FORMAT_VERSION:
            raise ValueError(
                f"This plan has format version {content.get('version')!r}; keras_gamma "
                f"{__version__} reads version {_FORMAT_VERSION}. Make the plan again with "
                "apply_guidelines, or install the keras_gamma that wrote it."
            )
        try:
            guidelines = Guidelines(**content["guidelines"])
            l2 = check_strength("l2", content["l2"])
            entries = [_read_entry(number, e) for number, e in enumerate(content["entries"])]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Malformed keras_gamma plan: {type(error).__name__}: {error}"
            ) from None
        return cls(entries, guidelines, l2)

    def save(self, path):
        """Writes `to_json()` to the file `path`."""
        pathlib.Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Reads a plan that `save` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is not a plan.
        """
        try:
            return cls.from_json(pathlib.Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"Not a keras_gamma plan: {str(path)!r} is not a text file.") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    # Applying -------------------------------------------------------------------------------

    def apply(self, model, overwrite=False):
        """Puts this plan onto `model`, by the paths of its variables.

        For a model that was rebuilt or reloaded. Regularizers that are there already and equal
        to the plan's are taken for the plan's own. If anything does not fit, nothing is changed.

        Args:
            model: a built `keras.Model`.
            overwrite: bool. Whether to replace regularizers that somebody else set.

        Returns:
            The plan itself.

        Raises:
            TypeError: if `model` is not a Keras model.
            ValueError: if `model` lacks a γ of the plan or has one that the plan does not know
                (both are listed), or if a γ has another regularizer.
        """
        slots = self._match(model)
        for entry, slot in slots:
            wanted = _regularizer(entry)
            if wanted is not None and regularizers.same(regularizers.foreign(slot), wanted):
                regularizers.mark(slot.variable.regularizer or wanted)
        self.put(model, {entry.path: slot for entry, slot in slots}, overwrite)
        return self

    def remove(self):
        """Takes back exactly what this plan set; earlier regularizers are put back.

        What was changed since, by another plan or by hand, is left as it is.

        Raises:
            ValueError: if the plan was not applied to a model in this process.
        """
        if self._model is None:
            raise ValueError(
                "This plan has not been applied to a model here, so there is nothing to take back. "
                "For a reloaded model call plan.apply(model) first, then plan.remove()."
            )
        regularizers.take_back(self._model, self._undos)
        kept = records.of(self._model)
        if kept is not None and kept.coupled is self:
            kept.remember_coupled(None)
        self._model, self._undos = None, ()

    def put(self, model, slots, overwrite=False):
        """Sets every regularizer, after checking that none of somebody else's is in the way.

        Args:
            model: the `keras.Model` that the slots belong to.
            slots: dict from the path of each γ of the plan to its `regularizers.Slot`.
            overwrite: see `apply`.
        """
        pairs = [(e, slots[e.path]) for e in self if e.decision is not Decision.NONE]
        conflicts = []
        for entry, slot in pairs:
            foreign = regularizers.foreign(slot)
            if foreign is not None and not regularizers.same(foreign, _regularizer(entry)):
                config = ", ".join(f"{k}={v}" for k, v in foreign.get_config().items())
                conflicts.append(f"{slot.layer.name!r} ({type(foreign).__name__}({config}))")
        if conflicts and not overwrite:
            raise ValueError(
                "These layers have a regularizer on γ that keras_gamma did not set (or that was "
                f"set before the model was saved): {', '.join(conflicts)}. Nothing changed. Pass "
                "overwrite=True to replace them, or set their gamma_regularizer to None."
            )
        _check_not_twice(model, pairs)
        changes = [regularizers.Change(slot, _regularizer(entry)) for entry, slot in pairs]
        self._undos = regularizers.apply_changes(model, changes)
        self._model = model
        records.attach(model).remember_coupled(self)

    def changed(self, model):
        """The paths of the γ on `model` whose penalty is not the plan's any more.

        Raises:
            ValueError: if the plan does not fit `model`, which was changed itself.
        """
        return [
            entry.path
            for entry, slot in self._match(model)
            if not regularizers.is_in_place(slot, _regularizer(entry))
        ]

    def unsaved(self, model):
        """How many of the penalties on `model` Keras' own `model.save` would leave out."""
        slots = [slot for entry, slot in self._match(model) if entry.decision is Decision.APPLY]
        return len(regularizers.unsaved(model, slots))

    def _match(self, model):
        """Pairs of entry and slot for every γ of the plan."""
        if not isinstance(model, keras.Model):
            raise TypeError(f"Expected a Keras model. Received: {model!r} (of type {type(model)})")
        slots = regularizers.slots(model)
        wanted = [e for e in self if e.decision is not Decision.NONE]
        known = {e.path for e in self}
        gammas = set(regularizers.gamma_paths(model))
        exact = {e.path for e in wanted if e.path in slots}
        # γ that the plan does not name under this path: new, unless the path has changed.
        unnamed = [path for path in gammas if path not in known]
        renamed, missing = paths.match((e.path for e in wanted if e.path not in exact), unnamed)
        names = {path: path for path in exact} | renamed
        new = sorted(set(unnamed) - set(renamed.values()))
        if missing or new:
            parts = [f"missing in the model: {', '.join(missing)}"] if missing else []
            parts += [f"new in the model: {', '.join(new)}"] if new else []
            raise ValueError(
                f"The plan does not fit model {model.name!r}; {'; '.join(parts)}. Nothing was "
                "changed. A plan fits models with the same variable paths: give layers fixed "
                "names, or call apply_guidelines on this model."
            )
        return [(entry, slots[names[entry.path]]) for entry in wanted]


def _check_not_twice(model, pairs):
    """Raises `ValueError` if the optimizer that `model` is compiled with decays such a γ, too."""
    optimizer = getattr(model, "optimizer", None)
    variables = [slot.variable for entry, slot in pairs if entry.decision is Decision.APPLY]
    if optimizer is None or not variables:
        return
    if hasattr(optimizer, "optimizers"):  # `MultiOptimizer`: each has variables of its own.
        warnings.warn(
            f"{type(optimizer).__name__} was not asked which γ its optimizers decay: see to it "
            "that none has a penalty as well.",
            stacklevel=4,
        )
        return
    inner = shrinkage.unwrap(optimizer)
    twice = [v.path for v in variables if shrinkage.acts_on(inner, v)]
    if twice:
        raise ValueError(
            f"These γ would get an L2 penalty, and the {type(inner).__name__} that the model is "
            f"compiled with decays them as well (weight_decay={inner.weight_decay}): "
            f"{', '.join(twice)}. Nothing changed. Choose one: exclude all γ from its decay first, "
            "with exclude_from_weight_decay(model.optimizer, model, guidelines='none'), or use "
            "exclude_from_weight_decay alone, without a penalty."
        )


def _regularizer(entry):
    if entry.decision is not Decision.APPLY:
        return None
    return regularizers.make(entry.strength, entry.neutral)


def _read_entry(number, content):
    where = f"Malformed keras_gamma plan: entry {number}"
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not an object: {content!r}")
    expected = {field.name for field in dataclasses.fields(PlanEntry)}
    if set(content) != expected:
        odd = ", ".join(sorted(set(content) ^ expected))
        raise ValueError(f"{where} must have the keys {', '.join(sorted(expected))}; check: {odd}")
    content = dict(content)
    try:
        content["role"] = None if content["role"] is None else Role(content["role"])
        content["decision"] = Decision(content["decision"])
    except ValueError as error:
        raise ValueError(
            f"{where} ({content['path']!r}): {error}. Roles are: {', '.join(Role)}; decisions: "
            f"{', '.join(Decision)}."
        ) from None
    if content["role"] is None and content["decision"] is not Decision.NONE:
        raise ValueError(f"{where} ({content['path']!r}) is decided on without a role.")
    content["strength"] = check_strength(f"strength of {content['path']}", content["strength"])
    if content["neutral"] not in (0, 1, None) or not isinstance(content["path"], str):
        raise ValueError(f"{where} has an invalid path or neutral value: {content!r}")
    applies = content["decision"] is Decision.APPLY
    if applies and content["neutral"] is None:
        raise ValueError(f"{where} ({content['path']!r}) applies a penalty to an unknown scale.")
    if applies != (content["strength"] > 0):
        raise ValueError(
            f"{where} ({content['path']!r}) has decision {content['decision']} but strength "
            f"{content['strength']}."
        )
    return PlanEntry(**content)
