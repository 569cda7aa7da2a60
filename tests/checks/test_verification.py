"""Roles by running the model: against roles written by hand, and against wrong ones."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import Role, verify
from keras_gamma.checks import verification
from tests.models.role_models import BY_NAME, CASES

# What cannot be told by running, and why: hand-written, so that nothing else hides here.
NOT_TESTABLE = {
    "opaque_composite": "its norm is inside a layer that only runs as a whole",
    "opaque_backend": "the walker claims nothing about it",
    "opaque_numpy": "the walker claims nothing about it",
    "opaque_in_branch": "the walker claims nothing about it",
    "sandwich_query_key_norm": "the walker claims nothing: absorbed, but the temperature is not",
}
if keras.backend.backend() == "jax":
    NOT_TESTABLE["norm_by_ops"] = "Keras' own `ops.norm` in a functional model fails on JAX"


@pytest.mark.one_in(10)
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_running_agrees_with_the_hand_written_roles(name):
    keras.utils.set_random_seed(3)
    case = BY_NAME[name]
    found = verify(case.build(), case.example())
    assert len(found) > 0 or not case.expected
    unclear = {e.path for e in found if e.agreement != "agree"}
    assert not [e for e in found if e.agreement == "disagree"]
    assert bool(unclear) == (name in NOT_TESTABLE), [e.evidence for e in found if e.path in unclear]


def wrong(role):
    return Role.TRUNK if role is Role.INTERIOR else Role.INTERIOR


@pytest.mark.parametrize("name", ["resnet_v1_basic", "squeeze_and_excite", "unet_additive"])
def test_a_wrong_role_is_refuted(name, monkeypatch):
    """Every role is exchanged for a wrong one: not one passes."""
    roles = keras_gamma.find_roles

    def lie(model, inputs=None):
        report = roles(model, inputs)
        entries = [dataclasses.replace(e, role=wrong(e.role)) for e in report]
        return type(report)(entries, report.notes)

    monkeypatch.setattr(verification, "find_roles", lie)
    keras.utils.set_random_seed(3)
    found = verify(BY_NAME[name].build(), BY_NAME[name].example())
    assert found
    assert [e.agreement for e in found] == ["disagree"] * len(found)
    assert not found.ok


def residual(norm=layers.BatchNormalization, **kwargs):
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    y = norm(name="bn", **kwargs)(y)
    y = layers.Add(name="join")([x, y])
    return keras.Model(x, layers.Conv2D(2, 1, name="out")(y))


def test_a_zero_gamma_shows_where_it_would_act():
    """Blocks often start with γ = 0."""
    [one] = verify(residual(gamma_initializer="zeros"))
    assert (one.measured, one.agreement) == ("residual_last", "agree")


def test_a_frozen_norm():
    model = residual()
    model.get_layer("bn").trainable = False
    assert [e.agreement for e in verify(model)] == ["agree"]


def test_a_kernel_of_zeros_is_not_testable():
    x = keras.Input((8, 8, 4))
    y = layers.BatchNormalization(name="bn")(x)
    y = layers.Conv2D(4, 1, kernel_initializer="zeros", name="silent")(layers.ReLU()(y))
    model = keras.Model(x, layers.Add()([x, y]))
    [one] = verify(model)
    assert (one.agreement, one.measured) == ("not testable", None)


def test_evidence_is_measured():
    [one] = verify(residual())
    assert one.evidence == "The branch moves ×4 at 'join', the skip does not."


def test_nothing_of_the_model_changes():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 4))
    y = layers.Dropout(0.5)(layers.BatchNormalization(name="bn", epsilon=1e-3)(x))
    y = layers.LayerNormalization(name="ln", epsilon=1e-3)(layers.Conv2D(4, 3)(y))
    model = keras.Model(x, y)
    config, before = model.get_config(), [keras.ops.convert_to_numpy(v) for v in model.variables]
    attributes = {layer.name: dict(vars(layer)) for layer in model.layers}
    verify(model)
    assert model.get_config() == config
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))
    for layer in model.layers:
        assert vars(layer).keys() == attributes[layer.name].keys()
        assert getattr(layer, "epsilon", 1e-3) == 1e-3
    assert len(model.layers[0]._inbound_nodes) == 1


def test_given_arrays_are_used():
    """ReLU lets nothing of a negative input through, and all of a positive one."""
    x = keras.Input((4,))
    y = layers.Add()([x, layers.LayerNormalization(name="ln")(layers.Dense(4)(x))])
    y = layers.Dense(1, kernel_initializer="ones")(layers.ReLU()(y))
    model = keras.Model(x, layers.LayerNormalization(name="last")(layers.ReLU()(x * y)))
    rng = np.random.default_rng(0)
    sample = rng.uniform(100, 200, (3, 4)).astype("float32")
    assert [e.measured for e in verify(model, sample)] == ["residual_last", "trunk"]
    last = verify(model, -sample)[0]
    assert last.path == "ln/gamma"
    assert last.measured == "residual_last"


def test_table_json_and_plan():
    model = residual()
    plan = keras_gamma.apply_guidelines(model, l2=0.5)
    found = verify(model, plan=plan)
    text = str(found)
    for word in ("decision", "apply", "agree", "×4", "1 γ run with γ and β ×4: agree 1"):
        assert word in text
    content = json.loads(found.to_json())
    assert content["ok"] is True
    assert content["entries"][0]["measured"] == "residual_last"


def test_a_model_that_fails_when_it_runs_is_not_testable():
    class OnlySymbolic(layers.Layer):
        def call(self, x):
            return keras.ops.multiply(x, 1.0)

    class Fails(layers.Dense):
        def __call__(self, x, *args, **kwargs):
            if not isinstance(x, keras.KerasTensor):
                raise RuntimeError("no numbers, please")
            return super().__call__(x, *args, **kwargs)

    x = keras.Input((4,))
    y = Fails(4)(layers.LayerNormalization(name="ln")(OnlySymbolic()(x)))
    [one] = verify(keras.Model(x, y))
    assert one.agreement == "not testable"
    assert "no numbers, please" in one.evidence


def test_not_a_model():
    with pytest.raises(TypeError, match="Expected a Keras 3 model"):
        verify("model.keras")


@pytest.mark.parametrize("doublings", [0, 6])
def test_a_strong_stream_drowns_what_is_put_beside_it(doublings):
    """Found by the fuzzer: γ reaches the output, which hardly shows beside a stream of 64."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 8))
    stream = x
    for _ in range(doublings):
        stream = layers.Add()([stream, stream])
    norm = layers.BatchNormalization(name="bn")(stream)
    both = layers.Concatenate()([layers.Add(name="join")([norm, stream]), norm])
    (entry,) = keras_gamma.verify(keras.Model(x, layers.Dense(2)(both)))
    assert str(entry.role) == "trunk"
    assert str(entry.agreement) == ("not testable" if doublings else "agree")
    assert ("too little to tell" in entry.evidence) == bool(doublings)
