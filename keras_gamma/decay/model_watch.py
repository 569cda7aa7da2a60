"""What is lost on the way through a model as a whole: its config, its export, its training step.

A model that is rebuilt from a few numbers (the backbones of keras-cv and keras-hub) never asks its
layers for their configs, nor does an export. And an optimizer that is compiled after the guidelines
were applied may decay the same γ a second time. Three methods of the instance see to it.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import layer_records, shrinkage
from keras_gamma.decay.inner_optimizers import holds_several, unwrap
from keras_gamma.decay.instance_methods import hook, owner_of, unhook

_METHODS = ("get_config", "make_train_function", "export")


class ModelWatch:
    """Stands in for three methods of one model in which γ were decided on.

    Args:
        model: the `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = weakref.ref(model)

    @property
    def model(self) -> keras.Model:
        model = self._model()
        assert model is not None, "its methods are reached through the model alone"
        return model

    def get_config(self) -> dict[str, Any]:
        """The model's config; says so if it leaves out a penalty on a γ inside."""
        model = self.model
        records = layer_records.below(model)
        for record in records:
            record.in_config = False
        for teller in {id(record.teller): record.teller for record in records}.values():
            teller.step("model", id(model))
        config: dict[str, Any] = type(model).get_config(model)
        for record in records:
            if not record.in_config and record.penalized():
                record.tell(f"The config of {type(model).__name__} {model.name!r} does not hold")
            record.in_config = True
        return config

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the training step; says so if a γ with a penalty is decayed by it, too."""
        model = self.model
        if getattr(model, "train_function", None) is None:
            warn_if_counted_twice(model)
        return type(model).make_train_function(model, force)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Writes the model for serving; says that nobody who trains it on will have the penalties.

        What `keras.layers.TFSMLayer` reads back can be trained.
        """
        model = self.model
        exported = type(model).export(model, *args, **kwargs)
        for record in layer_records.below(model):
            record.teller.step("export", id(record))
            if record.penalized():
                record.tell(f"What {type(model).__name__} {model.name!r} was exported to drops")
        return exported


def warn_if_counted_twice(model: keras.Model) -> None:
    """Warns if a γ with a penalty is decayed by the model's optimizer, too."""
    twice = counted_twice(model)
    if twice:
        listed = ", ".join(twice[:3]) + (f" and {len(twice) - 3} more" if twice[3:] else "")
        warnings.warn(
            f"{type(unwrap(model.optimizer)).__name__} decays γ that have an L2 penalty "
            f"already: {listed}. They are counted twice. Choose one: call "
            "exclude_from_weight_decay(model.optimizer, model, guidelines='none'), or take "
            "the penalties back with plan.remove().",
            stacklevel=5,
        )


def counted_twice(model: keras.Model) -> list[str]:
    """The paths of the trainable γ with a penalty that the model's optimizer decays, too."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or holds_several(optimizer):
        return []
    inner = unwrap(optimizer)
    variables = [
        decided.slot.variable
        for record in layer_records.below(model)
        for decided in record.penalized()
        if decided.is_in_force and decided.slot.variable.trainable
    ]
    return [v.path for v in variables if shrinkage.acts_on(inner, v)]


def watch(model: keras.Layer) -> None:
    """Watches `model`, and every model inside it that has a decided γ below it."""
    for layer in _keras.flatten_layers(model):
        if isinstance(layer, keras.Model) and layer_records.below(layer):
            hook(layer, of(layer) or ModelWatch(layer), _METHODS)


def unwatch(model: keras.Layer) -> None:
    """Lets go of every model in `model` that has no decided γ below it any more."""
    for layer in _keras.flatten_layers(model):
        if of(layer) is not None and not layer_records.below(layer):
            unhook(layer, _METHODS)


def of(model: keras.Layer) -> ModelWatch | None:
    """The `ModelWatch` on `model`, or `None`."""
    found = owner_of(model, "get_config")
    return found if isinstance(found, ModelWatch) else None
