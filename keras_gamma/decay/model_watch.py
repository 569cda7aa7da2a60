"""What is lost on the way through a model as a whole: its config, its export.

A model that is rebuilt from a few numbers (the backbones of keras-cv and keras-hub) never asks its
layers for their configs, nor does an export. Methods of the instance see to it.
"""

from __future__ import annotations

import weakref
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import layer_records
from keras_gamma.decay.instance_methods import hook, owner_of, unhook

_METHODS = ("get_config", "export", "reset_metrics")


class ModelWatch:
    """Stands in for some methods of one model in which γ were decided on.

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

    def reset_metrics(self) -> None:
        """What Keras calls when an epoch begins; says so if the steps before left out penalties."""
        type(self.model).reset_metrics(self.model)
        for record in layer_records.below(self.model):
            record.tell_of_steps()


def watch(model: keras.Layer) -> None:
    """Watches `model`, and every model inside it that has a decided γ below it."""
    for layer in _keras.flatten_layers(model):
        if isinstance(layer, keras.Model) and _has_decisions(layer):
            hook(layer, of(layer) or ModelWatch(layer), _METHODS)


def unwatch(model: keras.Layer) -> None:
    """Lets go of every model in `model` that has no decided γ below it any more."""
    for layer in _keras.flatten_layers(model):
        if of(layer) is not None and not _has_decisions(layer):
            unhook(layer, _METHODS)


def _has_decisions(model: keras.Layer) -> bool:
    """Whether there is a decided γ below `model`."""
    return any(record.decisions for record in layer_records.below(model))


def of(model: keras.Layer) -> ModelWatch | None:
    """The `ModelWatch` on `model`, or `None`."""
    found = owner_of(model, "get_config")
    return found if isinstance(found, ModelWatch) else None
