"""Models that do not open by themselves: raw backend code, loops, data of their own, no `call`.

Expected roles are written by hand.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_gamma import find_roles, verify

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="raw TensorFlow code"
)


def roles(model, inputs=None):
    """Name of the normalization layer -> role."""
    return {gamma.layer.name: str(gamma.role) for gamma in find_roles(model, inputs)}


def norm(name):
    return layers.LayerNormalization(name=name)


def residual_features():
    """A Functional part with two norms: `inner` is absorbed, `last` ends the branch."""
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(4, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="inner")(y))
    y = layers.Conv2D(4, 3, padding="same")(y)
    return keras.Model(x, layers.Add()([x, layers.BatchNormalization(name="last")(y)]))


# Tensors of no input ---------------------------------------------------------------------------


class ClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")

    def call(self, x):
        return ops.repeat(self.token, ops.shape(x)[0], axis=0)  # Numbers: x's values take no part.


def test_a_class_token_is_a_constant():
    x = keras.Input((16, 8))
    y = layers.Concatenate(axis=1)([ClassToken()(x), x])
    y = layers.Add()([y, layers.Dense(8)(norm("pre")(y))])
    model = keras.Model(x, layers.Dense(3)(norm("final")(y)[:, 0]))
    assert roles(model) == {"pre": "residual_last", "final": "trunk"}


@on_tensorflow
def test_learned_queries_that_raw_code_hands_to_a_norm_are_numbers():
    """As in a Perceiver. Verification runs each step, so a tensor of the trace would stop it."""
    import tensorflow as tf

    class Queries(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(1, 8)
            self.query, self.data, self.final = norm("query"), norm("data"), norm("final")
            self.head = layers.Dense(2)

        def build(self, shape):
            self.latents = self.add_weight(shape=(3, 8), initializer="random_normal")

        def call(self, x):
            y = tf.broadcast_to(self.latents[None], (tf.shape(x)[0], 3, 8))
            return self.head(self.final(y + self.attention(self.query(y), self.data(x))))

    model, inputs = Queries(), np.random.default_rng(0).normal(size=(2, 5, 8))
    expected = {"query": "other", "data": "interior", "final": "trunk"}
    assert roles(model, inputs.astype("float32")) == expected
    told = {e.path.split("/")[-2]: str(e.agreement) for e in verify(model)}
    assert told == {"query": "not testable", "data": "agree", "final": "agree"}


def test_a_table_that_a_layer_computes_from_weights_alone_is_no_operand_of_a_join():
    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=shape[1:])
            self.project = layers.Dense(shape[-1])
            self.project.build(shape[1:])

        def call(self, x):
            return self.project(self.table) + 0.0 * ops.ones(ops.shape(x))

    x = keras.Input((6, 8))
    y = norm("patches")(x)
    y = layers.Add()([y, Positions()(y)])
    model = keras.Model(x, layers.Add()([y, layers.Dense(8)(norm("pre")(y))]))
    assert roles(model) == {"patches": "trunk", "pre": "residual_last"}


def test_augmentation_is_left_out_at_the_size_that_it_yields():
    x = keras.Input((20, 20, 3))
    y = layers.RandomCrop(16, 16)(layers.RandomFlip("horizontal")(x))
    y = layers.Reshape((64, 12))(y)  # at another size it could not
    y = layers.Add()([y, layers.Dense(12, activation="relu")(norm("pre")(y))])
    model = keras.Model(x, norm("last")(y))
    assert roles(model) == {"pre": "residual_last", "last": "trunk"}


class LateNorm(layers.Layer):
    """Shows no normalization before it is built."""

    def build(self, shape):
        self.norm = norm("lazy")
        self.dense = layers.Dense(shape[-1])

    def call(self, x):
        return x + self.dense(self.norm(x))


class LateTrainer(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = LateNorm(), LateNorm()

    def train_step(self, data):
        raise NotImplementedError


def test_a_trainer_names_every_part_whose_inputs_it_asks_for():
    with pytest.raises(ValueError, match=r"'first': .*'second': "):
        roles(LateTrainer())
    shapes = {"first": (None, 4), "second": (None, 4)}
    assert len(find_roles(LateTrainer(), shapes)) == 2


# The first look ---------------------------------------------------------------------------------


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([layers.Dense(8), norm("last"), layers.Dense(8)])
        self.pre = norm("pre")

    def call(self, x):
        return x + self.body(self.pre(x))


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def call(self, x):
        return self.block(x)


class BuildsAFunctional(keras.Model):
    def build(self, shape):
        x = keras.Input(shape[1:])
        y = layers.Dense(8)(norm("last")(layers.Dense(8)(norm("pre")(x))))
        self.body = keras.Model(x, layers.Add()([x, y]))
        self.built = True

    def call(self, x):
        return self.body(x)


@pytest.mark.parametrize("cls", [Unbuilt, BuildsAFunctional])
def test_the_first_look_at_an_unbuilt_model_counts(cls):
    expected = {"pre": "interior", "last": "residual_last"}
    model = cls()
    assert roles(model, (None, 8)) == expected
    assert roles(model, (None, 8)) == expected
    assert model(np.zeros((2, 8), "float32")).shape == (2, 8)


def test_an_unbuilt_sequential_is_built_as_its_first_call_would():
    model = keras.Sequential([layers.Dense(4), norm("norm"), layers.Dense(2)])
    assert roles(model, (None, 3)) == {"norm": "trunk"}
    assert model.predict(np.zeros((2, 3), "float32"), verbose=0).shape == (2, 2)


class Refuses(layers.Layer):
    def call(self, x):
        raise RuntimeError("out of order")


def test_an_unbuilt_sequential_that_fails_is_as_it_was():
    parts = [layers.Dense(4), norm("norm"), Refuses()]
    model = keras.Sequential(parts)

    def state():
        return [
            (dict(vars(layer)), list(layer._layers), list(layer.variables), layer.built)
            for layer in (model, *parts)
        ]

    before = state()
    with pytest.raises(ValueError, match="could not be called"):
        find_roles(model, (None, 3))
    assert state() == before
    assert model.layers == parts


# Loops and cells --------------------------------------------------------------------------------


class Cell(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.state_size = units
        self.inside, self.outside = layers.Dense(units), layers.Dense(units)
        self.norm = norm("of_cell")

    def build(self, shape):
        pass  # Its parts are built when they are first called.

    def call(self, x, states):
        h = ops.tanh(self.norm(self.inside(x) + self.outside(states[0])))
        return h, [h]


@pytest.mark.parametrize("length", [3, 12])
def test_the_cell_of_a_recurrent_layer_is_opened(length):
    x = keras.Input((length, 6))
    y = layers.RNN(Cell(8), return_sequences=True)(norm("before")(x))
    # In the recurrence the projected input is a skip, and the state a branch, which starts from it.
    assert roles(keras.Model(x, y)) == {"before": "trunk", "of_cell": "trunk"}


class Looping(layers.Layer):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def build(self, shape):
        self.norm, self.dense = norm("in_loop"), layers.Dense(shape[-1])
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return self.loop(lambda y: y + self.dense(self.norm(y)), x)


def _while(step, x):
    return ops.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, step(y)), (0, x))[1]


def _for(step, x):
    return ops.fori_loop(0, 9, lambda i, y: step(y), x)


def _scan(step, x):
    return ops.scan(lambda y, _: 2 * (step(y),), x, length=5)[0]


@pytest.mark.parametrize("loop", [_while, _for, _scan])
def test_a_loop_is_unrolled(loop):
    x = keras.KerasTensor((2, 8))
    model = keras.Sequential([Looping(loop)])
    assert roles(model, x) == {"in_loop": "residual_last"}


# Raw backend code -------------------------------------------------------------------------------


class Raw(keras.Model):
    def __init__(self):
        super().__init__()
        self.features = residual_features()
        self.between = layers.BatchNormalization(name="between")
        self.head = layers.Dense(3)

    def call(self, x):
        import tensorflow as tf

        y = self.features(x)
        y = tf.concat([y, tf.nn.relu(y)], axis=-1)
        assert y.shape.rank == 4
        y.set_shape((None, 8, 8, 8))
        y = self.between(tf.reduce_mean(y, axis=[1, 2]))
        return self.head(tf.math.l2_normalize(y, axis=-1))


@on_tensorflow
def test_raw_code_is_read_from_the_graph_of_the_backend():
    model, expected = Raw(), {"inner": "interior", "last": "residual_last", "between": "interior"}
    assert roles(model, (None, 8, 8, 4)) == expected
    assert [str(e.agreement) for e in verify(model, inputs=(None, 8, 8, 4))] == ["agree"] * 3


class RawOnAnyBackend(keras.Model):
    """Between two parts it leaves `keras.ops`."""

    def __init__(self):
        super().__init__()
        self.features, self.head = residual_features(), layers.Dense(2)
        self.after = norm("after")

    def call(self, x):
        if keras.backend.backend() == "jax":
            import jax.numpy as backend

            y = backend.concatenate([self.features(x), x], axis=-1)
        elif keras.backend.backend() == "torch":
            import torch

            y = torch.cat([self.features(x), x], dim=-1)
        else:
            import tensorflow

            y = tensorflow.concat([self.features(x), x], axis=-1)
        return self.head(self.after(y))


class SegmentMean(keras.Operation):
    """An operation of the user's, in raw code: symbolic tensors it cannot take."""

    def call(self, nodes, targets):
        import tensorflow as tf

        return tf.math.unsorted_segment_mean(nodes, targets, 5)

    def compute_output_spec(self, nodes, targets):
        return keras.KerasTensor((5, *nodes.shape[1:]), nodes.dtype)


@on_tensorflow
def test_an_operation_of_raw_code_is_opened():
    nodes, targets = keras.Input(batch_shape=(5, 8)), keras.Input(batch_shape=(5,), dtype="int32")
    h = layers.Dense(8)(layers.LayerNormalization(name="first")(nodes))
    h = SegmentMean().symbolic_call(h, targets)
    h = layers.LayerNormalization(name="last")(layers.Dense(8)(nodes + h))
    report = find_roles(keras.Model([nodes, targets], layers.Dense(2)(h)))
    assert {g.layer.name: str(g.role) for g in report} == {
        "first": "residual_last",
        "last": "trunk",
    }


def test_raw_code_closes_neither_the_parts_that_it_calls_nor_what_follows():
    expected = {"inner": "interior", "last": "residual_last", "after": "trunk"}
    assert roles(RawOnAnyBackend(), (None, 8, 8, 4)) == expected


@on_tensorflow
def test_raw_code_around_a_submodel_leaves_the_submodel_readable():
    import tensorflow as tf

    class Around(keras.Model):
        def __init__(self):
            super().__init__()
            self.features = residual_features()
            self.head = layers.Dense(2)

        def call(self, x):
            # A loop of TensorFlow's own, that nobody reads.
            y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 0.5), (0, x))[1]
            return self.head(self.features(y))

    assert roles(Around(), (None, 8, 8, 4)) == {"inner": "interior", "last": "residual_last"}


@on_tensorflow
@pytest.mark.parametrize("loop", [True, False])
def test_what_no_graph_shows_closes_only_itself(loop):
    import tensorflow as tf

    class Mapping(keras.Model):
        def __init__(self):
            super().__init__()
            self.pre, self.dense, self.head = norm("pre"), layers.Dense(8), layers.Dense(2)

        def call(self, x):
            y = tf.map_fn(tf.nn.relu, x) if loop else x
            return self.head(y + self.dense(self.pre(y)))

    class Compiled(Mapping):
        call = tf.function(Mapping.call)

    model = Mapping() if loop else Compiled()
    assert roles(model, (None, 6, 8)) == {"pre": "residual_last"}


def _sums_of_several(tf, x, f, _):
    return tf.reduce_mean([tf.add_n([x, f(x), f(x)]), x], axis=0)


def _while_loop(tf, x, f, _):
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y + f(y)), (0, x))[1]


def _while_data_say_so(tf, x, f, _):
    return tf.while_loop(lambda y: tf.reduce_sum(y) < 9, lambda y: (y + f(y),), (x,))[0]


def _map(tf, x, f, _):
    return x + tf.map_fn(f, x)


def _scan_over_time(tf, x, f, _):
    u = tf.transpose(f(x), [1, 0, 2])
    h = tf.scan(lambda state, v: 0.9 * state + v, u, initializer=tf.zeros_like(u[0]))
    return x + tf.transpose(h, [1, 0, 2])


def _compiled_helper(tf, x, f, _):
    return x + tf.function(lambda y: 2.0 * f(y))(x)


def _python_code_before(tf, x, f, _):
    y = tf.ensure_shape(tf.numpy_function(lambda a: a / 2, [x], tf.float32), x.shape)
    return y + f(y)


def _fused_norm(tf, x, f, gamma):
    y = tf.compat.v1.nn.fused_batch_norm(f(x)[:, None], gamma, 0 * gamma, is_training=True)
    return x + tf.squeeze(y[0], 1)


@on_tensorflow
@pytest.mark.parametrize(
    "code, expected",
    [
        (_sums_of_several, "residual_last"),
        (_while_loop, "residual_last"),
        (_while_data_say_so, "residual_last"),
        (_map, "residual_last"),
        (_scan_over_time, "residual_last"),
        (_compiled_helper, "residual_last"),
        (_python_code_before, "residual_last"),
        (_fused_norm, "interior"),
    ],
)
def test_raw_code_of_many_kinds_is_followed(code, expected):
    import tensorflow as tf

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.last, self.head = norm("in_code"), norm("last"), layers.Dense(2)
            self.dense = layers.Dense(8, "relu")

        def build(self, shape):
            self.gamma = self.add_weight(name="gamma", shape=(8,), initializer="ones")
            for layer in (self.norm, self.dense):
                layer.build(shape)

        def call(self, x):
            return self.head(self.last(code(tf, x, lambda y: self.dense(self.norm(y)), self.gamma)))

    model = Model()
    before = tf.config.functions_run_eagerly(), tf.while_loop
    report = find_roles(model, (2, 3, 8))
    assert (tf.config.functions_run_eagerly(), tf.while_loop) == before
    found = {gamma.variable.path.split("/", 1)[1]: str(gamma.role) for gamma in report}
    own = {"gamma": "residual_last"} if code is _fused_norm else {}
    assert found == {"in_code/gamma": expected, "last/gamma": "trunk", **own}


def test_a_wrong_input_is_named_by_its_shape():
    model = keras.Sequential([layers.Dense(3)])
    model.build((None, 4))
    with pytest.raises(ValueError, match=r"inputs=\[ndarray of shape \(2, 3\)\]"):
        find_roles(model, [np.zeros((2, 3))])


@on_tensorflow
def test_data_that_a_model_holds_are_a_source():
    import tensorflow as tf

    class Graph(keras.Model):
        def __init__(self):
            super().__init__()
            rng = np.random.default_rng(0)
            self.features = tf.constant(rng.normal(size=(20, 5)).astype("float32"))
            self.edges = tf.constant(rng.integers(0, 20, (2, 30)))
            self.before = keras.Sequential([layers.BatchNormalization(name="b0"), layers.Dense(8)])
            self.update = keras.Sequential([layers.BatchNormalization(name="b1"), layers.Dense(8)])

        def call(self, index):
            x = self.before(self.features)
            sums = tf.math.unsorted_segment_sum(tf.gather(x, self.edges[0]), self.edges[1], 20)
            return tf.gather(self.update(sums) + x, index)

    expected = {"b0": "trunk", "b1": "residual_last"}
    assert roles(Graph(), keras.KerasTensor((None,), dtype="int32")) == expected


# Models without a call --------------------------------------------------------------------------


class Trainer(keras.Model):
    """A masked autoencoder, say: its `train_step` calls the parts."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def encoder():
    x = keras.Input((8,))
    y = layers.Add()([x, layers.Dense(8)(norm("pre")(x))])
    return keras.Model(x, norm("final")(y), name="encoder")


def test_a_model_without_a_call_is_looked_at_part_by_part():
    decoder = keras.Sequential([keras.Input((8,)), norm("decoder_norm"), layers.Dense(4)])
    trainer = Trainer(encoder=encoder(), decoder=decoder)
    report = find_roles(trainer)
    assert {g.layer.name: str(g.role) for g in report} == {
        "pre": "residual_last",
        "final": "trunk",
        "decoder_norm": "trunk",
    }


def test_a_part_of_a_part_is_looked_at_where_it_stands():
    inner = encoder()
    outer = keras.Sequential([inner, layers.Dense(4), norm("projected"), layers.Dense(2)])
    # On its own, the encoder's last norm would reach an output; here a sum's norm absorbs it.
    assert roles(Trainer(encoder=inner, whole=outer)) == {
        "pre": "residual_last",
        "final": "interior",
        "projected": "trunk",
    }


def test_what_is_not_built_is_named_and_never_without_gamma():
    class Later(layers.Layer):
        """Makes its normalization when it is built."""

        def build(self, shape):
            self.norm = norm("later")
            self.norm.build(shape)

        def call(self, x):
            return self.norm(x)

    later = Later()
    report = find_roles(Trainer(encoder=encoder(), later=later))
    assert [gamma.layer.name for gamma in report] == ["pre", "final"]
    [note] = report.notes
    assert note.layer is later
    assert "not built" in note.reason and "Call the model once" in note.reason

    class Forgets(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = norm("used"), norm("unused")

        def call(self, x):
            return self.used(x)

    report = find_roles(Forgets(), (None, 4))
    assert [gamma.layer.name for gamma in report] == ["used"]
    assert ["not built" in note.reason for note in report.notes] == [True]


def test_what_a_part_takes_can_be_said_by_its_name():
    trainer = Trainer(encoder=encoder(), head=Unbuilt())
    with pytest.raises(ValueError, match=r"'head' take is not known.*inputs=\{'head'"):
        find_roles(trainer)
    with pytest.raises(ValueError, match="names \\['tail'\\]"):
        find_roles(trainer, {"head": (None, 8), "tail": (None, 8)})
    with pytest.raises(ValueError, match="has no `call`"):
        find_roles(trainer, (None, 8))
    assert str(find_roles(trainer, {"head": (None, 8)})[-1].role) == "residual_last"
