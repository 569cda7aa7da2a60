"""Decoupled weight decay: the guidelines' decision as an optimizer's exclude list."""

from __future__ import annotations

import dataclasses
import re
import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_gamma._keras import exclusions
from keras_gamma._keras import names as _keras
from keras_gamma.decay import optimizer_records, penalties, places, targets
from keras_gamma.decay.decay_plan import DecayEntry, DecayPlan
from keras_gamma.decay.deciding import EFFECT_ON_SCALE, scales_of
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.inner_optimizers import has_factors, unwrap
from keras_gamma.decay.shrinkage import decays_at_all
from keras_gamma.decay.targets import LED_BACK, Target
from keras_gamma.decay.units import check_strength
from keras_gamma.network.inputs import trace
from keras_gamma.roles.finding import find_roles


def plan_weight_decay(
    model: keras.Model,
    *,
    guidelines: Guidelines | str | None = None,
    biases: bool = True,
    betas: bool = True,
    names: str | Iterable[str] = (),
    decay_to: Target | str = Target.ZERO,
    new: str | Iterable[str] = (),
    inputs: Any = None,
) -> DecayPlan:
    """Decides for every trainable variable whether weight decay acts on it. Sets nothing.

    γ follow the guidelines, with their factors (so do other learned scales, if
    `Guidelines(scales=…)` says so). Of the rest, weights are decayed; biases,
    β and other variables of one dimension are not, as in common recipes.

    Args:
        model: a `keras.Model`.
        guidelines: a `Guidelines`, a string for it, or `None` for `Guidelines.paper()`.
        biases: bool. Whether to exclude biases and other variables of at most one dimension
            (LayerScale, say). A bias is a variable called `bias`, whatever its shape.
        betas: bool. Whether to exclude the β of normalizations.
        names: string or iterable of strings: regular expressions. A variable is excluded,
            too, if one is found in (`re.search`) its *path*.
        decay_to: `"zero"`, or `"initial"`: decay leads w back to w₀, where it was when the
            optimizer was built, w ← w − learning_rate · weight_decay · (w − w₀). For fine-tuning
            (L2-SP, here decoupled); for the optimizers of `keras_gamma.optimizers`. A start
            taken for granted: whether a γ should be pulled *to it* the roles do not tell.
        new: string or iterable of strings: regular expressions. Variables with such a path decay to
            0 all the same: a new head, say, whose start is not worth keeping.
        inputs: see `find_roles`; needed for subclassed models.

    Returns:
        A `DecayPlan`.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: for an invalid expression, or one that is found in no path; for another
            `decay_to`, or `new` without `decay_to="initial"`.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(4, name="fc")(keras.layers.LayerNormalization(name="ln")(x))
    >>> plan = keras_gamma.plan_weight_decay(keras.Model(x, y))
    >>> [(e.path, e.decayed) for e in plan]
    [('ln/gamma', False), ('ln/beta', False), ('fc/kernel', True), ('fc/bias', False)]

    Reference:

    - [Li et al., 2018](https://arxiv.org/abs/1802.01483), for `decay_to="initial"`
    """
    guidelines = Guidelines.get(guidelines)
    goal = targets.check(decay_to)
    if new and goal is Target.ZERO:
        raise ValueError(
            f'`new` names what decays to 0 in spite of decay_to="initial". Received: new={new!r}, '
            f"decay_to={str(goal)!r}"
        )
    network = trace(model, inputs)
    model, roles = network.model, find_roles(network)
    scales = {id(note.variable): note for note in scales_of(roles, guidelines)}
    gammas = {id(gamma.variable): gamma for gamma in roles} | scales
    norms = {id(gamma.layer) for gamma in roles} | {id(n.layer) for n in roles.notes}
    patterns, without_start = _compile(names), _compile(new, "new")
    entries: list[DecayEntry] = []
    used: set[re.Pattern[str]] = set()
    for at in _trained(model):
        gamma = gammas.get(id(at.variable))
        fresh = [pattern for pattern in without_start if pattern.search(at.variable.path)]
        to = Target.ZERO if fresh else goal
        if gamma is not None:
            is_scale = id(at.variable) in scales
            factor, reason = _decide_on_gamma(gamma, guidelines, is_scale, to)
            kind = "scale" if is_scale else "γ"
        else:
            kind, factor, reason = _decide(at.variable, id(at.layer) in norms, biases, betas)
        found = [pattern for pattern in patterns if pattern.search(at.variable.path)]
        used.update(found, fresh)
        if found and factor:
            factor, reason = 0.0, f"Its path matches {found[0].pattern!r}."
        if factor and to is Target.INITIAL:
            reason += LED_BACK
        if not at.variable.trainable:
            reason = f"Frozen (trainable=False): it will be so when it is unfrozen. {reason}"
        role = None if gamma is None else gamma.role
        entries.append(DecayEntry(at.path, kind, role, factor, reason, at.place, to))
    for name, asked in (("names", patterns), ("new", without_start)):
        _check_used(name, [p.pattern for p in asked if p not in used], entries, model)
    plan = DecayPlan(entries, guidelines)
    plan.made_for = model
    return plan


def _check_used(
    name: str, unused: Sequence[str], entries: Sequence[DecayEntry], model: keras.Model
) -> None:
    if unused:
        listed = ", ".join(map(repr, unused))
        raise ValueError(
            f"`{name}` are regular expressions on paths, but no path of the {len(entries)} "
            f"trainable variables of model {model.name!r} matches {listed}. Paths look like "
            f"{[e.path for e in entries[:2]]}."
        )


def _trained(model: keras.Model) -> list[places.Located]:
    """The variables of `model` that are trained, now or when they are unfrozen."""
    return [at for at in places.locate(model) if at.trained]


def _compile(names: str | Iterable[str], argument: str = "names") -> list[re.Pattern[str]]:
    patterns = []
    for name in (names,) if isinstance(names, str) else tuple(names):
        try:
            patterns.append(re.compile(name))
        except (re.error, TypeError) as error:
            raise ValueError(
                f"`{argument}` must be regular expressions on variable paths. Received {name!r}: "
                f"{error}"
            ) from None
    return patterns


def _decide_on_gamma(
    gamma: Any, guidelines: Guidelines, is_scale: bool, to: Target
) -> tuple[float, str]:
    factor, call = guidelines.strictest(gamma.calls, scale=is_scale)
    reason: str = gamma.reason if call.role is gamma.role else call.reason
    if to is Target.INITIAL:  # However it is stored: the start is the same.
        return factor, reason
    if factor and is_scale:
        reason += EFFECT_ON_SCALE
    if factor and gamma.neutral is None:
        return 0.0, f"{reason} How its scale is stored is not known: register_normalization tells."
    if factor and gamma.neutral == 0.0:
        # Decay would pull the stored scale to 0, which is γ = 1: not what the role asks for.
        return 0.0, (
            "The layer multiplies by γ = 1 + variable, and decay would pull γ to 1, not "
            "to 0; use apply_guidelines for an L2 penalty on γ."
        )
    return factor, reason


def _decide(
    variable: keras.Variable, of_norm: bool, biases: bool, betas: bool
) -> tuple[str, float, str]:
    """Kind, factor and reason for a variable that is no γ."""
    name = variable.name
    if of_norm and (name in ("beta", "bias", "offset") or len(variable.shape) <= 1):
        reason = "β of a normalization." if betas else "β of a normalization; betas=False."
        return "β", 0.0 if betas else 1.0, reason
    if name == "bias" or name.endswith("_bias"):
        return "bias", 0.0 if biases else 1.0, "A bias." if biases else "A bias; biases=False."
    if len(variable.shape) <= 1:
        return "1-d", 0.0 if biases else 1.0, "It has one dimension at most."
    return "weight", 1.0, f"A weight of {len(variable.shape)} dimensions."


def exclude_from_weight_decay(
    optimizer: Any,
    model: keras.Model,
    *,
    guidelines: Guidelines | str | None = None,
    biases: bool = True,
    betas: bool = True,
    names: str | Iterable[str] = (),
    inputs: Any = None,
) -> AppliedDecayPlan:
    """Withholds an optimizer's weight decay from the γ that the guidelines spare, and from biases.

    The decay is *decoupled*: before each step `w ← w − learning_rate · weight_decay · w`
    (Loshchilov & Hutter, arXiv:1711.05101). Variables are added to the optimizer's exclude
    list; what was excluded before stays so, and an optimizer of `keras_gamma.optimizers` leads
    where it led before (`decay_to`). What is returned was read back from the optimizer.

    Variables that are frozen now are decided on, too: they are spared, or not, once unfrozen.
    Keras does not save an exclude list: `keras_gamma.load_model` puts it back. The optimizers of
    `keras_gamma.optimizers` have it in their config, and take factors other than 0 and 1.

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
        A `DecayPlan`, one entry for each trainable variable; `plan.remove()` takes it back.

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
    inner = unwrap(optimizer)  # A wrong optimizer is an error before the model is looked at.
    network = trace(model, inputs)
    model = network.model
    plan = plan_weight_decay(
        network,
        guidelines=guidelines,
        biases=biases,
        betas=betas,
        names=names,
        **_led_as_before(inner),
    )
    return _put(plan, optimizer, model, [at.variable for at in _trained(model)])


def _led_as_before(inner: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Where an optimizer's decay leads already, as arguments of `plan_weight_decay`."""
    decay_to = inner.decay_to if has_factors(inner) else str(Target.ZERO)
    if isinstance(decay_to, str):
        return {"decay_to": decay_to}
    to_zero = [path for path, to in decay_to.items() if to == Target.ZERO and "#" not in path]
    return {
        "decay_to": Target.INITIAL,
        "new": [f"^{re.escape(path)}$" for path in to_zero],
    }


@dataclasses.dataclass(frozen=True)
class Before:
    """What is to be put back: how the optimizer treated variables before a plan came.

    Args:
        record: the `OptimizerRecord` of the plan before, or `None`.
        decayed: the variables that were not on its exclude list.
        factors: the factors that it had, if it is one of `keras_gamma.optimizers`.
        decay_to: where its decay led, likewise.
    """

    record: optimizer_records.OptimizerRecord | None
    decayed: Sequence[keras.Variable] = ()
    factors: dict[str, float] | None = None
    decay_to: str | dict[str, str] = "zero"


class AppliedDecayPlan(DecayPlan):
    """A `DecayPlan` that was put onto an optimizer, read back from it, and can be taken back.

    Args:
        plan: the `DecayPlan`.
        optimizer: the optimizer that does the decay.
        model: the `keras.Model`.
        before: what to put back.
    """

    def __init__(
        self,
        plan: DecayPlan,
        optimizer: keras.optimizers.Optimizer,
        model: keras.Model,
        before: Before,
    ) -> None:
        super().__init__(plan, plan.guidelines, plan.weight_decay)
        self._optimizer, self._model = weakref.ref(optimizer), weakref.ref(model)
        record = optimizer_records.of(optimizer)
        assert record is not None, "it was noted there a moment ago"
        self._record = record
        self._before: Before | None = before

    def remove(self) -> None:
        """Takes back what this plan excluded; what was excluded before stays so.

        Where another plan was put onto the optimizer since, nothing is changed.

        Raises:
            ValueError: if it was taken back before.
        """
        before, self._before = self._before, None
        if before is None:
            raise ValueError("This plan was taken back before: there is nothing to take back.")
        optimizer, model = self._optimizer(), self._model()
        was_on_it = optimizer_records.replace(optimizer, self._record, before.record, model)
        if optimizer is None or not was_on_it:
            return
        if has_factors(optimizer):
            optimizer.set_decay(before.factors, before.decay_to)
        else:
            exclusions.readmit(optimizer, before.decayed)
        if model is not None:
            penalties.drop_traced_functions(model)


def apply(plan: DecayPlan, optimizer: Any, model: keras.Model) -> AppliedDecayPlan:
    """Puts a plan onto an optimizer, for a model that was rebuilt or reloaded."""
    present = _trained(model)
    found, problems = places.match(list(plan), present)
    if problems:
        raise ValueError(
            f"The plan does not fit model {model.name!r}; {'; '.join(problems)}. Nothing was "
            "changed. Call exclude_from_weight_decay on this model instead."
        )
    renamed = [
        dataclasses.replace(e, path=found[e.path].path, place=found[e.path].place) for e in plan
    ]
    by_path = {at.path: at.variable for at in present}
    return _put(
        DecayPlan(renamed, plan.guidelines), optimizer, model, [by_path[e.path] for e in renamed]
    )


def _put(
    plan: DecayPlan, optimizer: Any, model: keras.Model, variables: Sequence[keras.Variable]
) -> AppliedDecayPlan:
    """Puts `plan` onto `optimizer`, after checking that it can be; returns what is in force."""
    inner = unwrap(optimizer)
    odd = [e for e in plan if e.factor not in (0.0, 1.0)]
    if odd and not has_factors(inner):
        raise ValueError(
            f"{type(inner).__name__}'s exclude list is on or off, but {odd[0].path!r} has the "
            f"factor {odd[0].factor:g}. Use the optimizer of that kind in keras_gamma.optimizers."
        )
    led = [e.path for e in plan if e.decayed and e.to is Target.INITIAL]
    if led and not has_factors(inner):
        raise ValueError(
            f"{type(inner).__name__}'s weight decay leads to 0, but the plan leads {led[0]!r} back "
            "to its start. Use the optimizer of that kind in keras_gamma.optimizers."
        )
    _check_built(inner, model)
    check_not_twice(plan, variables, inner)
    record = optimizer_records.of(inner)
    if has_factors(inner):
        before = Before(record, factors=inner.decay, decay_to=inner.decay_to)
        inner.set_decay(plan)
    else:
        spared = [v for e, v in zip(plan, variables, strict=True) if not e.decayed]
        listed = {id(v) for v in exclusions.excluded(inner, spared)}
        before = Before(record, decayed=[v for v in spared if id(v) not in listed])
        _keras.exclude(inner, spared)
    penalties.drop_traced_functions(model)
    if inner.weight_decay is None and not decays_at_all(inner):
        warnings.warn(
            f"{type(inner).__name__} has weight_decay=None: nothing decays, and there is nothing "
            "to exclude from. Give it a weight_decay.",
            stacklevel=3,
        )
    read = _read_back(plan, variables, inner)
    optimizer_records.remember(inner, read, variables, model)
    return AppliedDecayPlan(read, inner, model, before)


def _check_built(inner: keras.optimizers.Optimizer, model: keras.Model) -> None:
    compiled = getattr(model, "optimizer", None)
    if inner.built and (compiled is None or unwrap(compiled) is not inner):
        raise ValueError(
            f"This {type(inner).__name__} is built already, and model {model.name!r} is not "
            "compiled with it: a training step that was traced with it would go on decaying. Call "
            "exclude_from_weight_decay before the optimizer is first used, or pass the model that "
            "is compiled with it."
        )


def check_not_twice(
    plan: DecayPlan, variables: Sequence[keras.Variable], inner: keras.optimizers.Optimizer
) -> None:
    """Raises `ValueError` if a γ has an L2 penalty and would be decayed as well."""
    if not decays_at_all(inner):
        return
    twice = [
        e.path
        for e, variable in zip(plan, variables, strict=True)
        if e.role is not None and e.decayed and variable.regularizer is not None
    ]
    if twice:
        raise ValueError(
            f"These γ have an L2 penalty, and would be decayed as well: {', '.join(twice)}. "
            "Choose one: take the penalty back (plan.remove() of the plan that set it), or exclude "
            "all γ here with guidelines='none'."
        )


def _read_back(
    plan: DecayPlan, variables: Sequence[keras.Variable], inner: keras.optimizers.Optimizer
) -> DecayPlan:
    """The plan as the optimizer will really act, earlier exclusions of the user's included."""
    entries = []
    for entry, variable in zip(plan, variables, strict=True):
        decays = _keras.is_decayed(inner, variable)
        if entry.decayed and not decays:
            entry = dataclasses.replace(entry, factor=0.0, reason="It was excluded before.")
        elif decays and not entry.decayed and not has_factors(inner):
            raise RuntimeError(f"{entry.path} could not be excluded from {type(inner).__name__}.")
        entries.append(entry)
    weight_decay = inner.weight_decay
    return DecayPlan(
        entries,
        plan.guidelines,
        None if weight_decay is None else check_strength("weight_decay", weight_decay),
    )
