"""Decay that leads back to the start (L2-SP): formulas, what is kept, what the audit says."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import exclude_from_weight_decay, plan_weight_decay
from keras_gamma.decay import DecayPlan
from tests.decay.test_decoupled import ALL, DECAY, ETA, SHRUNK, block, data, value

DECAYED = {"ln/gamma", "fc/kernel", "out/kernel"}
BACK = {"ln/gamma", "fc/kernel"}  # out is new


def plan_of(model, **kwargs):
    return plan_weight_decay(model, **{"decay_to": "initial", "new": "^out/"} | kwargs)


def optimizer_of(model, name="SGDW", **kwargs):
    make = getattr(keras_gamma.optimizers, name)
    return make(learning_rate=ETA, weight_decay=DECAY, decay=plan_of(model), **kwargs)


def started(model):
    """Puts numbers that binary fractions hold into the variables; returns them."""
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(rng.integers(-8, 9, size=variable.shape).astype("float32") / 4)
    return values(model)


def values(model):
    return {v.path: value(v).copy() for v in model.trainable_variables}


def still(optimizer, model):
    """A step with gradients of zero."""
    variables = model.trainable_variables
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)


@pytest.mark.parametrize("name", ALL)
def test_without_gradients_a_step_goes_back_a_part_of_the_way(name):
    model = block()
    before = started(model)
    strengths = {"adam_weight_decay": DECAY} if name == "MuonW" else {}
    try:
        optimizer = optimizer_of(model, name, **strengths)
    except TypeError:
        pytest.skip("needs Muon of Keras 3.13")
    optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        variable.assign(variable + 1.0)
    still(optimizer, model)
    for path, now in values(model).items():
        start = before[path]
        expected = (
            start + SHRUNK if path in BACK else (start + 1) * (SHRUNK if path in DECAYED else 1)
        )
        np.testing.assert_allclose(now, expected, rtol=1e-6, atol=1e-6, err_msg=path)


def test_at_its_start_without_gradients_nothing_moves_by_a_bit():
    model = block()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    before = values(model)
    optimizer = optimizer_of(model, "AdamW")
    for _ in range(20):
        still(optimizer, model)
    for path in BACK:
        np.testing.assert_array_equal(values(model)[path], before[path])
    assert not (values(model)["out/kernel"] == before["out/kernel"]).any()


def test_with_gradients_it_is_the_formula():
    """w ← w − ηλ(w − w₀) − ηg, with g = w − 3: by a loop in NumPy."""
    variable = keras.Variable(np.array([0.5, -2.0, 4.0], "float32"))
    optimizer = keras_gamma.optimizers.SGDW(0.1, weight_decay=0.4, decay_to="initial")
    w = start = value(variable).astype("float64")
    for _ in range(7):
        optimizer.apply([keras.ops.convert_to_tensor(value(variable) - 3.0)], [variable])
        w = w - 0.1 * 0.4 * (w - start)
        w = w - 0.1 * (w + 0.1 * 0.4 * (w - start) / (1 - 0.1 * 0.4) - 3.0)
    np.testing.assert_allclose(value(variable), w, rtol=1e-5)


def test_one_word_is_for_all_variables_and_survives_a_config():
    optimizer = keras_gamma.optimizers.AdamW(decay_to="initial", weight_decay=0.1)
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.decay_to == "initial" and again.decay is None
    assert "decay_to" not in keras_gamma.optimizers.AdamW(decay={"a": 1.0}).get_config()


def test_the_plan_says_so():
    model = block()
    plan = plan_of(model)
    assert {e.path for e in plan if e.decayed and e.to == "initial"} == BACK
    assert {e.path for e in plan if e.decayed and e.to == "zero"} == {"out/kernel"}
    assert all(("back to its start" in e.reason) == (e.path in BACK) for e in plan)
    assert "2 of the decayed are led back to their start" in plan.summary()
    assert DecayPlan.from_json(plan.to_json()) == plan
    assert plan != plan_of(model, new="^(out|fc)/")


def test_plans_that_lead_to_zero_are_written_as_ever():
    plan = plan_weight_decay(block())
    assert all("to" not in entry for entry in json.loads(plan.to_json())["entries"])
    assert DecayPlan.from_json(plan.to_json()) == plan
    content = json.loads(plan.to_json())
    content["entries"][0]["to"] = "nowhere"
    with pytest.raises(ValueError, match=r"entry 0: `decay_to` must be one of zero, initial"):
        DecayPlan.from_json(json.dumps(content))


def test_what_is_stored_as_gamma_minus_one_is_led_back_as_well():
    x = keras.Input((4,))
    y = layers.Dense(4, name="fc")(x)
    y = layers.Add()([x, y])
    model = keras.Model(x, keras_gamma_style()(y))
    to_zero = plan_weight_decay(model, guidelines="all")
    back = plan_weight_decay(model, guidelines="all", decay_to="initial")
    assert [[e.decayed for e in p if e.role] for p in (to_zero, back)] == [[False], [True]]


def keras_gamma_style():
    @keras.saving.register_keras_serializable("test_targets")
    class OffsetNorm(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="zeros", name="scale")

        def call(self, x):
            y = x - keras.ops.mean(x, axis=-1, keepdims=True)
            y = y / keras.ops.sqrt(keras.ops.var(x, axis=-1, keepdims=True) + 1e-3)
            return y * (1.0 + self.scale)

    keras_gamma.register_normalization(OffsetNorm, kind="layer", scale="scale", neutral=0.0)
    return OffsetNorm(name="offset")


@pytest.mark.parametrize("by", ["keras_gamma", pytest.param("keras", marks=pytest.mark.slow)])
def test_a_loaded_model_is_led_to_the_first_start(by, tmp_path):
    model = block()
    before = started(model)
    model.compile(optimizer_of(model, "AdamW"), "mse")
    x, y = data()
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "m.keras")
    load = keras_gamma.load_model if by == "keras_gamma" else keras.models.load_model
    loaded = load(tmp_path / "m.keras")
    assert keras_gamma.audit(loaded).ok
    for one in (model, loaded):
        one.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for path, now in values(model).items():
        np.testing.assert_array_equal(values(loaded)[path], now, err_msg=path)
    for variable in loaded.trainable_variables:
        variable.assign(before[variable.path] + 1.0)
    for state in loaded.optimizer.variables:
        if "momentum" in state.path or "velocity" in state.path:
            state.assign(np.zeros(state.shape, "float32"))
    still(loaded.optimizer, loaded)
    for path in BACK:
        np.testing.assert_allclose(values(loaded)[path], before[path] + SHRUNK, rtol=1e-6)


@pytest.mark.slow
def test_backup_and_restore_brings_the_start_back(tmp_path):
    def trained(epochs, stop=False):
        keras.utils.set_random_seed(1)
        model = block()
        model.compile(optimizer_of(model), "mse")
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)]
        x, y = data()
        model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0,
                  callbacks=callbacks if stop is not None else [])  # fmt: skip
        return values(model)

    trained(1)
    resumed, whole = trained(2), trained(2, stop=None)
    for path, expected in whole.items():
        np.testing.assert_array_equal(resumed[path], expected, err_msg=path)


# The audit --------------------------------------------------------------------------------------


def test_the_audit_agrees_and_the_guard_lets_it_train():
    model = block()
    plan = plan_of(model)
    model.compile(optimizer_of(model), "mse")
    x, y = data()
    guard = keras_gamma.callbacks.DecayGuard(plan)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[guard])
    assert guard.audit.ok
    found = keras_gamma.audit(model, plan)
    assert found.ok, found.disagreements
    assert {e.path: e.decoupled for e in found if e.decoupled} == pytest.approx(
        dict.fromkeys(DECAYED, DECAY), rel=1e-3
    )
    assert {e.path for e in found if "to its start" in e.planned} == BACK


@pytest.mark.parametrize("acts", ["zero", "initial"])
def test_the_audit_finds_what_is_led_elsewhere(acts):
    model = block()
    plans = {to: plan_weight_decay(model, decay_to=to) for to in ("zero", "initial")}
    model.compile(keras_gamma.optimizers.SGDW(ETA, weight_decay=DECAY, decay=plans[acts]), "mse")
    model.optimizer.build(model.trainable_variables)
    other = plans["initial" if acts == "zero" else "zero"]
    assert keras_gamma.audit(model, plans[acts]).ok
    found = keras_gamma.audit(model, other).disagreements
    assert len(found) == len(DECAYED)
    ways = {"zero": "to 0", "initial": "to where it started"}
    (says,) = ways.keys() - {acts}
    assert f"weight decay leads {ways[acts]}, but the plan says {ways[says]}" in found[0]


def test_an_optimizer_that_forgets_its_start_is_found():
    """It looks as planned, and decays to 0."""

    class Forgetful(keras_gamma.optimizers.SGDW):
        def decay_variables(self, variables, keras_decay):
            kept = self._factors.to_start
            self._factors.to_start = [False] * len(kept)
            super().decay_variables(variables, keras_decay)
            self._factors.to_start = kept

    model = block()
    plan = plan_of(model)
    model.compile(Forgetful(ETA, weight_decay=DECAY, decay=plan), "mse")
    found = keras_gamma.audit(model, plan)
    assert len(found.disagreements) == len(BACK) and not found.ok


def test_a_small_decay_is_not_taken_for_lost_at_the_start():
    model = block()
    plan = plan_of(model)
    make = keras_gamma.optimizers.SGDW
    model.compile(make(1e-4, weight_decay=1e-2, decay=plan), "mse")
    assert keras_gamma.audit(model, plan).ok


# What cannot be -----------------------------------------------------------------------------------


def test_optimizers_of_keras_lead_to_zero_only():
    model = block()
    optimizer = keras.optimizers.SGD(ETA, weight_decay=DECAY)
    with pytest.raises(ValueError, match=r"SGD's weight decay leads to 0.*keras_gamma.optimizers"):
        plan_of(model).apply(optimizer, model)


def test_exclusions_later_do_not_change_where_it_leads():
    model = block()
    optimizer = optimizer_of(model)
    plan = exclude_from_weight_decay(optimizer, model, guidelines="none")
    assert {e.path for e in plan if e.decayed and e.to == "initial"} == {"fc/kernel"}
    assert (
        optimizer.decay_to["fc/kernel"] == "initial" and optimizer.decay_to["out/kernel"] == "zero"
    )
    plan.remove()
    assert optimizer.decay["ln/gamma"] == 1.0 and optimizer.decay_to["ln/gamma"] == "initial"


def test_a_start_that_was_not_kept_is_an_error_that_changes_nothing():
    model = block()
    to_zero = plan_weight_decay(model)
    optimizer = keras_gamma.optimizers.SGDW(ETA, weight_decay=DECAY, decay=to_zero)
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"did not keep where these variables started: ln/gamma"):
        optimizer.set_decay(plan_of(model))
    assert optimizer.decay_to == "zero" and optimizer.decay == to_zero.factors()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"decay_to": "start"}, r"`decay_to` must be one of zero, initial. Received: 'start'"),
        ({"decay_to": "initial", "decay": "plan"}, "A plan says itself where decay leads"),
        ({"decay_to": {"a": "zero"}, "decay": {"b": 1.0}}, "names the same paths"),
        ({"decay_to": {"a": "zero"}}, "names the same paths"),
    ],
)
def test_targets_that_make_no_sense(kwargs, message):
    if kwargs.get("decay") == "plan":
        kwargs = kwargs | {"decay": plan_weight_decay(block())}
    with pytest.raises(ValueError, match=message):
        keras_gamma.optimizers.SGDW(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"decay_to": "start"}, "must be one of"),
        ({"decay_to": "zero"}, "`new` names what decays to 0 in spite of"),
        ({"new": "^nowhere/"}, r"`new` are regular expressions.*matches '\^nowhere/'"),
        ({"new": "("}, "`new` must be regular expressions"),
    ],
)
def test_plans_that_make_no_sense(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plan_of(block(), **kwargs)


def test_starts_are_in_the_archive_once(tmp_path):
    model = block()
    model.compile(optimizer_of(model), "mse")
    model.optimizer.build(model.trainable_variables)
    assert sum("start" in v.path for v in model.optimizer.variables) == len(BACK)
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert "initial" in archive.read("config.json").decode()
