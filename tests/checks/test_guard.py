"""The guard: it stops a training that would not decay as decided, and leaves no trace."""

import os
import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.callbacks import DecayGuard

BACKEND = keras.backend.backend()
TENSORFLOW = BACKEND == "tensorflow"
tensorflow_only = pytest.mark.skipif(
    not TENSORFLOW, reason="only TensorFlow's traced steps can be looked at"
)


def block():
    """ln (residual_last) -> fc -> join with x -> final (trunk) -> out."""
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="ln")(x)
    y = layers.Dense(4, activation="relu", name="fc")(y)
    y = layers.LayerNormalization(name="final")(layers.Add(name="join")([x, y]))
    return keras.Model(x, layers.Dense(2, name="out")(layers.Dropout(0.5)(y)), name="block")


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 2)).astype("float32")


def fit(model, *callbacks, **kwargs):
    return model.fit(
        *data(), verbose=0, batch_size=8, shuffle=False, callbacks=list(callbacks), **kwargs
    )


def adamw(strength=0.05):
    return keras.optimizers.AdamW(1e-3, weight_decay=strength)


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def same(a, b):
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.usefixtures("steps")
def test_it_says_yes_and_changes_nothing():
    """The same seed gives the same weights, to the last bit, with and without."""
    ends, guard = [], DecayGuard()
    for callbacks in ((), (guard,)):
        keras.utils.set_random_seed(0)
        model = block()
        model.compile(adamw(), "mse")
        keras_gamma.exclude_from_weight_decay(model.optimizer, model)
        fit(model, *callbacks, epochs=2)
        ends.append(state(model))
    assert same(*ends)
    assert guard.audit.ok
    assert len(guard.audit) == 8


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_it_stops_before_the_first_step(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        model = block()
    finally:
        keras.config.set_dtype_policy("float32")
    plan = keras_gamma.plan_weight_decay(model)
    model.compile(adamw(), "mse")
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    with pytest.raises(RuntimeError, match=r"(?s)before the first step.*- final/gamma: weight dec"):
        fit(model, DecayGuard(plan))
    assert same(state(model)[: len(before)], before)


@pytest.mark.usefixtures("steps")
def test_a_warning_instead():
    model = block()
    plan = keras_gamma.plan_weight_decay(model)
    model.compile(adamw(), "mse")
    with pytest.warns(UserWarning, match="final/gamma: weight decay takes off 0.05") as caught:
        fit(model, DecayGuard(plan, on_disagreement="warn"), epochs=3)
    assert sum("DecayGuard" in str(one.message) for one in caught) == 1
    assert int(model.optimizer.iterations) == 6


@pytest.mark.usefixtures("steps")
def test_coupled_penalties():
    model = block()
    plan = keras_gamma.apply_guidelines(model, l2=0.25)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    guard = DecayGuard()
    fit(model, guard)
    assert guard.audit.ok
    model.get_layer("ln").gamma.regularizer = None
    model.compile(keras.optimizers.SGD(0.01), "mse")
    for guard in (DecayGuard(), DecayGuard(plan), DecayGuard([plan])):
        with pytest.raises(RuntimeError, match="ln/gamma: the penalty pulls with 0, but the plan"):
            fit(model, guard)


@pytest.mark.filterwarnings("ignore:AdamW decays γ:UserWarning")  # On JAX it comes first.
def test_counted_twice():
    model = block()
    keras_gamma.apply_guidelines(model, l2=0.25)
    model.compile("adamw", "mse")
    with pytest.raises(RuntimeError, match=r"ln/gamma: counted twice: a penalty pulls with 0"):
        fit(model, DecayGuard())  # Before the step, which would only warn.


@pytest.mark.usefixtures("steps")
def test_two_phases_of_fine_tuning():
    """Frozen when the guidelines were applied, trained later: with the penalty, or not at all."""
    model = block()
    model.get_layer("ln").trainable = False
    keras_gamma.apply_guidelines(model, l2=0.25)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    fit(model, DecayGuard())
    model.get_layer("ln").trainable = True
    model.compile(keras.optimizers.SGD(0.01), "mse")
    try:
        fit(model, guard := DecayGuard())
    except RuntimeError as error:
        assert "ln/gamma: the penalty pulls with 0" in str(error)
    else:
        assert {e.path: e.coupled for e in guard.audit}["ln/gamma"] == pytest.approx(0.5)


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_measures_in_the_dtype_that_is_trained_in(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        model = block()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(adamw(), "mse")
    keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    with pytest.raises(RuntimeError, match=rf"in {dtype}, w − 0.001·0.05·w rounds to w: nothing"):
        fit(model, DecayGuard())


@pytest.mark.slow
def test_it_looks_again_after_a_recompile_and_in_each_fit():
    model = block()
    model.compile(adamw(), "mse")
    plan = keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    guard = DecayGuard(plan)
    fit(model, guard)
    first = guard.audit
    model.compile(adamw(), "mse")  # A new optimizer, without the list.
    with pytest.raises(RuntimeError, match="final/gamma"):
        fit(model, guard)
    keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    fit(model, guard)
    assert guard.audit is not first and guard.audit.ok

    class Recompile(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.compile(adamw(), "mse")
                self.model.optimizer.build(self.model.trainable_variables)
                self.model.make_train_function()

    with pytest.raises(RuntimeError, match="final/gamma"):
        fit(model, Recompile(), guard, epochs=3)


@pytest.mark.usefixtures("steps")
def test_after_a_resume(tmp_path):
    """`BackupAndRestore` brings weights and state back, and no decision."""
    for interrupted in (True, False):
        model = block()
        plan = keras_gamma.plan_weight_decay(model)
        model.compile(adamw(), "mse")
        if interrupted:
            keras_gamma.exclude_from_weight_decay(model.optimizer, model)

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                raise KeyboardInterrupt

        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        expected = KeyboardInterrupt if interrupted else RuntimeError
        with pytest.raises(expected):
            fit(model, backup, DecayGuard(plan), *([Stop()] if interrupted else []), epochs=2)


def test_a_second_fit_of_a_step_that_it_saw():
    model = block()
    model.compile(adamw(), "mse")
    keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, DecayGuard())
        fit(model, guard := DecayGuard())
    assert guard.audit.ok
    assert keras_gamma.audit(model).ok


def test_a_step_that_was_compiled_before_it_came():
    """TensorFlow's can be looked at, torch has none, and JAX's hides what it does."""
    model = block()
    model.compile(adamw(), "mse")
    keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    fit(model)
    if BACKEND == "jax":
        with pytest.warns(UserWarning, match="could not tell(?s:.*)compiled already"):
            fit(model, guard := DecayGuard())
        assert not guard.audit.ok
    else:
        fit(model, guard := DecayGuard())
        assert guard.audit.ok


@tensorflow_only
def test_a_stale_step_is_no():
    model = block()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    plan = keras_gamma.apply_guidelines(model, l2=0.25)
    plan.remove()
    fit(model)
    model.get_layer("ln").gamma.regularizer = keras.regularizers.L2(0.25)
    with pytest.raises(RuntimeError, match="ln/gamma: the training step that fit has traced"):
        fit(model, DecayGuard(plan))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kwargs", [{"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_eager_and_compiled(kwargs):
    if BACKEND == "torch" and "jit_compile" in kwargs:
        pytest.skip("torch.compile takes a minute")
    model = block()
    model.compile(adamw(), "mse", **kwargs)
    keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    fit(model, guard := DecayGuard())
    assert guard.audit.ok
    model.compile(adamw(), "mse", **kwargs)
    with pytest.raises(RuntimeError, match="final/gamma"):
        fit(model, DecayGuard())


@pytest.mark.usefixtures("steps")
def test_what_it_cannot_see_it_names():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs)

    inner = block()
    model = Own(inner.input, inner.output)
    keras_gamma.apply_guidelines(model, l2=0.25)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.warns(UserWarning, match="could not tell(?s:.*)Own.compute_loss is its own"):
        fit(model, guard := DecayGuard())
    assert guard.audit.answer == "could not tell"


def test_nothing_was_decided():
    model = block()
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="could not tell(?s:.*)nothing was decided"):
        fit(model, DecayGuard())


@pytest.mark.usefixtures("steps")
def test_our_optimizers_bring_their_decision():
    model = block()
    plan = keras_gamma.plan_weight_decay(model, guidelines="residual_last=0.5")
    model.compile(keras_gamma.optimizers.AdamW(1e-3, weight_decay=0.05, decay=plan), "mse")
    fit(model, guard := DecayGuard())
    assert guard.audit.ok
    assert {e.path: e.decoupled for e in guard.audit}["ln/gamma"] == pytest.approx(0.025)


@pytest.mark.parametrize("plan", ["paper", 3, [None], {}])
def test_not_a_plan(plan):
    with pytest.raises(TypeError, match="must be a GammaPlan, a DecayPlan, or a list"):
        DecayGuard(plan)


def test_not_a_way_to_tell():
    with pytest.raises(ValueError, match=r"Received: 'ignore'"):
        DecayGuard(on_disagreement="ignore")


# On several devices ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["data_parallel", "mirrored", "scope", "distributed_fit", "model_parallel"]
)
def test_on_two_devices(kind):
    """In a process of its own, which is split into two devices."""
    on_jax = kind.endswith("parallel")
    pytest.importorskip("jax" if on_jax else "tensorflow")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax" if on_jax else "tensorflow",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2" if on_jax else "",
    }
    worker = pathlib.Path(__file__).with_name("guard_worker.py")
    run = subprocess.run(
        [sys.executable, str(worker), kind],
        env=environment,
        cwd=worker.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split("\n")[:3] == [
        "audit: yes, no",
        "guard: yes, and stopped",
        "same weights: True",
    ]
