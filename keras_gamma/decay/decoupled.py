"""Decoupled weight decay: the guidelines' decision as an optimizer's exclude list."""

import collections
import dataclasses
import json
import re
import warnings

from keras_gamma._keras import names as _keras
from keras_gamma._version import __version__
from keras_gamma.decay import paths, records, regularizers
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.shrinkage import decays_at_all, unwrap
from keras_gamma.decay.units import check_strength
from keras_gamma.network.inputs import trace
from keras_gamma.report import tables
from keras_gamma.roles.classification import Role
from keras_gamma.roles.finding import find_roles


@dataclasses.dataclass(frozen=True)
class DecayEntry:
    """Whether, and how strongly, weight decay acts on one trainable variable.

    Args:
        path: string, the variable's path.
        kind: string: `"γ"`, `"β"`, `"bias"`, `"1-d"` or `"weight"`.
        role: a `Role` for γ, else `None`.
        factor: float ≥ 0 that multiplies the optimizer's `weight_decay`; 0.0 excludes.
        reason: string, one plain sentence.
    """

    path: str
    kind: str
    role: Role | None
    factor: float
    reason: str

    @property
    def decayed(self):
        """Whether weight decay acts on it at all."""
        return self.factor > 0


_FORMAT = "keras_gamma.decay_plan"


class DecayPlan(collections.abc.Sequence):
    """What weight decay does to every trainable variable of a model. Printed, it is a table.

    Args:
        entries: iterable of `DecayEntry`, one for each trainable variable.
        guidelines: the `Guidelines` behind the decisions on γ.
        weight_decay: float, `None` if the optimizer has none, or `"?"` if no optimizer is known.
    """

    def __init__(self, entries, guidelines, weight_decay="?"):
        self._entries = tuple(entries)
        self.guidelines = guidelines
        self.weight_decay = weight_decay

    def __getitem__(self, index):
        return self._entries[index]

    def __len__(self):
        return len(self._entries)

    def __eq__(self, other):
        if not isinstance(other, DecayPlan):
            return NotImplemented
        return (self._entries, self.guidelines, self.weight_decay) == (
            other._entries,
            other.guidelines,
            other.weight_decay,
        )

    __hash__ = None  # type: ignore[assignment]

    def factors(self):
        """Path -> factor, for the optimizers of `keras_gamma.optimizers`."""
        return {entry.path: entry.factor for entry in self}

    def changed(self, optimizer, model):
        """The paths of the trainable variables that the optimizer treats otherwise by now.

        Args:
            optimizer: the optimizer that the plan was put onto.
            model: the `keras.Model` it was made for.
        """
        if hasattr(optimizer, "set_decay"):
            return [] if optimizer.decay == self.factors() else [entry.path for entry in self]
        decayed = {entry.path: entry.decayed for entry in self}
        return [
            variable.path
            for variable in model.trainable_variables
            if _keras.is_decayed(optimizer, variable) != decayed.get(variable.path)
        ]

    def apply(self, optimizer, model):
        """Puts this plan onto an optimizer: for a model that was rebuilt or reloaded.

        Args:
            optimizer: as for `exclude_from_weight_decay`.
            model: a `keras.Model` with the variables that the plan names.

        Returns:
            The `DecayPlan` that was read back from the optimizer.

        Raises:
            ValueError: if the plan does not name every trainable variable of `model`, and for
                what `exclude_from_weight_decay` refuses. Nothing is changed then.
        """
        present = [variable.path for variable in model.trainable_variables]
        found, missing = paths.match(present, [entry.path for entry in self])
        absent = sorted({entry.path for entry in self} - set(found.values()))
        if missing or absent:
            parts = [f"missing in the model: {', '.join(absent)}"] if absent else []
            parts += [f"new in the model: {', '.join(missing)}"] if missing else []
            raise ValueError(
                f"The plan does not fit model {model.name!r}; {'; '.join(parts)}. Nothing was "
                "changed. Call exclude_from_weight_decay on this model instead."
            )
        entries = {entry.path: entry for entry in self}
        renamed = [dataclasses.replace(entries[found[path]], path=path) for path in present]
        return _put(DecayPlan(renamed, self.guidelines), optimizer, model)

    @classmethod
    def from_json(cls, text):
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if `text` is not such a plan.
        """
        try:
            content = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Not a decay plan: this is not JSON ({error}).") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f'Not a decay plan: expected a JSON object with "format": "{_FORMAT}".'
            )
        try:
            entries = [_read_entry(number, e) for number, e in enumerate(content["entries"])]
            strength = content["weight_decay"]
            if strength not in (None, "?"):
                strength = check_strength("weight_decay", strength)
            return cls(entries, Guidelines(**content["guidelines"]), strength)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Malformed decay plan: {type(error).__name__}: {error}") from None

    def to_json(self):
        """The plan as a JSON text that `from_json` reads back to an equal plan."""
        content = {
            "format": _FORMAT,
            "keras_gamma": __version__,
            "guidelines": dataclasses.asdict(self.guidelines),
            "weight_decay": self.weight_decay,
            "entries": [dataclasses.asdict(entry) for entry in self],
        }
        return json.dumps(content, indent=1, ensure_ascii=False)

    def __str__(self):
        rows = [
            (
                e.path,
                e.kind,
                e.role or "–",
                ("decayed" if e.factor == 1 else f"decayed ×{e.factor:g}")
                if e.decayed
                else "not decayed",
                e.reason,
            )
            for e in self
        ]
        header = ("variable", "kind", "role", "decision", "reason")
        return tables.table(header, rows, self._caption())

    def _caption(self):
        decayed = sum(e.decayed for e in self)
        counts = f"{len(self)} trainable variables: {decayed} decayed, {len(self) - decayed} not."
        if self.weight_decay is None:
            return f"{counts} The optimizer's weight_decay is None: NOTHING decays."
        strength = "" if self.weight_decay == "?" else f" weight_decay = {self.weight_decay:g}"
        unit = " (w ← w − learning_rate · weight_decay · w, before each step)." if strength else ""
        return f"{counts}{strength}{unit} Guidelines: {self.guidelines}"

    def __repr__(self):
        return f"<DecayPlan of {len(self)} variables: {sum(e.decayed for e in self)} decayed>"


def plan_weight_decay(model, *, guidelines=None, biases=True, betas=True, names=(), inputs=None):
    """Decides for every trainable variable whether weight decay acts on it. Sets nothing.

    γ follow the guidelines, with their factors. Of the rest, weights are decayed; biases,
    β and other variables of one dimension are not, as in common recipes.

    Args:
        model: a `keras.Model`.
        guidelines: a `Guidelines`, a string for it, or `None` for `Guidelines.paper()`.
        biases: bool. Whether to exclude biases and other variables of at most one dimension
            (LayerScale, say). A bias is a variable called `bias`, whatever its shape.
        betas: bool. Whether to exclude the β of normalizations.
        names: string or iterable of strings: regular expressions. A variable is excluded,
            too, if one is found in (`re.search`) its *path*.
        inputs: see `find_roles`; needed for subclassed models.

    Returns:
        A `DecayPlan`.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: for an invalid expression, or one that is found in no path.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(4, name="fc")(keras.layers.LayerNormalization(name="ln")(x))
    >>> plan = keras_gamma.plan_weight_decay(keras.Model(x, y))
    >>> [(e.path, e.decayed) for e in plan]
    [('ln/gamma', False), ('ln/beta', False), ('fc/kernel', True), ('fc/bias', False)]
    """
    guidelines = Guidelines.get(guidelines)
    network = trace(model, inputs)
    model, roles = network.model, find_roles(network)
    gammas = {id(gamma.variable): gamma for gamma in roles}
    norms = {id(gamma.layer) for gamma in roles} | {id(n.layer) for n in roles.notes}
    owners = {id(slot.variable): slot.layer for slot in regularizers.slots(model).values()}
    patterns = _compile(names)
    entries, used = [], set()
    for variable in model.trainable_variables:
        entry = _decide(
            variable,
            gammas.get(id(variable)),
            id(owners.get(id(variable))) in norms,
            guidelines,
            biases,
            betas,
        )
        found = [pattern for pattern in patterns if pattern.search(variable.path)]
        used.update(found)
        if found and entry.decayed:
            entry = dataclasses.replace(
                entry, factor=0.0, reason=f"Its path matches {found[0].pattern!r}."
            )
        entries.append(entry)
    unused = [pattern.pattern for pattern in patterns if pattern not in used]
    if unused:
        listed = ", ".join(map(repr, unused))
        raise ValueError(
            f"`names` are regular expressions on paths, but no path of the {len(entries)} "
            f"trainable variables of model {model.name!r} matches {listed}. Paths look like "
            f"{[e.path for e in entries[:2]]}."
        )
    return DecayPlan(entries, guidelines)


def _compile(names):
    names = (names,) if isinstance(names, str) else tuple(names)
    patterns = []
    for name in names:
        try:
            patterns.append(re.compile(name))
        except (re.error, TypeError) as error:
            raise ValueError(
                f"`names` must be regular expressions on variable paths. Received {name!r}: {error}"
            ) from None
    return patterns


def _decide(variable, gamma, of_norm, guidelines, biases, betas):
    path = variable.path
    if gamma is not None:
        # A shared layer has a role per call: the strictest counts.
        factor = min(guidelines.factor(call.role) for call in gamma.calls)
        reason = gamma.reason
        if factor and gamma.neutral is None:
            factor = 0.0
            reason += " How its scale is stored is not known: register_normalization tells."
        if factor and gamma.neutral == 0.0:
            # Decay would pull the stored scale to 0, which is γ = 1: not what the role asks for.
            factor = 0.0
            reason = (
                "The layer multiplies by γ = 1 + variable, and decay would pull γ to 1, not "
                "to 0; use apply_guidelines for an L2 penalty on γ."
            )
        return DecayEntry(path, "γ", gamma.role, factor, reason)
    name = variable.name
    if of_norm and (name in ("beta", "bias", "offset") or len(variable.shape) <= 1):
        reason = "β of a normalization." if betas else "β of a normalization; betas=False."
        return DecayEntry(path, "β", None, 0.0 if betas else 1.0, reason)
    if name == "bias" or name.endswith("_bias"):
        reason = "A bias." if biases else "A bias; biases=False."
        return DecayEntry(path, "bias", None, 0.0 if biases else 1.0, reason)
    if len(variable.shape) <= 1:
        reason = "It has one dimension at most."
        return DecayEntry(path, "1-d", None, 0.0 if biases else 1.0, reason)
    return DecayEntry(path, "weight", None, 1.0, f"A weight of {len(variable.shape)} dimensions.")


def exclude_from_weight_decay(
    optimizer, model, *, guidelines=None, biases=True, betas=True, names=(), inputs=None
):
    """Withholds an optimizer's weight decay from the γ that the guidelines spare, and from biases.

    The decay is *decoupled*: before each step `w ← w − learning_rate · weight_decay · w`
    (Loshchilov & Hutter, arXiv:1711.05101). Variables are added to the optimizer's exclude
    list; what was excluded before stays so. What is returned was read back from the optimizer.

    Keras does not save an exclude list: after `load_model` every variable decays again. The
    optimizers of `keras_gamma.optimizers` keep it, and take factors other than 0 and 1.

    Args:
        optimizer: a Keras optimizer with `weight_decay`, also one inside a
            `LossScaleOptimizer`. If it is built already it must be the one that `model` is
            compiled with: the traced training step is then dropped, and the next `fit` makes a
            new one.
        model: a `keras.Model`.
        guidelines: see `plan_weight_decay`, as for the other arguments.
        biases: bool.
        betas: bool.
        names: string or iterable of strings.
        inputs: needed for subclassed models.

    Returns:
        A `DecayPlan`, one entry for each trainable variable.

    Raises:
        TypeError: if `optimizer` is not a Keras optimizer or `model` not a Keras model.
        ValueError: if `optimizer` is built but is not the one that `model` is compiled with; if
            a factor is neither 0 nor 1; or if a γ that would decay has an L2 penalty, too.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(4, name="fc")(keras.layers.LayerNormalization(name="ln")(x))
    >>> model = keras.Model(x, y)
    >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
    >>> plan = keras_gamma.exclude_from_weight_decay(optimizer, model)
    >>> [e.path for e in plan if e.decayed]
    ['fc/kernel']
    """
    unwrap(optimizer)  # A wrong optimizer is an error before the model is looked at.
    network = trace(model, inputs)
    plan = plan_weight_decay(
        network, guidelines=guidelines, biases=biases, betas=betas, names=names
    )
    return _put(plan, optimizer, network.model)


def _put(plan, optimizer, model):
    """Puts `plan` onto `optimizer`, after checking that it can be; returns what is in force."""
    inner = unwrap(optimizer)
    variables = {variable.path: variable for variable in model.trainable_variables}
    if len(variables) < len(plan):
        raise ValueError(
            "Some trainable variables of the model have the same path; give layers unique names: "
            f"{_twice(plan)}"
        )
    ours = hasattr(inner, "set_decay")
    odd = [e for e in plan if e.factor not in (0.0, 1.0)]
    if odd and not ours:
        raise ValueError(
            f"{type(inner).__name__}'s exclude list is on or off, but {odd[0].path!r} has the "
            f"factor {odd[0].factor:g}. Use the optimizer of that kind in keras_gamma.optimizers."
        )
    _check_built(inner, model)
    check_not_twice(variables, plan, inner)
    if ours:
        inner.set_decay(plan)
    else:
        _keras.exclude(inner, [variables[e.path] for e in plan if not e.decayed])
    regularizers.drop_traced_functions(model)
    if inner.weight_decay is None and not decays_at_all(inner):
        warnings.warn(
            f"{type(inner).__name__} has weight_decay=None: nothing decays, and there is nothing "
            "to exclude from. Give it a weight_decay.",
            stacklevel=3,
        )
    plan = _read_back(plan, variables, inner)
    records.attach(model).remember_decoupled(plan, inner)
    return plan


def _check_built(inner, model):
    compiled = getattr(model, "optimizer", None)
    if inner.built and (compiled is None or unwrap(compiled) is not inner):
        raise ValueError(
            f"This {type(inner).__name__} is built already, and model {model.name!r} is not "
            "compiled with it: a training step that was traced with it would go on decaying. Call "
            "exclude_from_weight_decay before the optimizer is first used, or pass the model that "
            "is compiled with it."
        )


def check_not_twice(variables, plan, inner):
    """Raises `ValueError` if a γ has an L2 penalty and would be decayed as well."""
    if not decays_at_all(inner):
        return
    twice = [
        e.path
        for e in plan
        if e.role is not None and e.decayed and variables[e.path].regularizer is not None
    ]
    if twice:
        raise ValueError(
            f"These γ have an L2 penalty, and would be decayed as well: {', '.join(twice)}. "
            "Choose one: take the penalty back (plan.remove() of the plan that set it), or exclude "
            "all γ here with guidelines='none'."
        )


def _twice(plan):
    counts = collections.Counter(e.path for e in plan)
    return ", ".join(path for path, n in counts.items() if n > 1)


def _read_back(plan, variables, inner):
    """The plan as the optimizer will really act, earlier exclusions of the user's included."""
    entries = []
    for entry in plan:
        decays = _keras.is_decayed(inner, variables[entry.path])
        if entry.decayed and not decays:
            entry = dataclasses.replace(entry, factor=0.0, reason="It was excluded before.")
        elif decays and not entry.decayed and not hasattr(inner, "set_decay"):
            raise RuntimeError(f"{entry.path} could not be excluded from {type(inner).__name__}.")
        entries.append(entry)
    weight_decay = inner.weight_decay
    return DecayPlan(
        entries,
        plan.guidelines,
        None if weight_decay is None else check_strength("weight_decay", weight_decay),
    )


def _read_entry(number, content):
    where = f"Malformed decay plan: entry {number}"
    expected = {field.name for field in dataclasses.fields(DecayEntry)}
    if not isinstance(content, dict) or set(content) != expected:
        raise ValueError(f"{where} must have the keys {', '.join(sorted(expected))}: {content!r}")
    content = dict(content)
    try:
        content["role"] = None if content["role"] is None else Role(content["role"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Roles are: {', '.join(Role)}.") from None
    if not isinstance(content["path"], str):
        raise ValueError(f"{where} has no path: {content!r}")
    content["factor"] = check_strength(f"factor of {content['path']}", content["factor"])
    return DecayEntry(**content)
