"""Networks that nobody chose: what reading them says, running them must not refute.

A fixed few by default, a fixed hundred among the slow tests; FUZZ_EXAMPLES=5000 draws others, for
a night.
"""

import os

import keras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_gamma

LENGTH, WIDTH = 4, 8

NORMS = {
    "batch": layers.BatchNormalization,
    "layer": layers.LayerNormalization,
    "group": lambda **kwargs: layers.GroupNormalization(groups=2, **kwargs),
    "rms": getattr(layers, "RMSNormalization", layers.LayerNormalization),  # from Keras 3.9 on
}


@keras.saving.register_keras_serializable(package="fuzz")
class Composite(layers.Layer):
    """A pre-norm block in a layer of its own."""

    def build(self, shape):
        self.norm = layers.LayerNormalization()
        self.dense = layers.Dense(shape[-1], activation="relu")
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(self.norm(x))


class Builder:
    """Carries out instructions on a pool of tensors of one shape."""

    def __init__(self):
        self.inputs = [keras.Input((LENGTH, WIDTH)) for _ in range(2)]
        self.pool = list(self.inputs)
        self.shared = {
            "dense": layers.Dense(WIDTH),
            "norm": layers.LayerNormalization(name="shared_norm"),
        }

    def pick(self, index):
        """Later tensors are likelier, so that networks are deep."""
        return self.pool[-1 - index % min(len(self.pool), 4)]

    def do(self, name, kind, *indices):
        a, b, c = (self.pick(index) for index in indices)
        self.pool.append(getattr(self, name)(kind, a, b, c))

    def dense(self, kind, a, b, c):
        return layers.Dense(WIDTH)(a)

    def norm(self, kind, a, b, c):
        return NORMS[kind]()(a)

    def relu(self, kind, a, b, c):
        return layers.ReLU()(a)

    def gelu(self, kind, a, b, c):
        return layers.Activation("gelu")(a)

    def dropout(self, kind, a, b, c):
        return layers.Dropout(0.1)(a)

    def add(self, kind, a, b, c):
        return layers.Add()([a, b])

    def plus(self, kind, a, b, c):
        return a + b + c

    def concatenate(self, kind, a, b, c):
        return layers.Dense(WIDTH)(layers.Concatenate()([a, b]))

    def residual(self, kind, a, b, c):
        y = layers.Dense(WIDTH)(layers.ReLU()(layers.Dense(WIDTH)(NORMS[kind]()(a))))
        return layers.Add()([a, y])

    def post_norm(self, kind, a, b, c):
        return NORMS[kind]()(layers.Add()([a, layers.Dense(WIDTH, activation="relu")(a)]))

    def projected(self, kind, a, b, c):
        skip = NORMS[kind]()(layers.Dense(WIDTH)(a))
        branch = NORMS[kind]()(layers.Dense(WIDTH)(layers.ReLU()(layers.Dense(WIDTH)(a))))
        return layers.Add()([skip, branch])

    def squeeze_excite(self, kind, a, b, c):
        y = NORMS[kind]()(layers.Dense(WIDTH)(a))
        gate = layers.GlobalAveragePooling1D(keepdims=True)(y)
        gate = layers.Dense(WIDTH, activation="sigmoid")(layers.Dense(2, activation="relu")(gate))
        return layers.Add()([a, layers.Multiply()([y, gate])])

    def attention(self, kind, a, b, c):
        return layers.MultiHeadAttention(2, 4)(a, b)

    def composite(self, kind, a, b, c):
        return Composite()(a)

    def shared_dense(self, kind, a, b, c):
        return self.shared["dense"](a)

    def shared_norm(self, kind, a, b, c):
        return self.shared["norm"](a)

    def unit_length(self, kind, a, b, c):
        return a / ops.sqrt(ops.sum(ops.square(a), axis=-1, keepdims=True) + 1e-9)

    def model(self, outputs):
        used = [layers.Dense(2)(y) for y in self.pool[-outputs:]]
        # Keras 3.10 refuses an input that leads nowhere.
        inputs = [x for x in self.inputs if x._keras_history.operation._outbound_nodes]
        return keras.Model(inputs, used)


ACTIONS = sorted(name for name in vars(Builder) if not name.startswith("_")
                 and name not in ("pick", "do", "model"))  # fmt: skip
instructions = st.tuples(
    st.sampled_from(ACTIONS), st.sampled_from(sorted(NORMS)), *[st.integers(0, 3)] * 3
)


EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
LIKE_THIS = {
    "derandomize": "FUZZ_EXAMPLES" not in os.environ,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=5, **LIKE_THIS)
@given(st.lists(instructions, min_size=2, max_size=24), st.integers(1, 2))
def test_running_refutes_nothing(todo, outputs):
    check(todo, outputs)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, **LIKE_THIS)
@given(st.lists(instructions, min_size=2, max_size=24), st.integers(1, 2))
def test_running_refutes_nothing_of_many(todo, outputs):
    check(todo, outputs)


@pytest.mark.slow
@settings(max_examples=max(EXAMPLES // 20, 1), **LIKE_THIS)
@given(st.lists(instructions, min_size=2, max_size=5), st.integers(5, 40))
def test_running_refutes_nothing_in_depth(todo, times):
    """Up to 200 blocks, each of several layers."""
    check(todo * times, 1)


def check(todo, outputs):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    builder = Builder()
    for instruction in todo:
        builder.do(*instruction)
    model = builder.model(outputs)
    refuted = [e for e in keras_gamma.verify(model) if e.agreement == "disagree"]
    assert not refuted, [(e.path, str(e.role), str(e.measured), e.evidence) for e in refuted]
