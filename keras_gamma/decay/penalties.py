"""Sets and takes back penalties on γ. Thin: what to set is decided elsewhere.

A regularizer that keras_gamma sets is an ordinary `keras.regularizers.L2` (so that a saved model
loads without keras_gamma), with a mark on the object that says so and remembers what was
there before. The mark lives as long as the object: it is not saved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras

from keras_gamma._keras import names as _keras

_MARK = "_keras_gamma_previous"


@keras.saving.register_keras_serializable(package="keras_gamma")
class UnitOffsetL2(keras.regularizers.Regularizer):  # type: ignore[misc]
    """Penalty `l2 · Σ(1 + w)²`, for norms that store `w` and multiply by γ = 1 + w.

    Plain L2 on `w` would pull γ to 1 instead of to 0.

    Args:
        l2: float ≥ 0, in Keras' convention: the gradient is `2 · l2 · (1 + w)`.

    Example:

    >>> import numpy as np
    >>> from keras_gamma.decay.penalties import UnitOffsetL2
    >>> float(UnitOffsetL2(0.5)(np.array([0.0, 1.0], "float32")))
    2.5
    """

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = float(l2)

    def __call__(self, x: Any) -> Any:
        return self.l2 * keras.ops.sum(keras.ops.square(1.0 + x))

    def get_config(self) -> dict[str, Any]:
        return {"l2": self.l2}


def make(l2: float, neutral: float | None) -> keras.regularizers.Regularizer:
    """The regularizer that penalizes `l2 · Σγ²`, whichever way γ is stored."""
    return keras.regularizers.L2(l2) if neutral == 1.0 else UnitOffsetL2(l2)


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """The places where the regularizer of one γ is kept: the variable and, mostly, the layer."""

    layer: keras.Layer
    variable: keras.Variable

    @property
    def attribute(self) -> str | None:
        """Name of the layer's own regularizer attribute, or `None` (`RMSNormalization`)."""
        for name, value in vars(self.layer).items():
            if value is self.variable:
                name = f"{name.lstrip('_')}_regularizer"
                return name if hasattr(self.layer, name) else None
        return None

    def get(self) -> tuple[Any, Any]:
        """The regularizers in force: `(the variable's, the layer's)`."""
        attribute = self.attribute
        of_layer = getattr(self.layer, attribute) if attribute else None
        return self.variable.regularizer, of_layer

    def put(self, of_variable: Any, of_layer: Any) -> None:
        """Sets both. Keras leaves a frozen variable's penalty out for as long as it is frozen."""
        self.variable.regularizer = of_variable
        attribute = self.attribute
        if attribute:
            setattr(self.layer, attribute, of_layer)


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """What is to stand in one slot from now on: a regularizer, or `None` for no penalty."""

    slot: Slot
    regularizer: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Undo:
    """What was put into one slot, and what stood there before keras_gamma came."""

    slot: Slot
    put: Any
    before: tuple[Any, Any]


def is_ours(regularizer: Any) -> bool:
    """Whether keras_gamma made this very object, in this process."""
    return hasattr(regularizer, _MARK)


def foreign(slot: Slot) -> Any:
    """The regularizer that somebody else set on this γ, or `None`."""
    for regularizer in slot.get():
        if regularizer is not None and not is_ours(regularizer):
            return regularizer
    return None


def same(a: Any, b: Any) -> bool:
    """Whether two regularizers are of one class and one configuration."""
    return type(a) is type(b) and a is not None and a.get_config() == b.get_config()


def mark(regularizer: Any, previous: tuple[Any, Any] = (None, None)) -> Any:
    """Notes on `regularizer` that keras_gamma set it, and what was there before."""
    setattr(regularizer, _MARK, previous)
    return regularizer


def previous(slot: Slot) -> tuple[Any, Any]:
    """What stood in `slot` before keras_gamma came: what is to be put back one day."""
    current = slot.get()
    for regularizer in current:
        if is_ours(regularizer):
            before: tuple[Any, Any] = getattr(regularizer, _MARK)
            return before
    return current


def apply_changes(model: keras.Model, changes: Iterable[Change]) -> tuple[Undo, ...]:
    """Makes all changes, or, if one fails, none.

    Compiled training functions of `model` are dropped, for a traced one would go on without
    the new penalties; the next `fit` traces them anew. Optimizer and metrics keep their state.

    Args:
        model: the model that the slots belong to.
        changes: iterable of `Change`.

    Returns:
        A tuple of `Undo`, one for each slot that now holds what keras_gamma put there.
    """
    saved, undos, changed = [], [], False
    try:
        for change in changes:
            slot, current, before = change.slot, change.slot.get(), previous(change.slot)
            saved.append((slot, current))
            if is_in_place(slot, change.regularizer):
                if is_ours(current[0]):
                    undos.append(Undo(slot, current[0], before))
                continue
            if change.regularizer is not None:
                mark(change.regularizer, before)
            slot.put(change.regularizer, change.regularizer)
            undos.append(Undo(slot, change.regularizer, before))
            changed = True
    except BaseException:
        for slot, regularizers in saved:
            slot.put(*regularizers)
        raise
    if changed:
        drop_traced_functions(model)
    return tuple(undos)


def take_back(model: keras.Model | None, undos: Iterable[Undo]) -> None:
    """Puts back what stood before, wherever what was put is still in place.

    Variable and layer are looked at one by one: what somebody else has set on one of them since
    stays.
    """
    for undo in undos:
        of_variable, of_layer = undo.slot.get()
        if of_variable is undo.put:
            of_variable = undo.before[0]
        if of_layer is undo.put or (undo.put is not None and same(of_layer, undo.put)):
            of_layer = undo.before[1]
        undo.slot.put(of_variable, of_layer)
    if model is not None:
        drop_traced_functions(model)


def is_in_place(slot: Slot, regularizer: Any) -> bool:
    """Whether just this regularizer, or none, stands in `slot` already."""
    of_variable, of_layer = slot.get()
    if regularizer is None:
        return of_variable is None and of_layer is None
    consistent = slot.attribute is None or same(of_layer, regularizer)
    return same(of_variable, regularizer) and consistent


def drop_traced_functions(model: keras.Model) -> None:
    """Makes the next `fit` and `evaluate` of `model`, of models in it and around it, trace anew.

    A `fit` that is running now, and asks for this by a callback, takes its next step so.
    """
    layers = _keras.flatten_layers(model)
    running = {id(one) for one in _keras.models_asking()}
    for layer in [*layers, *_keras.models_around(layers)]:
        for name in ("train_function", "test_function"):
            if getattr(layer, name, None) is None:
                continue
            if id(layer) in running:
                getattr(layer, f"make_{name}")(force=True)
            else:
                setattr(layer, name, None)
