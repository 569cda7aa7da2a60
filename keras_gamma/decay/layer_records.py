"""Decisions on γ, kept on the layers that own them: whoever holds a layer saves it.

A new head, an inner or an outer model: the record (`layer_record`) goes where the layer goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_gamma.decay import places
from keras_gamma.decay.layer_decisions import Decided, Spared, number_of
from keras_gamma.decay.layer_record import LayerRecord
from keras_gamma.decay.layer_record import below as below
from keras_gamma.decay.layer_record import of as of
from keras_gamma.decay.penalties import Slot
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import PlanEntry
from keras_gamma.decay.telling import Teller


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
        record.look_again()
        record.let_go()


def share_teller(model: keras.Layer) -> None:
    """Lets the layers of `model` tell of one loss together, as after `remember`."""
    teller = Teller()
    for record in below(model):
        record.teller = teller


def forget(slot: Slot, entry: PlanEntry) -> None:
    """Takes a decision off its layer, and with the last one the methods."""
    record = of(slot.layer)
    number = number_of(slot.layer, slot.variable)
    if record is None or number not in record.decisions:
        return
    if record.decisions[number].entry != entry:
        return  # Another plan has decided since.
    del record.decisions[number]
    record.let_go()


def _on(layer: keras.Layer, teller: Teller) -> LayerRecord:
    """The record on `layer`, which something is about to be added to."""
    record = of(layer) or LayerRecord(layer)
    record.teller = teller
    record.look_again()
    record.around.clear()
    record.install()
    return record
