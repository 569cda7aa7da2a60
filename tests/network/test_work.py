"""How much an analysis does: counted, not timed. What is alike, or known, is not done again."""

import keras
import pytest
from keras import layers, ops

import keras_gamma
from keras_gamma.network import following, probing, trace, tracing

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="raw code is read on TensorFlow alone"
)


@pytest.fixture
def counted(monkeypatch):
    """Counts the calls of a function of a module."""

    def count(module, name):
        calls, original = [], getattr(module, name)

        def run(*args, **kwargs):
            calls.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, run)
        return calls

    return count


class Norm(layers.Layer):
    """An RMS normalization: to some power, which may be 0, and with γ or 1 + γ."""

    def __init__(self, plus=0.0, power=1.0, form=None):
        super().__init__()
        self.plus, self.power, self.form = [plus], power, form

    def build(self, shape):
        self.initializer = keras.initializers.RandomNormal(seed=7)
        self.gain = self.add_weight(shape=(shape[-1],), initializer=self.initializer)
        to = keras.initializers.Constant(self.power)
        self.to = self.add_weight(shape=(), initializer=to, trainable=False)
        del self.power  # Only the weight knows it now.

    def call(self, x):
        spread = ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)
        y = x / ops.power(spread, self.to) * (self.plus[0] + self.gain)
        return y if self.form is None else self.form(y)


def after_one_another(*several):
    x = y = keras.Input((6, 8))
    for layer in several:
        y = layers.Dense(8)(layer(y))
    return keras.Model(x, y)


def neutrals(model):
    return [call.entry.neutral for call in trace(model).calls]


def test_layers_that_are_alike_are_probed_once(counted):
    probes = counted(probing, "probe")
    model = after_one_another(*(Norm() for _ in range(5)), *(Norm(plus=1.0) for _ in range(5)))
    for norm in model.layers[1::2]:  # Trained: its γ are set for a probe in any case.
        norm.gain.assign(keras.random.normal((8,), seed=3))
    assert neutrals(model) == [1.0] * 5 + [0.0] * 5
    assert len(probes) == 2


def test_layers_that_only_look_alike_are_probed_each(counted):
    probes = counted(probing, "probe")
    model = after_one_another(
        Norm(), Norm(power=0.0), Norm(form=lambda y: y + 0.0), Norm(form=lambda y: y * 0.0)
    )
    assert neutrals(model) == [1.0, 1.0]
    assert len(probes) == 4


def test_a_number_that_is_no_weight_takes_no_second_trace(counted):
    class Block(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],))

        def call(self, x):
            return ops.multiply(x, ops.convert_to_tensor(0.25)) * self.gain

    traces = counted(tracing, "_follow")
    [gain] = trace(after_one_another(Block())).gains
    assert gain.name == "gain"
    assert len(traces) == 1


class Raw(layers.Layer):
    """Raw code that multiplies by γ, or by what it makes of it."""

    def __init__(self, of_gain):
        super().__init__()
        self.of_gain = of_gain

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), name="gain")
        self.other = self.add_weight(shape=(shape[-1],), name="other")

    def call(self, x):
        import tensorflow as tf

        return tf.multiply(x, self.of_gain(self))


FORMS = {
    "itself": (lambda raw, tf: tf.convert_to_tensor(raw.gain), 1.0),
    "one_more": (lambda raw, tf: 1.0 + tf.reshape(raw.gain, (1, 1, -1)), 0.0),
    "half_of_it": (lambda raw, tf: 0.5 * tf.convert_to_tensor(raw.gain), 1.0),
    "two": (lambda raw, tf: raw.gain + raw.other, None),
}


@on_tensorflow
@pytest.mark.parametrize("form", FORMS)
def test_raw_code_is_opened_once_and_its_gain_is_found_at_once(form, counted):
    import tensorflow as tf

    function, neutral = FORMS[form]
    opened, traces = counted(following, "open_raw"), counted(tracing, "_follow")
    gains = trace(after_one_another(Raw(lambda raw: function(raw, tf)))).gains
    found = [] if neutral is None else [("gain", neutral)]
    assert [(gain.name, gain.neutral) for gain in gains] == found
    assert len(opened) == len(traces) == 1


@on_tensorflow
def test_what_raw_code_was_given_is_told_by_a_second_trace(counted):
    import tensorflow as tf

    class Around(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), name="gain")
            self.raw = layers.Lambda(lambda xs: tf.multiply(*xs))

        def call(self, x):
            return self.raw([x, ops.convert_to_tensor(self.gain) * 1.0])

    traces = counted(tracing, "_follow")
    [gain] = trace(after_one_another(Around())).gains
    assert (gain.name, gain.neutral) == ("gain", 1.0)
    assert len(traces) == 2


class Told(layers.Layer):
    """Knows whether it is in training, and holds numbers that are no statistics."""

    runs = 0

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1],), trainable=False)
        self.inner = layers.LayerNormalization()

    def call(self, x, training=None):
        Told.runs += 1
        return self.inner(x) + self.table


def test_a_layer_without_statistics_is_read_twice_to_know_it_and_then_once():
    told = Told()
    x = keras.Input((6, 8))
    model = keras.Model(x, told(layers.Dense(8)(told(x))))
    Told.runs = 0
    [role] = {str(gamma.role) for gamma in keras_gamma.find_roles(model)}
    assert role == "trunk"
    assert Told.runs == 3  # The first call as it is trained, and both as they are.
