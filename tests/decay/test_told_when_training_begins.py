"""An optimizer that acts against a decision is told of at the first step, whoever is trained."""

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import apply_guidelines, exclude_from_weight_decay
from keras_gamma.decay import DecisionNotKept
from keras_gamma.decay.layer_record import LayerRecord
from tests.decay import storage_roads as roads

pytestmark = pytest.mark.usefixtures("steps")
multi = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="newer than this Keras"
)


class Trainer(keras.Model):
    """Trains a model that it holds, by Keras' own step."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def inner_alone(inner):
    return inner


def new_head(inner):
    return keras.Model(inner.input, layers.Dense(2, name="out")(inner.output), name="new")


def time_distributed(inner):
    """It calls its layer's `call`, past what every other layer goes through."""
    x = keras.Input((3, 4))
    norm = inner.get_layer("built_in")
    y = layers.TimeDistributed(norm)(x)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(y)), name="distributed")


HOLDERS = {
    "inner": inner_alone,
    "outer": roads.with_head,
    "outer of outer": roads.with_head_twice,
    "new head": new_head,
    "trainer": Trainer,
    "trainer of an outer model": lambda inner: Trainer(roads.with_head(inner)),
    "TimeDistributed": time_distributed,
}


TRACED = ("outer", "new head")  # One of each suffices, and costs more.


def data(holder=None):
    width = 4 if holder in ("inner", "trainer") else 2
    x = np.ones((4, 3, 4) if holder == "TimeDistributed" else (4, 4), "float32")
    return x, np.ones((4, width), "float32")


@contextlib.contextmanager
def told():
    """Collects the sentences on decisions; other warnings are errors."""
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*run_functions_eagerly|Gradients do not exist")
        warnings.filterwarnings("always", message=".*counted twice")
        warnings.simplefilter("always", DecisionNotKept)
        yield found
    found += [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning)]


def adamw(**kwargs):
    return keras.optimizers.AdamW(1e-3, weight_decay=0.1, **kwargs)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("holder", HOLDERS)
def test_counted_twice(holder):
    inner = roads.base()
    apply_guidelines(inner, l2=0.125)
    model = HOLDERS[holder](inner)
    model.compile(adamw(), "mse", run_eagerly=holder not in TRACED)
    with told() as found:
        model.fit(*data(holder), verbose=0)
        model.fit(*data(holder), verbose=0)
    assert len(found) == 1 and re.search(r"(gamma|gain).*counted twice", found[0])
    assert keras_gamma.audit(model).answer == "no"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_new_optimizer_does_not_spare_what_the_first_one_did(holder):
    inner = roads.base()
    exclude_from_weight_decay(adamw(), inner, guidelines="none")
    model = HOLDERS[holder](inner)
    model.compile(adamw(), "mse", run_eagerly=holder not in TRACED)
    with told() as found:
        model.train_on_batch(*data(holder))
        model.fit(*data(holder), verbose=0)
    assert len(found) == 1 and re.search(r"to spare: .*exclude_from_weight_decay", found[0])
    audit = keras_gamma.audit(model)
    assert any("built_in/gamma" in one for one in audit.disagreements)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("decide", [apply_guidelines, None])
def test_compiled_anew_after_training(decide):
    """Two phases of fine-tuning, the second with a new optimizer: each one is looked at."""
    model = roads.with_head(roads.base())
    model.compile(adamw(), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    if decide is not None:
        decide(model, l2=0.125)
    with told() as found:
        model.fit(*data(), verbose=0)
    assert not found and keras_gamma.audit(model).answer != "no"
    for _ in range(2):
        model.compile(adamw(), "mse")
        with told() as found:
            model.fit(*data(), verbose=0)
        assert len(found) == (1 if decide is None else 2)
        exclude_from_weight_decay(model.optimizer, model, guidelines="none")
        with told() as found:
            model.fit(*data(), verbose=0)
        assert not found


def test_nothing_is_told_where_nothing_is_wrong():
    inner = roads.base()
    plan = exclude_from_weight_decay(adamw(), inner, guidelines="none")
    model = roads.with_head(inner)
    given = keras_gamma.optimizers.AdamW(decay=keras_gamma.plan_weight_decay(model))
    with told() as found:
        for optimizer in (
            keras.optimizers.Adam(),
            given,
            keras.optimizers.AdamW(weight_decay=0.0),
        ):
            model.compile(optimizer, "mse")
            model.fit(*data(), verbose=0)
        given.set_decay(None)
        inner.trainable = False
        model.compile(adamw(), "mse")
        model.fit(*data(), verbose=0)
        inner.trainable = True
        plan.remove()
        model.compile(adamw(), "mse")
        model.fit(*data(), verbose=0)
        model.evaluate(*data(), verbose=0)
        model.predict(data()[0], verbose=0)
    assert not found


def test_another_plan_takes_the_place_of_the_first():
    model = roads.with_head(roads.base())
    first = exclude_from_weight_decay(adamw(), model, guidelines="none")
    model.compile(adamw(), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="all", biases=False, betas=False)
    first.remove()  # It is not in force any more.
    with told() as found:
        model.fit(*data(), verbose=0)
    assert not found
    model.compile(adamw(), "mse")
    with told() as found:
        model.fit(*data(), verbose=0)
    assert not found  # The second one decays everything, as a new one does.


def test_keras_own_list_replaces_what_was_on_it():
    """Also after `exclude_from_weight_decay` of ours, which adds to it."""
    model = roads.base()
    optimizer = adamw()
    exclude_from_weight_decay(optimizer, model, guidelines="none")
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), verbose=0)
        model.fit(*data("inner"), verbose=0)
    assert len(found) == 1 and re.search(r"built_in/gamma.*was replaced", found[0])
    optimizer = adamw()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    exclude_from_weight_decay(optimizer, model, guidelines="none")
    model.compile(optimizer, "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), verbose=0)
    assert not found


def test_a_list_that_is_replaced_after_training():
    """The same optimizer, compiled anew: what was found out of it before is of no use."""
    model = roads.base()
    optimizer = adamw()
    exclude_from_weight_decay(optimizer, model, guidelines="none")
    model.compile(optimizer, "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), batch_size=1, verbose=0)
    assert not found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            optimizer.exclude_from_weight_decay(var_names=["bias"])  # Refused in vain, see Keras.
        except ValueError:
            pytest.skip(
                "needs an exclude list that can be replaced once built, as until Keras 3.15"
            )
    model.compile(optimizer, "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), verbose=0)
        model.fit(*data("inner"), verbose=0)
    assert len(found) == 1 and "was replaced" in found[0]


def test_a_strength_that_is_set_after_training():
    model = roads.base()
    apply_guidelines(model, l2=0.125)
    model.compile(keras.optimizers.AdamW(weight_decay=0.0), "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), batch_size=1, verbose=0)
    assert not found
    model.optimizer.weight_decay = 0.1
    with told() as found:
        model.fit(*data("inner"), verbose=0)
        model.optimizer.weight_decay = 0.2  # Its value is no news.
        model.fit(*data("inner"), verbose=0)
    assert len(found) == 1 and "counted twice" in found[0]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX runs no steps but compiled ones")
def test_steps_look_at_what_changed_and_at_nothing_else(monkeypatch):
    """Where nothing is compiled, every layer is asked in every step."""
    model, looked = roads.base(), []
    part = keras.Sequential([keras.Input((4,)), model.get_layer("third_party")])
    of_part = keras_gamma.plan_weight_decay(part, guidelines="none")
    exclude_from_weight_decay(adamw(), model, guidelines="none")
    step_looks = LayerRecord._look_at
    monkeypatch.setattr(
        LayerRecord, "_look_at", lambda self, *args: looked.append(step_looks(self, *args))
    )
    model.compile(keras.optimizers.AdamW(weight_decay=0.0), "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), batch_size=2, verbose=0)  # The second sees that losses are added.
        assert looked
        looked.clear()
        model.fit(*data("inner"), batch_size=1, epochs=2, verbose=0)
    assert not looked and not found
    model.optimizer.weight_decay = 0.1
    with told() as found:
        model.fit(*data("inner"), batch_size=1, verbose=0)
    assert len(found) == 1 and "told to spare" in found[0]
    looked.clear()
    model.fit(*data("inner"), verbose=0)
    assert not looked
    of_part.apply(adamw(), part)  # A second decision, on one layer, which nobody calls for it.
    with told() as found:
        model.fit(*data("inner"), verbose=0)
    assert len(found) == 1 and "told to spare" in found[0]


def ours(plan, **kwargs):
    return keras_gamma.optimizers.AdamW(1e-3, weight_decay=0.1, decay=plan, **kwargs)


def saved_by_keras(model, folder):
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("given", [lambda plan: plan, lambda plan: plan.factors()])
def test_what_an_optimizer_was_made_with_is_missed_by_the_next_one(given):
    """`decay=plan` of an optimizer of ours, and then a `compile` with one of Keras."""
    model = roads.with_head(roads.base())
    plan = keras_gamma.plan_weight_decay(model, guidelines="none")
    model.compile(ours(given(plan)), "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data(), verbose=0)
    assert not found
    model.compile(adamw(), "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data(), verbose=0)
        model.fit(*data(), verbose=0)
    assert len(found) == 1 and re.search(r"gamma.*exclude_from_weight_decay", found[0])
    wrong = keras_gamma.audit(model)
    assert any("built_in/gamma" in one for one in wrong.disagreements)
    everything = dict.fromkeys(plan.factors(), 1.0)
    model.compile(ours(everything), "mse", run_eagerly=True)
    assert keras_gamma.audit(model).answer != "no"  # What acts now holds, built or not.
    with told() as found:
        model.fit(*data(), verbose=0)
    assert not found and keras_gamma.audit(model).answer != "no"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("how", ["loaded", "built by hand", "inside another", "without factors"])
def test_whoever_builds_an_optimizer_with_factors(how, tmp_path):
    model = roads.with_head(roads.base())
    first = ours(keras_gamma.plan_weight_decay(model, guidelines="none"))
    if how == "built by hand":
        first.build(model.trainable_variables)
    if how == "inside another":
        first = keras.optimizers.LossScaleOptimizer(first)
    model.compile(first, roads.loss(), run_eagerly=True)
    if how == "loaded":
        model.optimizer.build(model.trainable_variables)
        model = saved_by_keras(model, tmp_path)
    else:
        model.fit(*data(), verbose=0)
    with told() as found:
        model.save_weights(tmp_path / "m.weights.h5")  # The next run makes its own optimizer.
    assert len(found) == 1 and "decay=…" in found[0]
    model.compile(ours(None) if how == "without factors" else adamw(), "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data(), verbose=0)
    assert len(found) == 1 and "told to spare" in found[0]


def shrunk(model):
    """Which γ shrink in one step without gradients."""
    gammas = {v.name: v for v in model.trainable_variables if v.name in ("gamma", "scale", "gain")}
    for variable in gammas.values():
        variable.assign(np.ones(variable.shape))
    model.train_on_batch(*data("inner"))
    values = {name: keras.ops.convert_to_numpy(variable) for name, variable in gammas.items()}
    return {name for name, value in values.items() if value.max() < 0.99}


def nothing(y_true, y_pred):
    return keras.ops.sum(y_pred * 0.0, axis=-1)


ALL = {"gamma", "scale", "gain"} if hasattr(layers, "RMSNormalization") else {"gamma", "gain"}


def penalize(model):
    apply_guidelines(model, l2=roads.L2, guidelines="all")


def spare(model):
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")


def spare_by_factors(model):
    model.optimizer.set_decay(keras_gamma.plan_weight_decay(model, guidelines="none"))


@pytest.mark.parametrize("decide", [penalize, spare, spare_by_factors])
@pytest.mark.parametrize("when", ["between", "on_train_begin", "on_epoch_begin"])
def test_decided_after_the_step_was_traced(decide, when):
    """Also by a callback, while `fit` runs: the steps that come act by it."""
    cls = keras_gamma.optimizers.SGDW if decide is spare_by_factors else keras.optimizers.SGD
    model = roads.base()
    strength = None if decide is penalize else roads.DECAY
    model.compile(cls(roads.ETA, weight_decay=strength), nothing)
    before = set() if decide is penalize else ALL
    assert shrunk(model) == before
    if when == "between":
        decide(model)
    else:
        now = keras.callbacks.LambdaCallback(**{when: lambda *args, **kwargs: decide(model)})
        model.fit(*data("inner"), verbose=0, callbacks=[now])
    assert shrunk(model) == ALL - before


@pytest.mark.parametrize("decide", [penalize, spare])
def test_a_layer_that_is_built_anew(decide):
    """It has new variables, on which nobody decided."""
    model = roads.base()
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1 * (decide is spare)), "mse")
    decide(model)
    norm = model.get_layer("third_party")
    norm._tracker.unlock()
    norm.build((None, 4))
    model.compile(model.optimizer, "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data("inner"), verbose=0)
    assert len(found) == 1 and re.search(r"third_party/gain.*built anew", found[0])
    assert keras_gamma.audit(model).answer == "no"
    if decide is penalize:
        decide(model)
        with told() as found:
            model.fit(*data("inner"), verbose=0)
        assert not found


def test_factors_that_are_taken_back_are_not_missed():
    model = roads.with_head(roads.base())
    plan = keras_gamma.plan_weight_decay(model, guidelines="none")
    first = ours(plan)
    model.compile(first, "mse", run_eagerly=True)
    model.fit(*data(), verbose=0)
    applied = exclude_from_weight_decay(first, model, guidelines="none", biases=False)
    applied.remove()  # Back to those of before.
    assert first.decay == plan.factors()
    first.set_decay(dict.fromkeys(plan.factors(), 1.0))
    model.compile(adamw(), "mse", run_eagerly=True)
    with told() as found:
        model.fit(*data(), verbose=0)
    assert not found


@multi
def test_a_part_of_a_multi_optimizer():
    model = roads.with_head(roads.base())
    apply_guidelines(model, l2=0.125)
    parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {"(built_in|rms)/.*": adamw()})
    model.compile(keras.optimizers.MultiOptimizer(parts), "mse")
    with told() as found:
        model.fit(*data(), verbose=0)
        model.fit(*data(), verbose=0)
    assert len(found) == 1 and "AdamW decays γ" in found[0]
    assert keras_gamma.audit(model).answer == "no"
    with pytest.raises(ValueError, match="decays them as well"):
        apply_guidelines(model, l2=0.25)


@multi
def test_a_part_of_a_multi_optimizer_does_not_spare():
    model = roads.with_head(roads.base())
    exclude_from_weight_decay(adamw(), model, guidelines="none")
    parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {"(built_in|rms)/.*": adamw()})
    model.compile(keras.optimizers.MultiOptimizer(parts), "mse")
    with told() as found:  # By the second step: an eager first one builds the parts at its end.
        model.fit(*data(), epochs=2, verbose=0)
    assert len(found) == 1 and "spare" in found[0]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("eager", [False, True])
def test_a_step_of_the_models_own_with_an_optimizer_on_the_side(eager):
    """As in a GAN: `compile` gets one optimizer, and another one does the work."""
    if keras.backend.backend() == "jax":
        pytest.skip("JAX's own steps are written otherwise")

    class Own(Trainer):
        def train_step(self, *args):
            x, y = args[-1]
            if keras.backend.backend() == "torch":
                self.zero_grad()
                loss = keras.ops.mean((self.inner(x) - y) ** 2)
                loss.backward()
                gradients = [v.value.grad for v in self.inner.trainable_variables]
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = keras.ops.mean((self.inner(x) - y) ** 2)
                gradients = tape.gradient(loss, self.inner.trainable_variables)
            self.side["g"].apply(gradients, self.inner.trainable_variables)
            return {"loss": loss}

    inner = roads.base()
    exclude_from_weight_decay(adamw(), inner, guidelines="none")
    model = Own(inner)
    model.side = {"g": adamw()}
    model.side["g"].build(inner.trainable_variables)
    model.compile("sgd", "mse", run_eagerly=eager)
    with told() as found:
        model.fit(*data("trainer"), verbose=0)
    assert len(found) == 1 and "spare" in found[0]


def test_what_is_applied_to_an_inner_model_acts_in_the_outer_one():
    """Its training step was traced before."""
    inner = roads.base()
    outer = roads.with_head(inner)
    outer.compile(keras.optimizers.SGD(0.5), lambda y, p: 0.0 * keras.ops.sum(p))
    outer.fit(*data(), verbose=0)
    apply_guidelines(inner, l2=0.125)
    outer.fit(*data(), verbose=0)
    gamma = keras.ops.convert_to_numpy(inner.get_layer("built_in").gamma)
    np.testing.assert_allclose(gamma, np.full(4, 1 - 0.5 * 2 * 0.125), rtol=1e-5)


def test_an_exclude_list_is_not_in_a_file_of_weights(tmp_path):
    model = roads.base()
    exclude_from_weight_decay(adamw(), model)
    with told() as found:
        model.save_weights(tmp_path / "m.weights.h5")
    assert len(found) == 1 and "exclude_from_weight_decay" in found[0]


def test_loading_without_the_optimizer_tells_of_its_exclude_list(tmp_path):
    model = roads.base()
    model.compile(adamw(), roads.loss())
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    model.optimizer.build(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "m.keras")
    with told() as found:
        loaded = keras_gamma.load_model(tmp_path / "m.keras", compile=False)
    assert len(found) == 1 and "compile=False" in found[0]
    assert "exclude_from_weight_decay" in found[0]
    loaded.compile(adamw(), roads.loss())
    exclude_from_weight_decay(loaded.optimizer, loaded, guidelines="none")
    with told() as found:
        loaded.fit(*data("inner"), verbose=0)
    assert not found


def test_h5_is_loaded(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.LayerNormalization(name="ln")])
    apply_guidelines(model, l2=0.125, guidelines="all")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "m.h5")
    assert len(keras_gamma.load_model(tmp_path / "m.h5").losses) == 1
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(ValueError, match=r"bad\.h5") as caught:
        keras_gamma.load_model(tmp_path / "bad.h5")
    assert "\n" not in str(caught.value)
