"""Batch normalizations written out inside larger layers: with roles by hand.

In inference each of them is an affine. A γ's role is that in the function that is trained.
"""

import keras
from keras import layers, ops

from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    SHORTCUT,
    TRUNK,
    Case,
    bn,
    classify,
    conv,
    image,
    register,
    relu,
)


@register
class ConvNormalized(layers.Layer):
    """A convolution, batch normalization by hand, and maybe ReLU.

    Args:
        how: how the normalization is written.
        own: whether the kernel is a weight of this layer, and not of a layer inside.
    """

    def __init__(self, filters=4, strides=1, how="plain", act=False, own=False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.how, self.act, self.own = filters, strides, how, act, own
        self.conv = None
        if not own:
            self.conv = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)
        self.drop = layers.Dropout(0.5)

    def build(self, shape):
        if self.own:
            self.kernel = self.add_weight(name="kernel", shape=(3, 3, shape[-1], self.filters))
        size = (self.filters,)
        self.gamma = self.add_weight(name="gamma", shape=size, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=size, initializer="zeros")
        self.mean = self.add_weight(name="mean", shape=size, initializer="zeros", trainable=False)
        self.variance = self.add_weight(
            name="variance", shape=size, initializer="ones", trainable=False
        )

    def _own_conv(self, x):
        return ops.conv(x, self.kernel, self.strides, padding="same")

    def _statistics(self, y, training):
        if not training:
            return self.mean, self.variance
        if self.how == "square":
            mean, variance = 0.0, ops.mean(ops.square(y), (0, 1, 2))
        elif self.how == "moments_apart":
            mean = ops.mean(y, (0, 1, 2), keepdims=True)
            variance = ops.squeeze(ops.mean(ops.square(y - mean), (0, 1, 2), keepdims=True))
            mean = ops.reshape(mean, (-1,))
        else:
            mean, variance = ops.moments(y, (0, 1, 2))
        if self.how == "divided":
            self.mean.assign_sub((self.mean - mean) * 0.1)
            self.variance.assign_sub((self.variance - variance) * 0.1)
            return mean, variance
        if self.how != "square":
            self.mean.assign(self.mean * 0.9 + 0.1 * mean)
        self.variance.assign(0.9 * self.variance + variance * 0.1)
        return mean, variance

    def call(self, x, training=False):
        y = self._own_conv(x) if self.own else self.conv(x)
        mean, variance = self._statistics(y, training)
        if self.how in ("plain", "moments_apart"):
            y = (y - mean) * ops.rsqrt(variance + 1e-3) * self.gamma + self.beta
        elif self.how == "folded":
            factor = self.gamma * ops.rsqrt(variance + 1e-3)
            y = y * factor + (self.beta - mean * factor)
        elif self.how == "divided":
            y = self.gamma * ops.divide(y - mean, ops.sqrt(variance + 1e-3)) + self.beta
        elif self.how == "square":
            y = y * ops.rsqrt(variance + 1e-3) * self.gamma + self.beta
        elif self.how == "operation":
            y = ops.batch_normalization(y, mean, variance, -1, self.beta, self.gamma)
        elif self.how == "running":  # Updated in training, and normalized by the new ones.
            y = (y - self.mean) / ops.sqrt(self.variance + 1e-3) * self.gamma + self.beta
        y = self.drop(y, training=training)
        return ops.relu(y) if self.act else y


def basic_block(stem, first, last):
    """Of the stem the skip is the identity; the norm of the first convolution is absorbed."""
    x = image()
    h = ConvNormalized(how=stem, act=True, name="stem")(x)
    y = ConvNormalized(how=first, act=True, name="first")(h)
    y = ConvNormalized(how=last, name="last")(y)
    return keras.Model(x, classify(relu(layers.Add()([h, y]))))


BLOCK = {"stem": TRUNK, "first": INTERIOR, "last": RESIDUAL_LAST}


def projected():
    """Among Keras' own norms: one is absorbed by what is written out, as that is by another."""
    x = image()
    h = bn(conv(x), "stem_bn")
    a = ConvNormalized(8, 2, act=True, own=True, name="first")(h)
    a = bn(conv(a, 8), "last_bn")
    b = ConvNormalized(8, 2, how="folded", own=True, name="projection")(h)
    return keras.Model(x, classify(relu(layers.Add()([a, b]))))


def activated_each():
    """All operands pass an activation: no skip. A norm alone would be linear, and so a skip."""
    x = image()
    h = relu(conv(x))
    a = ConvNormalized(act=True, own=True, name="a")(h)
    b = ConvNormalized(act=True, own=True, name="b1")(h)
    b = ConvNormalized(act=True, own=True, name="b2")(b)
    return keras.Model(x, classify(layers.Add()([a, b])))


@register
class Standardized(layers.Layer):
    """Data are brought to a known mean and variance, which no training changes; then a kernel."""

    def __init__(self, how="plain", gain=False, **kwargs):
        super().__init__(**kwargs)
        self.how, self.has_gain = how, gain
        self.conv = layers.Conv2D(4, 3, padding="same", use_bias=False)

    def build(self, shape):
        size = shape[-1:]
        self.gain = None
        if self.has_gain:
            self.gain = self.add_weight(name="gain", shape=size, initializer="ones")
        self.mean = self.add_weight(name="mean", shape=size, initializer="zeros", trainable=False)
        self.variance = self.add_weight(
            name="variance", shape=size, initializer="ones", trainable=False
        )

    def call(self, x, training=None):
        if self.how == "operation":
            x = ops.batch_normalization(x, self.mean, self.variance, -1, scale=self.gain)
        else:
            x = (x - self.mean) * ops.rsqrt(self.variance + 1e-3)
            x = x if self.gain is None else x * self.gain
        return self.conv(x)


def frozen_statistics(how, gain):
    """A fixed affine absorbs nothing: γ in front of it sets the branch's scale."""
    x = image()
    h = relu(conv(Standardized(how)(x)))
    y = relu(bn(conv(h), "bn"))
    y = Standardized(how, gain)(y)
    return keras.Model(x, classify(layers.Add()([h, y])))


CASES = [
    Case("statistics_by_hand", lambda: basic_block("plain", "folded", "divided"), BLOCK),
    Case("statistics_in_one", lambda: basic_block("running", "square", "operation"), BLOCK),
    Case("statistics_apart", lambda: basic_block("operation", "moments_apart", "running"), BLOCK),
    Case(
        "statistics_projected",
        projected,
        {
            "stem_bn": INTERIOR,
            "first": INTERIOR,
            "last_bn": RESIDUAL_LAST,
            "projection": SHORTCUT,
        },
    ),
    Case("statistics_activated_each", activated_each, {"a": OTHER, "b1": INTERIOR, "b2": OTHER}),
    Case("statistics_fixed", lambda: frozen_statistics("plain", True), {"bn": RESIDUAL_LAST}),
    Case(
        "statistics_fixed_in_one",
        lambda: frozen_statistics("operation", True),
        {"bn": RESIDUAL_LAST},
    ),
]
