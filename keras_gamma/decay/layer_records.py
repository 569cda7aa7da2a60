"""Decisions on γ, kept on the layers that own them.

Whoever holds the layer saves it: a new head, an inner or an outer model. Keras asks every layer
for its config, its weights and its assets; methods of the *instance* answer, each by asking the
class first. The config of Keras' own norms holds the penalty. For the rest the decision is
written to the layer's assets, from where `keras_gamma.load_model` puts it back; where nobody will,
they say so, and what to call instead (`telling`). And whoever holds the layer asks it in every
training step, where it looks at the optimizers (`step_check`), also for the variables that one was
told to spare, and at whether the step adds the penalties (`loss_watch`).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import pathlib
import sys
import warnings
import weakref
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma._keras import structure
from keras_gamma.decay import penalties, places, plan_files, step_check
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.held import Held
from keras_gamma.decay.instance_methods import hook, owner_of, unhook
from keras_gamma.decay.loss_watch import LossWatch
from keras_gamma.decay.penalties import Slot
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import Decision, PlanEntry
from keras_gamma.decay.step_check import Caller, State
from keras_gamma.decay.telling import DecisionNotKept, Teller, is_quiet

FILE_NAME = "keras_gamma.json"
FORMAT, VERSION = "keras_gamma.layer", 1
_CALLER = "_keras_gamma_caller"
_HOOKS = ("get_config", "save_own_variables", "save_assets", *_keras.ASKED_IN_A_STEP)


@dataclasses.dataclass(frozen=True)
class Decided:
    """The decision on one γ, and the plan that it comes from."""

    slot: Slot
    entry: PlanEntry
    guidelines: Guidelines
    l2: float

    @property
    def is_in_force(self) -> bool:
        """Whether what stands on the γ is still what was decided."""
        wanted = self.entry.decision is Decision.APPLY
        regularizer = penalties.make(self.entry.strength, self.entry.neutral) if wanted else None
        return penalties.is_in_place(self.slot, regularizer)


@dataclasses.dataclass(frozen=True)
class Spared:
    """What a plan for an optimizer says of one variable of a layer.

    Args:
        variable: the variable.
        factor: float, what is left of the weight decay on it; 0 where it is excluded.
        source: what the plan was noted by, an `OptimizerRecord` or a `Given`.
    """

    variable: keras.Variable
    factor: float
    source: Any


class LayerRecord:
    """Stands in for some methods of one layer, and remembers what was decided on its variables.

    Args:
        layer: the `keras.Layer`.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self._layer = weakref.ref(layer)
        self.decisions: dict[int, Decided] = {}  # By the variable's number in the layer.
        self.spared: dict[int, Spared] = {}
        # Models whose training has been looked at, and with which optimizers.
        self.checked: weakref.WeakKeyDictionary[keras.Model, State] = weakref.WeakKeyDictionary()
        self.watches: weakref.WeakKeyDictionary[keras.Model, LossWatch]
        self.watches = weakref.WeakKeyDictionary()
        self.exported: weakref.WeakSet[Any] = weakref.WeakSet()  # Archives that were told of.
        self.around: weakref.WeakSet[keras.Model] = weakref.WeakSet()  # Models that are watched.
        self.held = Held()
        self.teller = Teller()
        self.in_config = False  # Since the assets were written last.
        self._called = False  # Since it was asked for its losses last.

    @property
    def layer(self) -> keras.Layer:
        layer = self._layer()
        assert layer is not None, "its methods are reached through the layer alone"
        return layer

    def penalized(self) -> list[Decided]:
        """The decisions that put a penalty on a γ."""
        return [d for d in self.decisions.values() if d.entry.decision is Decision.APPLY]

    def with_penalty(self) -> list[keras.Variable]:
        """The γ that have a penalty by decision now."""
        return [d.slot.variable for d in self.penalized() if d.is_in_force]

    def penalizes(self) -> bool:
        """Whether a penalty by decision acts in a training step that adds the losses."""
        return any(variable.trainable for variable in self.with_penalty())

    def withheld(self) -> list[keras.Variable]:
        """The variables that an optimizer was told not to decay, or not in full."""
        return [spared.variable for spared in self.spared.values() if spared.factor < 1.0]

    def replaced(self) -> list[keras.Variable]:
        """Those of all these in place of which the layer has others now."""
        decided = {n: one.variable for n, one in self.spared.items() if one.factor < 1.0}
        decided |= {n: one.slot.variable for n, one in self.decisions.items()}
        return self.held.replaced(self.layer, decided)

    def hold(self, variable: keras.Variable) -> int:
        """The number of a variable that is decided on now, in place of any that was replaced."""
        number = _number(self.layer, variable)
        for old in self.held.note(self.layer, number, variable):
            self.decisions.pop(old, None)
            self.spared.pop(old, None)
        return number

    # What Keras calls -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """The layer's config. Keras' norms have the penalty in it; others cannot."""
        config: dict[str, Any] = type(self.layer).get_config(self.layer)
        self.teller.step("config", id(self.layer))
        self.in_config = True
        lost = [d for d in self.penalized() if d.slot.attribute not in config]
        if lost:
            self.tell(f"The config of {_named(self.layer)} does not hold")
        return config

    def save_own_variables(self, store: Any) -> None:
        """Writes the layer's weights."""
        type(self.layer).save_own_variables(self.layer, store)
        self.tell_of_steps()
        if _only_weights_are_saved():
            self.teller.step("weights", id(self.layer))
            if self.penalized():
                self.teller.lost(
                    "A file of weights alone does not hold the decisions on γ (the L2 penalty "
                    f"on {_named(self.layer)}, say): the model that loads it needs its own, by "
                    "apply_guidelines or GammaPlan.apply."
                )
            elif self.withheld():
                self.teller.lost(
                    "A file of weights alone holds no decision on weight decay (that an optimizer "
                    f"spares {self.withheld()[0].path}, say): the optimizer of the model that "
                    "loads it needs its own, by exclude_from_weight_decay, DecayPlan.apply, or "
                    "decay=… of keras_gamma.optimizers."
                )

    def save_assets(self, dir_path: str) -> None:
        """Writes the record into the layer's folder of an archive."""
        own = getattr(type(self.layer), "save_assets", None)
        if own is not None:
            own(self.layer, dir_path)
        self.teller.step("assets", id(self.layer))
        self._tell_of_optimizers()
        content = self.to_json()
        if content is None:
            return
        pathlib.Path(dir_path, FILE_NAME).write_text(content + "\n", encoding="utf-8")
        if not self.in_config and self.penalized():
            self.tell(f"The config of the model around {_named(self.layer)} does not hold")
        self.in_config = False

    def _tell_of_optimizers(self) -> None:
        """Warns if an archive has no optimizer, though one was told to spare variables."""
        model = _being_saved()
        if model is None or not self.withheld() or _keras.optimizers_of(model):
            return
        self.teller.lost(
            f"The archive of model {model.name!r} has no optimizer, and so no decision on weight "
            f"decay (that one spares {self.withheld()[0].path}, say): whoever trains it needs "
            "exclude_from_weight_decay, DecayPlan.apply, or decay=… of keras_gamma.optimizers."
        )

    def _get_call_context(self) -> Any:
        """Asked in each forward pass. Who runs it is looked up once, by the first layer asked."""
        context = type(self.layer)._get_call_context(self.layer)
        caller = getattr(context, _CALLER, None)
        if caller is None:
            caller = Caller.now()
            setattr(context, _CALLER, caller)
        if self.decisions:
            self._watch(_keras.outermost(context))
        self._look_at(caller)
        self._called = True
        return context

    def _get_own_losses(self) -> Any:
        """Asked for the losses of whatever model holds the layer, and may use its `call` alone."""
        if not self._called:
            self._look_at(Caller.now())
        self._called = False
        for watch in self.watches.values():
            watch.asked()
        return type(self.layer)._get_own_losses(self.layer)

    def _look_at(self, caller: Caller) -> None:
        archive, model = caller.archive, caller.trainer
        self.tell_of_steps()
        if archive is not None and archive not in self.exported:
            self.exported.add(archive)
            self.teller.step("export", id(self))
            if self.penalized():
                self.tell("What an ExportArchive writes drops")
        self._watch(model)
        if model is not None and self.checked.get(model) != caller.state:
            found, watch = below(model), LossWatch(model)
            for record in [*found, self]:
                record.checked[model] = caller.state
                record.watches[model] = watch
            step_check.check(model, found)
        watched = None if model is None else self.watches.get(model)
        if watched is not None and watched.is_waiting and self.penalizes():
            watched.called()

    def _watch(self, model: Any) -> None:
        """Watches a model that may have been built around the layer after it was decided on."""
        if self.decisions and isinstance(model, keras.Model) and model not in self.around:
            from keras_gamma.decay import model_watch  # It knows records.

            self.around.add(model)
            model_watch.watch(model)

    def tell_of_steps(self) -> None:
        """Warns of models whose training step was seen to leave out the penalty."""
        for model, watch in list(self.watches.items()):
            if not watch.told and not is_quiet() and watch.leaves_out() and self.penalizes():
                watch.told = True
                step_check.tell_left_out(model, self.with_penalty())

    # ----------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        self.teller.lost(
            f"{what} its L2 penalty on γ. A .keras archive does: load it with "
            "keras_gamma.load_model, which puts it back (keras.models.load_model goes on without). "
            "Otherwise: keras_gamma.decay.clone_model, keras_gamma.decay.save_to_preset and "
            "from_preset, or keras_gamma.decay.carry_over(model, copy) after copying, pickling, "
            "from_config or .h5."
        )

    def to_json(self) -> str | None:
        """What is in force, as JSON; `None` if nothing is."""
        changed = [d.entry.path for d in self.decisions.values() if not d.is_in_force]
        if changed:
            warnings.warn(
                f"The penalties of {_named(self.layer)} were changed by other hands since "
                f"keras_gamma set them ({', '.join(changed)}), so its decision is not saved with "
                "the model. Apply the guidelines again.",
                DecisionNotKept,
                stacklevel=4,
            )
        kept = {n: d for n, d in self.decisions.items() if d.is_in_force}
        if not kept:
            return None
        return plan_files.to_json(
            FORMAT,
            VERSION,
            layer=type(self.layer).__name__,
            decisions=[
                {
                    "variable": number,
                    "shape": list(d.slot.variable.shape),
                    "plan": json.loads(GammaPlan([d.entry], d.guidelines, d.l2).to_json()),
                }
                for number, d in kept.items()
            ],
        )


def _named(layer: keras.Layer) -> str:
    return f"{type(layer).__name__} {layer.name!r}"


# `keras.saving.save_weights` is what the method calls; older versions may lack it.
_SAVE_WEIGHTS = {
    inspect.unwrap(function).__code__
    for function in (keras.Model.save_weights, getattr(keras.saving, "save_weights", None))
    if function is not None
}


_SAVE_MODEL = inspect.unwrap(keras.saving.save_model).__code__


def _being_saved() -> keras.Model | None:
    """The model for which `save_model` calls this, or `None`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _SAVE_MODEL:
            found = frame.f_locals.get("model")
            return found if isinstance(found, keras.Model) else None
        frame = frame.f_back
    return None


def _only_weights_are_saved() -> bool:
    """Whether `save_weights` calls this, and not for a backup of the same run."""
    frame, found = sys._getframe(2), False
    while frame is not None:
        found = found or frame.f_code in _SAVE_WEIGHTS
        if isinstance(frame.f_locals.get("self"), keras.callbacks.BackupAndRestore):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return found


# On layers and models ------------------------------------------------------------------------


def of(layer: keras.Layer) -> LayerRecord | None:
    """The `LayerRecord` on `layer`, or `None`."""
    record = owner_of(layer, "save_assets")
    return record if isinstance(record, LayerRecord) else None


def below(model: keras.Layer) -> list[LayerRecord]:
    """The records on the layers of `model`."""
    return [r for layer in _keras.flatten_layers(model) if (r := of(layer)) is not None]


def left_out(model: keras.Model) -> list[keras.Variable]:
    """The variables of `model` with a penalty that its training step was seen to leave out.

    Who asks is told: no warning follows.
    """
    found: list[keras.Variable] = []
    for record in below(model):
        watch = record.watches.get(model)
        if watch is None or not watch.is_current():
            continue
        if watch.leaves_out() and record.penalizes():
            watch.told = True
            found += [variable for variable in record.with_penalty() if variable.trainable]
    return found


def remember(plan: GammaPlan, pairs: Iterable[tuple[PlanEntry, Slot]]) -> None:
    """Puts the decisions of a plan, which are in force now, onto the layers that own the γ."""
    teller = Teller()
    for entry, slot in pairs:
        record = _on(slot.layer, teller)
        number = record.hold(slot.variable)
        record.decisions[number] = Decided(slot, entry, plan.guidelines, plan.l2)


def remember_spared(model: keras.Layer, factors: Mapping[int, float], source: Any) -> bool:
    """Puts what a plan for an optimizer says onto the layers of `model` that own the variables.

    Args:
        model: the model, or a layer, that holds the variables.
        factors: the factor of each variable that the plan speaks of, by its id.
        source: what knows the plan, an `OptimizerRecord` or a `Given`.

    Returns:
        Whether some layer owns one of them.
    """
    teller, found = Teller(), False
    for at in places.locate(model):
        if id(at.variable) in factors:
            record = _on(at.layer, teller)
            number = record.hold(at.variable)
            record.spared[number] = Spared(at.variable, factors[id(at.variable)], source)
            found = True
    return found


def forget_spared(model: keras.Layer, source: Any) -> None:
    """Takes off the layers of `model` what `source` says of their variables."""
    for record in below(model):
        kept = {n: spared for n, spared in record.spared.items() if spared.source is not source}
        record.spared = kept
        record.checked.clear()
        _let_go(record)


def share_teller(model: keras.Layer) -> None:
    """Lets the layers of `model` tell of one loss together, as after `remember`."""
    teller = Teller()
    for record in below(model):
        record.teller = teller


def forget(slot: Slot, entry: PlanEntry) -> None:
    """Takes a decision off its layer, and with the last one the methods."""
    record = of(slot.layer)
    number = _number(slot.layer, slot.variable)
    if record is None or number not in record.decisions:
        return
    if record.decisions[number].entry != entry:
        return  # Another plan has decided since.
    del record.decisions[number]
    _let_go(record)


def _on(layer: keras.Layer, teller: Teller) -> LayerRecord:
    """The record on `layer`, which something is about to be added to."""
    record = of(layer) or LayerRecord(layer)
    record.teller = teller
    record.checked.clear()
    record.around.clear()
    hook(layer, record, _HOOKS)
    return record


def _let_go(record: LayerRecord) -> None:
    if not record.decisions and not record.spared:
        unhook(record.layer, _HOOKS)


def _number(layer: keras.Layer, variable: keras.Variable) -> int:
    """The number of a variable among those that its layer holds itself."""
    own = structure.own_variables(layer)
    return next(i for i, (value, _) in enumerate(own) if value is variable)
