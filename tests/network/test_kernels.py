"""Kernels that a layer around computes: never silent, and their gain is found where it is seen."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_gamma import find_roles, verify


class WeightNorm(layers.Wrapper):
    """w = g · v / ‖v‖, by three ways to hand it to the layer inside."""

    def __init__(self, layer, form, **kwargs):
        super().__init__(layer, **kwargs)
        self.form = form

    def build(self, shape):
        self.layer.build(shape)
        shape = self.layer.kernel.shape
        self.v = self.add_weight(name="v", shape=shape, initializer="glorot_uniform")
        self.g = self.add_weight(name="g", shape=shape[-1:], initializer="ones")
        self.built = True

    def call(self, x, training=False):
        axes = tuple(range(len(self.v.shape) - 1))
        w = self.g * self.v / ops.sqrt(ops.sum(ops.square(self.v), axis=axes, keepdims=True))
        if self.form == "put":
            self.layer._kernel = w
        elif self.form == "assigned" or training:
            self.layer.kernel.assign(w)
        return self.layer(x)


def network(wrap):
    x = keras.Input((4, 4, 6))
    y = wrap(layers.Conv2D(6, 3, padding="same", name="inner"))(
        layers.BatchNormalization(name="bn")(x)
    )
    return keras.Model(x, layers.Add()([x, y]))


@pytest.mark.parametrize("form", ["put", "assigned"])
def test_the_gain_of_a_computed_kernel_has_a_role(form):
    model = network(lambda layer: WeightNorm(layer, form, name="wn"))
    before = [ops.convert_to_numpy(v) for v in model.variables]
    report = find_roles(model)
    assert [(g.path, str(g.role)) for g in report] == [("bn/gamma", "residual_last")]
    notes = {note.kind: note for note in report.notes}
    assert notes.keys() == {"computed kernel", "kernel_gain"}
    assert "computed by 'wn'" in notes["computed kernel"].reason
    gain = notes["kernel_gain"]
    assert (gain.path, str(gain.role)) == ("wn/g", "residual_last")
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))
    judged = {e.path: (str(e.measured), e.is_scale) for e in verify(model)}
    assert judged == {"bn/gamma": ("residual_last", False), "wn/g": ("residual_last", True)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: WeightNorm(layer, "in training", name="wn"),
        lambda layer: layers.SpectralNormalization(layer, name="wn"),
    ],
)
def test_what_sets_kernels_in_training_alone_is_noted(wrap):
    [note] = find_roles(network(wrap)).notes
    assert (note.path, note.kind) == ("wn", "computed kernel")


def test_an_ordinary_wrapper_is_not():
    class Around(layers.Wrapper):
        def call(self, x):
            return self.layer(x)

    assert find_roles(network(Around)).notes == ()
