"""Decisions that were once lost in silence, or refused though nothing was wrong: one test each."""

import contextlib
import os
import pathlib
import subprocess
import sys
import warnings
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import GammaPlan, apply_guidelines, exclude_from_weight_decay, load_model
from tests.decay import storage_roads as roads

L2 = keras.regularizers.L2


def block():
    x = keras.Input((4,))
    y = layers.Dense(4, activation="relu", name="fc")(layers.LayerNormalization(name="ln")(x))
    y = layers.Add(name="join")([x, y])
    return keras.Model(x, layers.Dense(2, name="out")(y), name="block")


def data():
    return np.ones((8, 4), "float32"), np.ones((8, 2), "float32")


@contextlib.contextmanager
def quiet():
    """Saving says what Keras alone would lose; here it is loaded by keras_gamma."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Inner(layers.Layer):
    """A residual block whose branch is a Sequential, which nobody has built."""

    def __init__(self):
        super().__init__()
        parts = [layers.LayerNormalization(), layers.Dense(4, activation="relu"), layers.Dense(4)]
        self.branch = keras.Sequential(parts)

    def call(self, x):
        return x + self.branch(x)


def test_sequentials_in_the_blocks_of_an_unbuilt_model():
    class Unbuilt(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Inner() for _ in range(2)]
            self.head = layers.Dense(2)

        def call(self, x):
            for inner in self.blocks:
                x = inner(x)
            return self.head(x)

    model = Unbuilt()
    for _ in range(2):
        plan = apply_guidelines(model, l2=0.125, inputs=(None, 4))
        assert [str(entry.role) for entry in plan] == ["residual_last"] * 2
        assert len(model.losses) == 2


@pytest.mark.usefixtures("steps")
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")  # As Keras says.
def test_a_norm_in_a_cell_that_is_built_lazily():
    """It is decided on at once, not made by `fit` later."""

    class Cell(layers.Layer):
        state_size = 4

        def __init__(self):
            super().__init__()
            self.norm, self.dense = layers.LayerNormalization(name="ln"), layers.Dense(4)

        def call(self, x, states):
            y = self.norm(self.dense(x) + states[0])
            return y, [y]

    x = keras.Input((3, 4))
    model = keras.Model(x, layers.Dense(2)(layers.RNN(Cell())(x)))
    plan = apply_guidelines(model, l2=0.125, guidelines="all")
    assert [entry.path.split("/")[-2] for entry in plan] == ["ln"] and len(model.losses) == 1
    model.compile(keras.optimizers.SGD(0.5), lambda y, p: 0.0 * keras.ops.sum(p))
    model.fit(np.ones((2, 3, 4), "float32"), np.ones((2, 2), "float32"), verbose=0)
    (gamma,) = [v for v in model.trainable_variables if v.name == "gamma"]
    shrunk = keras.ops.convert_to_numpy(gamma)
    np.testing.assert_allclose(shrunk, np.full(4, 1 - 0.5 * 2 * 0.125), rtol=1e-5)


def test_freeze_apply_unfreeze_compile_fit():
    """Fine-tuning in two phases: γ shrinks in the second by just what was decided in the first."""
    model = block()
    norm = model.get_layer("ln")
    norm.trainable = False
    apply_guidelines(model, l2=0.125)
    model.compile(keras.optimizers.SGD(0.5), lambda y, p: 0.0 * keras.ops.sum(p))
    model.fit(*data(), verbose=0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm.gamma), np.ones(4))
    norm.trainable = True
    model.compile(keras.optimizers.SGD(0.5), lambda y, p: 0.0 * keras.ops.sum(p))
    model.fit(*data(), verbose=0, batch_size=8)
    shrunk = keras.ops.convert_to_numpy(norm.gamma)
    np.testing.assert_allclose(shrunk, np.full(4, 1 - 0.5 * 2 * 0.125), rtol=1e-5)


@pytest.mark.parametrize("ours", [False, True])
def test_freeze_exclude_unfreeze(ours):
    model = block()
    model.get_layer("ln").trainable = False
    cls = keras_gamma.optimizers.AdamW if ours else keras.optimizers.AdamW
    optimizer = cls(roads.ETA, weight_decay=roads.DECAY)
    exclude_from_weight_decay(optimizer, model, guidelines="none")
    model.get_layer("ln").trainable = True
    model.compile(optimizer, "mse")
    assert roads.decayed(model) == ["fc/kernel", "out/kernel"]


def test_counted_twice_is_told_when_training_begins():
    model = roads.with_head(block())
    apply_guidelines(model, l2=0.125)
    model.compile("adamw", "mse")
    with pytest.warns(UserWarning, match=r"AdamW decays γ that have .* ln/gamma.* counted twice"):
        model.fit(*data(), verbose=0)


@pytest.mark.slow
def test_counted_twice_is_told_once_for_each_step_and_only_where_it_is():
    model = roads.with_head(block())
    apply_guidelines(model, l2=0.125)
    model.compile("adamw", "mse")
    with pytest.warns(UserWarning, match="counted twice"):
        model.train_on_batch(*data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        model.fit(*data(), verbose=0)  # It was said for this step.
        model.compile("adam", "mse")
        model.fit(*data(), verbose=0)
        model.compile("adamw", "mse")
        plan = exclude_from_weight_decay(model.optimizer, model, guidelines="none")
        model.fit(*data(), verbose=0)
        apply_guidelines(model, l2=0.125, guidelines="none")
        plan.remove()
        model.compile("adamw", "mse")
        model.fit(*data(), verbose=0)


def test_a_plan_of_another_model_by_the_end_of_its_paths():
    inner = keras.Sequential([keras.Input((4,)), layers.LayerNormalization(name="ln")], name="enc")
    x = keras.Input((4,))
    other = keras.Model(x, layers.Dense(4, name="fc")(inner(layers.Dense(4)(x))))
    plan = apply_guidelines(block(), l2=0.125)
    with pytest.raises(ValueError, match="does not fit"):
        plan.apply(other)
    assert other.losses == []


@keras.saving.register_keras_serializable(package="test_lost_decisions")
class Block(layers.Layer):
    """As most people write one: its layers have no names of their own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norms = [layers.LayerNormalization(), layers.RMSNormalization()]
        self.dense = [layers.Dense(4, activation="relu"), layers.Dense(4, activation="relu")]

    def build(self, shape):
        for layer in (*self.norms, *self.dense):
            layer.build(shape)

    def call(self, x):
        for norm, dense in zip(self.norms, self.dense, strict=True):
            x = x + dense(norm(x))
        return x


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # It was not built.
def test_inner_layers_without_names_load(tmp_path):
    x = y = keras.Input((4,))
    for _ in range(3):
        y = Block()(y)
    model = keras.Model(x, layers.Dense(2)(y))
    apply_guidelines(model, l2=0.125)
    assert len(model.losses) == 6
    model.compile(keras.optimizers.AdamW(0.5, weight_decay=0.25), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    model.optimizer.build(model.trainable_variables)  # Keras warns where it loads one that is not.
    with quiet():
        model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert {v.path for v in loaded.variables} != {v.path for v in model.variables}
    assert len(loaded.losses) == 6
    assert len(roads.decayed(loaded)) == 7
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))


@keras.saving.register_keras_serializable(package="test_lost_decisions")
class Unnamed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block()

    def build(self, shape):
        self.block.build(shape)
        self.built = True

    def call(self, x):
        return self.block(x)

    def get_config(self):
        return {}


def test_a_subclassed_model_without_a_name_loads_in_the_same_process(tmp_path):
    model = Unnamed()
    model(np.ones((1, 4), "float32"))
    apply_guidelines(model, l2=0.125, inputs=(None, 4))
    assert len(model.losses) == 2
    with quiet():
        model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert loaded.name != model.name
    assert len(loaded.losses) == 2


@pytest.mark.slow
def test_importing_us_before_keras_is_enough_for_keras_to_load(tmp_path):
    model = block()
    optimizer = keras_gamma.optimizers.AdamW(0.5, weight_decay=0.25)
    plan = exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, "mse")
    model.save(tmp_path / "m.keras")
    code = (
        "import sys, keras_gamma; assert 'keras' not in sys.modules; import keras; "
        "assert type(keras.__spec__.loader).__module__.startswith('_frozen_importlib'); "
        "assert not [f for f in sys.meta_path if type(f).__module__.startswith('keras_gamma')]; "
        "print(keras.models.load_model(sys.argv[1]).optimizer.decay)"
    )
    root = str(pathlib.Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.keras")],
        env=dict(os.environ, PYTHONPATH=root),
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(plan.factors()), done.stderr


def test_a_shared_layer_is_shown_by_the_role_that_decides():
    """Called in front of a branch, and once more where a later norm absorbs it."""
    x = keras.Input((4,))
    shared = layers.LayerNormalization(name="ln")
    y = layers.Add()([x, layers.Dense(4, activation="relu")(shared(x))])
    y = layers.Dense(4)(layers.ReLU()(shared(y)))
    y = layers.LayerNormalization(name="next")(y)
    model = keras.Model(x, y)
    entry = apply_guidelines(model, l2=1.0, guidelines="residual_last=1,interior=0.5")[0]
    assert (str(entry.role), entry.strength) == ("interior", 0.5)
    entry = apply_guidelines(model, l2=1.0, guidelines="residual_last=0.5,interior=1")[0]
    assert (str(entry.role), entry.strength) == ("residual_last", 0.5)


# Taking back ---------------------------------------------------------------------------------


def test_remove_leaves_what_the_user_has_set_since():
    model = block()
    norm, own = model.get_layer("ln"), L2(3.0)
    plan = apply_guidelines(model, l2=0.125)
    norm.gamma_regularizer = norm.gamma.regularizer = own
    plan.remove()
    assert norm.gamma_regularizer is own and norm.gamma.regularizer is own


def test_remove_leaves_the_half_that_the_user_has_set_since():
    model = block()
    norm, own = model.get_layer("ln"), L2(3.0)
    plan = apply_guidelines(model, l2=0.125)
    norm.gamma_regularizer = own
    plan.remove()
    assert norm.gamma_regularizer is own and norm.gamma.regularizer is None


@pytest.mark.usefixtures("steps")
def test_remove_leaves_nothing_behind():
    model = roads.with_head(roads.base())
    before = [dict(vars(layer)) for layer in model._flatten_layers()]
    plan = apply_guidelines(model, l2=0.125)
    plan.remove()
    assert [dict(vars(layer)) for layer in model._flatten_layers()] == before
    optimizer = keras.optimizers.AdamW(roads.ETA, weight_decay=roads.DECAY)
    kept = set(vars(optimizer)), set(vars(model))
    exclude_from_weight_decay(optimizer, model).remove()
    lists = {"_exclude_from_weight_decay", "_exclude_from_weight_decay_cache",
             "_exclude_from_weight_decay_pattern"}  # fmt: skip
    assert set(vars(optimizer)) - lists == kept[0] and set(vars(model)) == kept[1]
    model.compile(optimizer, "mse")
    assert len(roads.decayed(model)) == len(model.trainable_variables)


def test_remove_of_exclusions_keeps_those_of_others():
    model = block()
    optimizer = keras.optimizers.AdamW(roads.ETA, weight_decay=roads.DECAY)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("out").bias])
    plan = exclude_from_weight_decay(optimizer, model)
    plan.remove()
    with pytest.raises(ValueError, match="nothing to take back"):
        plan.remove()
    model.compile(optimizer, "mse")
    found = roads.decayed(model)
    assert "out/bias" not in found and len(found) == 5


@pytest.mark.usefixtures("steps")
def test_remove_gives_our_optimizers_their_factors_back():
    model = block()
    optimizer = keras_gamma.optimizers.AdamW(roads.ETA, weight_decay=roads.DECAY)
    first = exclude_from_weight_decay(optimizer, model, guidelines="all")
    second = exclude_from_weight_decay(optimizer, model, guidelines="none")
    second.remove()
    assert optimizer.decay == first.factors()
    first.remove()
    assert optimizer.decay is None


def test_a_plan_that_was_never_applied_cannot_be_removed():
    plan = apply_guidelines(block(), l2=0.125)
    for value in (GammaPlan.from_json(plan.to_json()), keras_gamma.plan_weight_decay(block())):
        with pytest.raises(ValueError, match="nothing to take back"):
            value.remove()


def test_decay_plan_as_a_file(tmp_path):
    plan = keras_gamma.plan_weight_decay(block(), guidelines="interior=0.5")
    plan.save(tmp_path / "p.json")
    assert keras_gamma.DecayPlan.load(tmp_path / "p.json") == plan
    (tmp_path / "q.json").write_text("[]")
    with pytest.raises(ValueError, match=r"q\.json: Not a decay plan"):
        keras_gamma.DecayPlan.load(tmp_path / "q.json")


@pytest.mark.usefixtures("steps")
def test_decisions_for_two_inner_models_stay_on_one_optimizer(tmp_path):
    one, other = roads.base("one"), roads.base("other")
    x = keras.Input((4,))
    model = keras.Model(x, other(one(x)))
    optimizer = keras.optimizers.AdamW(roads.ETA, weight_decay=roads.DECAY)
    for inner in (one, other):
        exclude_from_weight_decay(optimizer, inner, guidelines="none")
    model.compile(optimizer, "mse")
    assert len(roads.decayed(model)) == 6
    with quiet():
        model.save(tmp_path / "m.keras")
    assert len(roads.decayed(load_model(tmp_path / "m.keras"))) == 6


# Files that are no good ----------------------------------------------------------------------


def archive_with(tmp_path, member, content):
    model = block()
    apply_guidelines(model, l2=0.125)
    model.save(tmp_path / "m.keras")
    path = tmp_path / "bad.keras"
    with zipfile.ZipFile(tmp_path / "m.keras") as source:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in source.namelist():
                if name != member:
                    archive.writestr(name, source.read(name))
            with archive.open(member, "w", force_zip64=True) as file:
                for part in content:
                    file.write(part)
    return path


def test_a_record_of_a_gigabyte_is_refused_before_it_is_read(tmp_path, monkeypatch):
    zeros = b"0" * 2**20
    member = "assets/layers/layer_normalization/keras_gamma.json"
    path = archive_with(tmp_path, member, (zeros for _ in range(100)))

    def read(*args):
        raise AssertionError("it was read")

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    with pytest.raises(ValueError, match=r"104857600"):
        load_model(path)


@pytest.mark.parametrize(
    "member", ["config.json", "assets/layers/layer_normalization/keras_gamma.json"]
)
def test_json_nested_100_000_deep_is_one_line(tmp_path, member):
    path = archive_with(tmp_path, member, [b"[" * 100_000])
    with pytest.raises(ValueError, match="nested too deeply") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_plan_of_a_gigabyte_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "p.json", "wb") as file:
        file.truncate(10**9)  # Sparse.
    for cls in (GammaPlan, keras_gamma.DecayPlan):
        with pytest.raises(ValueError, match="1000000000 bytes"):
            cls.load(tmp_path / "p.json")


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_an_optimizer_whose_variables_come_back_in_another_order(tmp_path):
    """A layer in float8 has its scales after its kernel, and before it once it is loaded."""
    x = keras.Input((16,))
    y = layers.Dense(16, name="fc")(layers.LayerNormalization(name="ln")(x))
    model = keras.Model(x, y)
    model.get_layer("fc").quantize("float8")
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1), keras.losses.MeanSquaredError())
    keras_gamma.exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    model.optimizer.build(model.trainable_variables)
    before = [v.path for v in model.trainable_variables]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "m.keras")
        try:
            keras.models.load_model(tmp_path / "m.keras")
        except ValueError:
            pytest.skip("needs an optimizer's state in float8, as of Keras 3.10")
        loaded = keras_gamma.load_model(tmp_path / "m.keras")
    # Else there is nothing to test.
    assert [v.path for v in loaded.trainable_variables] != before or roads.steady_paths()
    spared = [e.path for e in keras_gamma.audit(loaded) if e.decoupled == 0.0]
    assert {"ln/gamma", "ln/beta", "fc/bias"} <= set(spared)
    assert "fc/kernel" not in spared
