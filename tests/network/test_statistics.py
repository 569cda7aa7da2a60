"""Layers that normalize by the batch in training, and by running statistics in inference."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_gamma
from keras_gamma.network import trace
from tests.models.role_models import BY_NAME
from tests.models.role_parts import classify, image, raw_relu

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="raw code is read on TensorFlow alone"
)


class Normalized(layers.Layer):
    """Two convolutions with a batch normalization each, and a residual join: all in one layer."""

    def __init__(self, how="plain", **kwargs):
        super().__init__(**kwargs)
        self.how = how

    def build(self, shape):
        size, zeros = (4,), {"initializer": "zeros", "shape": (4,)}
        for i in "12":
            setattr(self, f"kernel{i}", self.add_weight(name=f"kernel{i}", shape=(3, 3, 4, 4)))
            gamma = self.add_weight(name=f"gamma{i}", shape=size, initializer="ones")
            setattr(self, f"gamma{i}", gamma)
            setattr(self, f"beta{i}", self.add_weight(name=f"beta{i}", **zeros))
            mean = self.add_weight(name=f"mean{i}", trainable=False, **zeros)
            setattr(self, f"mean{i}", mean)
            variance = self.add_weight(
                name=f"variance{i}", shape=size, initializer="ones", trainable=False
            )
            setattr(self, f"variance{i}", variance)
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", trainable=False)
        self.inner_norm = layers.BatchNormalization(name="inner_norm", dtype=self.dtype_policy)
        self.drop = layers.Dropout(0.5, dtype=self.dtype_policy)

    def _normalize(self, y, i, training):
        named = {n: getattr(self, f"{n}{i}") for n in ("mean", "variance", "gamma", "beta")}
        mean, variance = named["mean"], named["variance"]
        if self.how == "fused" and training:
            import tensorflow as tf

            y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                y, named["gamma"], named["beta"], is_training=True
            )
        elif training:
            mean, variance = self._moments(y)
        if training:
            for old, new in ((named["mean"], mean), (named["variance"], variance)):
                old.assign(old * 0.9 + new * 0.1)
        if self.how == "fused" and training:
            return y
        if self.how in ("raw", "fused"):
            import tensorflow as tf

            return tf.nn.batch_normalization(y, mean, variance, named["beta"], named["gamma"], 1e-3)
        y = (y - mean) / ops.sqrt(variance + 1e-3)
        return y * named["gamma"] + named["beta"]

    def _moments(self, y):
        if self.how == "raw":
            import tensorflow as tf

            return tf.nn.moments(y, [0, 1, 2])
        return ops.moments(y, (0, 1, 2), synchronized=self.how == "synchronized")

    def call(self, x, training=None):
        if training:
            self.steps.assign_add(1.0)
        y = self._normalize(ops.conv(x, self.kernel1, padding="same"), 1, training)
        y = self.drop(ops.relu(y), training=training)
        y = self.inner_norm(y, training=training)
        y = self._normalize(ops.conv(y, self.kernel2, padding="same"), 2, training)
        if self.how == "more":
            return (x + y, y) if training else x + y
        if self.how == "closed" and training:
            y = raw_relu(np.asarray(y))
        return x + y


def model_of(how, **kwargs):
    x = image()
    return keras.Model(x, classify(layers.ReLU()(Normalized(how, name="block", **kwargs)(x))))


def roles_of(report):
    return {
        entry.path.rpartition("/")[2]: str(entry.role)
        for entry in report
        if "inner" not in entry.path
    }


@pytest.mark.parametrize(
    "how",
    [
        "plain",
        pytest.param("synchronized", marks=on_tensorflow),
        pytest.param("raw", marks=on_tensorflow),
        pytest.param("fused", marks=on_tensorflow),
    ],
)
def test_a_block_in_one_layer(how):
    """γ1 is absorbed by the norm inside, and γ2 the last one of the branch."""
    model = model_of(how)
    before = [np.array(v) for v in model.variables]
    report = keras_gamma.find_roles(model)
    assert roles_of(report) == {"gamma1": "interior", "gamma2": "residual_last"}
    assert [str(e.role) for e in report if "inner" in e.path] == ["interior"]
    assert {entry.kind for entry in report} == {"batch"}
    assert not report.notes
    assert keras_gamma.verify(model, verbose=False).ok
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("how", ["more", "closed"])
def test_where_training_cannot_be_followed_it_is_an_affine(how):
    """It returns more in training, or cannot be read: what it is in inference counts."""
    model = model_of(how)
    report = keras_gamma.find_roles(model)
    assert [entry.path.rpartition("/")[2] for entry in report] == ["gamma"]  # Keras' own, inside.
    notes = {n.path.rpartition("/")[2]: str(n.role) for n in report.notes}
    assert notes == {"gamma1": "interior", "gamma2": "residual_last"}


def test_only_what_keeps_statistics_is_read_in_training():
    """A dropout inside, and Keras' own norm, are run as ever."""
    network = trace(model_of("plain"))
    told = [
        s.kwargs.get("training") for s in network.steps if isinstance(s.operation, layers.Layer)
    ]
    assert True not in told and len(told) > 2


def test_a_layer_called_twice_has_its_own_statistics_in_each_call():
    x = image()
    block = Normalized("plain", name="block")
    report = keras_gamma.find_roles(keras.Model(x, classify(block(block(x)))))
    for entry in report:
        if "gamma2" in entry.path:
            assert [str(role) for role, _ in entry.calls] == ["residual_last"] * 2


def test_half_precision():
    model = model_of("plain", dtype="mixed_float16")
    assert roles_of(keras_gamma.find_roles(model)) == {
        "gamma1": "interior",
        "gamma2": "residual_last",
    }


def test_guidelines_act_on_it():
    model = BY_NAME["statistics_by_hand"].build()
    keras_gamma.apply_guidelines(model, l2=1e-4)
    decayed = {v.path for v in model.variables if v.regularizer is not None}
    assert decayed == {"first/gamma", "last/gamma"}
    penalty = 1e-4 * 8  # Σγ² of two layers with four channels
    found = sum(ops.convert_to_numpy(loss) for loss in model.losses)
    np.testing.assert_allclose(found, penalty, rtol=1e-5)


def test_kinds():
    """Those that are normalized by in training, too, are of a kind of their own."""
    report = keras_gamma.find_roles(BY_NAME["statistics_in_one"].build())
    kinds = {entry.path: entry.kind for entry in report}
    assert kinds == {"stem/gamma": "running", "first/gamma": "batch", "last/gamma": "batch"}


class Holder(layers.Layer):
    """Weights of a normalization, and what it does, but no `call`."""

    def build(self, shape):
        zeros = {"initializer": "zeros", "shape": shape[-1:]}
        ones = {"initializer": "ones", "shape": shape[-1:]}
        self.gamma = self.add_weight(name="gamma", **ones)
        self.mean = self.add_weight(name="mean", trainable=False, **zeros)
        self.variance = self.add_weight(name="variance", trainable=False, **ones)

    def normalize(self, x, training):
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = ops.moments(x, (0, 1, 2))
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
            self.variance.assign(0.9 * self.variance + 0.1 * variance)
        return (1.0 * self.gamma) * (x - mean) / ops.sqrt(variance + 1e-3)


class WithHolder(layers.Layer):
    def build(self, shape):
        self.conv, self.norm = layers.Conv2D(4, 3, padding="same"), Holder()
        self.conv.build(shape)
        self.norm.build(shape)

    def call(self, x, training=None):
        return ops.relu(self.norm.normalize(self.conv(x), training))


def test_weights_held_by_a_layer_without_a_call():
    x = image()
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = WithHolder(name="last")(WithHolder(name="first")(h))
    model = keras.Model(x, classify(layers.Add()([h, y])))
    report = keras_gamma.find_roles(model)
    found = {e.path.partition("/")[0]: (str(e.role), e.kind) for e in report}
    assert found == {"first": ("interior", "batch"), "last": ("residual_last", "batch")}
    assert keras_gamma.verify(model, verbose=False).ok
