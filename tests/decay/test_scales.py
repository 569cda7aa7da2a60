"""`Guidelines(scales=…)`: other learned scales in plans, coupled and decoupled."""

import keras
import pytest
from keras import layers

import keras_gamma
from keras_gamma import GammaPlan, Guidelines, apply_guidelines, exclude_from_weight_decay
from keras_gamma.decay import DecisionNotKept, plan_weight_decay


@keras.saving.register_keras_serializable(package="keras_gamma_tests", name="PlannedScale")
class Scale(layers.Layer):
    def build(self, shape):
        self.by = self.add_weight(shape=(shape[-1],), initializer="ones", name="by")

    def call(self, x):
        return x * self.by


def network():
    """A branch that ends with a scale, one with the same names, and a scale at the output."""

    def block(x):
        inside = keras.Input((4,))
        y = layers.LayerNormalization(scale=False, name="plain")(inside)
        y = Scale(name="scale")(layers.Dense(4, activation="relu", name="fc")(y))
        return keras.Model(inside, layers.Add()([inside, y]))(x)

    x = keras.Input((4,))
    return keras.Model(x, Scale(name="out")(block(block(x))))


def strengths(plan):
    return {entry.path: entry.strength for entry in plan if entry.role is not None}


SCALED = {"scale/by": 0.5, "scale/by#2": 0.5, "out/by": 0.0}


def test_scales_are_left_alone_by_default():
    model = network()
    assert strengths(apply_guidelines(model, l2=0.5)) == {}
    assert model.losses == []
    assert strengths(apply_guidelines(model, l2=0.5, guidelines="all")) == {}


def penalty(model):
    return sum(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses)


def test_scales_get_the_strength_of_their_role():
    model = network()
    plan = apply_guidelines(model, l2=0.5, guidelines=Guidelines(scales=True))
    assert strengths(plan) == SCALED
    assert penalty(model) == pytest.approx(4.0)  # 2 · 0.5 · 4
    assert "not to where it started" in plan[0].reason
    assert GammaPlan.from_json(plan.to_json()) == plan
    plan.remove()
    assert model.losses == []
    half = apply_guidelines(model, l2=0.5, guidelines="residual_last=1,scales=0.5")
    assert strengths(half) == {path: s / 2 for path, s in SCALED.items()}


def test_a_penalty_on_scales_is_kept_and_audited(tmp_path):
    model = network()
    model.compile("sgd", "mse")
    apply_guidelines(model, l2=0.5, guidelines=Guidelines(scales=True))
    path = tmp_path / "model.keras"
    with pytest.warns(DecisionNotKept):  # Its config does not hold it; the archive does.
        model.save(path)
    loaded = keras_gamma.load_model(path)
    assert penalty(loaded) == pytest.approx(4.0)
    assert keras_gamma.audit(loaded).ok


def test_decoupled_decay_acts_on_scales_that_are_asked_for():
    model = network()
    decayed = {e.path for e in plan_weight_decay(model) if e.decayed}
    assert not decayed & set(SCALED)
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    plan = exclude_from_weight_decay(optimizer, model, guidelines=Guidelines(scales=True))
    assert {e.path for e in plan if e.kind == "scale" and e.decayed} == {"scale/by", "scale/by#2"}
    model.compile(optimizer, "mse")
    assert keras_gamma.audit(model).ok


@pytest.mark.parametrize("text", ["residual_last=1,scales=0.5", "scales=2"])
def test_scales_are_written_and_read_back(text):
    given = Guidelines.parse(text)
    assert Guidelines.parse(str(given)) == given
    assert given.scales == float(text[-3:].strip("s="))
    with pytest.raises(ValueError, match="scales"):
        Guidelines(scales=-1)
