"""Built-in layers and operations with ways of their own: each in a branch, with a known role."""

import keras
import pytest
from keras import layers, ops

from keras_gamma import find_roles


def roles(function, shape=(6, 8)):
    """Roles of the γ in a model that computes `function` of its input."""
    x = keras.Input(shape)
    return [str(gamma.role) for gamma in find_roles(keras.Model(x, function(x)))]


def norm(x):
    return layers.LayerNormalization()(x)


def dense(x):
    return layers.Dense(8, activation="relu")(x)


BRANCHES = {
    "time_distributed_norm": lambda x: dense(
        layers.TimeDistributed(layers.LayerNormalization())(x)
    ),
    "time_distributed_block": lambda x: layers.TimeDistributed(
        keras.Sequential([layers.LayerNormalization(), layers.Dense(8, activation="relu")])
    )(x),
    "bidirectional": lambda x: layers.Bidirectional(layers.LSTM(4, return_sequences=True))(norm(x)),
    "recurrent": lambda x: layers.GRU(8, return_sequences=True)(norm(x)),
    "spectral": lambda x: layers.SpectralNormalization(layers.Dense(8))(layers.ReLU()(norm(x))),
    "additive_attention": lambda x: (lambda n: layers.AdditiveAttention()([n, n]))(norm(x)),
    "attention": lambda x: (lambda n: layers.Attention()([n, n]))(norm(x)),
    "grouped_query": lambda x: (lambda n: layers.GroupQueryAttention(4, 4, 2)(n, n))(norm(x)),
    "map": lambda x: ops.map(lambda t: ops.relu(t), norm(x)),
    # In a layer: Keras 3.10 takes no symbolic tensors outside of one.
    "vectorized_map": lambda x: layers.Lambda(lambda y: ops.vectorized_map(ops.relu, y))(norm(x)),
    "lambda": lambda x: layers.Lambda(ops.relu)(norm(x)),
    "einsum": lambda x: layers.EinsumDense("btc,cd->btd", (None, 8), activation="relu")(norm(x)),
    "activation": lambda x: layers.Activation("gelu")(layers.Dense(8)(norm(x))),
    "unknown_activation": lambda x: layers.Dense(8, activation=lambda t: ops.tanh(t))(norm(x)),
    "split": lambda x: ops.concatenate([ops.relu(t) for t in ops.split(norm(x), 2, -1)], -1),
    "glu": lambda x: (lambda n: dense(n) * ops.sigmoid(layers.Dense(8)(n)))(norm(x)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_the_last_norm_of_a_branch(name):
    assert roles(lambda x: layers.Add()([x, BRANCHES[name](x)])) == ["residual_last"]


@pytest.mark.parametrize("name", BRANCHES)
def test_the_same_without_a_skip_reaches_the_output(name):
    assert roles(BRANCHES[name]) == ["trunk"]


def test_a_difference_is_a_join():
    assert roles(lambda x: x - dense(norm(x))) == ["residual_last"]


def test_queries_of_an_additive_attention_only_weigh():
    def decoder(x):
        return layers.Add()([x, layers.AdditiveAttention()([norm(x), dense(x)])])

    assert roles(decoder) == ["other"]


def test_a_highway_gate_is_no_residual_join():
    def highway(x):
        gate = layers.Dense(8, activation="sigmoid")(x)
        return gate * dense(norm(x)) + (1.0 - gate) * x

    assert roles(highway) == ["other"]


def test_normalizing_operations_absorb():
    assert roles(lambda x: layers.UnitNormalization()(dense(norm(x)))) == ["interior"]
    assert roles(lambda x: ops.normalize(dense(norm(x)))) == ["interior"]


def test_a_cell_of_ones_own_is_opened():
    class Cell(layers.Layer):
        state_size = 4

        def build(self, shape):
            self.dense, self.norm = layers.Dense(4), layers.LayerNormalization(name="inner")
            self.dense.build((shape[0], shape[-1] + 4))
            self.norm.build((shape[0], 4))

        def call(self, x, states):
            y = self.norm(self.dense(ops.concatenate([x, states[0]], -1)))
            return y, [y]

    x = keras.Input((6, 8))
    y = layers.RNN(Cell(), name="my_rnn")(layers.LayerNormalization(name="outer")(x))
    found = {g.layer.name: str(g.role) for g in find_roles(keras.Model(x, y))}
    # The last step's norm is the output, whatever absorbs those before.
    assert found == {"outer": "interior", "inner": "trunk"}


def test_a_scale_in_a_layers_own_call_is_a_gamma():
    class Handmade(layers.Layer):
        """Neither named nor built as normalizations are."""

        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")
            self.lift = self.add_weight(shape=(shape[-1],), initializer="zeros", name="lift")

        def call(self, x):
            mean, variance = ops.moments(x, axes=-1, keepdims=True)
            return (x - mean) / ops.sqrt(variance + 1e-6) * self.gain + self.lift

    class ByOperation(layers.Layer):
        def build(self, shape):
            self.dense = layers.Dense(shape[-1], activation="relu")
            self.dense.build(shape)
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

        def call(self, x):
            return x + self.dense(ops.layer_normalization(x, self.gain))

    assert roles(lambda x: layers.Add()([x, dense(Handmade()(x))])) == ["residual_last"]
    assert roles(lambda x: layers.Add()([x, dense(Handmade()(dense(norm(x))))])) == [
        "interior",
        "residual_last",
    ]
    assert roles(lambda x: ByOperation()(x)) == ["residual_last"]


def test_a_layer_that_ignores_its_input_is_no_normalization():
    class Positions(layers.Layer):
        """Its output does not change when its input is scaled, since it never does."""

        def build(self, shape):
            self.table = self.add_weight(shape=shape[1:], name="table")

        def call(self, x):
            return ops.broadcast_to(self.table, ops.shape(x))

    assert roles(lambda x: layers.Add()([x, Positions()(x), dense(norm(x))])) == ["residual_last"]
