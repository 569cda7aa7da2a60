"""Sets of any size: read in parts, shuffled by (seed, epoch), decoded and cropped when needed."""

import dataclasses
import errno
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

import tensorflow as tf

from examples.core import files
from examples.core.cli import UsageError
from examples.core.soft_labels import SoftLabels
from examples.data import arrays, batches, decoding, loading, photos, splits, text

pytestmark = pytest.mark.filterwarnings("default")  # third-party packages warn of their own ways

IMAGES, SHARDS, BATCH = 150, 5, 32
STEPS = IMAGES // BATCH


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    photos.make(str(folder), images=IMAGES, shards=SHARDS, sides=(24, 60))
    return folder


def load(data_dir, **options):
    options = {"image_size": 16, "validation_split": "none"} | options
    return loading.load_images("photos", data_dir=str(data_dir), **options)


@pytest.fixture(scope="module")
def data(data_dir):
    return load(data_dir)


def read(data, **options):
    options = {
        "batch_size": BATCH,
        "steps": STEPS,
        "first_epoch": 0,
        "epochs": 2,
        "seed": 0,
    } | options
    found = batches.train_batches(data, flip=True, **options)
    return [(x.numpy(), y.numpy()) for x, y in found]


@pytest.fixture(scope="module")
def whole(data):
    """All batches of two epochs."""
    return read(data)


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all((a == b).all() for x, y in pairs for a, b in zip(x, y, strict=True))


# --- which examples, and when ---------------------------------------------------------------------


@pytest.mark.slow
def test_batches_are_bytes_of_one_shape(data, whole):
    assert (data.train_size, data.test_size, data.num_classes) == (150, 18, 10)
    assert len(whole) == 2 * STEPS
    assert {(x.shape, str(x.dtype)) for x, _ in whole} == {((BATCH, 16, 16, 3), "uint8")}


def test_whoever_is_interrupted_goes_on_in_the_middle_of_an_epoch(data, whole):
    assert same(read(data, first_epoch=1, first_step=STEPS - 1), whole[2 * STEPS - 1 :])
    assert not same(read(data, seed=1), whole)
    assert not same(whole[:STEPS], whole[STEPS:])


@pytest.mark.slow
def test_short_epochs_go_on_where_the_last_one_ended(data, whole):
    assert same(read(data, steps=1, epochs=6), whole[:6])
    assert same(read(data, steps=3, epochs=2, first_epoch=1, first_step=2), whole[5:6])


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_together_see_the_batches_of_one(data, whole, workers):
    assert batches.can_share(data, BATCH, workers)
    parts = [read(data, worker=w, workers=workers) for w in range(workers)]
    joined = [
        tuple(map(np.concatenate, zip(*step, strict=True))) for step in zip(*parts, strict=True)
    ]
    assert same(joined, whole)


def records(data, batch_size, seed, workers=1, worker=0):
    """(file, place) of all that a worker reads in a pass, in order."""
    count = data.records.readers(batch_size)
    mine = range(worker * count // workers, (worker + 1) * count // workers)
    steps = data.records.size // batch_size
    found = data.records.batchwise(
        batch_size, steps, tf.constant(0, tf.int64), tf.constant([0, seed]), mine
    )
    return [(int(file), int(place)) for file, place, _ in found]


def test_each_example_is_read_once_in_a_pass_by_one_of_the_workers(data):
    there = {(file, place) for file, n in enumerate(data.records.takes) for place in range(n)}
    assert len(there) == IMAGES
    alone = records(data, 50, seed=1)
    assert len(alone) == IMAGES and set(alone) == there
    parts = [records(data, 30, 2, 3, worker) for worker in range(3)]
    assert {len(part) for part in parts} == {IMAGES // 3}
    assert set().union(*parts) == there


def test_files_and_examples_come_in_another_order_in_each_pass(data):
    one, two = (records(data, 50, seed) for seed in (1, 2))
    assert one != two and sorted(one) == sorted(two)
    order = [list(dict.fromkeys(file for file, _ in found)) for found in (one, two)]
    assert order[0] != order[1]
    assert one != sorted(one, key=lambda pair: order[0].index(pair[0]))  # shuffled within, too


def test_parts_of_a_split_and_first_examples(data_dir):
    part = load(data_dir, train_split="train[10:131]", limit_examples=100)
    assert part.train_size == 100
    assert len(set(records(part, 10, 0))) == 100
    everything = {x.numpy().tobytes() for x, _ in load(data_dir).train}
    assert {x.numpy().tobytes() for x, _ in part.train} < everything


def test_a_file_without_examples_is_passed_over(data):
    records = dataclasses.replace(data.records, takes=(3, 0, *data.records.takes[2:]))
    found = records.first(5)
    assert found.names == (data.records.names[0], data.records.names[2])
    assert found.takes == (3, 2) and found.size == 5


@pytest.mark.parametrize(("held_out", "common"), [("train[10:131]", 0), ("train[5:12]", 5)])
def test_examples_that_are_learnt_from_and_tested_on_are_told(data_dir, held_out, common, capsys):
    info = photos.make(str(data_dir), images=IMAGES, shards=SHARDS, sides=(24, 60)).info
    splits.warn_if_shared(info, splits.Splits("train[:10]", held_out, "validation"))
    told = capsys.readouterr().out
    assert (f"{held_out} of photos have {common} examples" in told) == bool(common)
    assert "validation" not in told


@pytest.mark.slow
def test_augmentation_is_a_function_of_the_step(data):
    def augment(images, labels, seed):
        noise = tf.random.stateless_uniform(tf.shape(images), seed)
        return tf.cast(images, tf.float32) + noise, tf.one_hot(labels, 10)

    found = read(data, augment=augment)
    assert found[0][0].dtype == np.float32 and found[0][1].shape == (BATCH, 10)
    assert same(read(data, augment=augment, first_epoch=1, first_step=1), found[STEPS + 1 :])
    parts = [read(data, augment=augment, worker=w, workers=2) for w in (0, 1)]
    joined = [
        tuple(map(np.concatenate, zip(*step, strict=True))) for step in zip(*parts, strict=True)
    ]
    assert same(joined, found)


PASSES = {"batch_size": 4, "steps": 2, "first_epoch": 0, "epochs": 2, "seed": 0}
MADE = {
    "streamed": lambda data: batches.train_batches(data, **PASSES),
    "in order": lambda data: batches.test_batches(data, 4),
    "labels as rows": lambda data: SoftLabels(data, 10)._soft(batches.test_batches(data, 4)),
    "arrays": lambda _: arrays.train_batches(
        (np.zeros((8, 3)),), lambda x: x, size=8, first_step=0, **PASSES
    ),
    "arrays in order": lambda _: arrays.in_order((np.zeros((8, 3)),), lambda x: x, 4),
    "text": lambda _: text.train_batches(np.zeros(64, np.uint8), length=4, **PASSES),
    "text in order": lambda _: text.test_batches(np.zeros(64, np.uint8), length=4, batch_size=4),
}


@pytest.mark.parametrize("made", MADE)
def test_no_run_waits_at_its_end_for_a_tuner(data, made):
    """tf.data's looks ever more seldom, and who deletes an iterator may wait until it does."""
    found = MADE[made](data)
    assert found.options().autotune.enabled is False
    assert len(list(found.take(1))) == 1


def test_a_damaged_file_is_told_in_the_words_that_say_so():
    text = (
        "Graph execution error:\n\nDetected at node IteratorGetNext defined at (most recent call "
        'last):\n  File "train.py", line 1, in <module>\n\n'
        "truncated record at 77' failed with Read less bytes than requested\n"
        "\t [[{{node IteratorGetNext}}]] [Op:__inference_step_1]"
    )
    told = decoding.explain(tf.errors.DataLossError(None, None, text))
    assert told.startswith("a file of the data set is damaged (truncated record at 77'")


# --- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_the_middle_is_taken_and_no_more(encode):
    image = np.zeros((64, 128, 3), np.uint8)
    image[4:60, 36:92] = 200  # 0.875 · 64 = 56 pixels around the middle
    inside = decoding.center_part(encode(image), (28, 28), 3).numpy()
    assert inside.shape == (28, 28, 3) and inside[2:-2, 2:-2].min() > 190
    around = decoding.center_part(encode(255 - image), (28, 28), 3).numpy()
    assert around[2:-2, 2:-2].max() < 65


def test_a_part_drawn_at_random_is_one_of_the_image():
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None, None], (120, 90, 3))
    encoded = tf.io.encode_png(ramp)
    drawn = [
        decoding.random_part(encoded, tf.constant([0, n]), (16, 16), 3).numpy().astype(int)
        for n in range(40)
    ]
    rows = [part[-1, 0, 0] - part[0, 0, 0] for part in drawn]
    assert min(rows) < 45 and max(rows) > 75  # large and small ones, not stretched to one size
    assert len({int(part[0, 0, 0]) for part in drawn}) > 10
    again = decoding.random_part(encoded, tf.constant([0, 3]), (16, 16), 3).numpy()
    assert (again == drawn[3]).all()


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_decoded_images_are_kept_only_where_they_fit(tmp_path, monkeypatch, capsys):
    size = 1797 * 64
    for memory, told in ((3 * size, False), (3 * size - 1, True)):
        monkeypatch.setattr(loading, "memory", lambda memory=memory: memory)
        loading.load_images("digits", data_dir=str(tmp_path))
        assert ("Images of digits are decoded anew" in capsys.readouterr().out) == told


@pytest.mark.slow
def test_large_sets_are_streamed_on_any_machine(data_dir, tmp_path, monkeypatch):
    assert loading.load_images("digits", data_dir=str(tmp_path)).records is None
    monkeypatch.setattr(loading, "_LARGE", 1000)
    found = loading.load_images("digits", data_dir=str(tmp_path))
    assert found.records is not None and not found.cropped
    images = np.concatenate([x for x, _ in read(found, epochs=1)])
    assert images.shape == (STEPS * BATCH, 8, 8, 1) and len(np.unique(images)) == 17


# --- bad data -------------------------------------------------------------------------------------


def spoilt(data_dir, tmp_path, change):
    """A copy of the set, one of whose training files has been changed; and that file."""
    shutil.copytree(data_dir, tmp_path / "copy")
    file = sorted((tmp_path / "copy").rglob("photos-train.tfrecord*"))[2]
    examples = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    with tf.io.TFRecordWriter(str(file)) as writer:
        for number, example in enumerate(examples):
            writer.write(change(example) if number == 7 else example)
    return tmp_path / "copy", file.name


def original(data_dir, name):
    [found] = data_dir.rglob(name)
    return found


def changed(example, **features):
    found = tf.train.Example.FromString(example)
    for name, value in features.items():
        kind = found.features.feature[name]
        (kind.bytes_list if isinstance(value, bytes) else kind.int64_list).value[0] = value
    return found.SerializeToString()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": b"<html>404</html>"},
            r"what should be an image is none: example 7 \(from 0\) of",
        ),
        ({"label": 12}, r"the label 12 is none of the classes: example 7 \(from 0\) of"),
        ({"image": b"\xff\xd8\xff\xe0 cut off"}, "an image cannot be decoded"),
    ],
)
def test_a_bad_example_is_named(data_dir, tmp_path, change, message):
    copy, name = spoilt(data_dir, tmp_path, lambda example: changed(example, **change))
    with pytest.raises(UsageError, match=message) as error:
        with decoding.told_in_a_line():
            read(load(copy), epochs=1)
    text = str(error.value)
    assert "\n" not in text and text.endswith("the same command resumes the run")
    assert name in text or "decoded" in text


def test_files_that_are_missing_or_damaged_are_told(data_dir, tmp_path):
    copy, name = spoilt(data_dir, tmp_path, lambda example: example)
    [file] = copy.rglob(name)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"a file of the data set is damaged \(truncated record"):
        with decoding.told_in_a_line():
            records(load(copy), 50, seed=0)
    whole = [record.numpy() for record in tf.data.TFRecordDataset(str(original(data_dir, name)))]
    with tf.io.TFRecordWriter(str(file)) as writer:  # cut off between two examples
        for example in whole[:-1]:
            writer.write(example)
    with pytest.raises(
        UsageError, match=rf"damaged: there is no example 29 \(from 0\) of .*{name}"
    ):
        with decoding.told_in_a_line():
            list(load(copy).train)
    file.unlink()
    with pytest.raises(UsageError, match=f"1 of 5 files of the data set are missing: .*{name}"):
        load(copy)


def test_an_error_that_is_not_about_data_stays_what_it_is():
    with pytest.raises(tf.errors.ResourceExhaustedError):
        with decoding.told_in_a_line():
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    files.write_atomic(tmp_path / "a", b"old")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UsageError, match=r"no space is left for .*a: free some"):
        files.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    files.write_atomic(tmp_path / "a", b"at once", durable=False)  # The disk is not waited for.
    assert (tmp_path / "a").read_bytes() == b"at once"
    with pytest.raises(UsageError, match=r"no space is left for .*a: free some"):
        files.make_durable(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- models ---------------------------------------------------------------------------------------


def test_a_saved_model_takes_bytes_and_floats_of_bytes(tmp_path):
    from examples.models import resnet

    model = resnet.build_model("resnet8_v1", input_shape=(8, 8, 1), num_classes=3, width=2)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    scaled = keras.Model(model.get_layer("standardize").output, model.output)
    expected = scaled(images / np.float32(127.5) - 1)
    for given in (images, images.astype("float32")):
        np.testing.assert_allclose(loaded(given), expected, rtol=1e-4, atol=1e-5)
