"""What practitioners expect of a training script: fine-tuning, choosing an epoch, scoring."""

import csv
import json
import signal
import subprocess
import sys

import absl.flags
import keras
import numpy as np
import pytest
from absl.testing import flagsaver

from tests.integration.example_runs import ROOT, drive, read_checkpoint

sys.path.insert(0, str(ROOT))

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

import keras_gamma
from examples import train_resnet
from examples.core import (
    averages,
    callbacks,
    fine_tuning,
    layerwise,
    memory,
    selection,
    soft_labels,
    training,
)
from examples.core.cli import UsageError
from examples.core.decay import decay_kernels, decide_decay
from examples.core.optimizers import make_optimizer, make_schedule, parse_drops
from examples.data.augmentation import AugmentationSettings, make_augmentation
from examples.models import backbones, resnet

pytestmark = pytest.mark.filterwarnings("default")  # third-party packages warn of their own ways


# --- schedules and labels -------------------------------------------------------------------------


def test_steps_down():
    schedule = make_schedule(
        "step", peak=0.1, warmup_steps=0, total_steps=64, drops=parse_drops(["0.5", "0.75"])
    )
    values = [float(schedule(step)) for step in (0, 31, 33, 47, 49, 63)]
    np.testing.assert_allclose(values, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)


@pytest.mark.parametrize("words", [["a"], ["0.7", "0.5"], ["1.0"], ["0.5", "0.5"], []])
def test_wrong_steps_are_refused(words):
    with pytest.raises(ValueError, match="expected"):
        parse_drops(words)


def test_smoothed_loss_is_the_formula():
    logits = np.array([[2.0, 0.0, -1.0]], np.float32)
    logs = logits - np.log(np.exp(logits).sum())
    loss = soft_labels.make_loss(0.3, soft=True)(np.array([[0.0, 1.0, 0.0]]), logits)
    assert float(loss) == pytest.approx(-(0.1 * logs[0, 0] + 0.8 * logs[0, 1] + 0.1 * logs[0, 2]))


def test_gradients_are_averaged_over_batches():
    variable = keras.Variable([1.0])
    optimizer = make_optimizer("sgd", 1.0, momentum=0.0, nesterov=False, gradient_accumulation=2)
    optimizer.build([variable])
    for gradient, after in [(2.0, 1.0), (4.0, -2.0), (1.0, -2.0)]:
        optimizer.apply([keras.ops.array([gradient])], [variable])
        assert float(variable[0]) == after


def line():
    """One weight, and data that it is fitted to."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, layer(inputs))
    optimizer = make_optimizer("sgd", 0.1, momentum=0.0, nesterov=False, ema_momentum=0.8)
    model.compile(optimizer, "mse", jit_compile=False)
    return model, np.ones((1, 1), np.float32), np.full((1, 1), 3.0, np.float32)


def test_averages_are_scored_and_kept_and_the_weights_trained_on():
    model, x, y = line()
    found = model.fit(
        x, y, epochs=3, verbose=0, validation_data=(x, y), callbacks=[averages.ScoreAverages()]
    )
    weight, average, scores = 1.0, 1.0, []
    for step in range(3):
        weight -= 0.1 * 2 * (weight - 3)
        average = weight if step == 0 else 0.8 * average + 0.2 * weight
        scores.append((average - 3) ** 2)
    np.testing.assert_allclose(found.history["val_loss"], scores, rtol=1e-5)
    assert float(model.weights[0][0, 0]) == pytest.approx(weight)
    before = model.get_weights()[0].tobytes()
    with averages.used(model):
        assert float(model.weights[0][0, 0]) == pytest.approx(average)
    assert model.get_weights()[0].tobytes() == before
    averages.use(model)
    assert float(model.weights[0][0, 0]) == pytest.approx(average)


def test_learning_rates_fall_from_block_to_block():
    pytest.importorskip("keras", minversion="3.13")  # MultiOptimizer
    model = small()
    found = layerwise.groups(model, 0.5)
    assert [group.factor for group in found] == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert found[0].layers == ("stem_conv", "stem_bn") and found[-1].layers == ("logits",)
    assert all(name.startswith("stage2_block1") for name in found[2].layers)
    plan, for_optimizer = decide_decay(model, "decoupled", 0.1, keras_gamma.Guidelines())
    model.compile(
        layerwise.make_layerwise(
            found,
            lambda factor: make_optimizer(
                "sgd", factor, momentum=0.0, nesterov=False, weight_decay=0.1, decay=for_optimizer
            ),
        ),
        "mse",
    )
    model.optimizer.build(model.trainable_variables)
    assert layerwise.learning_rate(model.optimizer) == 1.0
    assert len(model.optimizer.optimizers) == 5
    checked = keras_gamma.audit(model, plan)
    assert checked.ok, str(checked)
    before = model.get_weights()
    kernels = {"stem_conv/kernel": 0.0625, "stage3_block1_1_conv/kernel": 0.5, "logits/kernel": 1}
    at = {w.path: n for n, w in enumerate(model.weights)}
    # Not `zeros_like`: of a Keras variable, JAX's asks NumPy for the dtype, which warns.
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    for path, factor in kernels.items():
        np.testing.assert_allclose(
            model.get_weights()[at[path]], before[at[path]] * (1 - 0.1 * factor), rtol=1e-5
        )


# --- choosing an epoch ----------------------------------------------------------------------------

ROWS = [{"val_nats": value} for value in (3.0, 2.0, 2.5, 2.0, 2.1)]


@pytest.mark.parametrize(("count", "best", "stale"), [(1, 0, 0), (2, 1, 0), (3, 1, 0), (4, 1, 1)])
def test_the_first_of_the_best_epochs_counts(count, best, stale):
    assert selection.best_row(ROWS[:count], "val_nats", smallest=True) == best
    assert selection.is_stale(ROWS[:count], "val_nats", 2, smallest=True) == bool(stale)
    assert not selection.is_stale(ROWS, "val_nats", 0, smallest=True)


def test_choosing_needs_something_to_choose_by():
    selection.check_selection(False, "last", 0)
    with pytest.raises(UsageError, match=r"--keep=best needs"):
        selection.check_selection(False, "best", 0)
    with pytest.raises(UsageError, match=r"--early_stopping=3 needs"):
        selection.check_selection(False, "last", 3)


def test_stochastic_depth_leaves_out_the_branches_of_single_images():
    model = resnet.build_model(
        "resnet8_v1", input_shape=(8, 8, 1), num_classes=3, width=2, stochastic_depth=0.6
    )
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6])
    depth = model.get_layer("stage3_block1_depth")
    kept = keras.ops.convert_to_numpy(depth(np.ones((400, 2, 2, 8)), training=True))
    per_image = kept.reshape(400, -1)
    assert (per_image == per_image[:, :1]).all()
    assert set(np.round(np.unique(per_image), 4)) == {0.0, 2.5}
    assert 120 < (per_image[:, 0] > 0).sum() < 200
    plain = {str(g.role): g for g in keras_gamma.find_roles(small())}
    assert {str(g.role) for g in keras_gamma.find_roles(model)} == set(plain)


@pytest.mark.slow
def test_backbones_of_other_packages(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(None, None, 3),
    )  # fmt: skip
    backbone.save_to_preset(str(tmp_path / "preset"))
    shape = {"input_shape": (32, 32, 3), "num_classes": 4}
    model = resnet.build_model(f"hub:{tmp_path / 'preset'}", **shape)
    assert model.output_shape == (None, 4) and len(keras_gamma.find_roles(model)) >= 5
    within = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    for mine, theirs in zip(within.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)

    weights = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    weights.save_weights(tmp_path / "mobile.weights.h5")
    model = resnet.build_model("applications:MobileNetV2", **shape)
    found = fine_tuning.initialize(model, str(tmp_path / "mobile.weights.h5"))
    assert found.weights == weights.count_params()
    within = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    for mine, theirs in zip(within.get_weights(), weights.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(UsageError, match=r"keras\.applications has no 'ResNet49'"):
        resnet.build_model("applications:ResNet49", **shape)
    with pytest.raises(UsageError, match="without a network, pass the folder"):
        resnet.build_model(f"hub:{tmp_path / 'nothing'}", **shape)


@pytest.mark.parametrize("name", ["ResNet50", "VGG16", "DenseNet121", "MobileNetV2"])
def test_images_are_scaled_as_keras_applications_has_them(name):
    modules = {"ResNet50": "resnet", "VGG16": "vgg16", "DenseNet121": "densenet",
               "MobileNetV2": "mobilenet_v2"}  # fmt: skip
    images = np.random.default_rng(0).uniform(0, 255, (1, 2, 2, 3)).astype(np.float32)
    inputs = keras.Input((2, 2, 3))
    here = keras.Model(inputs, backbones._as_applications_has_it(name, inputs / 127.5 - 1))
    expected = getattr(keras.applications, modules[name]).preprocess_input(images.copy())
    np.testing.assert_allclose(here.predict(images, verbose=0), expected, atol=1e-3)


# --- memory ---------------------------------------------------------------------------------------


def test_attention_that_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 2 * 3 * 4 * 1000**2 * 4)
    monkeypatch.setattr(memory, "_without_scores", lambda: False)
    fits = {"batch_size": 2, "depth": 3, "heads": 4, "flag": "--sequence_length=1"}
    memory.check_attention(tokens=1000, **fits)
    with pytest.raises(
        UsageError, match=r"--sequence_length=1 means 1,001 tokens.* make them less"
    ):
        memory.check_attention(tokens=1001, **fits)
    monkeypatch.setattr(memory, "_without_scores", lambda: True)
    memory.check_attention(tokens=10**6, **fits)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_the_end_of_memory_is_told_in_a_line(error):
    with pytest.raises(UsageError, match=r"^out of memory \([^\n]+\); make --batch_size[^\n]*$"):
        with memory.told_if_it_ends():
            raise error


@pytest.mark.parametrize("text", ["RESOURCE_EXHAUSTED: No space left on device", "a bug of ours"])
def test_other_ends_are_not(text):
    with pytest.raises(RuntimeError, match=text):
        with memory.told_if_it_ends():
            raise RuntimeError(text)


def test_a_callback_that_cannot_be_made_is_told_in_a_line():
    with pytest.raises(UsageError, match="--callback=os:getcwd, called with the settings, raised"):
        training.custom("os:getcwd", {}, is_chief=True)


# --- loggers --------------------------------------------------------------------------------------


def test_tensorboard_has_what_keras_writes(tmp_path):
    """Work that Keras' callback does in each step is left out; nothing of it was written."""
    pytest.importorskip("tensorboard")
    import tensorflow as tf

    schedule = make_schedule("cosine", peak=0.1, warmup_steps=2, total_steps=8)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    x, y = np.ones((8, 2)), np.ones((8, 1))
    [ours] = callbacks.tensorboard(tmp_path / "ours", "yes")
    theirs = keras.callbacks.TensorBoard(str(tmp_path / "theirs"), write_graph=False)
    model.fit(x, y, validation_data=(x, y), batch_size=2, epochs=2, verbose=0,
              callbacks=[ours, theirs])  # fmt: skip
    found = {}
    for file in tmp_path.glob("*/*/events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                who, part = file.relative_to(tmp_path).parts[:2]
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(who, {})[part, value.tag, event.step] = number
    assert found["ours"] == pytest.approx(found["theirs"])
    assert ("validation", "epoch_loss", 1) in found["ours"]
    half = 0.1 * (1 + np.cos(np.pi * 2 / 6)) / 2
    assert found["ours"]["train", "epoch_learning_rate", 0] == pytest.approx(half)


# --- fine-tuning ----------------------------------------------------------------------------------


def small(classes=10, width=2):
    return resnet.build_model("resnet8_v1", input_shape=(8, 8, 1), num_classes=classes, width=width)


def test_all_but_the_head_is_taken_over(tmp_path):
    before, after = small(10), small(3)
    before.save(tmp_path / "model.keras")
    head = after.get_layer("logits").get_weights()
    found = fine_tuning.initialize(after, str(tmp_path))
    for layer in before.layers:
        for mine, theirs in zip(
            after.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
        ):
            if layer.name != "logits":
                np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(after.get_layer("logits").get_weights()[0], head[0])
    assert found.weights == after.count_params() - (8 * 3 + 3)


def test_another_models_weights_are_refused_and_nothing_is_changed(tmp_path):
    small(width=3).save(tmp_path / "wide.keras")
    model = small()
    weights = model.get_weights()
    with pytest.raises(UsageError, match=r"for stem_conv, the model .*its head may be another"):
        fine_tuning.initialize(model, str(tmp_path / "wide.keras"))
    with pytest.raises(UsageError, match="there is no file"):
        fine_tuning.initialize(model, str(tmp_path / "none.keras"))
    (tmp_path / "torn.keras").write_bytes(b"PK")
    with pytest.raises(UsageError, match="cannot be read"):
        fine_tuning.initialize(model, str(tmp_path / "torn.keras"))
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def trained(model):
    return {variable.path.rpartition("/")[0] for variable in model.trainable_variables}


def test_what_is_frozen():
    model = small()
    assert fine_tuning.freeze(model, "backbone") == 8 * 10 + 10
    assert trained(model) == {"logits"}
    model = small()
    fine_tuning.freeze(model, "until=stage2_block1_add")
    assert trained(model) >= {"stage3_block1_1_conv", "stage3_block1_1_bn", "logits"}
    assert not any(name.startswith(("stem", "stage1", "stage2")) for name in trained(model))
    with pytest.raises(UsageError, match=r"no layer 'stage9'; it has stem_conv"):
        fine_tuning.freeze(model, "until=stage9")
    with pytest.raises(UsageError, match="until=logits leaves nothing to train"):
        fine_tuning.freeze(model, "until=logits")
    with pytest.raises(ValueError, match="neither none"):
        fine_tuning.check_freeze("head")


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_only_what_is_trained_is_decayed(kind):
    model = small()
    fine_tuning.freeze(model, "until=stage2_block1_add")
    if kind == "coupled":
        decay_kernels(model, 0.1)
    plan, for_optimizer = decide_decay(model, kind, 0.1, keras_gamma.Guidelines())
    if kind == "coupled":
        model.compile("sgd", "mse")
        assert len(model.losses) == 4 + 2  # stage 3 has three kernels; the head; two γ in stage 3
    else:
        optimizer = keras_gamma.optimizers.AdamW(1e-3, weight_decay=0.1, decay=for_optimizer)
        model.compile(optimizer, "mse")
        assert {v.path for v in model.trainable_variables} < {entry.path for entry in plan}
        assert "Frozen" in str(plan)
    assert keras_gamma.audit(model, plan).ok


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--decay_to=initial", "--weight_decay=0.1"], "needs --decay=decoupled"),
        (["--decay_to=initial", "--decay=decoupled", "--weight_decay=0"], "without effect"),
    ],
)
def test_decay_to_the_start_is_for_decoupled_decay(flags, message):
    with flagsaver.flagsaver():
        absl.flags.FLAGS(["train_resnet", *flags])
        with pytest.raises(UsageError, match=message):
            train_resnet.read_settings()


def test_all_but_the_head_is_led_back():
    plan, _ = decide_decay(small(), "decoupled", 0.1, keras_gamma.Guidelines(), "initial")
    decayed = [entry for entry in plan if entry.decayed]
    assert {e.path for e in decayed if e.to == "zero"} == {"logits/kernel"}
    assert len(decayed) > 10


# --- whole runs -----------------------------------------------------------------------------------

TINY = ["--model=resnet8_v1", "--width=2", "--epochs=3", "--limit_examples=100", "--verbose=0",
        "--tensorboard=no"]  # fmt: skip


def told(settings):
    """What --callback names in the runs below."""
    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(f"logger: epoch {epoch}, seed {settings['seed']}")
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("practice")
    chosen = ["--keep=best", "--early_stopping=1", "--label_smoothing=0.1",
              "--gradient_accumulation=2", "--steps_per_execution=2", "--schedule=step",
              "--callback=tests.integration.test_practice:told"]  # fmt: skip
    tuned = [f"--init_from={root / 'chosen'}", "--freeze=backbone", "--optimizer=adamw",
             "--decay=decoupled", "--weight_decay=0.1"]  # fmt: skip
    printed = drive(
        [
            {"flags": [*TINY, f"--output_dir={root / 'chosen'}", *chosen]},
            {"flags": [*TINY, f"--output_dir={root / 'tuned'}", *tuned]},
            {"flags": [*TINY, f"--output_dir={root / 'chosen'}", "--eval_only"]},
        ]
    )
    assert "error:" not in printed
    return root, printed


@pytest.mark.slow
def test_a_run_ends_with_its_best_epoch(finished):
    root, printed = finished
    metrics = json.loads((root / "chosen" / "metrics.json").read_text())
    rows = list(csv.DictReader((root / "chosen" / "log.csv").read_text().splitlines()))
    values = [float(row["val_accuracy"]) for row in rows]
    assert metrics["best_epoch"] == values.index(max(values)) + 1
    assert len(rows) == 3 or values[-1] <= values[-2]
    with np.load(root / "chosen" / "best.npz") as best:
        model = keras.models.load_model(root / "chosen" / "model.keras")
        np.testing.assert_array_equal(best["0"], model.variables[0])
    assert "logger: epoch 0, seed 0" in printed
    shown = next(line for line in printed.splitlines() if line.startswith("Test: "))
    assert f"accuracy {metrics['final_test_accuracy']:.4f}" in shown


@pytest.mark.slow
def test_a_frozen_backbone_stays_as_it_was(finished):
    root, printed = finished
    before, after = (
        keras.models.load_model(root / name / "model.keras") for name in ("chosen", "tuned")
    )
    assert "--freeze=backbone: 90 weights train" in printed
    for layer in before.layers:
        for old, new in zip(
            layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True
        ):
            assert np.array_equal(old, new) == (layer.name != "logits")
    assert "Audit: 2 trainable variables: 0 shrink by a penalty in the loss, 1 by the" in printed


@pytest.mark.slow
def test_a_flag_file_and_an_export(tmp_path):
    (tmp_path / "run.cfg").write_text("# a comment\n" + "\n".join([*TINY, "--export"]) + "\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train_resnet.py"),
         f"--flagfile={tmp_path / 'run.cfg'}", f"--output_dir={tmp_path / 'run'}", "--epochs=1"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    import tensorflow as tf

    served = tf.saved_model.load(str(tmp_path / "run" / "export"))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.float32)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_allclose(served.serve(images), model(images), atol=1e-4)


NAMES = ("whole", "run")


@pytest.mark.slow
def test_killed_and_resumed_with_all_of_it_equals_uninterrupted(tmp_path):
    flags = [*TINY, "--keep=best", "--mixup=0.2", "--cutmix=1", "--erase", "--checkpoint_steps=1",
             "--gradient_accumulation=2", "--stochastic_depth=0.3", "--use_ema"]  # fmt: skip
    whole, run = ({"flags": [*flags, f"--output_dir={tmp_path / name}"]} for name in NAMES)
    drive([run], kill=["best.npz", 1], expect=-signal.SIGKILL)  # The first epoch is the best yet.
    assert "Resuming after epoch 0 of 3, step 2 of 3" in drive([whole, run])
    _, expected = read_checkpoint(tmp_path / "whole")
    _, found = read_checkpoint(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    models = [keras.models.load_model(tmp_path / name / "model.keras") for name in NAMES]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_decay_to_the_start_holds_the_backbone_and_resumes_on_two_devices(finished, tmp_path):
    """So strong a decay that little but the start, or 0, is left at each step."""
    start = finished[0] / "chosen"
    flags = [*TINY, f"--init_from={start}", "--decay=decoupled", "--decay_to=initial",
             "--weight_decay=90", "--learning_rate=0.01", "--schedule=constant", "--momentum=0",
             "--nonesterov", "--checkpoint_steps=1", "--strategy=mirrored",
             "--virtual_devices=2"]  # fmt: skip
    whole, run = ({"flags": [*flags, f"--output_dir={tmp_path / name}"]} for name in NAMES)
    drive([run], kill=["batch", 5], expect=-signal.SIGKILL)
    assert "Resuming after epoch 1 of 3, step 1 of 3" in drive([whole, run])
    (_, expected), (_, found) = (read_checkpoint(tmp_path / name) for name in NAMES)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    before, after = (
        {v.path: keras.ops.convert_to_numpy(v) for v in keras.models.load_model(path).variables}
        for path in (start / "model.keras", tmp_path / "run" / "model.keras")
    )
    kernels = [path for path in before if path.endswith("kernel")]
    assert len(kernels) == 10
    for path in kernels:
        moved, size = np.linalg.norm(after[path] - before[path]), np.linalg.norm(before[path])
        if "logits" in path:
            assert np.linalg.norm(after[path]) < size / 2
        else:
            assert 0 < moved < size / 2


# --- augmentation ---------------------------------------------------------------------------------


def augmented(settings, seed, times=1):
    """What tf.data makes of eight images, each all of one value, and of their labels."""
    import tensorflow as tf

    augment = make_augmentation(settings, 8)
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1) * np.ones((8, 16, 16, 3), np.uint8)
    data = tf.data.Dataset.from_tensors((20 * images, np.arange(8))).repeat(times)
    batches = data.enumerate().map(
        lambda step, pair: augment(*pair, tf.stack([seed, tf.cast(step, tf.int32)]))
    )
    return [(x.numpy(), y.numpy()) for x, y in batches]


SLOW = pytest.mark.slow
LONG = ("rand_augment", "all")  # take long to trace
WAYS = {
    "rand_augment": AugmentationSettings(rand_augment=0.5),
    "erase": AugmentationSettings(erase=True),
    "mixup": AugmentationSettings(mixup=0.4),
    "cutmix": AugmentationSettings(cutmix=1.0),
    "all": AugmentationSettings(rand_augment=0.5, erase=True, mixup=0.4, cutmix=1.0),
}


@pytest.mark.parametrize(
    "way", ["erase", "mixup", "cutmix", *(pytest.param(w, marks=SLOW) for w in LONG)]
)
def test_augmentation_is_a_function_of_the_steps_seed(way):
    settings = WAYS[way]
    whole = augmented(settings, 3, times=3)
    again, other = augmented(settings, 3, times=2), augmented(settings, 4)
    for (x1, y1), (x2, y2) in zip(whole, again, strict=False):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)
    assert any((whole[0][0] != step[0]).any() for step in (*whole[1:], *other))
    assert whole[0][0].shape == (8, 16, 16, 3)
    assert whole[0][0].min() >= 0 and whole[0][0].max() <= 255


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_labels_are_mixed_as_the_images_are(way):
    """Each image is of one value, so that its mean tells how much of which image is in it."""
    [(images, labels)] = augmented(WAYS[way], 1)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert ((labels > 0.02) & (labels < 0.98)).any()
    expected = labels @ (20 * np.arange(8))
    # Keras' CutMix rounds the corners of a rectangle, on images of 16 x 16.
    tolerance = {"mixup": 1, "cutmix": 12}[way]
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=tolerance)


def test_no_augmentation_is_none():
    assert make_augmentation(AugmentationSettings(), 8) is None
