"""Gains of normalizations that are written out, and learned gains of other kinds."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_gamma import find_roles
from keras_gamma.network import trace

TENSORFLOW = keras.backend.backend() == "tensorflow"


class Scale(layers.Layer):
    """LayerScale, whatever it is called."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def build(self, shape):
        small = keras.initializers.Constant(1e-5)
        self.by = self.add_weight(shape=(shape[-1],), initializer=small)

    def call(self, x):
        return self.form(x, self.by)


def by_tensorflow(x, g):
    import tensorflow as tf

    return tf.multiply(x, tf.cast(g, x.dtype))


FORMS = {
    "variable": (lambda x, g: x * g, 1.0),
    "variable_first": (lambda x, g: g * x, 1.0),
    "cast": (lambda x, g: x * ops.cast(g, x.dtype), 1.0),
    "reshaped": (lambda x, g: ops.multiply(x, ops.reshape(g, (1, 1, -1))), 1.0),
    "one_plus": (lambda x, g: (1.0 + g) * x, 0.0),
    "raw": (by_tensorflow, 1.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_learned_gain_is_found_however_it_is_written(form):
    if form == "raw" and not TENSORFLOW:
        pytest.skip("raw TensorFlow code")
    function, neutral = FORMS[form]
    x = keras.Input((6, 8))
    scale = Scale(function)
    y = scale(layers.Dense(8)(layers.LayerNormalization()(x)))
    network = trace(keras.Model(x, layers.Add()([x, y])))
    [gain] = network.gains
    assert (gain.layer, gain.name, gain.neutral) == (scale, "by", neutral)
    assert gain.variable is scale.by
    [norm] = network.calls  # The one of the layer alone.
    assert norm.layer is not scale
    node = network.graph.nodes[gain.node]
    assert (node.kind, len(node.inputs)) == ("linear", 1)
    assert [note.path for note in find_roles(network).notes] == [scale.by.path]


def test_numbers_that_were_looked_at_by_fingerprint_stay_as_they_are():
    scale = Scale(FORMS["one_plus"][0])
    model = keras.Sequential([keras.Input((6, 8)), scale])
    network = trace(model)
    assert ops.convert_to_numpy(scale.by) == pytest.approx(1e-5)
    # The steps that are run again with numbers have the real ones, too.
    [step] = [s for s in network.steps if network.gains[0].node in s.numbers]
    factor = next(a for a in step.args if not isinstance(a, keras.KerasTensor))
    assert ops.convert_to_numpy(factor) == pytest.approx(1.0 + 1e-5)


class ComputedKernel(layers.Layer):
    """w = g · v / ‖v‖, or (v − mean) / (std · √n) times a gain: as NFNet writes it."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def build(self, shape):
        self.v = self.add_weight(shape=(3, shape[-1], shape[-1]), name="v")
        self.g = self.add_weight(shape=(shape[-1],), initializer="ones", name="g")
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def call(self, x):
        return ops.conv(x, self.form(self.v, self.g), padding="same") + self.bias


def weight_normalization(v, g):
    return g * v / ops.sqrt(ops.sum(ops.square(v), axis=(0, 1), keepdims=True))


def scaled_standardization(v, g):
    v = ops.convert_to_tensor(v)  # JAX takes no variable there.
    mean, variance = ops.moments(v, (0, 1), keepdims=True)
    return (v - mean) * (ops.rsqrt(variance * 24 + 1e-4) * g)


@pytest.mark.parametrize("form", [weight_normalization, scaled_standardization])
def test_the_gain_of_a_kernel_has_a_role(form):
    x = keras.Input((6, 8))
    first, last, head = (ComputedKernel(form) for _ in range(3))
    y = layers.ReLU()(layers.LayerNormalization(name="norm")(first(x)))
    model = keras.Model(x, head(layers.Add()([x, last(y)])))
    roles = find_roles(model)
    found = {id(note.variable): (str(note.role), note.kind) for note in roles.notes}
    expected = {first: "interior", last: "residual_last", head: "trunk"}
    assert found == {id(layer.g): (role, "kernel_gain") for layer, role in expected.items()}
    assert [str(gamma.role) for gamma in roles] == ["residual_last"]


def test_a_kernel_without_a_gain_has_none():
    x = keras.Input((6, 8))
    layer = ComputedKernel(lambda v, g: v / ops.sqrt(ops.sum(ops.square(v), (0, 1), True)))
    model = keras.Model(x, layer(x))
    assert find_roles(model).notes == ()


class PortedBlock(layers.Layer):
    """A block with all it has in one layer, its norm and its matrix, as ported code often is."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def build(self, shape):
        self.by = self.add_weight(shape=shape[-1:], initializer="ones", name="by")
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")

    def call(self, x):
        return x + ops.matmul(self.form(x, self.by), self.matrix)


def mean_square(x):
    return ops.mean(ops.square(x), -1, keepdims=True) + 1e-6


def l2(x):
    return ops.normalize(x, axis=-1)


def raw_einsum(x, g):
    import tensorflow as tf

    return tf.einsum("bld,d->bld", tf.nn.l2_normalize(x, -1), tf.convert_to_tensor(g))


def raw_powers(x, g):
    import tensorflow as tf

    return x * tf.pow(tf.reduce_mean(x**2, -1, keepdims=True) + 1e-6, -0.5) * g


def raw_euclidean(x, g):
    import tensorflow as tf

    return x / (tf.math.reduce_euclidean_norm(x, axis=-1, keepdims=True) + 1e-6) * g


SPELLINGS = {
    "power_of_numpy": lambda x, g: x * ops.rsqrt(ops.mean(x ** np.float32(2), -1, True)) * g,
    "power": lambda x, g: x * ops.power(mean_square(x), -0.5) * g,
    "factor_in_front": lambda x, g: l2(x) * 8**0.5 * g,
    "factor_behind": lambda x, g: l2(x) * g * 8**0.5,
    "factor_of_the_gain": lambda x, g: l2(x) * (g * 8**0.5),
    "divided": lambda x, g: l2(x) / 0.35 * g,
    "einsum": lambda x, g: ops.einsum("bld,d->bld", l2(x), g),
    "einsum_in_front": lambda x, g: ops.einsum("d, ...d -> ...d", g, l2(x)),
    "raw_einsum": raw_einsum,
    "raw_powers": raw_powers,
    "raw_euclidean": raw_euclidean,
}


@pytest.mark.parametrize("form", SPELLINGS)
def test_the_gain_of_a_written_out_normalization_is_its_gamma(form):
    if form.startswith("raw") and not TENSORFLOW:
        pytest.skip("raw TensorFlow code")
    x = keras.Input((6, 8))
    block = PortedBlock(SPELLINGS[form])
    roles = find_roles(keras.Model(x, block(x)))
    assert [(gamma.variable is block.by, str(gamma.role)) for gamma in roles] == [
        (True, "residual_last")
    ]
    assert roles.notes == ()


UNRECOGNIZED = {
    "logarithm": lambda x, g: l2(x) * ops.exp(g),
    "spread": lambda x, g: l2(x) * ops.broadcast_to(g, (2, 6, 8)),
    "halves": lambda x, g: ops.concatenate([l2(x)[..., :4] * g[:4], x[..., 4:]], -1),
}


@pytest.mark.parametrize("form", UNRECOGNIZED)
def test_what_may_be_the_gamma_of_a_written_out_normalization_is_never_silent(form):
    x = keras.Input((6, 8), batch_size=2)
    block = PortedBlock(UNRECOGNIZED[form])
    roles = find_roles(keras.Model(x, block(x)))
    assert len(roles) == 0
    assert [(note.variable is block.by, note.kind, note.role) for note in roles.notes] == [
        (True, "unrecognized", None)
    ]


def test_a_bias_beside_a_normalization_without_a_gain_is_no_candidate():
    x = keras.Input((6, 8))
    block = PortedBlock(lambda x, g: l2(x) + g)
    model = keras.Model(x, block(x))
    block.by.assign(ops.zeros(8))  # As biases start.
    assert find_roles(model).notes == ()


def test_an_einsum_that_adds_up_has_no_gain():
    x = keras.Input((6, 8))
    block = PortedBlock(lambda x, g: x * ops.einsum("bld,d->bl", l2(x), g)[..., None])
    assert len(find_roles(keras.Model(x, block(x)))) == 0


def test_numbers_that_follow_no_fingerprint_are_no_gain():
    """A weight's mask has the weight's size, and not its numbers."""
    x = keras.Input((6, 8))
    block = PortedBlock(lambda x, g: l2(x) * ops.cast(ops.convert_to_tensor(g) > 0.9, "float32"))
    assert len(find_roles(keras.Model(x, block(x)))) == 0


class Large(layers.Layer):
    """A residual block with a normalization written out, and a projection."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def build(self, shape):
        self.amplitude = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.offset = self.add_weight(shape=(shape[-1],), initializer="zeros")
        self.project = layers.Dense(shape[-1])
        self.project.build(shape)

    def call(self, x):
        return x + self.project(self.form(x, self.amplitude, self.offset))


def root_mean_square(x):
    return ops.rsqrt(ops.mean(ops.square(x), -1, keepdims=True) + 1e-6)


def centered_in_two_parts(x, g, b):
    mean, variance = ops.moments(x, -1, keepdims=True)
    inverse = ops.rsqrt(variance + 1e-5) * g
    return x * inverse + (b - mean * inverse)


def centered(x, g, b):
    mean, variance = ops.moments(x, -1, keepdims=True)
    return (x - mean) / ops.sqrt(variance + 1e-5) * ops.cast(g, x.dtype) + b


def by_tensorflow_nn(x, g, b):
    import tensorflow as tf

    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, b, g, 1e-5)


WRITTEN_OUT = {
    "gain_last": (lambda x, g, b: x * root_mean_square(x) * g, 1.0),
    "one_plus_gain_first": (lambda x, g, b: (1 + g) * (x * root_mean_square(x)), 0.0),
    "gain_on_the_factor": (lambda x, g, b: x * (root_mean_square(x) * g), 1.0),
    "centered": (centered, 1.0),
    "centered_in_two_parts": (centered_in_two_parts, 1.0),
    "by_operation": (lambda x, g, b: ops.layer_normalization(x, gamma=g, beta=b), 1.0),
    "by_operation_cast": (
        lambda x, g, b: ops.rms_normalization(x, ops.cast(g, x.dtype), epsilon=1e-6),
        1.0,
    ),
    "raw": (by_tensorflow_nn, 1.0),
}


@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_the_gain_of_a_normalization_inside_a_larger_layer_is_its_gamma(form):
    if form == "raw" and not TENSORFLOW:
        pytest.skip("raw TensorFlow code")
    function, neutral = WRITTEN_OUT[form]
    x = keras.Input((6, 8))
    layer = Large(function)
    model = keras.Model(x, layers.Dense(2)(layer(x)))
    [gamma] = find_roles(model)
    assert (gamma.variable is layer.amplitude, gamma.neutral) == (True, neutral)
    assert str(gamma.role) == "residual_last"
    assert trace(model).gains == ()


class OfTwo(layers.Layer):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def build(self, shape, *_):
        self.strength = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x, other):
        return self.form(x, other, self.strength)


def masked(x, mask, g):
    mask = ops.cast(mask > 0, x.dtype)
    count = ops.sum(mask, 1, keepdims=True)
    mean = ops.sum(x * mask, 1, keepdims=True) / count
    variance = ops.sum(ops.square(x - mean) * mask, 1, keepdims=True) / count
    return (x - mean) / ops.sqrt(variance + 1e-5) * g


def gated_before(x, gate, g):
    x = x * ops.silu(gate)
    return g * (x * root_mean_square(x))


def gated_after(x, gate, g):
    return g * (x * root_mean_square(x)) * ops.silu(gate)


@pytest.mark.parametrize(
    "form, before",
    [(masked, "interior"), (gated_before, "interior"), (gated_after, "residual_last")],
)
def test_a_normalization_of_two_tensors_is_found(form, before):
    x = keras.Input((6, 8))
    y = layers.LayerNormalization(name="before")(x)
    layer = OfTwo(form)
    y = layer(layers.Dense(8)(y), layers.Dense(8)(y))
    model = keras.Model(x, layers.Add()([x, layers.Dense(8)(y)]))
    found = {id(g.variable): str(g.role) for g in find_roles(model)}
    assert found.pop(id(layer.strength)) == "residual_last"
    # A gate behind the norm is a way past it.
    assert list(found.values()) == [before]


class Fused(layers.Layer):
    """Base of norms fused with an activation, under names of their own."""

    def build(self, shape):
        def weight(value):
            return self.add_weight(shape=(shape[-1],), initializer=value)

        self.s, self.t, self.v = weight("ones"), weight("zeros"), weight("ones")


class Filterwise(Fused):
    def call(self, x):
        y = x * ops.rsqrt(ops.mean(ops.square(x), (1, 2), keepdims=True) + 1e-6)
        return ops.maximum(self.s * y, self.t)


class Evolved(Fused):
    def call(self, x):
        deviation = ops.sqrt(ops.var(x, (1, 2, 3), keepdims=True) + 1e-5)
        return x * ops.sigmoid(self.v * x) / deviation * self.s + self.t


class InPlace(Fused):
    def call(self, x, training=False):
        mean, variance = ops.moments(x, (0, 1, 2)) if training else (self.t * 0, self.v)
        y = ops.batch_normalization(x, mean, variance, -1, self.t, self.s)
        return ops.leaky_relu(y, 0.01)


class Saturating(Fused):
    """No normalization: its output follows the scale of small inputs."""

    def call(self, x):
        return ops.tanh(self.v * x) * self.s + self.t


@pytest.mark.parametrize("cls", [Filterwise, Evolved, InPlace])
def test_a_normalization_fused_with_an_activation_is_found(cls):
    x = keras.Input((8, 8, 4))
    layer = cls()
    y = layers.Conv2D(4, 3, padding="same")(layer(layers.Conv2D(4, 3, padding="same")(x)))
    [gamma] = find_roles(keras.Model(x, layers.Add()([x, y])))
    assert gamma.variable is layer.s
    assert str(gamma.role) == "residual_last"


def test_what_only_saturates_is_no_normalization_and_is_named():
    x = keras.Input((8, 8, 4))
    layer = Saturating()
    report = find_roles(keras.Model(x, layers.Add()([x, layer(x)])))
    assert len(report) == 0
    assert {note.path for note in report.notes} == {layer.s.path, layer.v.path}
