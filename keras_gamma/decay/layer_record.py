"""The methods of one layer that Keras calls, and that tell or keep what was decided on it.

Keras asks every layer for its config, its weights and its assets; methods of the *instance*
answer, each by asking the class first. The config of Keras' own norms holds the penalty. For the
rest the decision is written to the layer's assets, from where `keras_gamma.load_model` puts it
back; where nobody will, they say so, and what to call instead (`telling`). And whoever holds the
layer asks it in every training step, where it looks at the optimizers (`step_check`), also for the
variables that one was told to spare, and at whether the step adds the penalties (`loss_watch`).
"""

from __future__ import annotations

import pathlib
import weakref
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import step_check
from keras_gamma.decay.instance_methods import hook, owner_of, unhook
from keras_gamma.decay.layer_decisions import LayerDecisions, named
from keras_gamma.decay.loss_watch import LossWatch
from keras_gamma.decay.step_check import Caller, State
from keras_gamma.decay.telling import Teller, is_quiet

FILE_NAME = "keras_gamma.json"
_CALLER = "_keras_gamma_caller"
_HOOKS = ("get_config", "save_own_variables", "save_assets", *_keras.ASKED_IN_A_STEP)


class LayerRecord(LayerDecisions):
    """Stands in for some methods of one layer, on which something was decided.

    Args:
        layer: the `keras.Layer`.
    """

    def __init__(self, layer: keras.Layer) -> None:
        super().__init__(layer)
        # Models whose training has been looked at, and with which optimizers.
        self._checked: weakref.WeakKeyDictionary[keras.Model, State] = weakref.WeakKeyDictionary()
        self._settled: State | None = None  # The last of them, with nothing left to look at.
        self.watches: weakref.WeakKeyDictionary[keras.Model, LossWatch]
        self.watches = weakref.WeakKeyDictionary()
        self._open: list[LossWatch] = []  # Those of them that may still have something to tell.
        self.exported: weakref.WeakSet[Any] = weakref.WeakSet()  # Archives that were told of.
        self.around: weakref.WeakSet[keras.Model] = weakref.WeakSet()  # Models that are watched.
        self.teller = Teller()
        self.in_config = False  # Since the assets were written last.
        self._called = False  # Since it was asked for its losses last.

    def install(self) -> None:
        """Puts the methods onto the layer."""
        hook(self.layer, self, _HOOKS)

    def let_go(self) -> None:
        """Takes the methods off a layer on which nothing is decided any more."""
        if not self.decisions and not self.spared:
            unhook(self.layer, _HOOKS)

    def get_config(self) -> dict[str, Any]:
        """The layer's config. Keras' norms have the penalty in it; others cannot."""
        config: dict[str, Any] = type(self.layer).get_config(self.layer)
        self.teller.step("config", id(self.layer))
        self.in_config = True
        lost = [d for d in self.penalized() if d.slot.attribute not in config]
        if lost:
            self.tell(f"The config of {named(self.layer)} does not hold")
        return config

    def save_own_variables(self, store: Any) -> None:
        """Writes the layer's weights."""
        type(self.layer).save_own_variables(self.layer, store)
        self.tell_of_steps()
        if _keras.only_weights_are_saved():
            self.teller.step("weights", id(self.layer))
            if self.penalized():
                self.teller.lost(
                    "A file of weights alone does not hold the decisions on γ (the L2 penalty "
                    f"on {named(self.layer)}, say): the model that loads it needs its own, by "
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
            self.tell(f"The config of the model around {named(self.layer)} does not hold")
        self.in_config = False

    def _tell_of_optimizers(self) -> None:
        """Warns if an archive has no optimizer, though one was told to spare variables."""
        model = _keras.model_being_saved()
        if model is None or not self.withheld() or _keras.optimizers_of(model):
            return
        self.teller.lost(
            f"The archive of model {model.name!r} has no optimizer, and so no decision on weight "
            f"decay (that one spares {self.withheld()[0].path}, say): whoever trains it needs "
            "exclude_from_weight_decay, DecayPlan.apply, or decay=… of keras_gamma.optimizers."
        )

    def _get_call_context(self) -> Any:
        """Asked in each forward pass. Who runs it is looked up once, by the first layer asked.

        Where nothing is compiled, each step runs this again: in the state of the step before there
        is nothing to do.
        """
        context = type(self.layer)._get_call_context(self.layer)
        caller = getattr(context, _CALLER, None)
        if caller is None:
            caller = self._as_known(Caller.now(_keras.outermost(context)))
            setattr(context, _CALLER, caller)
        if self.decisions:
            self._watch(caller.entry)
        if caller.state is not self._settled:
            self._look_at(caller)
        self._called = True
        return context

    def _get_own_losses(self) -> Any:
        """Asked for the losses of whatever model holds the layer, and may use its `call` alone."""
        if not self._called:
            self._look_at(Caller.now())
        self._called = False
        for watch in self._open:
            watch.asked()
        return type(self.layer)._get_own_losses(self.layer)

    def _as_known(self, caller: Caller) -> Caller:
        """The caller with the very state that is known of it, if it is still in this state."""
        known = None if caller.trainer is None else self._checked.get(caller.trainer)
        return caller if known != caller.state else caller._replace(state=known)

    def _look_at(self, caller: Caller) -> None:
        archive, model = caller.archive, caller.trainer
        self.tell_of_steps()
        if archive is not None and archive not in self.exported:
            self.exported.add(archive)
            self.teller.step("export", id(self))
            if self.penalized():
                self.tell("What an ExportArchive writes drops")
        self._watch(model)
        if model is not None and self._checked.get(model) != caller.state:
            found, watch = below(model), LossWatch(model)
            for record in [*found, self]:
                record.begin(model, caller.state, watch)
            step_check.check(model, found)
        watched = None if model is None else self.watches.get(model)
        if watched is not None and watched.is_waiting and self.penalizes():
            watched.called()
        self._settled = None if self._open else caller.state

    def begin(self, model: keras.Model, state: State, watch: LossWatch) -> None:
        """Notes that `model` is about to train, in a state that was not looked at before."""
        self._checked[model] = state
        self.watches[model] = watch
        self._open = [known for known in self._open if known.model is not model] + [watch]

    def look_again(self) -> None:
        """Lets the next step be looked at as if it were the first: something else is decided."""
        self._checked.clear()
        self._settled = None

    def _watch(self, model: Any) -> None:
        """Watches a model that may have been built around the layer after it was decided on."""
        if self.decisions and isinstance(model, keras.Model) and model not in self.around:
            from keras_gamma.decay import model_watch  # It knows records.

            self.around.add(model)
            model_watch.watch(model)

    def tell_of_steps(self) -> None:
        """Warns of models whose training step was seen to leave out the penalty."""
        self._open = [watch for watch in self._open if watch.is_open]
        for watch in self._open:
            if not watch.told and not is_quiet() and watch.leaves_out() and self.penalizes():
                watch.told = True
                step_check.tell_left_out(watch.model, self.with_penalty())

    def tell(self, what: str) -> None:
        self.teller.lost(
            f"{what} its L2 penalty on γ. A .keras archive does: load it with "
            "keras_gamma.load_model, which puts it back (keras.models.load_model goes on without). "
            "Otherwise: keras_gamma.decay.clone_model, keras_gamma.decay.save_to_preset and "
            "from_preset, or keras_gamma.decay.carry_over(model, copy) after copying, pickling, "
            "from_config or .h5."
        )


def of(layer: keras.Layer) -> LayerRecord | None:
    """The `LayerRecord` on `layer`, or `None`."""
    record = owner_of(layer, "save_assets")
    return record if isinstance(record, LayerRecord) else None


def below(model: keras.Layer) -> list[LayerRecord]:
    """The records on the layers of `model`."""
    return [r for layer in _keras.flatten_layers(model) if (r := of(layer)) is not None]
