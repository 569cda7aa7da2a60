"""Sets and takes back regularizers on γ. Thin: what to set is decided elsewhere.

A regularizer that keras_gamma sets is an ordinary `keras.regularizers.L2` (so that a saved model
loads without keras_gamma), with a mark on the object that says so and remembers what was
there before. The mark lives as long as the object: it is not saved.
"""

import dataclasses
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.network import normalizations

_MARK = "_keras_gamma_previous"


@keras.saving.register_keras_serializable(package="keras_gamma")
class UnitOffsetL2(keras.regularizers.Regularizer):
    """Penalty `l2 · Σ(1 + w)²`, for norms that store `w` and multiply by γ = 1 + w.

    Plain L2 on `w` would pull γ to 1 instead of to 0.

    Args:
        l2: float ≥ 0, in Keras' convention: the gradient is `2 · l2 · (1 + w)`.

    Example:

    >>> import numpy as np
    >>> from keras_gamma.decay.regularizers import UnitOffsetL2
    >>> float(UnitOffsetL2(0.5)(np.array([0.0, 1.0], "float32")))
    2.5
    """

    def __init__(self, l2=0.01):
        self.l2 = float(l2)

    def __call__(self, x):
        return self.l2 * keras.ops.sum(keras.ops.square(1.0 + x))

    def get_config(self):
        return {"l2": self.l2}


def make(l2, neutral):
    """The regularizer that penalizes `l2 · Σγ²`, whichever way γ is stored."""
    return keras.regularizers.L2(l2) if neutral == 1.0 else UnitOffsetL2(l2)


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """The places where the regularizer of one γ is kept: the variable and, mostly, the layer."""

    layer: keras.Layer
    variable: keras.Variable

    @property
    def attribute(self):
        """Name of the layer's own regularizer attribute, or `None` (`RMSNormalization`)."""
        for name, value in vars(self.layer).items():
            if value is self.variable:
                name = f"{name.lstrip('_')}_regularizer"
                return name if hasattr(self.layer, name) else None
        return None

    def get(self):
        """The regularizers in force: `(the variable's, the layer's)`."""
        attribute = self.attribute
        of_layer = getattr(self.layer, attribute) if attribute else None
        return self.variable.regularizer, of_layer

    def put(self, of_variable, of_layer):
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


def is_ours(regularizer):
    """Whether keras_gamma made this very object, in this process."""
    return hasattr(regularizer, _MARK)


def foreign(slot):
    """The regularizer that somebody else set on this γ, or `None`."""
    for regularizer in slot.get():
        if regularizer is not None and not is_ours(regularizer):
            return regularizer
    return None


def same(a, b):
    """Whether two regularizers are of one class and one configuration."""
    return type(a) is type(b) and a is not None and a.get_config() == b.get_config()


def mark(regularizer, previous=(None, None)):
    """Notes on `regularizer` that keras_gamma set it, and what was there before."""
    setattr(regularizer, _MARK, previous)
    return regularizer


def previous(slot):
    """What stood in `slot` before keras_gamma came: what is to be put back one day."""
    current = slot.get()
    for regularizer in current:
        if is_ours(regularizer):
            return getattr(regularizer, _MARK)
    return current


def apply_changes(model, changes):
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


def take_back(model, undos):
    """Puts back what stood before, wherever what was put is still in place."""
    for undo in undos:
        if undo.slot.variable.regularizer is undo.put:
            undo.slot.put(*undo.before)
    drop_traced_functions(model)


def is_in_place(slot, regularizer):
    """Whether just this regularizer, or none, stands in `slot` already."""
    of_variable, of_layer = slot.get()
    if regularizer is None:
        return of_variable is None and of_layer is None
    consistent = slot.attribute is None or same(of_layer, regularizer)
    return same(of_variable, regularizer) and consistent


def drop_traced_functions(model):
    """Makes the next `fit` and `evaluate` of `model` and its sub-models trace anew."""
    for layer in _keras.flatten_layers(model):
        for name in ("train_function", "test_function"):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)


def slots(model):
    """Path -> `Slot` for every variable that some layer of `model` holds itself.

    A second variable of the same path gets `#2`, as in `find_roles`.
    """
    found, seen = {}, set()
    for layer in _keras.flatten_layers(model):
        for value in vars(layer).values():
            if isinstance(value, keras.Variable) and id(value) not in seen:
                seen.add(id(value))
                path, n = value.path, 1
                while path in found:
                    n += 1
                    path = f"{value.path}#{n}"
                found[path] = Slot(layer, value)
    return found


def gamma_paths(model):
    """The paths, as in `slots`, of the scales of all registered normalizations in `model`."""
    by_variable = {id(slot.variable): path for path, slot in slots(model).items()}
    paths = []
    for layer in _keras.flatten_layers(model):
        entry = normalizations.registered(layer)
        variable = None if entry is None else entry.variable(layer)
        if variable is not None and id(variable) in by_variable:
            paths.append(by_variable[id(variable)])
    return list(dict.fromkeys(paths))


def unsaved(model, slots):
    """Those of `slots` whose regularizer is not in the model's config, and so not in its archive.

    A layer may have no argument for it (`RMSNormalization`), or sit in a model that is rebuilt
    from a few numbers (the backbones of keras-cv and keras-hub).
    """
    kept = set(_regularizers_in(model.get_config()))
    return [slot for slot in slots if (slot.layer.name, slot.attribute) not in kept]


def _regularizers_in(config):
    """Pairs of layer name and regularizer argument in a (nested) config."""
    todo = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            name = item.get("name")
            for key, value in item.items():
                if key.endswith("_regularizer") and value is not None:
                    yield name, key
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
