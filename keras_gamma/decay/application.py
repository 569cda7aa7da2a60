"""What a plan did to a model: putting a plan onto it, and taking it back."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Mapping

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import (
    layer_records,
    model_watch,
    optimizer_records,
    penalties,
    places,
    shrinkage,
)
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.inner_optimizers import parts
from keras_gamma.decay.penalties import Change, Slot, Undo
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import Decision, PlanEntry
from keras_gamma.network import normalizations


class AppliedPlan(GammaPlan):
    """A `GammaPlan` that was put onto a model, and can be taken back.

    As a value it equals the plan.

    Args:
        plan: the `GammaPlan`.
        model: the `keras.Model`.
        slots: dict from path to the `Slot` of each γ of the plan.
        undos: what was put there, and what stood there before.
    """

    def __init__(
        self,
        plan: GammaPlan,
        model: keras.Model,
        slots: Mapping[str, Slot],
        undos: Iterable[Undo],
    ) -> None:
        super().__init__(plan, plan.guidelines, plan.l2)
        self._model = weakref.ref(model)
        self._slots = dict(slots)
        self._undos: tuple[Undo, ...] | None = tuple(undos)

    def remove(self) -> None:
        """Takes back exactly what this plan set; earlier regularizers are put back.

        What was changed since, by another plan or by hand, is left as it is.

        Raises:
            ValueError: if it was taken back before.
        """
        if self._undos is None:
            raise ValueError("This plan was taken back before: there is nothing to take back.")
        model = self._model()
        penalties.take_back(model, self._undos)
        for entry in self:
            if entry.path in self._slots:
                layer_records.forget(self._slots[entry.path], entry)
        if model is not None:
            model_watch.unwatch(model)
        self._undos = None


def apply(plan: GammaPlan, model: keras.Model, overwrite: bool = False) -> AppliedPlan:
    """Puts a plan onto a model that was rebuilt or reloaded. See `GammaPlan.apply`."""
    slots = {path: Slot(at.layer, at.variable) for path, at in find(plan, model).items()}
    for entry in plan:
        wanted = None if entry.path not in slots else regularizer(entry)
        if wanted is not None:
            slot = slots[entry.path]
            if penalties.same(penalties.foreign(slot), wanted):
                penalties.mark(slot.variable.regularizer or wanted)
    return put(plan, model, slots, overwrite)


def put(
    plan: GammaPlan, model: keras.Model, slots: Mapping[str, Slot], overwrite: bool = False
) -> AppliedPlan:
    """Sets every regularizer, after checking that none of somebody else's is in the way.

    Args:
        plan: a `GammaPlan`.
        model: the `keras.Model` that the slots belong to.
        slots: dict from the path of each γ of the plan to its `Slot`.
        overwrite: see `GammaPlan.apply`.
    """
    pairs = [(e, slots[e.path]) for e in plan if e.decision is not Decision.NONE]
    conflicts = []
    for entry, slot in pairs:
        foreign = penalties.foreign(slot)
        if foreign is not None and not penalties.same(foreign, regularizer(entry)):
            config = ", ".join(f"{k}={v}" for k, v in foreign.get_config().items())
            conflicts.append(f"{slot.layer.name!r} ({type(foreign).__name__}({config}))")
    if conflicts and not overwrite:
        raise ValueError(
            "These layers have a regularizer on γ that keras_gamma did not set (or that was "
            f"set before the model was saved): {', '.join(conflicts)}. Nothing changed. Pass "
            "overwrite=True to replace them, or set their gamma_regularizer to None."
        )
    check_not_twice(model, pairs)
    undos = penalties.apply_changes(model, [Change(s, regularizer(e)) for e, s in pairs])
    layer_records.remember(plan, pairs)
    model_watch.watch(model)
    return AppliedPlan(plan, model, slots, undos)


def find(plan: GammaPlan, model: keras.Model) -> dict[str, places.Located]:
    """The variable of each γ of the plan.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the plan is not one for this model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: {model!r} (of type {type(model)})")
    wanted = [e for e in plan if e.decision is not Decision.NONE]
    located = places.locate(model)
    known = gammas(model, located)
    found: dict[str, places.Located] = {}
    problems: list[str] = []
    for key in ("path", "place"):
        # A γ of a layer that nobody registered is one because the plan says so.
        named = {getattr(entry, key) for entry in wanted}
        present = [at for at in located if id(at.variable) in known or getattr(at, key) in named]
        found, problems = places.match(wanted, present)
        if not problems:
            return found
    raise ValueError(
        f"The plan does not fit model {model.name!r}; {'; '.join(problems)}. Nothing was "
        "changed. A plan fits models of the same structure, or with the same variable paths: call "
        "apply_guidelines on this model."
    )


def variables_of(plan: GammaPlan | DecayPlan, model: keras.Layer) -> dict[str, keras.Variable]:
    """The variable of each path of a plan, as far as `model` has them."""
    located = places.locate(model)
    by_path = {at.path: at for at in located}
    by_place = {at.place: at for at in located}
    found = {}
    for entry in plan:
        at = by_path.get(entry.path) or by_place.get(entry.place)
        if at is not None and places.is_renamed(entry.path, at.path):
            found[entry.path] = at.variable
    return found


def gammas(model: keras.Model, located: Iterable[places.Located]) -> set[int]:
    """Ids of the scales of all registered normalizations in `model`."""
    own = {id(at.variable) for at in located}
    found = set()
    for layer in _keras.flatten_layers(model):
        entry = normalizations.registered(layer)
        variable = None if entry is None else entry.variable(layer)
        if variable is not None and id(variable) in own:
            found.add(id(variable))
    return found


def regularizer(entry: PlanEntry) -> keras.regularizers.Regularizer | None:
    """What an entry of a plan puts onto its γ."""
    if entry.decision is not Decision.APPLY:
        return None
    return penalties.make(entry.strength, entry.neutral)


def check_not_twice(model: keras.Model, pairs: Iterable[tuple[PlanEntry, Slot]]) -> None:
    """Raises `ValueError` if the optimizer that `model` is compiled with decays such a γ, too."""
    optimizer = getattr(model, "optimizer", None)
    variables = [
        slot.variable
        for entry, slot in pairs
        if entry.decision is Decision.APPLY and slot.variable.trainable
    ]
    if optimizer is None or not variables:
        return
    # The parts of a `MultiOptimizer` have variables once it is built; until then, the first step
    # tells (`step_check`).
    for inner, own in shrinkage.shared_out(optimizer, variables):
        twice = [v.path for v in own if shrinkage.acts_on(inner, v)]
        if twice:
            raise ValueError(
                f"These γ would get an L2 penalty, and the {type(inner).__name__} that the model "
                f"is compiled with decays them as well (weight_decay={inner.weight_decay}): "
                f"{', '.join(twice)}. Nothing changed. Choose one: exclude all γ from its decay "
                "first, with exclude_from_weight_decay(model.optimizer, model, guidelines='none'), "
                "or use exclude_from_weight_decay alone, without a penalty."
            )


def in_force(model: keras.Model) -> list[tuple[GammaPlan | DecayPlan, dict[str, keras.Variable]]]:
    """The plans that were applied to what is in `model`, by whatever model they were applied to.

    Returns:
        Pairs of a plan and the variable of each of its paths. Where two say different things of a
        variable, the later one in the list was put onto what acts.
    """
    at = {id(located.variable): located for located in places.locate(model)}
    entries: dict[tuple[Guidelines, float], dict[str, tuple[PlanEntry, keras.Variable]]] = {}
    for record in layer_records.below(model):
        for decided in record.decisions.values():
            here = at[id(decided.slot.variable)]
            entry = dataclasses.replace(decided.entry, path=here.path, place=here.place)
            plan = entries.setdefault((decided.guidelines, decided.l2), {})
            plan[here.path] = entry, here.variable
    found: list[tuple[GammaPlan | DecayPlan, dict[str, keras.Variable]]] = [
        (GammaPlan((entry for entry, _ in by_path.values()), *source),
         {path: variable for path, (_, variable) in by_path.items()})
        for source, by_path in entries.items()
    ]  # fmt: skip
    optimizer = getattr(model, "optimizer", None)
    records = [] if optimizer is None else map(optimizer_records.of, parts(optimizer))
    # What acts now comes last: it is what holds, where an earlier optimizer was told otherwise.
    acting = [record.restricted(set(at)) for record in records if record is not None]
    return found + optimizer_records.below(model) + acting
