"""What of a model is called in a trace: the model, or the sub-models of one without a `call`.

A trainer (a masked autoencoder, a diffusion model, a GAN, a contrastive learner) has a `train_step`
of its own and calls its parts there; there is nothing to call it on as a whole.
"""

from typing import Any

import keras

from keras_gamma._keras import layers as _layers


def has_call(model: keras.Model) -> bool:
    """Whether `model` can be called as a whole."""
    return type(model).call not in (keras.Model.call, keras.Layer.call)


def submodels(model: keras.Model) -> dict[str, keras.Layer]:
    """The parts of a model without a `call`: attribute, or name -> layer with weights.

    A part that another one holds is left out: it is looked at where it stands.
    """
    attributes = dict(vars(model))
    if hasattr(model, "named_children"):  # torch keeps layers apart from other attributes.
        attributes.update(model.named_children())
    names = {id(v): k for k, v in attributes.items() if isinstance(v, keras.Layer)}
    layers = [layer for layer in _layers.sublayers(model) if _may_hold_weights(layer)]
    inside = {
        id(inner)
        for layer in layers
        for inner in _layers.flatten_layers(layer)
        if inner is not layer
    }
    found: dict[str, keras.Layer] = {}
    for layer in layers:
        if id(layer) not in inside:
            found.setdefault(names.get(id(layer), layer.name), layer)
    return found


def _may_hold_weights(layer: keras.Layer) -> bool:
    return bool(layer.weights) or not layer.built


def inputs_of(name: str, layer: keras.Layer, inputs: Any) -> Any:
    """What the user passed for one part, by attribute or by name; `None` if nothing."""
    if not isinstance(inputs, dict):
        return None
    found = inputs.get(name)
    return inputs.get(layer.name) if found is None else found
