"""Decoupled weight decay: exclude lists, factors per variable, and what survives saving."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import apply_guidelines, exclude_from_weight_decay, plan_weight_decay

ETA, DECAY = 0.125, 0.5
SHRUNK = 1 - ETA * DECAY  # What one step with zero gradients leaves of a decayed variable.
ALL = ["AdadeltaW", "AdafactorW", "AdagradW", "AdamW", "AdamaxW", "LambW", "LionW", "MuonW",
       "NadamW", "RMSpropW", "SGDW"]  # fmt: skip
ALL = [name for name in ALL if hasattr(keras.optimizers, name.rstrip("W"))]  # Muon: Keras 3.10


def block():
    """ln (residual_last) -> fc -> join with x -> final (trunk) -> out."""
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="ln")(x)
    y = layers.Dense(4, activation="relu", name="fc")(y)
    y = layers.LayerNormalization(name="final")(layers.Add(name="join")([x, y]))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="block")


DECAYED_BY_PAPER = {"ln/gamma", "fc/kernel", "out/kernel"}
VARIABLES = ["ln/gamma", "ln/beta", "fc/kernel", "fc/bias", "final/gamma", "final/beta",
             "out/kernel", "out/bias"]  # fmt: skip


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 2)).astype("float32")


def value(variable):
    return keras.ops.convert_to_numpy(variable)


def after_zero_gradients(optimizer, model):
    """What a step with zero gradients leaves of ones: path -> value."""
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape, "float32"))
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    return {v.path: float(value(v).ravel()[0]) for v in variables}


def decayed(optimizer, model):
    left = after_zero_gradients(optimizer, model)
    for path, rest in left.items():
        assert rest == pytest.approx(1.0) or rest == pytest.approx(SHRUNK), path
    return {path for path, rest in left.items() if rest < 0.999}


def adamw(cls=keras.optimizers.AdamW, **kwargs):
    return cls(learning_rate=ETA, weight_decay=DECAY, **kwargs)


# The exclude list ----------------------------------------------------------------------------


def test_plan_names_every_trainable_variable():
    plan = plan_weight_decay(block())
    assert [e.path for e in plan] == VARIABLES
    assert {e.path for e in plan if e.decayed} == DECAYED_BY_PAPER
    assert [e.kind for e in plan] == ["γ", "β", "weight", "bias", "γ", "β", "weight", "bias"]
    assert [str(e.role) for e in plan if e.role] == ["residual_last", "trunk"]


def test_excluded_variables_do_not_shrink():
    model, optimizer = block(), adamw()
    plan = exclude_from_weight_decay(optimizer, model)
    assert {e.path for e in plan if e.decayed} == DECAYED_BY_PAPER
    assert decayed(optimizer, model) == DECAYED_BY_PAPER


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"guidelines": "none"}, {"fc/kernel", "out/kernel"}),
        ({"guidelines": "all"}, DECAYED_BY_PAPER | {"final/gamma"}),
        ({"biases": False}, DECAYED_BY_PAPER | {"fc/bias", "out/bias"}),
        ({"betas": False}, DECAYED_BY_PAPER | {"ln/beta", "final/beta"}),
        ({"names": "^out/"}, {"ln/gamma", "fc/kernel"}),
        ({"names": ["^out/", "kernel$"]}, {"ln/gamma"}),
    ],
)
def test_settings(kwargs, expected):
    model, optimizer = block(), adamw()
    exclude_from_weight_decay(optimizer, model, **kwargs)
    assert decayed(optimizer, model) == expected


def test_earlier_exclusions_are_kept():
    """Keras' own method would replace them."""
    model, optimizer = block(), adamw()
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("fc").kernel])
    plan = exclude_from_weight_decay(optimizer, model)
    again = exclude_from_weight_decay(optimizer, model, names="^out/")
    assert next(e.reason for e in plan if e.path == "fc/kernel") == "It was excluded before."
    assert {e.path for e in again if e.decayed} == {"ln/gamma"}
    assert decayed(optimizer, model) == {"ln/gamma"}


def test_earlier_name_patterns_are_kept():
    model, optimizer = block(), adamw()
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    exclude_from_weight_decay(optimizer, model)
    assert decayed(optimizer, model) == {"ln/gamma"}


def test_the_inner_optimizer_of_a_loss_scale_optimizer():
    model = block()
    inner = adamw()
    exclude_from_weight_decay(keras.optimizers.LossScaleOptimizer(inner), model)
    assert decayed(inner, model) == DECAYED_BY_PAPER


def test_a_traced_training_step_takes_notice():
    """The first `fit` traces a step in which everything decays; the next must not be it."""
    model = block()
    model.compile(
        keras.optimizers.SGD(ETA, weight_decay=DECAY), lambda y, p: 0.0 * keras.ops.sum(p)
    )
    model.fit(*data(), verbose=0, epochs=1, batch_size=16)
    exclude_from_weight_decay(model.optimizer, model)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape, "float32"))
    model.fit(*data(), verbose=0, epochs=1, batch_size=16)
    left = {v.path: float(value(v).ravel()[0]) for v in model.trainable_variables}
    assert {path for path, rest in left.items() if rest < 0.999} == DECAYED_BY_PAPER


def test_a_built_optimizer_of_nobody_is_an_error():
    model, optimizer = block(), adamw()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="built already"):
        exclude_from_weight_decay(optimizer, model)
    assert decayed(optimizer, model) == set(VARIABLES)


def test_no_weight_decay_says_that_nothing_decays():
    with pytest.warns(UserWarning, match="nothing decays"):
        plan = exclude_from_weight_decay(keras.optimizers.Adam(), block())
    assert "NOTHING decays" in str(plan)


def test_table():
    model, optimizer = block(), adamw()
    text = str(exclude_from_weight_decay(optimizer, model))
    for word in ("final/gamma", "trunk", "not decayed", "A bias."):
        assert word in text
    assert "8 trainable variables: 3 decayed, 5 not. weight_decay = 0.5" in text


def test_frozen_variables_are_decided_on():
    """They will be trained when they are unfrozen."""
    model = block()
    model.get_layer("ln").trainable = False
    entries = {e.path: e for e in plan_weight_decay(model)}
    assert set(entries) == set(VARIABLES)
    assert entries["ln/gamma"].decayed and not entries["ln/beta"].decayed
    assert entries["ln/gamma"].reason.startswith("Frozen")


def test_counted_twice_is_an_error_with_the_way_out():
    model = block()
    l2 = apply_guidelines(model, l2=0.5)
    with pytest.raises(ValueError, match=r"ln/gamma.*plan\.remove\(\).*guidelines='none'"):
        exclude_from_weight_decay(adamw(), model)
    optimizer = adamw()
    exclude_from_weight_decay(optimizer, model, guidelines="none")
    assert decayed(optimizer, model) == {"fc/kernel", "out/kernel"}
    l2.remove()
    exclude_from_weight_decay(adamw(), model)


@pytest.mark.parametrize("cls", [keras.optimizers.AdamW, keras_gamma.optimizers.AdamW])
def test_counted_twice_the_other_way_round(cls):
    """A penalty on a γ that the compiled optimizer decays."""
    model = block()
    model.compile(adamw(cls), "mse")
    with pytest.raises(ValueError, match=r"ln/gamma\. Nothing changed.*guidelines='none'"):
        apply_guidelines(model, l2=0.5)
    assert model.losses == []
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    assert apply_guidelines(model, l2=0.5)[0].strength == 0.5


def test_muons_second_strength_counts():
    """Its `weight_decay` is None, and γ decays all the same, by `adam_weight_decay`."""
    if not hasattr(keras.optimizers.Muon(), "adam_weight_decay"):
        pytest.skip("needs Muon's adam_weight_decay, of Keras 3.13")
    model = block()
    model.compile(keras.optimizers.Muon(weight_decay=None), "mse")
    with pytest.raises(ValueError, match="decays them as well"):
        apply_guidelines(model, l2=0.5)


def test_several_optimizers_are_asked_once_each_knows_its_variables():
    """Until then the first step tells."""
    model = block()
    several = keras.optimizers.OptimizerMap(default_optimizer=adamw())
    model.compile(keras.optimizers.MultiOptimizer(several), "mse")
    plan = apply_guidelines(model, l2=0.5)
    assert plan[0].strength == 0.5
    plan.remove()
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="AdamW that the model is compiled with decays them"):
        apply_guidelines(model, l2=0.5)


def test_one_plus_scale_is_not_decayed():
    """Decay of the stored scale would pull γ to 1."""

    class OnePlus(layers.Layer):
        epsilon = 1e-6

        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="zeros", name="scale")

        def call(self, x):
            square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
            return x * keras.ops.rsqrt(square + self.epsilon) * (1.0 + self.scale)

    x = keras.Input((4,))
    plan = plan_weight_decay(keras.Model(x, OnePlus(name="norm")(x)), guidelines="all")
    assert [(e.path, e.decayed) for e in plan] == [("norm/scale", False)]
    assert "γ to 1" in plan[0].reason


@pytest.mark.parametrize("optimizer", [None, "adamw", keras.optimizers.AdamW, 7])
def test_not_an_optimizer(optimizer):
    with pytest.raises(TypeError, match="Expected a Keras optimizer"):
        exclude_from_weight_decay(optimizer, block())


def test_bad_names():
    with pytest.raises(ValueError, match="regular expressions"):
        plan_weight_decay(block(), names="(")
    with pytest.raises(ValueError, match="matches 'embedding'"):
        plan_weight_decay(block(), names=["kernel", "embedding"])


def test_factors_need_our_optimizers():
    with pytest.raises(ValueError, match=r"factor 0\.5.*keras_gamma\.optimizers"):
        exclude_from_weight_decay(adamw(), block(), guidelines="residual_last=0.5")


# Equalities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "name"), keras_gamma.decay.optimizers.NAMES.items())
def test_they_step_as_those_of_keras_do(base, name):
    """Torch has some that update all variables at once, five times as fast: ours are those."""
    if not hasattr(keras.optimizers, base):
        pytest.skip(f"Keras {keras.__version__} has no {base}")
    assert isinstance(
        getattr(keras_gamma.optimizers, name)(), type(getattr(keras.optimizers, base)())
    )


class Counting(keras.optimizers.schedules.LearningRateSchedule):
    """Halves at each step, and knows how often it was asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, step):
        self.asked += 1
        return ETA * keras.ops.power(0.5, keras.ops.cast(step, "float32"))

    def get_config(self):
        return {}


def skip_the_first_muons(name):
    if name == "MuonW" and not hasattr(keras.optimizers.Muon(), "adam_weight_decay"):
        pytest.skip("needs Muon of Keras 3.13: the first ones fail on TensorFlow's variables")


@pytest.mark.parametrize("name", ALL)
def test_a_step_asks_the_schedule_once(name):
    """Keras asks for each variable that decays, and for the step; each answer is computed anew."""
    skip_the_first_muons(name)
    cls, counts = getattr(keras_gamma.optimizers, name), []
    for size in (1, 9):
        variables = [keras.Variable(np.ones((2, 2), "float32"), name=f"w{n}") for n in range(size)]
        optimizer = cls(Counting(), weight_decay=DECAY, decay={v.path: 1.0 for v in variables})
        optimizer.apply([keras.ops.zeros((2, 2)) for _ in variables], variables)
        counts.append(optimizer._learning_rate.asked)
    assert counts == [1, 1]


@pytest.mark.parametrize("accumulate", [None, 2])
def test_each_step_decays_by_its_own_learning_rate(accumulate):
    variable = keras.Variable(np.ones((2, 2), "float32"), name="w")
    optimizer = keras_gamma.optimizers.SGDW(
        Counting(), weight_decay=DECAY, decay={"w": 1.0}, gradient_accumulation_steps=accumulate
    )
    for _ in range(4):
        optimizer.apply([keras.ops.zeros((2, 2))], [variable])
    steps = range(4) if accumulate != 2 else (1, 3)
    expected = np.prod([1 - ETA * DECAY / 2**step for step in steps])
    assert value(variable)[0, 0] == pytest.approx(expected)


@pytest.mark.usefixtures("steps")
def test_coupled_equals_decoupled_for_sgd_without_momentum():
    """w − η(g + λw) = (w − ηλw) − ηg: step for step, with l2 = weight_decay / 2."""
    coupled, decoupled = block(), block()
    decoupled.set_weights(coupled.get_weights())
    apply_guidelines(coupled, l2=DECAY / 2)
    for model in (coupled, decoupled):
        for layer in ("fc", "out"):
            if model is coupled:
                model.get_layer(layer).kernel.regularizer = keras.regularizers.L2(DECAY / 2)
    coupled.compile(keras.optimizers.SGD(ETA), "mse")
    optimizer = keras.optimizers.SGD(ETA, weight_decay=DECAY)
    exclude_from_weight_decay(optimizer, decoupled)
    decoupled.compile(optimizer, "mse")
    x, y = data()
    for _ in range(5):
        coupled.fit(x, y, verbose=0, shuffle=False, batch_size=8)
        decoupled.fit(x, y, verbose=0, shuffle=False, batch_size=8)
        for a, b in zip(coupled.trainable_variables, decoupled.trainable_variables, strict=True):
            np.testing.assert_allclose(value(a), value(b), rtol=1e-5, atol=1e-6, err_msg=a.path)


def reference_adamw(w, gradients, decay, eta=0.01, b1=0.9, b2=0.999, epsilon=1e-7):
    """Loshchilov & Hutter, arXiv:1711.05101, algorithm 2, with ε where Keras has it."""
    m = v = np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        w = w - eta * decay * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        step = eta * np.sqrt(1 - b2**t) / (1 - b1**t)
        w = w - step * m / (np.sqrt(v) + epsilon)
    return w


def test_adamw_moves_excluded_variables_as_adam_and_others_as_the_paper_says():
    rng = np.random.default_rng(1)
    model = block()
    plan = plan_weight_decay(model, guidelines="residual_last=0.5")
    optimizer = keras_gamma.optimizers.AdamW(0.01, weight_decay=DECAY, decay=plan)
    variables = model.trainable_variables
    start = [rng.normal(size=v.shape) for v in variables]
    steps = [[rng.normal(size=v.shape) for v in variables] for _ in range(7)]
    for variable, w in zip(variables, start, strict=True):
        variable.assign(w.astype("float32"))
    for gradients in steps:
        optimizer.apply([keras.ops.cast(g, "float32") for g in gradients], variables)
    factors = {"ln/gamma": 0.5, "fc/kernel": 1.0, "out/kernel": 1.0}
    for i, variable in enumerate(variables):
        strength = DECAY * factors.get(variable.path, 0.0)
        expected = reference_adamw(start[i], [g[i] for g in steps], strength)
        np.testing.assert_allclose(
            value(variable), expected, rtol=1e-4, atol=1e-5, err_msg=variable.path
        )


# keras_gamma.optimizers ----------------------------------------------------------------------


def test_names_of_the_optimizers():
    assert keras_gamma.optimizers.__all__ == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_factors_of_every_optimizer(name):
    model = block()
    plan = plan_weight_decay(model, guidelines="residual_last=0.5,trunk=2", names="^out/")
    optimizer = adamw(getattr(keras_gamma.optimizers, name), decay=plan)
    skip_the_first_muons(name)
    left = after_zero_gradients(optimizer, model)
    # Muon gives what is no matrix to AdamW, with a weight decay of its own.
    strength = 0.004 if name == "MuonW" else DECAY
    expected = dict.fromkeys(VARIABLES, 1.0) | {
        "ln/gamma": 1 - ETA * strength * 0.5,
        "final/gamma": 1 - ETA * strength * 2,
        "fc/kernel": SHRUNK,
    }
    assert left == pytest.approx(expected, abs=1e-6)
    assert optimizer.weight_decay == DECAY


@pytest.mark.parametrize("name", ALL)
def test_config_round_trip(name):
    cls = getattr(keras_gamma.optimizers, name)
    optimizer = adamw(cls, decay={"a/kernel": 1.0, "a/bias": 0.0})
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is cls
    assert again.decay == {"a/kernel": 1.0, "a/bias": 0.0}
    assert again.weight_decay == DECAY


def test_without_factors_everything_decays_as_in_keras():
    model = block()
    assert decayed(adamw(keras_gamma.optimizers.AdamW), model) == set(VARIABLES)


@pytest.mark.usefixtures("steps")
def test_a_saved_model_trains_on_as_if_it_had_not_been_saved(tmp_path):
    model = block()
    plan = plan_weight_decay(model, guidelines="residual_last=0.5")
    model.compile(adamw(keras_gamma.optimizers.AdamW, decay=plan), "mse")
    x, y = data()
    model.fit(x, y, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.decay == model.optimizer.decay
    for m in (model, loaded):
        m.fit(x, y, verbose=0, shuffle=False, epochs=3)
    pairs = zip(
        model.variables + model.optimizer.variables,
        loaded.variables + loaded.optimizer.variables,
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(value(a), value(b), err_msg=a.path)


def test_a_reloaded_sequential_keeps_its_factors(tmp_path):
    """Its paths change from `s/ln/gamma` to `ln/gamma`, before Keras 3.16."""
    model = keras.Sequential([layers.Dense(4), layers.LayerNormalization(name="ln")], name="s")
    model.build((None, 4))
    plan = plan_weight_decay(model, guidelines="trunk=0.5")
    model.compile(adamw(keras_gamma.optimizers.AdamW, decay=plan), "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 4)), verbose=0)
    model.save(tmp_path / "s.keras")
    loaded = keras.models.load_model(tmp_path / "s.keras")
    optimizer = type(loaded.optimizer).from_config(loaded.optimizer.get_config())
    found = after_zero_gradients(optimizer, loaded)
    left = {path.removeprefix("s/"): value for path, value in found.items()}
    assert left["ln/gamma"] == pytest.approx(1 - ETA * DECAY * 0.5)
    assert left["ln/beta"] == 1.0


@pytest.mark.slow
def test_backup_and_restore(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def run(*callbacks):
        keras.utils.set_random_seed(0)
        model = block()
        plan = plan_weight_decay(model)
        model.compile(adamw(keras_gamma.optimizers.AdamW, decay=plan), "mse")
        model.fit(*data(), epochs=4, verbose=0, shuffle=False, callbacks=list(callbacks))
        return model

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(keras.callbacks.BackupAndRestore(tmp_path / "b"), Stop())
    resumed = run(keras.callbacks.BackupAndRestore(tmp_path / "b"))
    for a, b in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(value(a), value(b), err_msg=a.path)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = block()
        plan = plan_weight_decay(model)
        model.compile(adamw(keras_gamma.optimizers.AdamW, decay=plan), "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    again = exclude_from_weight_decay(model.optimizer, model, guidelines="residual_last=0.25")
    assert model.optimizer.inner_optimizer.decay["ln/gamma"] == 0.25
    assert next(e.factor for e in again if e.path == "ln/gamma") == 0.25


def test_clipping_sees_all_gradients_at_once():
    """`global_clipnorm` is one norm over all variables, whatever their decay."""
    model = block()
    variables = model.trainable_variables
    gradients = [keras.ops.ones(v.shape) for v in variables]
    results = []
    for cls, kwargs in (
        (keras.optimizers.SGD, {}),
        (keras_gamma.optimizers.SGDW, {"decay": plan_weight_decay(model)}),
    ):
        for variable in variables:
            variable.assign(np.zeros(variable.shape, "float32"))
        cls(1.0, weight_decay=DECAY, global_clipnorm=1.0, **kwargs).apply(gradients, variables)
        results.append([value(v) for v in variables])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_variable_without_a_factor_is_an_error():
    model = block()
    optimizer = adamw(keras_gamma.optimizers.AdamW, decay={"ln/gamma": 1.0})
    with pytest.raises(ValueError, match=r"no decision on weight decay for: ln/beta, fc/kernel"):
        optimizer.build(model.trainable_variables)


def test_a_failing_set_decay_changes_nothing():
    model = block()
    optimizer = adamw(keras_gamma.optimizers.AdamW, decay=plan_weight_decay(model))
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="no decision"):
        optimizer.set_decay({"ln/gamma": 1.0})
    assert decayed(optimizer, model) == DECAYED_BY_PAPER


@pytest.mark.parametrize("decay", [{"a": -1.0}, {"a": float("nan")}, {"a": "1"}, ["a"], 0.5])
def test_factors_that_make_no_sense(decay):
    with pytest.raises(ValueError, match="decay"):
        keras_gamma.optimizers.AdamW(decay=decay)


def test_no_warnings_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exclude_from_weight_decay(adamw(), block())
