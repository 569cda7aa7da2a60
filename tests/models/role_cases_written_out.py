"""Operations written out by hand in a layer's `call`: with hand-written roles."""

import keras
from keras import layers, ops

from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    TRUNK,
    Case,
    classify,
    conv,
    image,
    ln,
    mlp,
    relu,
    tokens,
)


@keras.saving.register_keras_serializable(package="written_out")
class VariableFirst(layers.Layer):
    """`gain * x + shift`, with the variables on the left."""

    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=shape[-1:], initializer="ones")
        self.shift = self.add_weight(name="shift", shape=shape[-1:], initializer="zeros")

    def call(self, x):
        return self.shift + self.gain * x


@keras.saving.register_keras_serializable(package="written_out")
class VariableMatmul(layers.Layer):
    """`mixing @ x`: the tokens are mixed by a matrix on the left."""

    def build(self, shape):
        self.mixing = self.add_weight(name="mixing", shape=(shape[1], shape[1]))

    def call(self, x):
        return self.mixing @ x


@keras.saving.register_keras_serializable(package="written_out")
class CapitalEinsum(layers.Layer):
    """Keras itself infers no shape for "BTd,dE->BTE"."""

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], shape[-1]))

    def call(self, x):
        return ops.einsum("BTd,dE->BTE", x, self.kernel)


def transformer_block(between):
    """x + between(norm(x)), and a last norm."""
    x = tokens()
    y = layers.Add()([x, between(ln(x, "ln1"))])
    return keras.Model(x, layers.Dense(2)(ln(y, "final_ln")))


BLOCK = {"ln1": RESIDUAL_LAST, "final_ln": TRUNK}


def l2_normalized(x):
    return x / ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-9)


def contrastive_head():
    """As in CLIP: an embedding of length 1 reaches the output, whatever γ."""
    x = tokens()
    y = layers.Dense(4)(ln(x, "post_ln")[:, 0])
    return keras.Model(x, 3.0 * l2_normalized(y))


def norm_by_ops():
    x = tokens()
    y = layers.Dense(4)(ln(x, "post_ln"))
    y = y / ops.maximum(ops.norm(y, axis=-1, keepdims=True), 1e-6)
    return keras.Model(x, layers.Dense(2)(y))


def rms_written_out():
    """x · rsqrt(mean(x²) + ε), in the middle of a branch."""
    x = tokens()
    y = layers.Dense(8)(ln(x, "ln1"))
    y = ops.rsqrt(ops.mean(y * y, axis=-1, keepdims=True) + 1e-9) * y
    y = layers.Add()([x, mlp(y)])
    return keras.Model(x, layers.Dense(2)(ln(y, "final_ln")))


def standardized_by_hand():
    """(x − mean) / sqrt(var): layer normalization without a layer."""
    x = tokens()
    y = layers.Dense(8)(ln(x, "ln1"))
    centred = y - ops.mean(y, axis=-1, keepdims=True)
    y = centred / ops.sqrt(ops.var(y, axis=-1, keepdims=True) + 1e-9)
    y = layers.Add()([x, mlp(y)])
    return keras.Model(x, layers.Dense(2)(ln(y, "final_ln")))


def divided_by_another():
    """Divided by the length of something else: no normalization, γ still sets the scale."""
    x = tokens()
    other = ops.sqrt(ops.sum(ops.square(layers.Dense(8)(x)), axis=-1, keepdims=True))
    y = layers.Add()([x, ln(x, "ln1") / other])
    return keras.Model(x, layers.Dense(2)(ln(y, "final_ln")))


def divided_by_a_square():
    """x / x² scales inversely: not absorbed."""
    x = tokens()
    y = ln(x, "ln1")
    y = y / (ops.sum(ops.square(y), axis=-1, keepdims=True) + 1e-9)
    y = layers.Add()([x, y])
    return keras.Model(x, layers.Dense(2)(ln(y, "final_ln")))


def softsign_written_out(scale):
    """x / (1 + |x|) bounds x and normalizes nothing: the 1 is no ε. Nor is a capsule's squash."""
    x = tokens()
    y = ln(x, "ln1")
    length = ops.sum(ops.square(y), axis=-1, keepdims=True)
    squash = {"softsign": lambda: y / (1.0 + ops.abs(y)), "squash": lambda: y / (1 + length)}
    y = layers.Add()([x, mlp(squash[scale]())])
    return keras.Model(x, layers.Dense(2)(ln(y, "final_ln")))


def not_normalized_sum():
    """Parallel branches, one of them of unit length: the other's γ reaches a sum without a skip."""
    x = image()
    h = relu(conv(x))
    a = relu(conv(layers.BatchNormalization(name="bn_a")(conv(h))))
    b = l2_normalized(relu(conv(layers.BatchNormalization(name="bn_b")(conv(h)))))
    return keras.Model(x, classify(layers.Add()([a, b])))


CASES = [
    Case("variable_first", lambda: transformer_block(VariableFirst()), BLOCK),
    Case("variable_matmul", lambda: transformer_block(VariableMatmul()), BLOCK),
    Case("contrastive_head", contrastive_head, {"post_ln": INTERIOR}),
    Case("norm_by_ops", norm_by_ops, {"post_ln": INTERIOR}),
    Case("rms_written_out", rms_written_out, {"ln1": INTERIOR, "final_ln": TRUNK}),
    Case("standardized_by_hand", standardized_by_hand, {"ln1": INTERIOR, "final_ln": TRUNK}),
    Case("divided_by_another", divided_by_another, BLOCK),
    Case("softsign_written_out", lambda: softsign_written_out("softsign"), BLOCK),
    Case("squash_written_out", lambda: softsign_written_out("squash"), BLOCK),
    Case("divided_by_a_square", divided_by_a_square, BLOCK),
    Case("einsum_with_capitals", lambda: transformer_block(CapitalEinsum()), BLOCK),
    Case("not_normalized_sum", not_normalized_sum, {"bn_a": OTHER, "bn_b": INTERIOR}),
]
