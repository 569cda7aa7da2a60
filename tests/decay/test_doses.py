"""What plans tell of a dose: against numbers worked out by hand, and a run without gradients."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import GammaPlan
from keras_gamma.decay import doses


def residual_net():
    x = keras.Input((4,))
    y = layers.BatchNormalization(name="trunk")(x)
    z = layers.BatchNormalization(name="last")(layers.Dense(4, name="dense")(y))
    return keras.Model(x, layers.Add(name="join")([y, z]))


def test_a_plan_tells_what_decay_leaves_by_role():
    plan = keras_gamma.apply_guidelines(
        residual_net(), weight_decay=0.02, guidelines="residual_last=1,trunk=0.5"
    )
    # Σ η λ / (1 − m) = 100 · 0.1 · 0.02 / 0.1 = 2, and half of it.
    told = plan.summary(0.1, 100, momentum=0.9).splitlines()
    assert told[0] == plan.summary()
    assert told[1:] == [
        "Over 100 steps decay alone would leave 14% of residual_last γ (dose 2). "
        "Over 100 steps decay alone would leave 37% of trunk γ (dose 1)."
    ]
    assert plan.summary([0.1] * 100, momentum=0.9) == plan.summary(0.1, 100, momentum=0.9)
    assert plan.summary(iter([0.1] * 100), momentum=0.9) == plan.summary(0.1, 100, momentum=0.9)


def test_gammas_of_a_role_may_differ_in_strength():
    plan = keras_gamma.apply_guidelines(residual_net(), weight_decay=0.02, guidelines="all")
    content = json.loads(plan.to_json())
    content["entries"] = [
        entry | {"path": f"{name}/gamma", "role": "trunk", "strength": strength}
        for entry, name, strength in zip(content["entries"], "ab", (0.01, 0.02), strict=True)
    ]
    told = GammaPlan.from_json(json.dumps(content)).summary(0.1, 100, momentum=0.0)
    assert "82% of trunk γ (dose 0.2)" in told and "67% of trunk γ (dose 0.4)" in told


def test_decoupled_decay_leaves_what_a_plan_tells():
    model = residual_net()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    plan = keras_gamma.exclude_from_weight_decay(optimizer, model)
    told = plan.summary(0.01, 60).splitlines()[-1]
    assert told == "Over 60 steps decay alone would leave 74% of residual_last γ (dose 0.3)."
    optimizer.build(model.trainable_variables)
    for _ in range(60):
        optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
    left = keras.ops.convert_to_numpy(model.get_layer("last").gamma)
    np.testing.assert_allclose(left, math.exp(-0.3), rtol=2e-3)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.get_layer("trunk").gamma), 1)


def test_where_nothing_decays_it_is_said():
    model = residual_net()
    none = keras_gamma.apply_guidelines(model, weight_decay=0.02, guidelines="none")
    assert none.summary(0.1, 100, momentum=0.9).endswith("\nNo γ decays.")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"learning_rate": 0.1, "steps": 10}, "momentum"),
        ({"momentum": 0.9}, "given together"),
        ({"learning_rate": 0.1, "momentum": 0.9}, "`steps`"),
        ({"learning_rate": 0.1, "steps": 10, "momentum": 1.5}, "`momentum`"),
        ({"steps": 10}, "learning_rate"),
    ],
)
def test_half_a_question_is_refused(arguments, says):
    plan = keras_gamma.apply_guidelines(residual_net(), weight_decay=0.02)
    with pytest.raises(ValueError, match=says):
        plan.summary(**arguments)


def test_a_plan_without_a_strength_cannot_tell():
    plan = keras_gamma.plan_weight_decay(residual_net())
    with pytest.raises(ValueError, match="knows no weight_decay"):
        plan.summary(0.1, 10)
    with pytest.raises(ValueError, match="learning_rate"):
        plan.summary(steps=10)


def test_shares_of_little_and_of_nearly_all():
    found = [doses.share(dose) for dose in (0.0, 1e-9, 0.05, 0.11, 2.0, 7.5, 800.0)]
    assert found == ["100%", "99.99999990%", "95%", "90%", "14%", "0.06%", "0%"]
