"""What the tables of hand-written roles are built from: a case, short names, layers of our own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

RESIDUAL_LAST = "residual_last"
SHORTCUT = "shortcut"
INTERIOR = "interior"
TRUNK = "trunk"
OTHER = "other"

register = keras.saving.register_keras_serializable(package="keras_gamma_tests")


@dataclass(frozen=True)
class Case:
    """A small model and the role of every γ in it.

    Args:
        name: the case's name, shown by pytest.
        build: makes a fresh model.
        expected: a layer's name, or the end of its path, to the role of its γ. A tuple holds one
            role per call, in data-flow order, for a layer whose calls differ.
        inputs: makes the example inputs that `find_roles` needs (subclassed models), or None.
        mentions: words that the reasons of the `other` roles must contain.
    """

    name: str
    build: Callable[[], keras.Model]
    expected: dict[str, str | tuple[str, ...]]
    inputs: Callable[[], Any] | None = None
    mentions: tuple[str, ...] = ()

    def example(self) -> Any:
        """The second argument for `find_roles`."""
        return None if self.inputs is None else self.inputs()


# --- short names -------------------------------------------------------------


def image(size=8, channels=4, name=None):
    """An image input whose skips need no projection."""
    return keras.Input((size, size, channels), name=name)


def tokens(length=6, width=8, name=None):
    """A sequence of vectors."""
    return keras.Input((length, width), name=name)


def conv(x, filters=4, kernel=3, strides=1, **kwargs):
    """A convolution without a bias: one more linear operation."""
    return layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False, **kwargs)(x)


def bn(x, name, **kwargs):
    """Batch normalization."""
    return layers.BatchNormalization(name=name, **kwargs)(x)


def ln(x, name, **kwargs):
    """Layer normalization."""
    return layers.LayerNormalization(name=name, **kwargs)(x)


def relu(x):
    """The activation for which "absorbed" is exact."""
    return layers.Activation("relu")(x)


def classify(x, activation=None):
    """Pool and classify: no normalization."""
    return layers.Dense(3, activation=activation)(layers.GlobalAveragePooling2D()(x))


def self_attention(query, value=None, key=None, heads=2, **kwargs):
    """Keras multi-head attention; values and keys come from the query where not given."""
    value = query if value is None else value
    attend = layers.MultiHeadAttention(num_heads=heads, key_dim=4)
    return attend(query, value, key=value if key is None else key, **kwargs)


def mlp(x, activation="relu"):
    """Two dense layers that keep the width."""
    return layers.Dense(x.shape[-1])(layers.Dense(12, activation=activation)(x))


# --- layers of our own -------------------------------------------------------


@register
class Table(layers.Layer):
    """Adds a variable to its input: a position table, a bias. No join."""

    def build(self, input_shape):
        self.table = self.add_weight(
            name="table", shape=input_shape[1:], initializer="random_normal"
        )

    def call(self, x):
        return x + self.table


@register
class LayerScale(layers.Layer):
    """x * gamma per channel. Its gamma is not a normalization's: there is no epsilon."""

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gamma


@register
class DropPath(layers.Layer):
    """Stochastic depth, spelled with random numbers as vision libraries do."""

    def __init__(self, rate=0.2, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, x, training=None):
        if not training or not self.rate:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        keep = ops.floor(1 - self.rate + keras.random.uniform(shape, seed=self.seed_generator))
        return x / (1 - self.rate) * keep


@register
class BasicBlock(layers.Layer):
    """A ResNet v1 block as one layer: its sub-layers and the `+` are hidden in `call`."""

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.conv1 = layers.Conv2D(
            filters, 3, strides, padding="same", use_bias=False, dtype=policy
        )
        self.bn1 = layers.BatchNormalization(name="bn1", dtype=policy)
        self.conv2 = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=policy)
        self.bn2 = layers.BatchNormalization(name="bn2", dtype=policy)
        self.project = strides != 1
        if self.project:
            self.conv0 = layers.Conv2D(filters, 1, strides, use_bias=False, dtype=policy)
            self.bn0 = layers.BatchNormalization(name="bn0", dtype=policy)

    def call(self, x, training=None):
        y = ops.relu(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        if self.project:
            x = self.bn0(self.conv0(x), training=training)
        return ops.relu(x + y)


@register
class Stage(layers.Layer):
    """Composites inside a composite, held in a list."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [BasicBlock(filters, 2, name="block1"), BasicBlock(filters, name="block2")]

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return x


@register
class Attention(layers.Layer):
    """Attention written out, with optional norms, rotary positions and a mask.

    With one head the logits and the mask have the same shape: their sum looks like a join.
    """

    def __init__(
        self, width, heads=1, qk_norm=False, v_norm=False, rotary="", mask=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.heads, self.rotary, self.mask = heads, rotary, mask
        self.query, self.key, self.value, self.out = (layers.Dense(width) for _ in range(4))
        self.q_norm = layers.LayerNormalization(name="q_norm") if qk_norm else None
        self.k_norm = layers.LayerNormalization(name="k_norm") if qk_norm else None
        self.v_norm = layers.LayerNormalization(name="v_norm") if v_norm else None

    def _split(self, x):
        if self.heads == 1:
            return x
        _, length, width = x.shape
        return ops.transpose(
            ops.reshape(x, (-1, length, self.heads, width // self.heads)), (0, 2, 1, 3)
        )

    def _rotate(self, x):
        length, half = x.shape[-2], x.shape[-1] // 2
        angle = np.arange(length)[:, None] * np.tile(1.0 / 10.0 ** np.arange(half), 2)
        turned = ops.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return x * np.cos(angle).astype("float32") + turned * np.sin(angle).astype("float32")

    def call(self, x):
        q, k, v = (self._split(f(x)) for f in (self.query, self.key, self.value))
        q = self.q_norm(q) if self.q_norm else q
        k = self.k_norm(k) if self.k_norm else k
        v = self.v_norm(v) if self.v_norm else v
        q = self._rotate(q) if "q" in self.rotary else q
        k = self._rotate(k) if "k" in self.rotary else k
        v = self._rotate(v) if "v" in self.rotary else v
        swap = (0, 2, 1) if self.heads == 1 else (0, 1, 3, 2)
        logits = ops.matmul(q, ops.transpose(k, swap)) / ops.sqrt(float(q.shape[-1]))
        if self.mask:
            present = ops.cast(ops.any(ops.not_equal(x, 0.0), axis=-1), "float32")
            both = present[:, :, None] * present[:, None, :]
            both = both if self.heads == 1 else both[:, None]
            logits = logits + (1.0 - both) * -1e9
        y = ops.matmul(ops.softmax(logits, axis=-1), v)
        if self.heads > 1:
            y = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, *x.shape[1:]))
        return self.out(y)


@register
class SharedBlock(layers.Layer):
    """A post-norm feed-forward block, to be called several times (ALBERT)."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(12, activation="relu"), layers.Dense(width)
        self.norm = layers.LayerNormalization(name="norm")

    def call(self, x):
        return self.norm(x + self.down(self.up(x)))


@register
class PositionedTokens(layers.Layer):
    """Token and position embedding as in Keras' own examples: a sum of (B, T, D) and (T, D)."""

    def build(self, input_shape):
        self.token, self.position = layers.Embedding(11, 8), layers.Embedding(6, 8)

    def call(self, ids):
        return self.token(ids) + self.position(ops.arange(6))


@register
class TransformerBlock(layers.Layer):
    """The post-norm block of Keras' own examples, sub-layers and all. Returns None as well."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attend = layers.MultiHeadAttention(num_heads=2, key_dim=4)
        self.ffn = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(width)])
        self.norm1 = layers.LayerNormalization(name="norm1")
        self.norm2 = layers.LayerNormalization(name="norm2")
        self.dropout1, self.dropout2 = layers.Dropout(0.1), layers.Dropout(0.1)

    def call(self, x, training=None):
        y = self.dropout1(self.attend(x, x), training=training)
        x = self.norm1(x + y)
        y = self.dropout2(self.ffn(x), training=training)
        return self.norm2(x + y), None


@register
class TransformerEncoder(layers.Layer):
    """A stack of them. What a block returns beside the tensor is dropped."""

    def __init__(self, width, depth, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [TransformerBlock(width, name=f"block{n + 1}") for n in range(depth)]

    def call(self, x, training=None):
        for block in self.blocks:
            x, _ = block(x, training=training)
        return x


def raw_relu(x):
    """ReLU in the backend's own words, which take no symbolic tensor."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            return tf.where(tf.greater(x, 0.0), x, tf.zeros_like(x))
        case "jax":
            import jax

            return jax.nn.relu(x)
        case "torch":
            import torch

            return torch.relu(x)


@register
class RawBackend(layers.Layer):
    """Its call leaves Keras for its backend's own operations: it cannot be opened."""

    def call(self, x):
        return raw_relu(x)


@register
class RawNumpy(layers.Layer):
    """Its call leaves Keras for numpy: it cannot be opened."""

    def call(self, x):
        if keras.backend.backend() != "tensorflow":
            return raw_relu(x + 0.0 * np.ones(1, "float32")[0])
        import tensorflow as tf

        y = tf.numpy_function(lambda t: np.maximum(t, 0.0), [x], tf.float32)
        return tf.ensure_shape(y, x.shape)

    def compute_output_shape(self, input_shape):
        return input_shape


@register
class OpaqueBlock(layers.Layer):
    """A residual block with raw backend code between its norm and its `+`: opaque."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.dense = layers.Dense(width)

    def call(self, x):
        return x + self.dense(raw_relu(self.norm(x)))


@register
class RawBlock(layers.Layer):
    """A residual block whose activation and sum are the backend's own."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = layers.Conv2D(filters, 3, padding="same")
        self.bn1 = layers.BatchNormalization(name="bn1")
        self.conv2 = layers.Conv2D(filters, 3, padding="same")
        self.bn2 = layers.BatchNormalization(name="bn2")

    def call(self, x):
        y = self.bn2(self.conv2(raw_relu(self.bn1(self.conv1(x)))))
        return raw_relu(x + y)


class _OwnNorm(layers.Layer):
    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def _unit(self, x):
        return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)


@register
class ThirdPartyRMS(_OwnNorm):
    """A norm nobody registered: it is known by its own `gamma` and `epsilon`."""

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")

    def call(self, x):
        return self._unit(x) * self.gamma


@register
class OddlyNamedNorm(_OwnNorm):
    """A norm whose scale is called `stretch`: it must be registered."""

    def build(self, input_shape):
        self.stretch = self.add_weight(name="stretch", shape=(input_shape[-1],), initializer="ones")

    def call(self, x):
        return self._unit(x) * self.stretch


@register
class OddlyNamedChild(OddlyNamedNorm):
    """A subclass of a registered class is known by its parent."""


@register
class OnePlusNorm(_OwnNorm):
    """Gemma's norm: the stored variable starts at 0 and the gain is 1 + scale."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        return self._unit(x) * (1.0 + self.scale)


@register
class SubclassedNet(keras.Model):
    """A whole model written as a class: nothing is known of it before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(4, 3, padding="same", use_bias=False)
        self.stem_bn = layers.BatchNormalization(name="stem_bn")
        self.block1 = BasicBlock(4, name="block1")
        self.block2 = BasicBlock(8, 2, name="block2")
        self.tail_bn = layers.BatchNormalization(name="tail_bn")
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3)

    def call(self, x, training=None):
        x = ops.relu(self.stem_bn(self.stem(x), training=training))
        x = self.block2(self.block1(x, training=training), training=training)
        return self.head(self.pool(self.tail_bn(x, training=training)))
