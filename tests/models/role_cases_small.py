"""Small models from many fields, with roles written by hand beforehand."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.models.role_cases_inner import stem
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
    ln,
    mlp,
    register,
    relu,
    self_attention,
    tokens,
)


def dense(x, units=8, **kwargs):
    return layers.Dense(units, use_bias=False, **kwargs)(x)


@register
class Mix(layers.Layer):
    """`g · a + (1 − g) · b`, where g is a weight behind a sigmoid."""

    def build(self, shapes):
        self.logit = self.add_weight(name="logit", shape=(), initializer="zeros")

    def call(self, a, b):
        g = ops.sigmoid(self.logit)
        return g * a + (1.0 - g) * b


def learned_mix():
    x = image()
    h = stem(x)
    return keras.Model(x, classify(Mix()(h, bn(conv(relu(conv(h))), "bn"))))


def taken_off():
    """What a branch explains is taken off the stream; its norm comes last."""
    x = tokens()
    h = x - ln(mlp(x), "ln1")
    h = layers.Subtract()([h, ln(mlp(h), "ln2")])
    return keras.Model(x, dense(h, 3))


@register
class Sometimes(layers.Layer):
    """Data decide whether there is a branch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="ln")
        self.dense = layers.Dense(8, "relu")

    def call(self, x):
        branch = self.dense(self.norm(x))
        return x + ops.cond(ops.mean(x) > 0.0, lambda: branch, lambda: 0.5 * branch)


def sometimes():
    x = tokens()
    return keras.Model(x, dense(ln(Sometimes(name="a")(x), "final_ln"), 3))


def convolutional_stem():
    """A transformer behind convolutions with norms; positions are added."""
    x = image()
    h = relu(bn(conv(x, 4, 3, 2), "bn1"))
    h = layers.Conv2D(8, 1)(relu(bn(conv(h, 4, 3, 2), "bn2")))
    h = ops.reshape(h, (-1, 4, 8))
    h = h + layers.Embedding(4, 8)(ops.arange(4))
    h = h + self_attention(ln(h, "ln1"))
    h = h + mlp(ln(h, "ln2"))
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


def read_inside():
    """A second model reads off a tensor inside the first, and its output."""
    x = image()
    h = stem(x)
    inner = layers.Add(name="inner")([h, bn(conv(relu(bn(conv(h), "bn1"))), "bn2")])
    y = relu(bn(conv(relu(inner), strides=2), "bn3"))
    base = keras.Model(x, classify(y))
    return keras.Model(base.inputs, [base.get_layer("inner").output, base.output])


@register
class CosineAttention(layers.Layer):
    """Logits are cosines, with a learned temperature."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.key, self.value, self.out = (layers.Dense(8) for _ in range(4))

    def build(self, shape):
        self.temperature = self.add_weight(name="temperature", shape=(1, 1), initializer="ones")

    def call(self, x):
        q, k = (ops.normalize(f(x), axis=-1) for f in (self.query, self.key))
        scale = ops.exp(ops.minimum(self.temperature, math.log(100.0)))
        weights = ops.softmax(ops.einsum("bic,bjc->bij", q, k) * scale)
        return self.out(ops.matmul(weights, self.value(x)))


def cosine_attention():
    x = tokens()
    h = x + CosineAttention()(ln(x, "ln1"))
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


def gated_by_context():
    """How much of a branch is let through follows from another input."""
    x, c = tokens(), keras.Input((4,), name="context")
    gate = dense(relu(ln(dense(c), "c_ln1")), activation="sigmoid")[:, None, :]
    h = x + gate * self_attention(ln(x, "ln"))
    return keras.Model([x, c], dense(ln(h, "final_ln"), 3))


def patch_merging():
    """Four neighbours are concatenated, normalized and projected: a stream begins."""
    x = image()
    h = x + mlp(ln(x, "ln1"))
    h = layers.Concatenate()([h[:, i::2, j::2] for i in range(2) for j in range(2)])
    h = dense(ln(h, "merge_ln"))
    h = h + mlp(ln(h, "ln2"))
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


@register
class Forgetting(layers.Layer):
    """`c = f·c + (1 − f)·z`, along the sequence."""

    def call(self, z, f):
        def step(c, pair):
            z, f = pair
            c = f * c + (1.0 - f) * z
            return c, c

        z, f = (ops.swapaxes(t, 0, 1) for t in (z, f))
        _, states = ops.scan(step, ops.zeros_like(z[0]), (z, f))
        return ops.swapaxes(states, 0, 1)


def quasi_recurrent():
    """A norm in front of candidates and gates; the output is added to the input."""
    x = tokens()
    n = ln(x, "ln")
    c = Forgetting()(ops.tanh(dense(n)), dense(n, activation="sigmoid"))
    h = x + dense(dense(n, activation="sigmoid") * c)
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


def wide_and_deep():
    """The wide part is linear in the input: a skip around the deep one."""
    x = keras.Input((8,))
    h = relu(bn(dense(x, 12), "deep_bn1"))
    h = relu(bn(dense(h, 12), "deep_bn2"))
    return keras.Model(x, layers.Add()([dense(x, 1), dense(h, 1)]))


def inception_time():
    """Three modules of parallel convolutions beside a projection."""
    x = tokens(8, 4)
    h = x
    for name in ("m1", "m2", "m3"):
        parts = [layers.Conv1D(2, k, padding="same", use_bias=False)(h) for k in (1, 3, 5)]
        parts.append(layers.Conv1D(2, 1)(layers.MaxPooling1D(3, 1, padding="same")(h)))
        h = relu(bn(layers.Concatenate()(parts), f"{name}_bn"))
    h = relu(layers.Add()([bn(layers.Conv1D(8, 1)(x), "skip_bn"), h]))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


def signals_of_the_brain():
    """EEGNet: temporal, spatial and separable convolutions."""
    x = keras.Input((4, 16, 1))
    h = bn(layers.Conv2D(2, (1, 4), padding="same", use_bias=False)(x), "bn1")
    h = bn(layers.DepthwiseConv2D((4, 1), depth_multiplier=2, use_bias=False)(h), "bn2")
    h = layers.AveragePooling2D((1, 4))(layers.Activation("elu")(h))
    h = layers.SeparableConv2D(4, (1, 2), padding="same", use_bias=False)(h)
    h = layers.Activation("elu")(bn(h, "bn3"))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


def two_views_of_time():
    """LSTM-FCN: a recurrent and a convolutional part are concatenated."""
    x = tokens(8, 4)
    h = relu(bn(layers.Conv1D(4, 3, padding="same")(x), "bn1"))
    h = relu(bn(layers.Conv1D(4, 3, padding="same")(h), "bn2"))
    both = [layers.GlobalAveragePooling1D()(h), layers.LSTM(4)(bn(x, "in_bn"))]
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()(both)))


@register
class Parameters(layers.Layer):
    """Its weights are in a dict, as functional code has them, and the scale in a list there."""

    def build(self, shape):
        width = shape[-1]
        gain = self.add_weight((width,), "ones", name="gain")
        shapes = {"up": (width, 2 * width), "down": (2 * width, width)}
        kernels = {name: self.add_weight(shape, name=name) for name, shape in shapes.items()}
        self.parameters = {"norms": [gain], **kernels}

    def call(self, x):
        [gain], up, down = self.parameters.values()
        y = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6) * gain
        return x + ops.matmul(ops.relu(ops.matmul(y, up)), down)


def parameters():
    x = tokens()
    y = Parameters(name="a")(layers.Dense(8)(x))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


@register
class Heads(layers.Layer):
    """Attention whose heads are normalized each, with a gain for each head and channel."""

    def build(self, shape):
        self.norm = layers.LayerNormalization(name="ln")
        self.expand, self.merge = layers.Dense(24), layers.Dense(8)
        self.gain = self.add_weight((2, 4), "ones", name="gain")

    def call(self, x):
        length = x.shape[1]
        heads = ops.reshape(self.expand(self.norm(x)), (-1, length, 2, 12))
        q, k, v = ops.split(heads, 3, axis=-1)
        weights = ops.softmax(ops.einsum("bthd,bshd->bhts", q, k))
        y = ops.einsum("bhts,bshd->bthd", weights, v)
        y = y * ops.rsqrt(ops.mean(ops.square(y), axis=-1, keepdims=True) + 1e-6) * self.gain
        return x + self.merge(ops.reshape(y, (-1, length, 8)))


def heads():
    x = tokens()
    y = Heads(name="a")(layers.Dense(8)(x))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def highway_of_states():
    """SRU's output: a gate between the state and the input."""
    x = tokens()
    n = ln(x, "ln")
    r = dense(n, activation="sigmoid")
    h = r * ops.tanh(ops.cumsum(dense(n), axis=1)) + (1.0 - r) * x
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


def summed_as_a_stack():
    """Joins that are written as a stack and what is left of it: the sum, or the mean."""
    x = tokens()
    h = ops.sum(ops.stack([x, mlp(ln(x, "ln1"))], axis=0), axis=0)
    h = ops.mean(ops.concatenate([h[..., None], mlp(ln(h, "ln2"))[..., None]], axis=-1), axis=-1)
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


@register
class Weigh(layers.Layer):
    """`Σ wᵢ xᵢ` with learned weights, as a feature pyramid fuses its levels."""

    def build(self, shapes):
        self.w = self.add_weight(name="w", shape=(len(shapes),), initializer="ones")

    def call(self, tensors):
        w = ops.relu(self.w)
        return ops.sum(ops.stack(tensors, axis=-1) * (w / (ops.sum(w) + 1e-4)), axis=-1)


def weighed_as_a_stack(residual):
    """With learned weights: two norms of linear maps, or a skip and a branch."""
    x = image()
    h = stem(x)
    b = bn(conv(relu(conv(h))), "b_bn") if residual else bn(conv(h), "b_bn")
    fused = Weigh(name="weigh")([h if residual else bn(conv(h), "a_bn"), b])
    return keras.Model(x, classify(relu(bn(conv(fused), "last_bn"))))


def experts_in_a_stack():
    """A router weighs the experts' results, which lie in a stack."""
    x = tokens()
    h = ln(x, "ln")
    gate = layers.Softmax()(dense(h, 2))
    experts = [dense(ln(dense(h, 12, activation="relu"), f"e{i}_ln")) for i in range(2)]
    y = ops.sum(ops.stack(experts, axis=-1) * gate[:, :, None], axis=-1)
    return keras.Model(x, dense(ln(x + y, "final_ln"), 3))


@dataclasses.dataclass
class Output:
    """What some models return in place of a dict."""

    logits: Any
    hidden: Any = None


class Structured(keras.Model):
    """Its blocks, and itself, return dataclasses; what it attends to may be left out."""

    def __init__(self):
        super().__init__()
        self.norms = [layers.LayerNormalization(name=n) for n in ("ln1", "context_ln", "final_ln")]
        self.attention, self.head = layers.MultiHeadAttention(2, 4), layers.Dense(3)
        self.wide, self.narrow = layers.Dense(12, "relu"), layers.Dense(8)

    def block(self, x):
        return Output(x + self.narrow(self.wide(self.norms[0](x))), hidden=self)

    def call(self, x, context=None, training=False):
        x = self.block(x).logits
        c = self.norms[1](x if context is None else context)
        x = self.norms[2](x + self.attention(x, c))
        return Output(self.head(x), x)


def structured_inputs():
    shapes = {"x": (2, 6, 8), "context": (2, 4, 8)}
    return {name: np.zeros(shape, "float32") for name, shape in shapes.items()}


@register
class RunningNorm(layers.Layer):
    """Batch normalization by hand: of the running statistics, but in training."""

    def build(self, shape):
        for name in ("gamma", "beta", "mean", "variance"):
            one, learned = name in ("gamma", "variance"), name in ("gamma", "beta")
            weight = self.add_weight(
                name=name,
                shape=shape[-1:],
                initializer="ones" if one else "zeros",
                trainable=learned,
            )
            setattr(self, name, weight)

    def call(self, x, training=None):
        m, v = self.mean, self.variance
        if training:
            m, v = ops.moments(x, axes=(0, 1, 2))
            self.mean.assign(m)
            self.variance.assign(v)
        return (x - m) / ops.sqrt(v + 1e-3) * self.gamma + self.beta


def running_statistics():
    x = image()
    h = relu(RunningNorm(name="stem_bn")(conv(x)))
    y = RunningNorm(name="bn2")(conv(relu(RunningNorm(name="bn1")(conv(h)))))
    return keras.Model(x, classify(relu(h + y)))


CASES = [
    Case(
        "summed_as_a_stack",
        summed_as_a_stack,
        {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "weighed_as_a_stack",
        lambda: weighed_as_a_stack(False),
        {"stem_bn": INTERIOR, "a_bn": OTHER, "b_bn": OTHER, "last_bn": TRUNK},
        mentions=("weigh",),
    ),
    Case(
        "weighed_as_a_stack_residual",
        lambda: weighed_as_a_stack(True),
        {"stem_bn": TRUNK, "b_bn": RESIDUAL_LAST, "last_bn": TRUNK},
    ),
    # ln reaches the join through the router alone.
    Case(
        "experts_in_a_stack",
        experts_in_a_stack,
        {"ln": OTHER, "e0_ln": RESIDUAL_LAST, "e1_ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "structured",
        Structured,
        {"ln1": RESIDUAL_LAST, "context_ln": TRUNK, "final_ln": TRUNK},
        structured_inputs,
    ),
    Case(
        "running_statistics",
        running_statistics,
        {"stem_bn": TRUNK, "bn1": INTERIOR, "bn2": RESIDUAL_LAST},
    ),
    Case("learned_mix", learned_mix, {"stem_bn": TRUNK, "bn": RESIDUAL_LAST}),
    Case("taken_off", taken_off, {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST}),
    Case("sometimes", sometimes, {"a/ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "convolutional_stem",
        convolutional_stem,
        {
            "bn1": INTERIOR,
            "bn2": TRUNK,
            "ln1": RESIDUAL_LAST,
            "ln2": RESIDUAL_LAST,
            "final_ln": TRUNK,
        },
    ),
    Case(
        "read_inside",
        read_inside,
        {"stem_bn": TRUNK, "bn1": INTERIOR, "bn2": RESIDUAL_LAST, "bn3": TRUNK},
    ),
    Case("cosine_attention", cosine_attention, {"ln1": RESIDUAL_LAST, "final_ln": TRUNK}),
    # The norm of the context acts through the gate alone.
    Case(
        "gated_by_context",
        gated_by_context,
        {"c_ln1": OTHER, "ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "patch_merging",
        patch_merging,
        {"ln1": RESIDUAL_LAST, "merge_ln": TRUNK, "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    # The unrolled recurrence lies within the branch: state and candidate carry the scale on.
    Case("quasi_recurrent", quasi_recurrent, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("wide_and_deep", wide_and_deep, {"deep_bn1": INTERIOR, "deep_bn2": RESIDUAL_LAST}),
    Case(
        "inception_time",
        inception_time,
        {"m1_bn": INTERIOR, "m2_bn": INTERIOR, "m3_bn": RESIDUAL_LAST, "skip_bn": SHORTCUT},
    ),
    Case(
        "signals_of_the_brain",
        signals_of_the_brain,
        {"bn1": INTERIOR, "bn2": INTERIOR, "bn3": TRUNK},
    ),
    # An LSTM is no norm: in_bn reaches the output, bounded.
    Case("two_views_of_time", two_views_of_time, {"bn1": INTERIOR, "bn2": TRUNK, "in_bn": TRUNK}),
    # What the gate leaves of the input is no skip.
    Case("parameters", parameters, {"a": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("heads", heads, {"a": RESIDUAL_LAST, "ln": INTERIOR, "final_ln": TRUNK}),
    Case("highway_of_states", highway_of_states, {"ln": OTHER, "final_ln": TRUNK}),
]
