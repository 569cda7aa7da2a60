"""Models as the code examples of keras.io write them, with raw TensorFlow where those have it.

Written from memory in a third party's style; the expected roles are written by hand.
"""

import keras
import pytest
from keras import layers, ops

tf = pytest.importorskip("tensorflow")


class Patches(layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, images):
        window = [1, self.size, self.size, 1]
        patches = tf.image.extract_patches(images, window, window, [1, 1, 1, 1], "VALID")
        return tf.reshape(patches, [tf.shape(images)[0], -1, patches.shape[-1]])


class PatchEncoder(layers.Layer):
    """Of a masked autoencoder: some patches are shown, of the others only where they are."""

    def __init__(self, count, width, shown):
        super().__init__()
        self.count, self.width, self.shown = count, width, shown
        self.mask_token = tf.Variable(tf.random.normal([1, 48]), trainable=True)

    def build(self, shape):
        self.projection = layers.Dense(self.width)
        self.positions = layers.Embedding(self.count, self.width)

    def call(self, patches):
        batch = tf.shape(patches)[0]
        positions = self.positions(tf.range(self.count)[tf.newaxis, ...])
        positions = tf.tile(positions, [batch, 1, 1])
        embedded = self.projection(patches) + positions
        order = tf.argsort(tf.random.uniform((batch, self.count)), axis=-1)
        return tf.gather(embedded, order[:, : self.shown], axis=1, batch_dims=1)


def pre_norm(x, name):
    y = layers.LayerNormalization(name=f"{name}_ln1")(x)
    x = layers.Add()([layers.MultiHeadAttention(2, 8)(y, y), x])
    y = layers.LayerNormalization(name=f"{name}_ln2")(x)
    y = layers.Dense(16)(layers.Dense(32, activation="gelu")(y))
    return layers.Add()([y, x])


class MaskedAutoencoder(keras.Model):
    """Trained by a `train_step` of its own."""

    def __init__(self):
        super().__init__()
        self.patches, self.patch_encoder = Patches(4), PatchEncoder(16, 16, 4)
        x = keras.Input((None, 16))
        y = layers.LayerNormalization(name="encoder_ln")(pre_norm(x, "encoder"))
        self.encoder = keras.Model(x, y)
        x = keras.Input((16, 16))
        y = layers.LayerNormalization(name="decoder_ln")(pre_norm(layers.Dense(16)(x), "decoder"))
        self.decoder = keras.Model(x, layers.Dense(48)(y))

    def train_step(self, data):
        raise NotImplementedError


def masked_autoencoder_classifier():
    images = keras.Input((16, 16, 3))
    x = PatchEncoder(16, 16, 4)(Patches(4)(images))
    x = layers.LayerNormalization(name="ln")(pre_norm(x, "block"))
    x = layers.BatchNormalization(name="bn")(x)
    return keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


class TokenEmbedding(layers.Layer):
    def __init__(self, count, length, width):
        super().__init__()
        self.tokens = layers.Embedding(count, width)
        self.positions = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(tf.range(start=0, limit=tf.shape(x)[-1], delta=1))


class Encoder(layers.Layer):
    def __init__(self, name):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 8)
        self.mlp = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(16)])
        self.norm1 = layers.LayerNormalization(name=f"{name}_ln1")
        self.norm2 = layers.LayerNormalization(name=f"{name}_ln2")

    def call(self, x):
        x = self.norm1(x + self.attention(x, x))
        return self.norm2(x + self.mlp(x))


class Decoder(Encoder):
    def __init__(self, name):
        super().__init__(name)
        self.cross = layers.MultiHeadAttention(2, 8)
        self.norm3 = layers.LayerNormalization(name=f"{name}_ln3")

    def call(self, source, x):
        length = tf.shape(x)[1]
        mask = tf.cast(tf.range(length)[:, None] >= tf.range(length), tf.bool)
        ones = tf.constant([1, 1], dtype=tf.int32)
        times = tf.concat([tf.expand_dims(tf.shape(x)[0], -1), ones], 0)
        mask = tf.tile(tf.reshape(mask, [1, length, length]), times)
        x = self.norm1(x + self.attention(x, x, attention_mask=mask))
        x = self.norm2(self.cross(x, source) + x)
        return self.norm3(x + self.mlp(x))


class SpeechTransformer(keras.Model):
    def __init__(self):
        super().__init__()
        convolutions = [layers.Conv1D(16, 11, strides=2, padding="same") for _ in range(2)]
        self.encoder = keras.Sequential([*convolutions, Encoder("encoder")])
        self.embedding, self.decoder = TokenEmbedding(50, 20, 16), Decoder("decoder")
        self.head = layers.Dense(50)

    def call(self, inputs):
        return self.head(self.decoder(self.encoder(inputs[0]), self.embedding(inputs[1])))


def speech_inputs():
    return [keras.KerasTensor((None, 64, 12)), keras.KerasTensor((None, 10), dtype="int32")]


class SpatialAttention(layers.Layer):
    """Of a diffusion model."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.norm = layers.GroupNormalization(4, name="attention_gn")
        self.query, self.key, self.value, self.out = (layers.Dense(width) for _ in range(4))

    def call(self, x):
        batch, height, width = tf.shape(x)[0], tf.shape(x)[1], tf.shape(x)[2]
        scale = tf.cast(self.width, tf.float32) ** (-0.5)
        y = self.norm(x)
        query, key, value = self.query(y), self.key(y), self.value(y)
        scores = tf.einsum("bhwc, bHWc->bhwHW", query, key) * scale
        scores = tf.nn.softmax(tf.reshape(scores, [batch, height, width, height * width]), -1)
        scores = tf.reshape(scores, [batch, height, width, height, width])
        return x + self.out(tf.einsum("bhwHW,bHWc->bhwc", scores, value))


def attention_of_a_diffusion_model():
    x = keras.Input((8, 8, 16))
    y = SpatialAttention(16)(layers.Conv2D(16, 3, padding="same")(x))
    y = layers.GroupNormalization(4, name="last_gn")(y)
    return keras.Model(x, layers.Conv2D(3, 3)(keras.activations.swish(y)))


class SpatialGate(layers.Layer):
    """A gMLP block: half of the channels gates the other half."""

    def __init__(self, name):
        super().__init__()
        self.mlp = keras.Sequential([layers.Dense(16, activation="gelu")])
        self.mix, self.out = layers.Dense(6, bias_initializer="ones"), layers.Dense(8)
        self.norm1 = layers.LayerNormalization(name=f"{name}_ln1")
        self.norm2 = layers.LayerNormalization(name=f"{name}_ln2")

    def call(self, x):
        u, v = tf.split(self.mlp(self.norm1(x)), 2, axis=2)
        v = ops.transpose(self.mix(ops.transpose(self.norm2(v), (0, 2, 1))), (0, 2, 1))
        return x + self.out(u * v)


def gated_mlp():
    x = keras.Input((6, 8))
    y = layers.GlobalAveragePooling1D()(SpatialGate("b")(SpatialGate("a")(x)))
    return keras.Model(x, layers.Dense(2)(y))


class Quantizer(layers.Layer):
    def __init__(self):
        super().__init__()
        self.codes = tf.Variable(tf.random.uniform((8, 16)), trainable=True)

    def call(self, x):
        flat = tf.reshape(x, [-1, 8])
        distances = (
            tf.reduce_sum(flat**2, axis=1, keepdims=True)
            + tf.reduce_sum(self.codes**2, axis=0)
            - 2 * tf.matmul(flat, self.codes)
        )
        hot = tf.one_hot(tf.argmin(distances, axis=1), 16)
        quantized = tf.reshape(tf.matmul(hot, self.codes, transpose_b=True), tf.shape(x))
        self.add_loss(tf.reduce_mean((tf.stop_gradient(quantized) - x) ** 2))
        return quantized


def quantizing_autoencoder():
    x = keras.Input((16, 16, 1))
    y = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="encoder_bn")(y))
    y = Quantizer()(layers.Conv2D(8, 1)(y))
    y = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(y)
    y = layers.ReLU()(layers.BatchNormalization(name="decoder_bn")(y))
    return keras.Model(x, layers.Conv2D(1, 3)(y))


class MaskedTokens(layers.Layer):
    """Computes its mask with raw TensorFlow, out of reach of `call`."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(20, 16)

    def call(self, x):
        return self.embedding(x) * tf.math.sqrt(tf.cast(16, tf.float32))

    def compute_mask(self, x, mask=None):
        return tf.math.not_equal(x, 0)


class CaptionDecoder(layers.Layer):
    def __init__(self):
        super().__init__()
        self.tokens = MaskedTokens()
        self.attention = layers.MultiHeadAttention(2, 8)
        self.norm = layers.LayerNormalization(name="decoder_ln")
        self.pre = layers.LayerNormalization(name="decoder_pre_ln")
        self.head = layers.Dense(20)
        self.supports_masking = True

    def call(self, x, mask=None):
        y = self.tokens(x)
        y = self.norm(y + self.attention(self.pre(y), y))
        return self.head(y)


def caption_decoder():
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, CaptionDecoder()(x))


class DeltaRule(layers.Layer):
    """A recurrence that is unrolled by hand, and keeps what it yields in a `TensorArray`."""

    def __init__(self):
        super().__init__()
        self.norm = layers.LayerNormalization(name="ln")
        self.query, self.key, self.value, self.out = (layers.Dense(8) for _ in range(4))

    def build(self, shape):
        self.key_scale, self.value_scale = (
            self.add_weight(name=name, shape=(8,), initializer="random_uniform")
            for name in ("key_scale", "value_scale")
        )

    def call(self, x):
        h = self.norm(x)
        key = self.key(h) * self.key_scale
        key = key * ops.rsqrt(ops.sum(ops.square(key), axis=-1, keepdims=True) + 1e-12)
        query, value = self.query(h), self.value(h) * self.value_scale
        state = tf.zeros((tf.shape(x)[0], 8, 8))
        read = tf.TensorArray(tf.float32, size=x.shape[1])
        for t in range(x.shape[1]):
            state = 0.9 * state + value[:, t, :, None] * key[:, t, None, :]
            read = read.write(t, tf.linalg.matvec(state, query[:, t]))
        return x + self.out(tf.transpose(read.stack(), [1, 0, 2]))


def delta_rule():
    x = keras.Input((4, 8))
    return keras.Model(x, layers.Dense(2)(layers.LayerNormalization(name="last")(DeltaRule()(x))))


class Mapped(layers.Layer):
    """A loop of TensorFlow's own, too long to be unrolled: only the whole can be run."""

    def __init__(self):
        super().__init__()
        self.norm = layers.LayerNormalization(name="ln")

    def call(self, x):
        rows = tf.reshape(tf.repeat(self.norm(x), 5, axis=1), (-1, 8))
        return x + tf.reshape(tf.map_fn(tf.nn.relu, rows), (-1, 20, 8))[:, ::5]


def mapped():
    x = keras.Input((4, 8))
    return keras.Model(x, layers.Dense(2)(Mapped()(x)))


CASES = {
    # The scale of the keys is absorbed by their own norm; that of the values is not.
    "delta_rule": (delta_rule, None, {"ln": "residual_last", "last": "trunk"}),
    # The pre-norm stands in front of the queries alone.
    "caption_decoder": (
        caption_decoder,
        None,
        {"decoder_ln": "trunk", "decoder_pre_ln": "other"},
    ),
    "masked_autoencoder": (
        MaskedAutoencoder,
        None,
        {
            "encoder_ln1": "residual_last",
            "encoder_ln2": "residual_last",
            "encoder_ln": "trunk",
            "decoder_ln1": "residual_last",
            "decoder_ln2": "residual_last",
            "decoder_ln": "trunk",
        },
    ),
    "masked_autoencoder_classifier": (
        masked_autoencoder_classifier,
        None,
        {
            "block_ln1": "residual_last",
            "block_ln2": "residual_last",
            "ln": "interior",
            "bn": "trunk",
        },
    ),
    "speech_transformer": (
        SpeechTransformer,
        speech_inputs,
        # Post-norm; what the encoder ends with feeds the cross-attention from outside.
        dict.fromkeys(
            ("encoder_ln1", "encoder_ln2", "decoder_ln1", "decoder_ln2", "decoder_ln3"), "trunk"
        ),
    ),
    "attention_of_a_diffusion_model": (
        attention_of_a_diffusion_model,
        None,
        {"attention_gn": "residual_last", "last_gn": "trunk"},
    ),
    "gated_mlp": (
        gated_mlp,
        None,
        dict.fromkeys(("a_ln1", "a_ln2", "b_ln1", "b_ln2"), "residual_last"),
    ),
    # Only which code is nearest follows from the encoder, and no code follows its scale.
    "quantizing_autoencoder": (
        quantizing_autoencoder,
        None,
        {"encoder_bn": "other", "decoder_bn": "trunk"},
    ),
}
