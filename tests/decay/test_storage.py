"""Save and load: a model trains on as if it had never been saved."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import warnings
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import apply_guidelines, exclude_from_weight_decay, load_model


def value(variable):
    return keras.ops.convert_to_numpy(variable)


def penalties(model):
    return [float(value(loss)) for loss in model.losses]


def rms_block():
    """A pre-norm block whose norms take no regularizer argument."""
    x = keras.Input((4,))
    y = layers.RMSNormalization(name="rms")(x)
    y = layers.Add(name="join")([x, layers.Dense(4, activation="relu", name="fc")(y)])
    y = layers.LayerNormalization(name="final")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="block")


def data(features=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, features)).astype("float32")
    return x, rng.normal(size=(16, 2)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Backbone(keras.Model):
    """Rebuilt from two numbers, as the backbones of keras-cv and keras-hub are."""

    def __init__(self, width, depth, **kwargs):
        x = keras.Input((width,))
        y = x
        for i in range(depth):
            z = layers.LayerNormalization(name=f"ln_{i}")(y)
            z = layers.Dense(width, activation="relu", name=f"fc_{i}")(z)
            y = layers.Add(name=f"join_{i}")([y, z])
        y = layers.LayerNormalization(name="final")(y)
        super().__init__(inputs=x, outputs=y, **kwargs)
        self.width, self.depth = width, depth

    def get_config(self):
        return {"width": self.width, "depth": self.depth, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def classifier():
    backbone = Backbone(4, 2, name="backbone")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="out")(backbone(x)), name="classifier")


def saved(model, path, count=1):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.save(path)
    messages = [str(w.message) for w in caught if "keras_gamma" in str(w.message)]
    assert len(messages) == count, messages
    return path


def assert_alike(a, b):
    pairs = zip(a.variables + a.optimizer.variables, b.variables + b.optimizer.variables,
                strict=True)  # fmt: skip
    for v, w in pairs:
        np.testing.assert_array_equal(value(v), value(w), err_msg=v.path)


def assert_trains_on_alike(model, path, count=1, **kwargs):
    """Saves `model` in the middle of training; returns what was loaded."""
    x, y = data(model.input_shape[-1])
    model.fit(x, y, verbose=0, shuffle=False)
    loaded = load_model(saved(model, path, count), **kwargs)
    for m in (model, loaded):
        m.fit(x, y, verbose=0, shuffle=False, epochs=3, batch_size=8)
    assert_alike(model, loaded)
    return loaded


@pytest.mark.usefixtures("steps")
def test_penalties_without_an_argument_for_them(tmp_path):
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    loaded = assert_trains_on_alike(model, tmp_path / "m.keras")
    assert [v.path for v in loaded.trainable_variables if v.regularizer] == ["rms/scale"]


def test_keras_alone_loses_them(tmp_path):
    """If this fails, Keras has learnt to save them: say so in the docs."""
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    assert keras.models.load_model(saved(model, tmp_path / "m.keras")).losses == []


@pytest.mark.usefixtures("steps")
def test_the_exclude_list(tmp_path):
    model = rms_block()
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("out").kernel])
    exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, "mse")
    assert_trains_on_alike(model, tmp_path / "m.keras")


@pytest.fixture
def mixed_float16():
    """For loading, too: Keras wraps the optimizer by the policy that is set then."""
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
@pytest.mark.usefixtures("mixed_float16")
def test_the_exclude_list_inside_a_loss_scale_optimizer(tmp_path):
    model = rms_block()
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5), "mse")
    exclude_from_weight_decay(model.optimizer, model)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    loaded = assert_trains_on_alike(model, tmp_path / "m.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.usefixtures("steps")
def test_both(tmp_path):
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    assert_trains_on_alike(model, tmp_path / "m.keras", count=2)


@pytest.mark.usefixtures("steps")
def test_our_optimizers_need_no_help_and_no_warning(tmp_path):
    model = rms_block()
    optimizer = keras_gamma.optimizers.AdamW(0.1, weight_decay=0.5)
    exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, "mse")
    assert_trains_on_alike(model, tmp_path / "m.keras", count=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import keras, keras_gamma; load = keras.models.load_model",
        "import keras_gamma; load = keras_gamma.load_model",
    ],
)
def test_our_optimizers_load_in_a_new_process(tmp_path, code):
    """Nothing but an import of the package is needed for Keras to know their classes."""
    model = rms_block()
    optimizer = keras_gamma.optimizers.AdamW(0.1, weight_decay=0.5)
    plan = exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, "mse")
    model.fit(*data(), verbose=0)
    saved(model, tmp_path / "m.keras", count=0)
    code += "; import sys; print(load(sys.argv[1]).optimizer.decay)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.keras")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(plan.factors())


@pytest.mark.usefixtures("steps")
def test_a_model_rebuilt_from_a_few_numbers(tmp_path):
    model = classifier()
    apply_guidelines(model, weight_decay=0.25)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    loaded = assert_trains_on_alike(model, tmp_path / "m.keras")
    assert [v.path for v in loaded.trainable_variables if v.regularizer] == [
        "ln_0/gamma",
        "ln_1/gamma",
    ]


def hub_backbone():
    keras_hub = pytest.importorskip("keras_hub")
    return keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
    )


def cv_backbone():
    keras_cv = pytest.importorskip("keras_cv")
    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64],
        stackwise_blocks=[1],
        stackwise_strides=[1],
        include_rescaling=False,
        input_shape=(8, 8, 3),
        block_type="basic_block",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("make", [hub_backbone, pytest.param(cv_backbone, marks=pytest.mark.slow)])
def test_backbones_of_keras_hub_and_keras_cv(tmp_path, make):
    backbone = make()
    x = keras.Input((8, 8, 3))
    y = layers.Dense(2)(layers.Flatten()(backbone(x)))
    model = keras.Model(x, y)
    apply_guidelines(model, weight_decay=0.25)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.5), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(4, 8, 8, 3)), rng.normal(size=(4, 2))
    model.fit(images, y, verbose=0, shuffle=False)
    loaded = load_model(saved(model, tmp_path / "m.keras", count=2))
    assert penalties(loaded) == penalties(model) != []
    for m in (model, loaded):
        m.fit(images, y, verbose=0, shuffle=False, epochs=2)
    assert_alike(model, loaded)


@pytest.mark.usefixtures("steps")
def test_a_plan_of_an_inner_model(tmp_path):
    model = classifier()
    apply_guidelines(model.get_layer("backbone"), weight_decay=0.25)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    loaded = assert_trains_on_alike(model, tmp_path / "m.keras")
    assert len(loaded.losses) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
def test_a_sequential_that_loses_its_name(tmp_path):
    model = keras.Sequential(
        [layers.RMSNormalization(name="rms"), layers.Dense(2, name="out")], name="s"
    )
    model.build((None, 4))
    apply_guidelines(model, l2=0.25, guidelines="all")
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5), "mse")
    exclude_from_weight_decay(model.optimizer, model, guidelines="none")
    assert_trains_on_alike(model, tmp_path / "m.keras", count=2)


def test_saved_loaded_and_saved_again(tmp_path):
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    once = load_model(saved(model, tmp_path / "1.keras"))
    twice = load_model(saved(once, tmp_path / "2.keras"))
    assert penalties(twice) == [1.0]


@pytest.mark.usefixtures("steps")
def test_ordinary_models_load_as_by_keras(tmp_path):
    model = rms_block()
    model.compile("adam", "mse")
    model.fit(*data(), verbose=0)
    loaded = load_model(saved(model, tmp_path / "m.keras", count=0))
    assert loaded.losses == []
    assert not load_model(tmp_path / "m.keras", compile=False).compiled


def test_archives_open_without_keras_gamma(tmp_path):
    """Nothing in the archive but Keras' own, and a JSON file for each layer with a decision."""
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    saved(model, tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        names = set(archive.namelist())
        assert "keras_gamma" not in archive.read("config.json").decode()
    assert names == {
        "metadata.json",
        "config.json",
        "model.weights.h5",
        "assets/layers/rms_normalization/keras_gamma.json",
        "assets/layers/layer_normalization/keras_gamma.json",
    }


def test_what_was_taken_back_is_not_saved(tmp_path):
    model = rms_block()
    plan = apply_guidelines(model, l2=0.25)
    plan.remove()
    assert load_model(saved(model, tmp_path / "m.keras", count=0)).losses == []


def test_a_plan_that_is_not_in_force_is_not_saved(tmp_path):
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    model.get_layer("final").gamma_regularizer = keras.regularizers.L2(3.0)
    model.get_layer("final").gamma.regularizer = keras.regularizers.L2(3.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.save(tmp_path / "m.keras")
    assert [w for w in told if re.search("changed by other hands.*final/gamma", str(w.message))]
    # The decision on the other γ is still in force.
    assert sorted(penalties(load_model(tmp_path / "m.keras"))) == [1.0, 12.0]


def test_the_exclusions_of_another_optimizer_are_not_saved(tmp_path):
    model = rms_block()
    exclude_from_weight_decay(keras.optimizers.AdamW(0.1), model)
    model.compile(keras.optimizers.AdamW(0.1), "mse")
    saved(model, tmp_path / "m.keras", count=0)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert not [n for n in archive.namelist() if n.endswith("keras_gamma.json")]


@keras.saving.register_keras_serializable(package="tests")
class WithAssets(Backbone):
    def save_assets(self, dir_path):
        pathlib.Path(dir_path, "vocabulary.txt").write_text("a b c")

    def load_assets(self, dir_path):
        self.vocabulary = pathlib.Path(dir_path, "vocabulary.txt").read_text()


def test_a_models_own_assets_are_kept(tmp_path):
    model = WithAssets(4, 1, name="with_assets")
    apply_guidelines(model, l2=0.25)
    loaded = load_model(saved(model, tmp_path / "m.keras"))
    assert loaded.vocabulary == "a b c"
    assert penalties(loaded) == [1.0]


def test_safe_mode_is_untouched(tmp_path):
    x = keras.Input((4,))
    y = layers.RMSNormalization(name="rms")(layers.Lambda(lambda t: t + 1.0)(x))
    model = keras.Model(x, y)
    apply_guidelines(model, l2=0.25, guidelines="all")
    saved(model, tmp_path / "m.keras")
    with pytest.raises(ValueError, match="safe_mode"):
        load_model(tmp_path / "m.keras")
    assert len(load_model(tmp_path / "m.keras", safe_mode=False).losses) == 1


def tampered(path, change, where=""):
    """A copy of an archive with another record."""
    target = path.with_name("tampered.keras")
    shutil.copy(path, target)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("keras_gamma.json") and where in name:
                content = change(content)
            archive.writestr(name, content)
    return target


def edit(**changes):
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def decision(**changes):
    def change(content):
        record = json.loads(content)
        record["decisions"][0].update(changes)
        return json.dumps(record).encode()

    return change


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive with a decision on `rms`."""
    model = rms_block()
    apply_guidelines(model, l2=0.25)
    return saved(model, tmp_path_factory.mktemp("archive") / "m.keras")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:40], "not JSON"),
        (lambda content: b"\xff\xfe", "keras_gamma.json"),
        (lambda content: b"[]", "format"),
        (lambda content: b"[" * 100_000, "nested too deeply"),
        (edit(version=99), "version 99"),
        (edit(decisions=None), "'decisions' is no list"),
        (edit(decisions=[1]), "malformed record: decision 0"),
        (edit(format="keras_gamma.optimizer", version=1), "for an optimizer"),
        (decision(variable=7), r"variable 7 of the shape \[4\], but RMSNormalization 'rms'"),
        (decision(variable="0"), "variable '0'"),
        (decision(shape=[5]), r"shape \[5\]"),
        (decision(plan=[1]), "Not a keras_gamma plan"),
        (decision(plan={"format": "x"}), "Not a keras_gamma plan"),
    ],
)
def test_malformed_records_are_errors(archive, change, message):
    path = tampered(archive, change, "rms_normalization")
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.fixture(scope="module")
def archive_of_optimizer(tmp_path_factory):
    """An archive with an optimizer that has an exclude list."""
    model = rms_block()
    model.compile(keras.optimizers.AdamW(0.1), "mse")
    exclude_from_weight_decay(model.optimizer, model)
    model.fit(*data(), verbose=0)
    return saved(model, tmp_path_factory.mktemp("archive") / "m.keras")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(plan={"format": "keras_gamma.decay_plan"}), "version"),
        (edit(plan=None), "Not a decay plan"),
        (edit(positions=[0]), "no position for each"),
        (edit(positions=[9] * 7), "variable 9 of the optimizer, which has 7"),
        (edit(positions=[0] * 7), "which is rms/scale"),
    ],
)
def test_malformed_records_of_optimizers_are_errors(archive_of_optimizer, change, message):
    path = tampered(archive_of_optimizer, change)
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_no_archive(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        load_model(tmp_path / "absent.keras")
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(ValueError, match=r"not a \.keras archive"):
        load_model(tmp_path / "text.keras")


def test_decay_plan_as_json():
    plan = keras_gamma.plan_weight_decay(rms_block(), guidelines="residual_last=0.5")
    assert keras_gamma.DecayPlan.from_json(plan.to_json()) == plan
    with pytest.raises(ValueError, match="not JSON"):
        keras_gamma.DecayPlan.from_json("{")
    with pytest.raises(ValueError, match="entry 0"):
        keras_gamma.DecayPlan.from_json(plan.to_json().replace('"kind"', '"sort"'))


def test_a_decay_plan_for_another_model():
    plan = keras_gamma.plan_weight_decay(rms_block())
    optimizer = keras.optimizers.AdamW(0.1)
    with pytest.raises(ValueError, match=r"missing in the model: .*in another order"):
        plan.apply(optimizer, classifier())
