"""The audit: what it measures, and that it catches settings that look right and do nothing."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import (
    apply_guidelines,
    audit,
    exclude_from_weight_decay,
    plan_weight_decay,
)
from keras_gamma._keras import names as _keras
from keras_gamma.checks import measure
from tests.models.role_parts import RawNumpy

OPTIMIZERS = ["AdadeltaW", "AdafactorW", "AdagradW", "AdamW", "AdamaxW", "LambW", "LionW",
              "NadamW", "RMSpropW", "SGDW"]  # fmt: skip
TENSORFLOW = keras.backend.backend() == "tensorflow"


def block(name="block"):
    """ln (residual_last) -> fc -> join with x -> final (trunk) -> out."""
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="ln")(x)
    y = layers.Dense(4, activation="relu", name="fc")(y)
    y = layers.LayerNormalization(name="final")(layers.Add(name="join")([x, y]))
    return keras.Model(x, layers.Dense(2, name="out")(y), name=name)


def adamw(**kwargs):
    return keras.optimizers.AdamW(1e-3, weight_decay=0.05, **kwargs)


def fit(model):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 2)).astype("float32")
    model.fit(x, y, verbose=0, batch_size=8)


def coupled(found):
    return {e.path: pytest.approx(e.coupled, rel=1e-4) for e in found if e.coupled}


def decoupled(found):
    return {e.path: pytest.approx(e.decoupled, rel=1e-4) for e in found if e.decoupled}


def agrees(found):
    """All is as planned; after `fit`, JAX does not show the step that it has compiled."""
    answers = ("yes", "could not tell") if keras.backend.backend() == "jax" else ("yes",)
    return found.answer in answers


def accused(found):
    """The paths that some disagreement is about."""
    return {e.path for e in found if e.problems}


def state(model):
    variables = [*model.variables, *(model.optimizer.variables if model.optimizer else [])]
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


# What it measures ----------------------------------------------------------------------------


def test_penalties_are_in_torch_units():
    model = block()
    apply_guidelines(model, l2=0.25)
    model.get_layer("fc").kernel.regularizer = keras.regularizers.L1(0.125)
    model.get_layer("out").kernel.regularizer = keras.regularizers.OrthogonalRegularizer(0.5)
    model.compile("sgd", "mse")
    found = audit(model)
    assert found.ok
    assert {path: v for path, v in coupled(found).items() if path != "out/kernel"} == {
        "ln/gamma": 0.5,
        "fc/kernel": 0.125,
    }
    assert decoupled(found) == {}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("strength", [1e-5, 0.05, 30.0])
def test_decay_is_in_keras_units(name, strength):
    model = block()
    plan = plan_weight_decay(model, guidelines="residual_last=0.5,trunk=2")
    cls = getattr(keras_gamma.optimizers, name)
    # (1e-3 · 1e-5 would be below the resolution of float32.)
    model.compile(cls(0.1, weight_decay=strength, decay=plan, global_clipnorm=1.0), "mse")
    found = audit(model)
    assert found.ok, found.disagreements
    expected = {"ln/gamma": 0.5, "fc/kernel": 1.0, "final/gamma": 2.0, "out/kernel": 1.0}
    assert decoupled(found) == {path: f * strength for path, f in expected.items()}


def test_muon_has_two_strengths():
    """0.05 for matrices, and by default 0.004 for the rest."""
    if not hasattr(keras.optimizers.Muon(), "adam_weight_decay"):
        pytest.skip("needs Muon's adam_weight_decay, of Keras 3.13")
    model = block()
    model.compile(keras.optimizers.Muon(weight_decay=0.05), "mse")
    exclude_from_weight_decay(model.optimizer, model)
    found = audit(model)
    assert found.ok, found.disagreements
    assert decoupled(found) == {"ln/gamma": 0.004, "fc/kernel": 0.05, "out/kernel": 0.05}


def test_ftrl_cannot_be_measured():
    model = block()
    model.compile(keras.optimizers.Ftrl(weight_decay=0.05), "mse")
    found = audit(model, guidelines="none")
    assert (found.answer, [e.decoupled for e in found]) == ("could not tell", [None] * 8)
    assert not found.ok and not found.disagreements
    assert "Ftrl computes each weight anew" in found.summary()


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "ScheduleFreeAdamW"), reason="needs ScheduleFreeAdamW"
)
def test_an_average_of_a_copy_that_does_not_decay_cannot_be_measured():
    model = block()
    model.compile(keras.optimizers.ScheduleFreeAdamW(weight_decay=0.05), "mse")
    found = audit(model, guidelines="none")
    assert (found.answer, [e.decoupled for e in found]) == ("could not tell", [None] * 8)
    assert "averages each weight from a second copy" in found.summary()


class Lookahead(keras.optimizers.SGD):
    """Goes back to where it began, every second step."""

    def update_step(self, gradient, variable, learning_rate):
        goes_back = keras.ops.cast((self.iterations + 1) % 2 == 0, variable.dtype)
        super().update_step(gradient, variable, learning_rate)
        self.assign(variable, (1.0 - goes_back) * variable + goes_back)


def test_an_optimizer_of_ones_own_whose_decay_does_not_last():
    model = block()
    model.compile(Lookahead(0.1, weight_decay=0.05), "mse")
    found = audit(model, guidelines="none")
    assert found.answer == "could not tell"
    assert "of Lookahead, a second step without gradients takes off" in found.summary()


class Plain(keras.optimizers.SGD):
    """As Keras', of another module."""


def test_an_optimizer_of_ones_own_whose_decay_lasts():
    model = block()
    model.compile(Plain(0.1, weight_decay=0.05), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    assert audit(model).answer == "yes"


def test_every_variable_has_an_entry():
    model = block()
    model.compile(adamw(), "mse")
    assert [e.path for e in audit(model)] == [v.path for v in model.trainable_variables]


def test_a_schedule_accumulation_and_averaging_do_not_hide_the_decay():
    model = block()
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10)  # Starts at 0.
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=0.05, gradient_accumulation_steps=4, use_ema=True
    )
    exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, "mse")
    found = audit(model)
    assert found.ok
    assert decoupled(found) == dict.fromkeys(["ln/gamma", "fc/kernel", "out/kernel"], 0.05)


def test_one_plus_scale():
    """Its penalty is measured where γ = 1, which is stored as 0."""

    @keras_gamma.register_normalization(scale="scale", kind="rms", neutral=0.0)
    class OnePlusNorm(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="zeros", name="scale")

        def call(self, x):
            square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
            return x * keras.ops.rsqrt(square + 1e-6) * (1.0 + self.scale)

    x = keras.Input((4,))
    model = keras.Model(x, OnePlusNorm(name="norm")(x))
    apply_guidelines(model, l2=0.25, guidelines="all")
    model.compile("sgd", "mse")
    found = audit(model)
    assert found.ok, found.disagreements
    assert coupled(found) == {"norm/scale": 0.5}


@pytest.mark.usefixtures("steps")
def test_the_model_is_left_as_it_was():
    model = block()
    apply_guidelines(model, l2=0.25)
    model.compile(adamw(), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    fit(model)
    before, step, attributes = state(model), model.train_function, set(vars(model))
    exclusions = dict(vars(model.optimizer))
    audit(model)
    for a, b in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.train_function is step
    assert set(vars(model)) == attributes
    assert {k: v for k, v in vars(model.optimizer).items() if "exclude" in k} == {
        k: v for k, v in exclusions.items() if "exclude" in k
    }


# What it catches -----------------------------------------------------------------------------


def test_a_list_on_the_outer_optimizer():
    """`LossScaleOptimizer` takes an exclude list, and the inner one decays all the same."""
    model = block()
    plan = plan_weight_decay(model)
    outer = keras.optimizers.LossScaleOptimizer(adamw())
    outer.exclude_from_weight_decay(var_list=[model.get_layer("final").gamma])
    model.compile(outer, "mse")
    assert "final/gamma" in accused(audit(model))
    exclude_from_weight_decay(outer, model)
    assert audit(model).ok
    model.compile(keras.optimizers.LossScaleOptimizer(adamw()), "mse")
    assert accused(audit(model)) == {e.path for e in plan if not e.decayed}


@pytest.mark.usefixtures("steps")
def test_an_exclude_list_lost_by_saving(tmp_path):
    model = block()
    model.compile(adamw(), "mse")
    plan = exclude_from_weight_decay(model.optimizer, model)
    fit(model)
    assert agrees(audit(model))
    with pytest.warns(UserWarning, match="does not save the exclude list"):
        model.save(tmp_path / "m.keras")
    forgetful = keras.models.load_model(tmp_path / "m.keras")
    spared = {"ln/beta", "fc/bias", "final/gamma", "final/beta", "out/bias"}
    assert accused(audit(forgetful, plan)) == spared
    assert accused(audit(forgetful)) == {"final/gamma"}  # By the guidelines alone.
    assert audit(keras_gamma.load_model(tmp_path / "m.keras")).ok


def test_a_measured_role_counts_where_the_network_is_handed_over():
    x = keras.Input((6, 4))
    y = RawNumpy()(layers.LayerNormalization(name="ln")(x))
    model = keras.Model(x, layers.Add()([x, layers.Dense(4)(y)]))
    model.compile("sgd", "mse")
    assert audit(model).ok
    assert accused(audit(measure(model))) == {"ln/gamma"}


@pytest.mark.one_in(3)
@pytest.mark.skipif(not TENSORFLOW, reason="only TensorFlow's traced steps can be looked at")
@pytest.mark.parametrize("kwargs", [{}, {"jit_compile": True}, {"steps_per_execution": 2}])
def test_a_penalty_after_the_step_was_traced(kwargs):
    model = block()
    model.compile("sgd", "mse", **kwargs)
    fit(model)
    assert audit(model, guidelines="none").ok
    model.get_layer("ln").gamma.regularizer = keras.regularizers.L2(0.25)
    found = audit(model, guidelines="residual_last=1")
    assert accused(found) == {"ln/gamma"}
    assert "traced" in found.disagreements[0]
    model.compile("sgd", "mse", **kwargs)
    assert audit(model, guidelines="residual_last=1").ok


@pytest.mark.skipif(not TENSORFLOW, reason="only TensorFlow's traced steps can be looked at")
def test_an_exclusion_after_the_step_was_traced():
    model = block()
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.05), "mse")
    fit(model)
    _keras.exclude(model.optimizer, [model.get_layer("final").gamma])  # The step stays traced.
    found = audit(model)
    assert accused(found) == {"final/gamma"}
    assert "traced" in found.disagreements[0]


@pytest.mark.skipif(not TENSORFLOW, reason="only TensorFlow's traced steps can be looked at")
def test_another_strength_after_the_step_was_traced():
    model = block()
    apply_guidelines(model, l2=0.25)
    model.compile("sgd", "mse")
    fit(model)
    assert audit(model).ok
    model.get_layer("ln").gamma.regularizer.l2 = 0.5
    found = audit(model)
    assert any("other constants" in sentence for sentence in found.disagreements)
    assert any("pulls with 1, but the plan" in sentence for sentence in found.disagreements)


def test_our_own_changes_are_never_stale():
    model = block()
    model.compile(adamw(), "mse")
    fit(model)
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    apply_guidelines(model, l2=0.25)
    found = audit(model)
    assert (found.ok, found.unseen, found.notes) == (True, [], ())


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="what JAX has compiled stays hidden")
def test_jax_says_that_a_compiled_step_cannot_be_seen():
    model = block()
    model.compile("sgd", "mse")
    fit(model)
    found = audit(model, guidelines="none")
    assert found.answer == "could not tell" and not found.disagreements
    assert "this backend does not show it" in found.unseen[0]


def test_counted_twice():
    model = block()
    apply_guidelines(model, l2=0.25)
    model.compile(adamw(), "mse")
    found = audit(model)
    assert accused(found) == {"ln/gamma", "final/gamma"}
    assert any("ln/gamma: counted twice" in sentence for sentence in found.disagreements)


def test_penalties_taken_off_by_hand():
    model = block()
    apply_guidelines(model, l2=0.25)
    model.get_layer("ln").gamma.regularizer = None
    model.compile("sgd", "mse")
    assert audit(model).disagreements == [
        "ln/gamma: the penalty pulls with 0, but the plan says that it is 0.5"
    ]


def test_guidelines_without_a_plan():
    model = block()
    model.compile(adamw(), "mse")
    assert accused(audit(model)) == {"final/gamma"}
    assert audit(model, guidelines="all").ok
    assert accused(audit(model, guidelines="none")) == {"ln/gamma", "final/gamma"}
    model.compile("sgd", "mse")
    assert accused(audit(model)) == {"ln/gamma"}


def test_a_plan_for_another_model():
    found = audit(block(), apply_guidelines(larger(), l2=0.25))
    assert any("extra/gamma: the plan speaks of it" in s for s in found.disagreements)
    found = audit(larger(), [apply_guidelines(block(), l2=0.25)])
    assert accused(found) == {"ln/gamma", "extra/gamma"}


def larger():
    inner = block("inner")
    x = keras.Input((4,))
    y = layers.Add()([x, layers.Dense(4)(layers.LayerNormalization(name="extra")(x))])
    return keras.Model(x, inner(y))


def test_two_variables_of_one_path():
    """As in two towers whose layers have the same names."""
    x = keras.Input((4,))
    towers = [keras.Model(x, layers.LayerNormalization(name="ln")(x), name=n) for n in "ab"]
    model = keras.Model(x, layers.Dense(1)(layers.Concatenate()([t(x) for t in towers])))
    plan = apply_guidelines(model, l2=0.25, guidelines="all")
    assert [e.path for e in plan] == ["ln/gamma", "ln/gamma#2"]
    model.compile("sgd", "mse")
    found = audit(model)
    assert found.ok, found.disagreements
    towers[1].get_layer("ln").gamma.regularizer = None
    assert len(audit(model).disagreements) == 1


def test_a_plan_of_an_inner_model_counts():
    model = larger()
    apply_guidelines(model.get_layer("inner"), l2=0.25)
    model.compile("sgd", "mse")
    assert accused(audit(model)) == {"extra/gamma"}
    apply_guidelines(model, l2=0.25)
    assert audit(model).ok


def test_a_model_that_is_not_compiled():
    model = block()
    apply_guidelines(model, l2=0.25)
    found = audit(model)
    assert found.answer == "could not tell" and not found.disagreements
    assert all(e.decoupled is None for e in found)
    assert "not compiled" in found.summary()


def test_an_own_training_step_is_noted():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return 0.0

    x = keras.Input((4,))
    model = Own(x, layers.LayerNormalization()(x))
    model.compile("sgd", "mse")
    found = audit(model, guidelines="none")
    assert found.answer == "could not tell" and not found.disagreements
    assert "compute_loss is its own" in found.unseen[0]


@pytest.mark.skipif(not TENSORFLOW, reason="strategies are TensorFlow's")
def test_a_strategys_scope_is_refused():
    import tensorflow as tf

    model = block()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        with pytest.raises(ValueError, match="outside of strategy"):
            audit(model)


# What it must not say yes to -----------------------------------------------------------------


def test_frozen_when_decided_and_trainable_now():
    """Fine-tuning in two phases: the second would train without the penalty."""
    model = block()
    model.get_layer("ln").trainable = False
    apply_guidelines(model, l2=0.25)
    model.compile("sgd", "mse")
    assert audit(model).ok
    model.get_layer("ln").trainable = True
    model.compile("sgd", "mse")
    fit(model)
    found = audit(model)  # It came back with the layer.
    assert agrees(found) and coupled(found) == {"ln/gamma": 0.5}
    model.get_layer("ln").gamma.regularizer = None
    found = audit(model)
    assert accused(found) == {"ln/gamma"}
    assert "frozen when the guidelines were applied" in found.disagreements[0]


def in_dtype(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        return block()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_decay_below_the_resolution_of_the_dtype(dtype):
    model = in_dtype(dtype)
    model.compile(adamw(), "mse")  # η·λ = 5e-5.
    plan = exclude_from_weight_decay(model.optimizer, model)
    found = audit(model)
    assert found.answer == "no"
    assert accused(found) == {e.path for e in plan if e.decayed}
    text = next(s for s in found.disagreements if s.startswith("ln/gamma"))
    assert f"in {dtype}, w − 0.001·0.05·w rounds to w: nothing shrinks" in text
    # The strength that it names is enough, and a quarter of it is not.
    named = float(text.split("weight_decay = ")[1].split()[0])
    for strength, ok in ((named, True), (named / 4, False)):
        model.compile(keras.optimizers.AdamW(1e-3, weight_decay=strength), "mse")
        exclude_from_weight_decay(model.optimizer, model)
        before = keras.ops.convert_to_numpy(model.get_layer("ln").gamma).astype("float32")
        assert audit(model).ok is ok
        grads = [keras.ops.zeros(v.shape, dtype=v.dtype) for v in model.trainable_variables]
        for _ in range(20):
            model.optimizer.apply(grads, model.trainable_variables)
        after = keras.ops.convert_to_numpy(model.get_layer("ln").gamma).astype("float32")
        assert bool((after < before).all()) is ok
        model.get_layer("ln").gamma.assign(before)


def test_a_penalty_below_the_resolution_of_the_dtype():
    model = in_dtype("bfloat16")
    apply_guidelines(model, l2=5e-4)
    for momentum, ok in ((0.0, False), (0.9, False)):
        model.compile(keras.optimizers.SGD(0.1, momentum=momentum), "mse")
        assert audit(model).ok is ok
    apply_guidelines(model, l2=5e-2)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    assert audit(model).ok


def test_float32_has_a_resolution_as_well():
    model = block()
    model.compile(keras.optimizers.AdamW(1e-4, weight_decay=1e-5), "mse")
    exclude_from_weight_decay(model.optimizer, model)
    assert "in float32, w − 0.0001·1e-05·w rounds to w" in audit(model).disagreements[0]


def test_the_rate_of_a_schedule_is_its_largest():
    """Not that of its first step, which a warm-up begins with 0."""
    model = block()
    rate = keras.optimizers.schedules.CosineDecay(0.0, 100, warmup_target=1e-3, warmup_steps=20)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.05), "mse")
    exclude_from_weight_decay(model.optimizer, model)
    assert audit(model).ok


def test_own_train_step_that_builds_layers():
    """TensorFlow traces it twice, and only the second trace is run again."""

    class Trainer(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.head = layers.Dense(2, kernel_regularizer="l2")

        def train_step(self, *args):
            if keras.backend.backend() != "tensorflow":
                return super().train_step(*args)
            import tensorflow as tf

            x, y = args[0]
            with tf.GradientTape() as tape:
                error = self.head(self.inner(x, training=True)) - y
                loss = tf.reduce_mean(error**2) + sum(self.losses)
            variables = self.trainable_variables
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, variables), variables, strict=True)
            )
            return {"loss": loss}

        def call(self, x):
            return self.head(self.inner(x))

    if TENSORFLOW:
        del Trainer.call
    model = block("inner")
    apply_guidelines(model, l2=0.25)
    trainer = Trainer(model)
    trainer.compile("sgd", "mse")
    for _ in range(2):
        fit(trainer)
        found = audit(trainer)
        assert found.disagreements == []
        assert found.answer == "could not tell"
        assert "Trainer.train_step is its own" in found.unseen[0]


def test_an_optimizer_that_cannot_be_copied_is_named():
    class Stubborn(keras.optimizers.AdamW):
        def get_config(self):
            raise NotImplementedError("no config")

    model = block()
    model.compile(Stubborn(weight_decay=0.1), "mse")
    found = audit(model, plan_weight_decay(model))
    assert found.answer == "could not tell" and not found.disagreements
    assert "Stubborn could not be tried out on a copy (NotImplementedError" in found.unseen[0]


class Around(keras.optimizers.Optimizer):
    """Holds another optimizer, and does with it what it will."""

    def __init__(self, inner, **kwargs):
        super().__init__(learning_rate=0.1, **kwargs)
        self.inner = inner


def test_an_optimizer_around_another_could_do_anything():
    model, inner = block(), keras.optimizers.AdamW(weight_decay=0.1)
    with pytest.raises(ValueError, match=r"Around holds other optimizers \(AdamW\)"):
        keras_gamma.exclude_from_weight_decay(Around(inner), model)
    keras_gamma.exclude_from_weight_decay(inner, model)
    model.compile(Around(inner), "mse")
    found = audit(model)
    assert found.answer == "could not tell" and not found.disagreements
    assert any("Around holds other optimizers" in one for one in found.unseen)


def test_losses_of_the_models_own_could_be_empty():
    class Silent(keras.Model):
        @property
        def losses(self):
            return []

    inner = block()
    model = Silent(inner.input, inner.output)
    apply_guidelines(model, l2=0.125)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    found = audit(model)
    assert found.answer == "could not tell" and "Silent.losses is its own" in found.unseen[0]


def test_layers_that_the_analysis_builds():
    """A model that was never called has no variables before roles are looked for."""

    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.out = layers.LayerNormalization(), layers.Dense(2)

        def call(self, x):
            return self.out(x + self.norm(x))

    model = Lazy()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    found = audit(model, guidelines="all", inputs=keras.Input((4,)))
    assert found.disagreements and "nothing shrinks it" in found.disagreements[0]


# What is no disagreement ---------------------------------------------------------------------


def test_a_strength_in_a_variable_or_by_schedule():
    class Scheduled(keras.optimizers.AdamW):
        @property
        def weight_decay(self):
            step = keras.ops.cast(self._iterations, "float32")
            return self._strength * keras.ops.minimum(1.0, (1.0 + step) / 10.0)

        @weight_decay.setter
        def weight_decay(self, value):
            self._strength = value

        def get_config(self):
            return {**super().get_config(), "weight_decay": self._strength}

    model = block()
    model.compile(Scheduled(0.1, weight_decay=0.5), "mse")
    model.optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if len(v.shape) < 2]
    )
    found = audit(model, plan_weight_decay(model, guidelines="none"))
    assert found.ok, found.summary()
    assert decoupled(found) == dict.fromkeys(["fc/kernel", "out/kernel"], 0.05)
    model.optimizer.iterations.assign(20)
    assert decoupled(audit(model)) == dict.fromkeys(["fc/kernel", "out/kernel"], 0.5)

    model = block()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.weight_decay = keras.Variable(0.25, trainable=False)
    model.compile(optimizer, "mse")
    exclude_from_weight_decay(optimizer, model)
    found = audit(model)
    assert found.ok, found.summary()
    optimizer.weight_decay.assign(0.5)
    found = audit(model)
    assert found.ok, found.summary()
    assert decoupled(found) == dict.fromkeys(["ln/gamma", "fc/kernel", "out/kernel"], 0.5)


def test_lora_freezes_a_kernel():
    model = block()
    model.compile(adamw(), "mse")
    plan = exclude_from_weight_decay(model.optimizer, model)
    model.get_layer("fc").enable_lora(2)
    model.compile(model.optimizer, "mse")
    model.optimizer.built = False
    found = audit(model, plan)
    assert found.ok, found.disagreements
    assert "fc/kernel" not in [e.path for e in found]


def test_a_frozen_gamma_of_a_plan():
    model = block()
    apply_guidelines(model, l2=0.25)
    model.get_layer("ln").trainable = False
    model.compile("sgd", "mse")
    assert audit(model).ok


def test_quantized_layers():
    model = block()
    plan = plan_weight_decay(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras names the layers that it cannot quantize.
        model.quantize("int8")
    model.compile(adamw(), "mse")
    _keras.exclude(
        model.optimizer,
        [v for v in model.trainable_variables if v.name != "gamma" or "final" in v.path],
    )
    found = audit(model, plan)
    assert found.ok, found.disagreements


def test_two_variables_of_one_path_under_weight_decay():
    """They are told apart as objects: one of two equal names decays."""
    x = keras.Input((4,))
    towers = [keras.Model(x, layers.Dense(4, name="fc")(x), name=n) for n in "ab"]
    model = keras.Model(x, layers.Add()([t(x) for t in towers]))
    kernels = [t.get_layer("fc").kernel for t in towers]
    assert kernels[0].path == kernels[1].path
    model.compile(adamw(), "mse")
    plan = plan_weight_decay(model)
    _keras.exclude(model.optimizer, [t.get_layer("fc").bias for t in towers])
    assert audit(model, plan).ok
    _keras.exclude(model.optimizer, kernels[1:])
    found = audit(model, plan)
    assert [e.decoupled for e in found if e.path == "fc/kernel"] == [pytest.approx(0.05), 0.0]
    assert len(found.disagreements) == 1


@pytest.mark.skipif(not TENSORFLOW, reason="only TensorFlow's traced steps can be looked at")
def test_traced_steps_tell_variables_of_one_path_apart():
    x = keras.Input((4,))
    towers = [keras.Model(x, layers.LayerNormalization(name="ln")(x), name=n) for n in "ab"]
    model = keras.Model(x, layers.Dense(2)(layers.Concatenate()([t(x) for t in towers])))
    model.compile("sgd", "mse")
    fit(model)
    towers[0].get_layer("ln").gamma.regularizer = keras.regularizers.L2(0.25)
    found = audit(model, guidelines="none")
    stale = [i for i, e in enumerate(found) if any("traced" in p for p in e.problems)]
    gamma = towers[0].get_layer("ln").gamma
    assert [model.trainable_variables[i] is gamma for i in stale] == [True]


def test_several_optimizers_are_each_asked():
    model = block()
    decaying, plain = adamw(), keras.optimizers.SGD(0.1)
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(plain, {".*kernel": decaying})
    )
    model.compile(several, "mse")
    found = audit(model, plan_weight_decay(model, guidelines="none"))
    assert found.answer == "could not tell" and "is not built" in found.unseen[0]
    fit(model)
    found = audit(model, plan_weight_decay(model, guidelines="none"))
    assert decoupled(found) == dict.fromkeys(["fc/kernel", "out/kernel"], 0.05)
    assert not found.disagreements


def test_nothing_of_keras_is_used_up():
    """Counters of names and the random state are as they were."""
    found = []
    for audited in (False, True):
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        model = block()
        model.compile(adamw(), "mse")
        exclude_from_weight_decay(model.optimizer, model)
        if audited:
            audit(model)
        draw = float(keras.random.uniform(()))
        found.append((draw, layers.Dense(1).name, keras.optimizers.AdamW().name))
    assert found[0] == found[1]


# How it is told ------------------------------------------------------------------------------


def test_table_and_json():
    model = block()
    model.compile(adamw(), "mse")
    found = audit(model)
    text = str(found)
    assert "DISAGREES" in text
    assert "8 trainable variables: 0 shrink by a penalty in the loss, 8 by the optimizer's" in text
    assert "- final/gamma: as trunk it should not shrink by the guidelines, but does" in text
    content = json.loads(found.to_json())
    assert content["ok"] is False
    assert len(content["entries"]) == 8


@pytest.mark.parametrize("model", [None, "model.keras", layers.Dense(2)])
def test_not_a_model(model):
    with pytest.raises(TypeError, match="Expected a Keras model"):
        audit(model)


def test_guidelines_instead_of_the_plan():
    model = block()
    plan = apply_guidelines(model, l2=0.25)
    model.compile("sgd", "mse")
    assert audit(model).ok
    assert accused(audit(model, guidelines="all")) == {"final/gamma"}
    with pytest.raises(ValueError, match="not both"):
        audit(model, plan, guidelines="all")


def test_not_a_plan():
    with pytest.raises(TypeError, match="`plan` must be a GammaPlan"):
        audit(block(), "paper")
