"""Putting records back onto a model that was loaded, cloned or copied: found by place, not by name.

The place is the one under which Keras itself keeps a layer's weights in an archive: where the
weights come back to a layer, so does the decision. Names and shapes are a check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma._keras import structure
from keras_gamma.decay import (
    application,
    layer_decisions,
    layer_records,
    model_watch,
    optimizer_records,
    penalties,
    places,
    plan_files,
)
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.inner_optimizers import has_factors
from keras_gamma.decay.penalties import Change, Slot
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import Decision, PlanEntry

_WHAT = "record of keras_gamma"


def records_of(root: Any) -> dict[str, str]:
    """Place -> record, as JSON, for every layer and optimizer of a model that has one."""
    found: dict[str, str] = {}
    for place, saveable in structure.saveables(root):
        record = _record_of(saveable)
        text = None if record is None else record.to_json()
        if text is not None:
            found[place] = text
    return found


def restore(model: keras.Model, records: Mapping[str, str], optimizers: bool = True) -> None:
    """Puts what records say onto a model. If one does not fit, nothing is changed.

    Args:
        model: a `keras.Model` of the same structure.
        records: place -> JSON, of `records_of` or of an archive.
        optimizers: bool. Whether to put back what belongs to optimizers.

    Raises:
        ValueError: if a record is malformed, or does not fit what is at its place.
    """
    at = structure.places(model)
    on_layers: list[tuple[GammaPlan, PlanEntry, Slot]] = []
    on_optimizers: list[tuple[Any, DecayPlan, list[keras.Variable]]] = []
    for place, text in records.items():
        target = at.get(place)
        try:
            if is_for_optimizer(text):
                if optimizers:
                    on_optimizers.append(_read_optimizer(text, target))
            else:
                on_layers += _read_layer(text, target)
        except ValueError as error:
            raise ValueError(f"{place or 'the top'}: {error}") from error
    _put_on_layers(model, on_layers)
    # The γ that have a penalty were spared before they were saved.
    for optimizer, plan, variables in on_optimizers:
        if not has_factors(optimizer):
            spared = [v for e, v in zip(plan, variables, strict=True) if not e.decayed]
            _keras.exclude(optimizer, spared)
        optimizer_records.remember(optimizer, plan, variables, model)
    if on_optimizers:
        penalties.drop_traced_functions(model)


def _put_on_layers(model: keras.Model, decided: list[tuple[GammaPlan, PlanEntry, Slot]]) -> None:
    changes = []
    for _, entry, slot in decided:
        wanted, foreign = application.regularizer(entry), penalties.foreign(slot)
        if foreign is not None and not penalties.same(foreign, wanted):
            raise ValueError(
                f"{entry.path} has a regularizer of its own ({type(foreign).__name__}), but the "
                f"record says that it has {'another' if wanted else 'none'}."
            )
        if foreign is not None:
            penalties.mark(slot.variable.regularizer or wanted)
        changes.append(Change(slot, wanted))
    penalties.apply_changes(model, changes)
    for plan, entry, slot in decided:
        layer_records.remember(plan, [(entry, slot)])
    layer_records.share_teller(model)
    model_watch.watch(model)


def _read_layer(text: str, layer: Any) -> list[tuple[GammaPlan, PlanEntry, Slot]]:
    content = plan_files.from_json(text, layer_decisions.FORMAT, layer_decisions.VERSION, _WHAT)
    if not isinstance(layer, keras.Layer):
        raise ValueError("the record is for a layer, but there is none at this place.")
    own = structure.own_variables(layer)
    found = []
    for number, decision in enumerate(_list(content, "decisions")):
        try:
            index, shape = decision["variable"], decision["shape"]
            plan = GammaPlan.from_json(json.dumps(decision["plan"]))
            (entry,) = plan
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"malformed record: decision {number}: {error}") from None
        here = own[index][0] if isinstance(index, int) and 0 <= index < len(own) else None
        if here is None or list(here.shape) != shape or entry.decision is Decision.NONE:
            raise ValueError(
                f"the record is for a variable {index!r} of the shape {shape!r}, but "
                f"{type(layer).__name__} {layer.name!r} has "
                f"{[(i, list(v.shape)) for i, (v, _) in enumerate(own)]}."
            )
        found.append((plan, entry, Slot(layer, here)))
    return found


def _read_optimizer(text: str, optimizer: Any) -> tuple[Any, DecayPlan, list[keras.Variable]]:
    form = optimizer_records.FORMAT, optimizer_records.VERSION
    content = plan_files.from_json(text, *form, _WHAT)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError("the record is for an optimizer, but the model came back without it.")
    try:
        plan = DecayPlan.from_json(json.dumps(content["plan"]))
    except (KeyError, ValueError) as error:
        raise ValueError(f"malformed record: {error}") from None
    own = _keras.variables_of(optimizer) if optimizer.built else []
    positions = content.get("positions")
    if positions is None:
        positions = _positions_by_path(plan, own)
    if not isinstance(positions, list) or len(positions) != len(plan):
        raise ValueError("malformed record: it has no position for each variable.")
    positions = _in_the_order_of(own, plan, positions)
    entries, variables = [], []
    for entry, position in zip(plan, positions, strict=True):
        if position is None:  # It was frozen, or another optimizer's.
            continue
        here = own[position] if isinstance(position, int) and 0 <= position < len(own) else None
        if here is None or not places.is_renamed(entry.path, here.path):
            raise ValueError(
                f"the record is for {entry.path} as variable {position!r} of the optimizer, which "
                f"{'has ' + str(len(own)) if here is None else 'is ' + here.path}."
            )
        entries.append(entry)
        variables.append(here)
    return optimizer, DecayPlan(entries, plan.guidelines, plan.weight_decay), variables


def _in_the_order_of(own: list[keras.Variable], plan: DecayPlan, positions: list[Any]) -> list[Any]:
    """The positions of the variables of a plan, if they came back in another order.

    Keras may build them otherwise than they were built when they were saved: a layer in float8 has
    its scales after its kernel, or before.
    """
    known = [(entry, one) for entry, one in zip(plan, positions, strict=True) if one is not None]
    is_order = sorted(one for _, one in known if isinstance(one, int)) == list(range(len(own)))
    if not is_order or all(places.is_renamed(e.path, own[one].path) for e, one in known):
        return positions
    numbers = {path: i for i, path in enumerate(places.unique_paths(own))}
    if {entry.path for entry, _ in known} != set(numbers):
        return positions
    return [
        None if one is None else numbers[entry.path]
        for entry, one in zip(plan, positions, strict=True)
    ]


def _positions_by_path(plan: DecayPlan, own: list[keras.Variable]) -> list[int | None]:
    """Where the variables of a plan are, that was saved before its optimizer was built."""
    numbers = {path: i for i, path in enumerate(places.unique_paths(own))}
    if all(entry.path in numbers for entry in plan):
        return [numbers[entry.path] for entry in plan]
    found, missing = places.written_for([entry.path for entry in plan], own)
    if missing:
        raise ValueError(
            f"the optimizer decays {', '.join(missing)}, of which the record does not know."
        )
    numbers = {path: i for i, path in enumerate(found)}
    return [numbers.get(entry.path) for entry in plan]


def _record_of(saveable: Any) -> Any:
    return layer_records.of(saveable) or optimizer_records.of(saveable)


def is_for_optimizer(text: str) -> bool:
    """Whether a record is for an optimizer."""
    return bool(_format(text) == optimizer_records.FORMAT)


def _format(text: str) -> Any:
    """The format that a record says it has; whether it is one is seen when it is read."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content.get("format") if isinstance(content, dict) else None


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise ValueError(f"malformed record: {key!r} is no list.")
    return value
