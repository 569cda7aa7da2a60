"""Decisions on weight decay, kept on the optimizer that acts on them.

Keras saves an optimizer with whatever model is compiled with it, but never its exclude list. The
decision is written to the optimizer's assets in an archive, from where `keras_gamma.load_model`
puts it back; where only the config is asked for, it says that the list is not in it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import layer_records, places, plan_files, targets
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.inner_optimizers import has_factors
from keras_gamma.decay.instance_methods import hook, owner_of, unhook
from keras_gamma.decay.layer_record import FILE_NAME
from keras_gamma.decay.telling import DecisionNotKept, Teller

FORMAT, VERSION = "keras_gamma.optimizer", 1
_METHODS = ("get_config", "save_assets")


class Noted:
    """A plan for an optimizer, and the variables that it speaks of.

    Args:
        plan: the `DecayPlan`.
        variables: the variable of each entry of the plan.
    """

    def __init__(self, plan: DecayPlan, variables: Sequence[keras.Variable]) -> None:
        self.plan = plan
        self.held = tuple(variables)

    def restricted(self, variables: Collection[int]) -> tuple[DecayPlan, dict[str, keras.Variable]]:
        """What the plan says of some variables, given by their ids, and the variable of each."""
        pairs = [
            (entry, variable)
            for entry, variable in zip(self.plan, self.held, strict=True)
            if id(variable) in variables
        ]
        plan = DecayPlan(
            (entry for entry, _ in pairs), self.plan.guidelines, self.plan.weight_decay
        )
        return plan, {entry.path: variable for entry, variable in pairs}


class Given(Noted):
    """The factors that an optimizer of `keras_gamma.optimizers` was made with (`decay=plan`)."""


class OptimizerRecord(Noted):
    """Stands in for two methods of one optimizer, and remembers the plan that is on it.

    Args:
        optimizer: a Keras optimizer, unwrapped.
        plan: the `DecayPlan`.
        variables: the variable of each entry of the plan.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        plan: DecayPlan,
        variables: Sequence[keras.Variable],
    ) -> None:
        super().__init__(plan, variables)
        self._optimizer = weakref.ref(optimizer)
        self._teller = Teller()

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        optimizer = self._optimizer()
        assert optimizer is not None, "its methods are reached through the optimizer alone"
        return optimizer

    def changed(self) -> list[str]:
        """The paths of the variables that the optimizer treats otherwise by now."""
        if has_factors(self.optimizer):
            own, planned = self.optimizer, DecayPlan(self.plan, self.plan.guidelines)
            same = own.decay == planned.factors() and own.decay_to == targets.of(None, planned)
            return [] if same else [entry.path for entry in self.plan]
        return [
            entry.path
            for entry, variable in zip(self.plan, self.held, strict=True)
            if _keras.is_decayed(self.optimizer, variable) != entry.decayed
        ]

    def dropped(self) -> list[keras.Variable]:
        """The variables that the plan spares, and the exclude list does not any more."""
        if has_factors(self.optimizer):
            return []
        return [
            variable
            for entry, variable in zip(self.plan, self.held, strict=True)
            if not entry.decayed and _keras.is_decayed(self.optimizer, variable)
        ]

    # What Keras calls -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """The optimizer's config, which has no room for an exclude list."""
        config: dict[str, Any] = type(self.optimizer).get_config(self.optimizer)
        self._teller.step("config")
        if not has_factors(self.optimizer) and not all(entry.decayed for entry in self.plan):
            name = type(self.optimizer).__name__
            self._teller.lost(
                f"Keras does not save the exclude list of {name}: its config has no room for it. A "
                ".keras archive has: load it with keras_gamma.load_model, which puts it back "
                "(keras.models.load_model goes on without). Otherwise call "
                "exclude_from_weight_decay on the copy, or use the optimizer of that kind in "
                "keras_gamma.optimizers, whose config holds the decisions."
            )
        return config

    def save_assets(self, dir_path: str) -> None:
        """Writes the record into the optimizer's folder of an archive."""
        own = getattr(type(self.optimizer), "save_assets", None)
        if own is not None:
            own(self.optimizer, dir_path)
        text = self.to_json()
        if text is not None:
            pathlib.Path(dir_path, FILE_NAME).write_text(text + "\n", encoding="utf-8")

    # ----------------------------------------------------------------------------------------

    def to_json(self) -> str | None:
        """What is in force, as JSON; `None` if something else is."""
        changed = self.changed()
        if changed:
            listed = ", ".join(changed[:3]) + ("…" if changed[3:] else "")
            warnings.warn(
                f"The exclusions from weight decay of {type(self.optimizer).__name__} were changed "
                f"by other hands since keras_gamma set them ({listed}), so its plan is not saved "
                "with the model. Call exclude_from_weight_decay again.",
                DecisionNotKept,
                stacklevel=4,
            )
            return None
        plan = json.loads(self.plan.to_json())
        return plan_files.to_json(FORMAT, VERSION, positions=self._positions(), plan=plan)

    def _positions(self) -> list[int | None] | None:
        """Where each variable stands in the optimizer's own list; `None` before it is built."""
        if not self.optimizer.built:
            return None
        numbers = {id(v): i for i, v in enumerate(_keras.variables_of(self.optimizer))}
        return [numbers.get(id(variable)) for variable in self.held]


def of(optimizer: Any) -> OptimizerRecord | None:
    """The `OptimizerRecord` on `optimizer` itself, or `None`."""
    record = owner_of(optimizer, "save_assets")
    return record if isinstance(record, OptimizerRecord) else None


def remember(
    optimizer: keras.optimizers.Optimizer,
    plan: DecayPlan,
    variables: Sequence[keras.Variable],
    model: keras.Layer,
) -> None:
    """Notes on an optimizer the plan that is on it now, beside what other plans say of others.

    The layers of `model` that own the variables know it, too, should another optimizer come.
    """
    before, new = of(optimizer), {id(variable) for variable in variables}
    pairs = list(zip(plan, variables, strict=True))
    if before is not None and not has_factors(optimizer):
        old = zip(before.plan, before.held, strict=True)
        pairs += [(entry, variable) for entry, variable in old if id(variable) not in new]
    kept = [variable for _, variable in pairs]
    entries = [
        dataclasses.replace(entry, path=path)
        for (entry, _), path in zip(pairs, places.unique_paths(kept), strict=True)
    ]
    merged = DecayPlan(entries, plan.guidelines, plan.weight_decay)
    record = OptimizerRecord(optimizer, merged, kept)
    hook(optimizer, record, _METHODS)
    note_on_layers(model, record)


def replace(
    optimizer: keras.optimizers.Optimizer | None,
    old: OptimizerRecord,
    new: OptimizerRecord | None,
    model: keras.Layer | None,
) -> bool:
    """Puts an earlier record in place of an old one, or none.

    Returns:
        Whether it was the old one that was on the optimizer.
    """
    was_on_it = optimizer is not None and of(optimizer) is old
    if was_on_it and new is None:
        unhook(optimizer, _METHODS)
    elif was_on_it:
        hook(optimizer, new, _METHODS)
    if model is not None:
        layer_records.forget_spared(model, old)
        if new is not None:
            note_on_layers(model, new)
    return was_on_it


def note_on_layers(model: keras.Layer, noted: Noted) -> bool:
    """Lets the layers of `model` that own the variables know, should another optimizer come.

    Returns:
        Whether there is one.
    """
    pairs = zip(noted.plan, noted.held, strict=True)
    factors = {id(variable): entry.factor for entry, variable in pairs}
    return layer_records.remember_spared(model, factors, noted)


def below(model: keras.Layer) -> list[tuple[DecayPlan, dict[str, keras.Variable]]]:
    """What plans for optimizers say of the variables of `model`, by whatever model they were made.

    Returns:
        Pairs of a plan, without what is not in `model`, and the variable of each of its paths.
    """
    kept: dict[Noted, set[int]] = {}
    for record in layer_records.below(model):
        for spared in record.spared.values():
            kept.setdefault(spared.source, set()).add(id(spared.variable))
    return [record.restricted(variables) for record, variables in kept.items()]
