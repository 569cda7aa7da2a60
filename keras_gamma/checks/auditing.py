"""`audit`: what really shrinks, measured, beside what was planned."""

import collections
import dataclasses
import json
import math

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.checks import effects
from keras_gamma.decay import application, places
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.inner_optimizers import has_factors, unwrap
from keras_gamma.decay.plan import Decision, GammaPlan
from keras_gamma.decay.shrinkage import decays, is_measurable
from keras_gamma.report import tables
from keras_gamma.roles.classification import Role
from keras_gamma.roles.finding import find_roles

_TOLERANCE = 1e-3  # Relative; the measurement is one step in float32.


@dataclasses.dataclass(frozen=True)
class AuditEntry:
    """What shrinks one trainable variable, and what was planned for it.

    Args:
        path: string, the variable's path.
        role: a `Role` where it is a γ of a plan, else `None`.
        coupled: float, the gradient of the penalties on w where γ = 1: for L2 that is
            `weight_decay` in torch's units, 2·l2 in Keras'.
        decoupled: float, the share of w that the optimizer takes off at each step, divided by the
            learning rate: Keras' `weight_decay` times the variable's factor. `None` if the model is
            not compiled.
        planned: string, what was planned; empty if no plan speaks of this variable.
        problems: tuple of strings, each one disagreement; empty if all is as planned.
    """

    path: str
    role: Role | None
    coupled: float
    decoupled: float | None
    planned: str
    problems: tuple[str, ...]


class Audit(collections.abc.Sequence):
    """What really shrinks in a model: a sequence of `AuditEntry`. Printed, it is a table.

    Args:
        entries: iterable of `AuditEntry`, one for each trainable variable.
        problems: iterable of strings: disagreements that belong to no single variable.
        notes: iterable of strings: what could not be checked.
    """

    def __init__(self, entries, problems=(), notes=()):
        self._entries = tuple(entries)
        self._problems = tuple(problems)
        self.notes = tuple(notes)

    def __getitem__(self, index):
        return self._entries[index]

    def __len__(self):
        return len(self._entries)

    @property
    def disagreements(self):
        """Every disagreement between the plan and the measurement: a list of sentences."""
        named = [f"{entry.path}: {problem}" for entry in self for problem in entry.problems]
        return named + list(self._problems)

    @property
    def ok(self):
        """Whether there is no disagreement."""
        return not self.disagreements

    def summary(self):
        """The counts, every disagreement, and what could not be checked, without the table."""
        coupled = sum(entry.coupled != 0 for entry in self)
        decoupled = sum(bool(entry.decoupled) for entry in self)
        neither = sum(not entry.coupled and not entry.decoupled for entry in self)
        found = self.disagreements
        lines = [
            f"{len(self)} trainable variables: {coupled} shrink by a penalty in the loss, "
            f"{decoupled} by the optimizer's weight decay, {neither} by neither. "
            + (f"{len(found)} disagreements:" if found else "No disagreement.")
        ]
        lines += [f"- {sentence}" for sentence in found]
        lines += [f"Not checked: {note}" for note in self.notes]
        return "\n".join(lines)

    def __str__(self):
        rows = [
            (
                e.path,
                e.role or "–",
                f"{e.coupled:.4g}" if e.coupled else "–",
                "?" if e.decoupled is None else f"{e.decoupled:.4g}" if e.decoupled else "–",
                e.planned or "–",
                "DISAGREES" if e.problems else "agrees" if e.planned else "–",
            )
            for e in self
        ]
        header = ("variable", "role", "coupled", "decoupled", "planned", "verdict")
        return tables.table(header, rows, self.summary())

    def __repr__(self):
        return f"<Audit of {len(self)} variables: {len(self.disagreements)} disagreements>"

    def to_json(self):
        """The audit as a JSON text, for records."""
        content = {
            "format": "keras_gamma.audit",
            "ok": self.ok,
            "disagreements": self.disagreements,
            "notes": self.notes,
            "entries": [dataclasses.asdict(entry) for entry in self],
        }
        return json.dumps(content, indent=1, ensure_ascii=False)


def audit(model, plan=None, *, guidelines=None, inputs=None):
    """Measures what really shrinks each trainable variable, and compares it with the plan.

    Settings lie: an exclude list set on the outer of two optimizers, or lost by saving, or a
    penalty added after the training step was traced, looks right and does nothing. So a copy of the
    model's optimizer takes one step with gradients of zero on small stand-ins for the variables,
    and another step is taken with the gradients of the penalties alone. The training step
    that `fit` has traced before, if any, is compared with one traced now (TensorFlow; on
    JAX it cannot be looked at, and the audit says so). The model is left as it was.

    Args:
        model: a built `keras.Model`, best compiled.
        plan: what to compare with: a `GammaPlan`, a `DecayPlan`, or a list of both. By default,
            the plans that were applied to the model (`apply_guidelines`,
            `exclude_from_weight_decay`, the `decay` of an optimizer of `keras_gamma.optimizers`),
            and if there are none, the guidelines: γ that they apply to should shrink, by
            either means, and γ that they withhold should not.
        guidelines: a `Guidelines`, or a string for it, to compare with instead of any plan.
        inputs: see `find_roles`; needed for subclassed models if there is no plan.

    Returns:
        An `Audit`. `audit.ok` is whether all is as planned; `audit.disagreements` names the rest.

    Raises:
        TypeError: if `model` is not a Keras model, or `plan` is not a plan.
        ValueError: for both a plan and guidelines, if the optimizer holds several others
            (`MultiOptimizer`), or within the scope of a `tf.distribute.Strategy`.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.LayerNormalization(name="ln")(x)
    >>> model = keras.Model(x, keras.layers.Dense(1, name="out")(y))
    >>> optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    >>> plan = keras_gamma.exclude_from_weight_decay(optimizer, model)
    >>> model.compile(optimizer, "mse")
    >>> keras_gamma.audit(model).ok
    True
    >>> model.compile(keras.optimizers.AdamW(weight_decay=0.1), "mse")  # A new one: no exclusions.
    >>> keras_gamma.audit(model).disagreements[0]
    'ln/gamma: weight decay takes off 0.1, but the plan says that it is not decayed'
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: {model!r} (of type {type(model)})")
    if plan is not None and guidelines is not None:
        raise ValueError("Give `plan` or `guidelines` to compare with, not both.")
    if _keras.inside_a_strategy():
        raise ValueError(
            "Call audit outside of strategy.scope(): it takes steps of its own, on one device."
        )
    optimizer = getattr(model, "optimizer", None)
    inner = None if optimizer is None else unwrap(optimizer)
    variables = model.trainable_variables
    coupled = effects.pulls(variables)
    decoupled, strengths = [None] * len(variables), {}
    if inner is not None and is_measurable(inner):
        decoupled = decays(inner, variables)
        bare = decays(inner, variables, bare=True)
        strengths = {id(v): strength for v, strength in zip(variables, bare, strict=True)}
    wanted, problems = _intentions(model, inner, strengths, plan, guidelines, inputs)
    stale, steps_problems, notes = effects.check_step(model)
    entries = []
    for variable, pull, decay in zip(variables, coupled, decoupled, strict=True):
        wish = wanted.get(id(variable), _Wish())
        found = [*wish.disagreements(pull, decay)]
        if id(variable) in stale:
            found.append(
                "the training step that fit has traced treats it otherwise than one traced now "
                "would; call model.compile again"
            )
        entries.append(AuditEntry(variable.path, wish.role, pull, decay, wish.text(), tuple(found)))
    if inner is None:
        notes.append("weight decay by an optimizer, for the model is not compiled.")
    elif not strengths:
        notes.append(
            f"the weight decay of {type(inner).__name__}, which computes each weight anew from its "
            "accumulators, so that no decay of the weight lasts."
        )
    return Audit(entries, problems + steps_problems, notes)


# What is planned -----------------------------------------------------------------------------


@dataclasses.dataclass
class _Wish:
    """What one variable was planned to be shrunk by; `None`: no plan speaks of it."""

    role: Role | None = None
    is_gamma: bool = False
    coupled: float | None = None
    decoupled: float | None = None
    shrinks: bool | None = None  # By whatever means.
    unknown: bool = False

    def text(self):
        if self.unknown:
            return "unknown to the plan"
        if self.shrinks is not None:
            return "shrinks" if self.shrinks else "does not shrink"
        parts = []
        if self.coupled is not None:
            parts.append(f"coupled {self.coupled:.4g}" if self.coupled else "no penalty")
        if self.decoupled is not None:
            parts.append(f"decoupled {self.decoupled:.4g}" if self.decoupled else "not decayed")
        return ", ".join(parts)

    def disagreements(self, pull, decay):
        if self.unknown:
            yield "it is a γ that the plan does not know; apply the guidelines again"
        if self.is_gamma and pull and decay:
            yield (
                f"counted twice: a penalty pulls with {pull:.4g}, and weight decay takes off "
                f"{decay:.4g}"
            )
        if self.shrinks is not None and self.shrinks != bool(pull or decay):
            how = f"coupled {pull:.4g}, decoupled {decay or 0:.4g}"
            yield (
                f"as {self.role} it should shrink by the guidelines, but nothing shrinks it"
                if self.shrinks
                else f"as {self.role} it should not shrink by the guidelines, but does ({how})"
            )
        if self.coupled is not None and not _close(pull, self.coupled):
            says = f"it is {self.coupled:.4g}" if self.coupled else "there is none"
            yield f"the penalty pulls with {pull:.4g}, but the plan says that {says}"
        if self.decoupled is not None and decay is not None and not _close(decay, self.decoupled):
            says = f"it is {self.decoupled:.4g}" if self.decoupled else "it is not decayed"
            yield f"weight decay takes off {decay:.4g}, but the plan says that {says}"


def _close(a, b):
    return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=1e-9)


def _intentions(model, inner, strengths, plan, guidelines, inputs):
    """`_Wish` by the id of each variable that is spoken of, and general disagreements."""
    if guidelines is not None:
        return _by_guidelines(model, guidelines, inputs), []
    plans = _plans_of(model, plan)
    if not any(isinstance(p, DecayPlan) for p, _ in plans) and has_factors(inner):
        plans += _factors(model, inner)
    if not plans:
        return _by_guidelines(model, None, inputs), []
    wanted: dict = collections.defaultdict(_Wish)
    problems: list[str] = []
    for one, variables in plans:
        problems += _missing(one, variables, model)
        for entry in one:
            variable = variables.get(entry.path)
            if variable is not None and variable.trainable:
                _add(wanted[id(variable)], one, entry, strengths.get(id(variable), 0.0))
    for wish in wanted.values():
        # A plan for one means has something to say on the other: γ are not to be counted twice.
        if wish.is_gamma and wish.coupled is None and wish.decoupled:
            wish.coupled = 0.0
        if wish.is_gamma and wish.decoupled is None:
            wish.decoupled = 0.0
    located = places.locate(model)
    gammas = application.gammas(model, located)
    for variable in (at.variable for at in located if id(at.variable) in gammas):
        if variable.trainable and id(variable) not in wanted:
            wanted[id(variable)] = _Wish(is_gamma=True, unknown=True)
    return wanted, problems


class _Factors(tuple):
    """An optimizer's own factors, in the shape of a `DecayPlan`."""


def _factors(model, inner):
    """The factors of an optimizer of `keras_gamma.optimizers`, and the variables they are for."""
    if not inner.decay:
        return []
    entry = collections.namedtuple("entry", "path role factor kind")
    entries, variables = [], {}
    for variable in model.trainable_variables:
        path = f"{variable.path}#{len(entries)}"
        entries.append(entry(path, None, inner.factor(variable), ""))
        variables[path] = variable
    return [(_Factors(entries), variables)]


def _by_guidelines(model, guidelines, inputs):
    """`_Wish` for each trainable γ: whether it is to shrink, by whatever means."""
    guidelines = Guidelines.get(guidelines)
    wanted: dict = collections.defaultdict(_Wish)
    for gamma in find_roles(model, inputs):
        if gamma.variable.trainable:
            factor, _ = guidelines.strictest(gamma.calls)
            # A scale that is stored otherwise than as γ may be spared for that reason.
            shrinks = None if factor and gamma.neutral != 1.0 else factor > 0
            wanted[id(gamma.variable)] = _Wish(gamma.role, True, shrinks=shrinks)
    return wanted


def _plans_of(model, plan):
    """Pairs of a plan and the variables of its paths."""
    if plan is None:
        return application.in_force(model)
    given = plan if isinstance(plan, (list, tuple)) else [plan]
    for one in given:
        if not isinstance(one, (GammaPlan, DecayPlan)):
            raise TypeError(
                f"`plan` must be a GammaPlan, a DecayPlan, or a list. Received: {one!r}"
            )
    return [(one, application.variables_of(one, model)) for one in given]


def _add(wish, plan, entry, strength):
    if isinstance(plan, GammaPlan):
        if entry.decision is not Decision.NONE:
            wish.role, wish.is_gamma, wish.coupled = entry.role, True, 2 * entry.strength
        return
    wish.role = wish.role or entry.role
    wish.is_gamma = wish.is_gamma or entry.kind == "γ"
    wish.decoupled = entry.factor * strength


def _missing(plan, variables, owner):
    """Sentences on what a plan applies to, and what is not there."""
    for entry in plan:
        applies = not isinstance(plan, GammaPlan) or entry.decision is Decision.APPLY
        if applies and entry.path not in variables:
            yield (
                f"{entry.path}: the plan speaks of it, but it is no trainable variable of model "
                f"{owner.name!r}"
            )
