"""The examples: data, models, resuming after a kill, and whole small runs.

Whole runs happen in processes of their own, because op determinism cannot be switched off again.
Importing TensorFlow costs seconds, so that one process does several runs.
"""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import requests
from absl import flags
from absl.testing import flagsaver

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

import examples.train_resnet  # noqa: E402  (defines its flags)
from examples.core import files, run_state, settings  # noqa: E402
from examples.core.cli import UsageError  # noqa: E402
from examples.core.decay import decay_kernels  # noqa: E402
from examples.core.optimizers import make_schedule  # noqa: E402
from examples.data import batches, digits, loading, splits  # noqa: E402
from examples.models import resnet  # noqa: E402
from keras_gamma.dynamics import monitor_log  # noqa: E402
from tests.integration.example_runs import ROOT, drive, read_checkpoint  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # third-party packages warn of their own ways

TINY = [
    "--model=resnet8_v1",
    "--width=2",
    "--epochs=4",
    "--warmup_epochs=1",
    "--limit_examples=200",
    "--verbose=0",
    "--tensorboard=no",
    "--monitor_every=4",
]


def run_flags(output_dir, data_dir, *more):
    return [*TINY, f"--output_dir={output_dir}", f"--data_dir={data_dir}", *more]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with the digits prepared."""
    folder = tmp_path_factory.mktemp("data")
    loading.load_images("digits", data_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def images(data_dir):
    return loading.load_images("digits", data_dir=str(data_dir), validation_split="none")


FEW = ("--epochs=1", "--warmup_epochs=0", "--max_steps_per_epoch=2", "--batch_size=8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """Several finished runs, by name, and what was printed."""
    root = tmp_path_factory.mktemp("runs")
    printed = drive([{"flags": run_flags(root / "plain", data_dir)}])
    assert "error:" not in printed
    return root, printed


@pytest.fixture(scope="module")
def others(tmp_path_factory, data_dir):
    """The folder of further finished runs, by name."""
    root = tmp_path_factory.mktemp("runs")
    decoupled = [*FEW, "--optimizer=adamw", "--decay=decoupled"]
    printed = drive(
        [
            {"flags": run_flags(root / "decoupled", data_dir, *decoupled)},
            {"flags": run_flags(root / "mixed", data_dir, *FEW, "--mixed_precision")},
            {"flags": run_flags(root / "keras_cv", data_dir, *FEW, "--model=keras_cv_resnet18")},
            {
                "flags": run_flags(
                    root / "cifar", root / "cifar_data", *FEW, "--dataset=cifar10", "--flip"
                ),
                "mock": True,
            },
        ]
    )
    assert "error:" not in printed
    return root


# --- digits ---------------------------------------------------------------------------------------


def test_digits_counts_values_and_reproducible_split(data_dir):
    train, test = (
        {int(label): 0 for label in range(10)} | _count(data_dir, split)
        for split in ("train", "test")
    )
    # 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 examples of the digits 0, 1, ..., 9
    assert list(train.values()) == [142, 146, 141, 147, 144, 146, 145, 143, 139, 144]
    assert list(test.values()) == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]


def test_splits_that_are_read_together_are_those_of_the_set(data_dir):
    asked = {"train": "train[100:400]", "validation": "train[:60]", "test": "test[5:90]"}
    found = loading.load_images(
        "digits",
        data_dir=str(data_dir),
        limit_examples=250,
        **{f"{part}_split": split for part, split in asked.items()},
    )
    for part, split in (asked | {"train": "train[100:350]"}).items():
        there = tfds.load("digits", split=split, data_dir=data_dir, as_supervised=True)
        pairs = zip(getattr(found, part), there, strict=True)
        assert all(int(a[1]) == int(b[1]) and np.array_equal(a[0], b[0]) for a, b in pairs)


def _count(data_dir, split):
    labels = [
        int(y) for _, y in tfds.load("digits", split=split, data_dir=data_dir, as_supervised=True)
    ]
    return dict(zip(*map(np.ndarray.tolist, np.unique(labels, return_counts=True)), strict=True))


def test_digits_split_is_disjoint_and_whole():
    labels = np.random.default_rng(0).integers(0, 3, 1000)
    split = digits.stratified_split(labels)
    assert sorted([*split["train"], *split["test"]]) == list(range(1000))
    for label in range(3):
        assert abs((labels[split["test"]] == label).sum() - (labels == label).sum() / 5) <= 1


def test_digits_images_span_a_byte(data_dir):
    stack = np.stack(
        [
            x
            for x, _ in tfds.as_numpy(
                tfds.load("digits", split="test", data_dir=data_dir, as_supervised=True)
            )
        ]
    )
    assert stack.shape == (360, 8, 8, 1) and stack.dtype == np.uint8
    assert stack.min() == 0 and stack.max() == 255 and len(np.unique(stack)) == 17


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import random; random.seed(0)\n"  # tensorflow-datasets draws its folder's name with it
        "from examples.data import loading\n"
        f"print(loading.load_images('digits', data_dir={str(tmp_path)!r}).train_size)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=600)[0].strip() for process in both] == ["1293", "1293"]
    assert [entry.name for entry in (tmp_path / "digits").iterdir()] == ["1.0.0"]


# --- batches --------------------------------------------------------------------------------------


def _epochs(images, first_epoch, seed=0):
    keras.utils.set_random_seed(seed)  # must not matter
    found = batches.train_batches(
        images,
        batch_size=100,
        steps=14,
        first_epoch=first_epoch,
        epochs=3,
        seed=seed,
        shift=1,
        flip=True,
    )
    flat = [(x.numpy(), y.numpy()) for x, y in found]
    return [flat[start : start + 14] for start in range(0, len(flat), 14)]


def test_batches_depend_on_seed_and_epoch_only(images):
    whole, resumed, other = _epochs(images, 0), _epochs(images, 2), _epochs(images, 0, seed=1)
    assert [len(epoch) for epoch in whole] == [14, 14, 14] and len(resumed) == 1
    for (x1, y1), (x2, y2) in zip(whole[2], resumed[0], strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)
    first_labels = [epoch[0][1].tolist() for epoch in [*whole, other[0]]]
    assert len(set(map(tuple, first_labels))) == 4  # every epoch, and every seed, has its own order


def test_an_epoch_shows_no_example_twice(images):
    epoch = _epochs(images, 2)[0]
    labels = np.concatenate([y for _, y in epoch])
    available = np.array([142, 146, 141, 147, 144, 146, 145, 143, 139, 144])
    assert len(labels) == 1400 and (np.bincount(labels, minlength=10) <= available).all()


def _labels_and_sums(images, steps, first_epoch, epochs):
    found = batches.train_batches(
        images, batch_size=100, steps=steps, first_epoch=first_epoch, epochs=epochs, seed=0
    )
    return [(y.numpy().tolist(), float(x.numpy().sum())) for x, y in found]


def test_short_epochs_go_through_all_of_the_data(images):
    """Five steps an epoch: a pass of 14 is 2.8 epochs; whoever resumes goes on in its middle."""
    passes = _labels_and_sums(images, 14, 0, 2)
    short = _labels_and_sums(images, 5, 0, 5)
    assert len(short) == 25 and short == passes[:25]
    for epoch in (1, 2, 3, 4):
        assert _labels_and_sums(images, 5, epoch, 5) == short[5 * epoch :]


def test_augmentation_shifts_and_mirrors():
    image = np.zeros((1, 4, 4, 1), np.uint8)
    image[0, 1, 1] = 255
    batch = np.repeat(image, 500, axis=0)
    seen = {
        (int(y), int(x)): 0 for _, y, x, _ in np.argwhere(batches._augment(batch, [1, 2], 1, False))
    }
    assert set(seen) == {(y, x) for y in range(3) for x in range(3)}
    mirrored = np.argwhere(batches._augment(batch, [1, 2], 0, True))[:, 2]
    assert set(mirrored.tolist()) == {1, 2} and 150 < (mirrored == 2).sum() < 350


def test_test_batches_are_the_whole_set_in_order(images):
    labels = np.concatenate([y for _, y in batches.test_batches(images, 100)])
    expected = [int(y) for _, y in images.test]
    assert labels.tolist() == expected and len(expected) == 360


def test_uint16_and_float_images_become_bytes_of_the_size_asked_for():
    assert (
        (
            loading.to_uint8(
                np.full((4, 4, 1), 65535, np.uint16) + keras.ops.zeros((), "uint16"), None
            )
            == 255
        )
        .numpy()
        .all()
    )
    resized = loading.to_uint8(keras.ops.full((4, 6, 3), 0.5), (8, 8))
    assert resized.shape == (8, 8, 3) and (resized == 128).numpy().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_such_set", "knows no data set 'no_such_set'"), ("imdb_reviews", "not an image classif")],
)
def test_wrong_data_sets_are_refused_before_a_download(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        loading.load_images(name, data_dir=str(tmp_path))


BOTH = ["train", "validation"]
ALL = ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("there", "given", "expected"),
    [
        (["train", "test"], {}, ("train[:90%]", "test", "train[90%:]")),
        (BOTH, {}, ("train[:90%]", "validation", "train[90%:]")),
        (ALL, {}, ("train", "test", "validation")),
        (ALL, {"test": "validation"}, ("train[:90%]", "validation", "train[90%:]")),
        (ALL, {"validation": "none"}, ("train", "test", None)),
        (ALL, {"train": "train[:1%]"}, ("train[:1%]", "test", "validation")),
        (["a", "b"], {"train": "a", "test": "b"}, ("a[:90%]", "b", "a[90%:]")),
        (["a"], {"train": "a[:8%]", "test": "a[8%:]", "validation": "none"},
         ("a[:8%]", "a[8%:]", None)),
    ],
)  # fmt: skip
def test_splits(there, given, expected):
    found = splits.choose("some_set", there, **given)
    assert (found.train, found.test, found.validation) == expected


@pytest.mark.parametrize(
    ("there", "given"),
    [(["train"], {}), (["test"], {}), (["train", "test"], {"train": "train[:50%]"})],
)
def test_splits_that_cannot_be_chosen(there, given):
    with pytest.raises(UsageError, match="--validation_split"):
        splits.choose("some_set", there, **given)


def test_a_split_without_labels_is_refused():
    loading.check_labels("s", "test", [0, -1, 3])
    with pytest.raises(UsageError, match=r"split 'test' of s has no labels .*--test_split"):
        loading.check_labels("s", "test", [-1, -1])
    with pytest.raises(UsageError, match="no examples"):
        loading.check_labels("s", "test", [])


def test_a_split_that_is_not_there_is_refused(data_dir):
    with pytest.raises(UsageError, match=r"digits has no split 'valid'.*train, test"):
        loading.load_images("digits", data_dir=str(data_dir), validation_split="valid")


@pytest.mark.parametrize("part", ["train_split", "validation_split", "test_split"])
def test_a_split_without_examples_is_refused(part, data_dir):
    given = {"train_split": "train", "validation_split": "none", part: "train[7:7]"}
    with pytest.raises(UsageError, match=r"split 'train\[7:7\]' of digits has no examples"):
        loading.load_images("digits", data_dir=str(data_dir), **given)


def test_validation_and_training_share_nothing(data_dir):
    found = loading.load_images("digits", data_dir=str(data_dir), cache=False)
    assert (found.train_size, found.validation_size, found.test_size) == (1293, 144, 360)
    seen = [{x.numpy().tobytes() for x, _ in part} for part in (found.train, found.validation)]
    assert len(seen[0] & seen[1]) == 0


def test_without_a_network_it_is_said_at_once(tmp_path, monkeypatch):
    def refuse(url, **_):
        raise requests.exceptions.ConnectionError(url)

    def download(self, **_):
        raise AssertionError("tried for minutes")

    monkeypatch.setattr(requests, "head", refuse)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with pytest.raises(UsageError, match=r"cifar10 must be downloaded, and www\.cs\.toronto\.edu"):
        loading.load_images("cifar10", data_dir=str(tmp_path))


# --- models ---------------------------------------------------------------------------------------


def gammas(model):
    return sum("gamma" in variable.path for variable in model.variables)


@pytest.mark.parametrize(
    ("name", "width", "parameters", "number_of_gammas"),
    [
        # v1, width 2, 3 channels. Stem 54 + 8 (BN: 4 each). Stage 1: 2 * (36 + 8) = 88.
        # Stage 2: 72 + 16 + 144 + 16 + projection 8 + 16 = 272.
        # Stage 3: 288 + 32 + 576 + 32 + 32 + 32 = 992. Head: 8 * 10 + 10 = 90.
        ("resnet8_v1", 2, 54 + 8 + 88 + 272 + 992 + 90, 9),
        ("resnet20_v1", 2, None, 21),  # 1 + 9 * 2 + 2
        ("resnet56_v1", 2, None, 57),
        # v2, width 2: inner filters 2, 4, 8, outputs 8, 16, 32. Stem 54.
        # Stage 1: 8 + (2*2) + 8 + 36 + 8 + 16 + shortcut 16 = 96.
        # Stage 2: 32 + 8*4 + 16 + 144 + 16 + 4*16 + 8*16 = 432.
        # Stage 3: 64 + 16*8 + 32 + 576 + 32 + 8*32 + 16*32 = 1600.
        # Post: 128. Head: 32 * 10 + 10 = 330.
        ("resnet11_v2", 2, 54 + 96 + 432 + 1600 + 128 + 330, 10),
        ("resnet29_v2", 2, None, 28),  # 9 * 3 + 1
    ],
)
def test_parameters_and_gammas_are_those_counted_by_hand(name, width, parameters, number_of_gammas):
    model = resnet.build_model(name, input_shape=(16, 16, 3), num_classes=10, width=width)
    assert model.output_shape == (None, 10)
    assert gammas(model) == number_of_gammas
    if parameters is not None:
        assert model.count_params() == parameters


def test_resnet20_has_the_published_size():
    """He et al. report 0.27 million parameters; projections add a little to it."""
    model = resnet.build_model("resnet20_v1", input_shape=(32, 32, 3), num_classes=10, width=16)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == 269_722 + (16 * 32 + 64) + (32 * 64 + 128)  # without projections; with


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet15_v1", "resnet14_v1 or resnet20_v1"),
        ("resnet3_v1", "nearest: resnet8_v1"),
        ("resnet2_v1", "nearest: resnet8_v1"),
        ("resnet18_v2", "resnet11_v2 or resnet20_v2"),
        ("keras_cv_resnet20", "18, 34, 50, 101, 152"),
        ("vgg16", "expected resnet<depth>_v1"),
    ],
)
def test_bad_model_names_name_the_nearest(name, nearest):
    with pytest.raises(UsageError, match=nearest):
        resnet.check_model_name(name)


def test_kernels_alone_are_decayed_in_torch_units():
    model = resnet.build_model("resnet8_v1", input_shape=(8, 8, 1), num_classes=10, width=2)
    assert decay_kernels(model, 0.1) == 10
    kernels = [v for v in model.trainable_variables if v.path.endswith("/kernel")]
    assert len(kernels) == 10  # stem, 6 in blocks, 2 projections, head
    expected = 0.05 * sum(float(keras.ops.sum(v**2)) for v in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    copy = keras.Model.from_config(model.get_config())
    assert len(copy.losses) == 10
    decay_kernels(model, 0.0)
    assert not model.losses


def test_depthwise_kernels_are_decayed_and_saved():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.SeparableConv2D(3, 3),
            keras.layers.DepthwiseConv2D(3),
        ]
    )
    assert decay_kernels(model, 0.2) == 3
    assert len(model.losses) == 3
    assert len(keras.Sequential.from_config(model.get_config()).losses) == 3


def test_schedule_warms_up_to_the_peak_and_ends_at_zero():
    schedule = make_schedule("cosine", peak=0.4, warmup_steps=4, total_steps=12)
    values = [float(schedule(step)) for step in (0, 4, 8, 12)]
    np.testing.assert_allclose(values, [0.1, 0.4, 0.2, 0.0], atol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(again(4)) == pytest.approx(0.4)


# --- files and flags ------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_atomic(tmp_path / "a", b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def small_compiled_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dropout(0.5)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_checkpoint_restores_optimizer_and_dropout_and_mends_the_log(tmp_path, monkeypatch):
    x = np.ones((4, 2), np.float32)
    model = small_compiled_model()
    model.fit(x, x[:, :1], verbose=0)
    progress = run_state.Progress(
        [{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 0.3}], [1.0, 2.0]
    )
    with run_state.open_run(tmp_path, {"seed": 1}, resume=True) as run:
        monkeypatch.setattr(run, "write_log", lambda progress: None)  # killed in between
        run.save_checkpoint(model, progress)
    assert not run.log_path.exists()
    other = small_compiled_model()
    with run_state.open_run(tmp_path, {"seed": 1}, resume=True) as run:
        assert run.load_checkpoint(other) == progress
    rows = list(csv.reader(run.log_path.read_text().splitlines()))
    assert rows == [["epoch", "loss"], ["1", "0.1"], ["2", "0.3"]]
    for side in (model, other):
        side.fit(x, x[:, :1], verbose=0)
    for mine, theirs in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert int(other.optimizer.iterations) == 2


def test_a_damaged_checkpoint_and_another_models_are_refused(tmp_path):
    with run_state.open_run(tmp_path, {}, resume=True) as run:
        run.save_checkpoint(small_compiled_model(), run_state.Progress())
        whole = run.checkpoint_path.read_bytes()
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        other.compile("adam", "mse")
        with pytest.raises(UsageError, match="another model"):
            run.load_checkpoint(other)
        run.checkpoint_path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UsageError, match="damaged"):
            run.load_checkpoint(small_compiled_model())


def test_a_run_of_other_settings_is_left_alone(tmp_path):
    with run_state.open_run(tmp_path, {"seed": 0, "epochs": 3}, resume=True) as run:
        run.write_metrics({"done": 1})
    with pytest.raises(UsageError, match=r"--seed was 0 and is now 1\. .*--noresume"):
        with run_state.open_run(tmp_path, {"seed": 1, "epochs": 3}, resume=True):
            pass
    with run_state.open_run(tmp_path, {"seed": 0, "epochs": 3}, resume=True) as run:
        assert run.finished_metrics() == {"done": 1}
    with run_state.open_run(tmp_path, {"seed": 1, "epochs": 3}, resume=False) as run:
        assert run.finished_metrics() is None


def test_a_run_that_never_got_going_is_not_in_the_way(tmp_path):
    with run_state.open_run(tmp_path, {"batch_size": 4000}, resume=True):
        pass  # too large for the data, say
    with run_state.open_run(tmp_path, {"batch_size": 32}, resume=True) as run:
        assert json.loads(run.settings_path.read_text()) == {"batch_size": 32}


@pytest.mark.parametrize(
    "error", [OSError(30, "Read-only file system"), FileNotFoundError(2, "No")]
)
def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="is not a folder to write to"):
        with run_state.open_run(tmp_path / "run", {}, resume=True):
            pass


def test_one_folder_takes_one_process(tmp_path):
    with run_state.open_run(tmp_path, {}, resume=True):
        with pytest.raises(UsageError, match="another process"):
            with run_state.open_run(tmp_path, {}, resume=True):
                pass


@pytest.mark.parametrize(
    "flag",
    [
        "--guidelines=papper",
        "--epochs=0",
        "--optimizer=sdg",
        "--weight_decay=-1",
        "--weight_decay=1e40",
        "--learning_rate=nan",
        "--global_clipnorm=inf",
        "--output_dir=",
        "--init_from=",
        "--momentum=1",
        "--global_clipnorm=0",
    ],
)
def test_wrong_flags_are_refused(flag):
    with flagsaver.flagsaver():
        with pytest.raises(flags.IllegalFlagValueError, match=flag[2:].partition("=")[0]):
            flags.FLAGS(["train_resnet", flag])


def read_training(*words):
    with flagsaver.flagsaver():
        flags.FLAGS(["train_resnet", *words])
        return examples.train_resnet.read_settings()[0]


@pytest.mark.parametrize(
    ("words", "epochs", "warmup"),
    [
        ([], 40, 2.0),
        (["--epochs=1"], 1, 0.5),
        (["--epochs=3"], 3, 1.5),
        (["--epochs=1", "--warmup_epochs=3"], 1, 3.0),  # Refused later: somebody typed it.
    ],
)
def test_what_nobody_typed_adapts(words, epochs, warmup):
    found = read_training(*words)
    assert (found.epochs, found.warmup_epochs) == (epochs, warmup)


def test_guidelines_are_compared_in_their_normal_form():
    spelt = "interior=1,residual_last=1,shortcut=0,trunk=0,other=0"
    assert read_training(f"--guidelines={spelt}") == read_training()


def test_a_setting_is_written_once():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        unlike_any: int = settings.setting(3, "A number.", low=1)
        unlike_words: tuple[str, ...] = settings.setting((), "Words.")
        unlike_maybe: float | None = settings.setting(None, "A number, or none.")

    with flagsaver.flagsaver():
        settings.define(Settings, unlike_any=4)
        flags.FLAGS(["t", "--unlike_words=a,b"])
        found = settings.read(Settings, unlike_words=("c",), unlike_maybe=2.0)
        assert found == Settings(4, ("a", "b"), 2.0)
        words = settings.command_line(settings.values_of(found))
        assert words == ["--unlike_any=4", "--unlike_words=a,b", "--unlike_maybe=2.0"]
        with pytest.raises(flags.IllegalFlagValueError, match="unlike_any"):
            flags.FLAGS(["t", "--unlike_any=0"])
        with pytest.raises(TypeError, match="Settings has no field other"):
            settings.define(Settings, other=1)


@pytest.mark.slow
def test_help_lists_the_flags():
    script = str(ROOT / "examples" / "train_resnet.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    for flag in ("--dataset", "--model", "--guidelines", "--[no]resume", "--decay"):
        assert flag in done.stdout


@pytest.mark.slow
def test_errors_are_one_line_and_a_nonzero_exit(tmp_path):
    script = str(ROOT / "examples" / "train_resnet.py")
    done = subprocess.run(
        [sys.executable, script, "--model=resnet15_v1"],
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == (
        "error: a ResNet v1 has 6n+2 layers; got 15; nearest: resnet14_v1 or resnet20_v1\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sigterm_says_how_to_go_on(tmp_path, data_dir):
    script = str(ROOT / "examples" / "train_resnet.py")
    words = run_flags(tmp_path / "run", data_dir, "--epochs=100000", "--limit_examples=64")
    process = subprocess.Popen(
        [sys.executable, script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not (tmp_path / "run" / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.terminate()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "terminated; the same command resumes the run"
    read_checkpoint(tmp_path / "run")


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_decoupled_decay_is_the_optimizers_and_comes_back_with_the_model(others):
    folder = others / "decoupled"
    plan = json.loads((folder / "metrics.json").read_text())["plan"]
    factors = {entry["path"]: entry["factor"] for entry in plan["entries"]}
    assert factors["stem_bn/gamma"] == 0.0  # trunk: the first skip of this network is the identity
    model = keras.models.load_model(folder / "model.keras")
    assert type(model.optimizer).__name__ == "AdamW"
    assert model.optimizer.decay == factors
    assert model.losses == []


def test_a_run_reports_everything(finished):
    root, printed = finished
    metrics = json.loads((root / "plain" / "metrics.json").read_text())
    assert set(metrics) == {
        "final_test_accuracy",
        "best_validation_accuracy",
        "best_epoch",
        "final_test_loss",
        "final_loss",
        "epochs",
        "seconds_per_epoch",
        "epoch_seconds",
        "model",
        "dataset",
        "settings",
        "versions",
        "plan",
        "distribution",
        "result",
    }
    rows = list(csv.DictReader((root / "plain" / "log.csv").read_text().splitlines()))
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert metrics["best_validation_accuracy"] == max(accuracies)
    assert accuracies[int(metrics["best_epoch"]) - 1] == max(accuracies)
    # Each is a whole number of examples: of a tenth of the training set, and of the test set.
    assert 144 * metrics["best_validation_accuracy"] == pytest.approx(
        round(144 * metrics["best_validation_accuracy"]), abs=1e-4
    )
    assert metrics["dataset"]["splits"] == {
        "train": "train[:90%]", "validation": "train[90%:]", "test": "test",
    }  # fmt: skip
    assert len(metrics["epoch_seconds"]) == 4
    assert metrics["settings"]["epochs"] == 4
    assert metrics["versions"]["keras"] == keras.__version__
    assert metrics["dataset"]["train_size"] == 200
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-6)
    assert (
        printed.index("stem_bn") < printed.index("weight_decay = ") < printed.index("test accuracy")
    )


def test_the_saved_model_scores_what_was_reported(finished, images):
    root, _ = finished
    metrics = json.loads((root / "plain" / "metrics.json").read_text())
    model = keras.models.load_model(root / "plain" / metrics["model"])
    scores = model.evaluate(batches.test_batches(images, 512), verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx(metrics["final_test_accuracy"], abs=1e-6)
    assert len(model.losses) == 10 + 6  # kernels; γ of 3 residual_last and 3 interior


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed", "keras_cv", "cifar"])
def test_other_runs_finish(others, name):
    metrics = json.loads((others / name / "metrics.json").read_text())
    assert metrics["epochs"] == 1 and np.isfinite(metrics["final_loss"])
    if name == "cifar":
        assert metrics["dataset"]["shape"] == [32, 32, 3]


@pytest.mark.slow
def test_mixed_precision_computes_in_halves_with_whole_weights(others):
    model = keras.models.load_model(others / "mixed" / "model.keras")
    assert model.get_layer("stem_conv").compute_dtype == "float16"
    assert model.get_layer("logits").compute_dtype == "float32"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_uninterrupted(finished, tmp_path, data_dir):
    root, _ = finished
    run = [{"flags": run_flags(tmp_path / "run", data_dir)}]
    steps = 200 // 32
    drive(run, kill=["batch", steps + 3], expect=-signal.SIGKILL)  # within epoch 2
    assert read_checkpoint(tmp_path / "run")[0]["rows"][-1]["epoch"] == 1
    # Epoch 2 is done again and saved; killed with epoch 3's checkpoint written, but not in place.
    drive(run, kill=["checkpoint.npz", 2], expect=-signal.SIGKILL)
    assert read_checkpoint(tmp_path / "run")[0]["rows"][-1]["epoch"] == 2
    other_seed = {"flags": [*run[0]["flags"], "--seed=1"]}
    printed = drive([*run, *run, other_seed])
    assert "Resuming after epoch 2 of 4." in printed
    assert "had finished already" in printed
    assert "--seed was 0 and is now 1" in printed

    expected_progress, expected = read_checkpoint(root / "plain")
    progress, arrays = read_checkpoint(tmp_path / "run")
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert progress["rows"] == expected_progress["rows"]
    assert len(progress["seconds"]) == 4
    log = "log.csv"
    assert (tmp_path / "run" / log).read_bytes() == (root / "plain" / log).read_bytes()
    assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(root / "plain"))
    assert (tmp_path / "run" / "monitor.png").stat().st_size > 10_000
    (header, rows), (expected_header, expected_rows) = (
        monitor_log.read(folder / "monitor.jsonl") for folder in (tmp_path / "run", root / "plain")
    )
    assert header == expected_header
    assert [row["step"] for row in rows] == [0, 4, 8, 12, 16, 20]
    for row, once in zip(rows, expected_rows, strict=True):
        assert row["gammas"] == once["gammas"]
        assert row["branches"] == once["branches"]
