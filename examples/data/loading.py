"""Image classification data: from tensorflow-datasets to batches.

Shuffling and augmentation are functions of (seed, epoch, step) alone, with no state that a killed
process could lose: training resumed at epoch 7 sees the batches that an uninterrupted one would
have seen.
"""

import contextlib
import dataclasses
import io
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from examples.core.cli import UsageError
from examples.core.files import locked
from examples.data import (
    digits,  # noqa: F401  (registers the builders)
    glyphs,  # noqa: F401  (registers the builders)
)
from examples.data.splits import Splits, choose

# Images and labels of a batch, and a seed for whatever is drawn.
Augmentation: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

_PATIENCE = 10.0  # seconds, for an answer of the machine to download from


@dataclasses.dataclass(frozen=True)
class ImageData:
    """An image classification data set; images are uint8, all of one shape."""

    full_name: str
    splits: Splits
    train: tf.data.Dataset
    validation: tf.data.Dataset | None
    test: tf.data.Dataset
    train_size: int
    validation_size: int
    test_size: int
    image_shape: tuple[int, int, int]
    num_classes: int

    def describe(self) -> dict[str, object]:
        """Returns what belongs in a report."""
        fields = ("full_name", "train_size", "validation_size", "test_size", "num_classes")
        return {name: getattr(self, name) for name in fields} | {
            "splits": dataclasses.asdict(self.splits),
            "shape": list(self.image_shape),
        }


def load_images(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int = 0,
    limit_examples: int = 0,
    cache: bool = True,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
) -> ImageData:
    """Loads an image classification set of tensorflow-datasets, preparing it if need be.

    Args:
        name: a tensorflow-datasets name, such as `digits`, `cifar10` or `mnist:3.0.1`.
        data_dir: where prepared sets lie; by default tensorflow-datasets' own folder.
        image_size: side that images are resized to; 0 keeps the set's size.
        limit_examples: number of training examples to use; 0 uses all. The test set stays whole.
        cache: whether to keep the decoded images in memory.
        train_split: what to learn from; see `splits.choose` for the defaults.
        validation_split: what to validate on; `none` for nothing.
        test_split: what to test on.

    Raises:
        UsageError: the set is unknown, cannot be had, is not one of images of one label each, or a
            split is not there, or has no labels.
    """
    builder = prepared(name, data_dir)
    image_key, label_key = _supervised_keys(builder.info)
    image_feature = builder.info.features[image_key]
    shape = _image_shape(builder.info.name, image_feature.shape, image_size)
    splits = choose(
        builder.info.name,
        available_splits(builder.info),
        train=train_split,
        validation=validation_split,
        test=test_split,
    )
    resize = image_feature.shape[:2] != shape[:2]

    def read(split: str, limit: int = 0) -> tuple[tf.data.Dataset, int]:
        try:
            dataset = builder.as_dataset(split=split, shuffle_files=False)
        except (ValueError, AssertionError) as error:  # tfds' own ways of not knowing a split
            there = ", ".join(available_splits(builder.info))
            raise UsageError(
                f"{builder.info.name} has no split {split!r} ({_first_line(error)}); it has {there}"
            ) from error
        _check_labels(builder.info.name, split, dataset, label_key)
        if limit:
            dataset = dataset.take(limit)
        size = int(dataset.cardinality())
        dataset = dataset.map(
            lambda example: (
                _to_uint8(example[image_key], shape[:2] if resize else None),
                example[label_key],
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return (_cached(dataset) if cache else dataset), size

    train, train_size = read(splits.train, limit_examples)
    validation, validation_size = read(splits.validation) if splits.validation else (None, 0)
    test, test_size = read(splits.test)
    return ImageData(
        full_name=builder.info.full_name,
        splits=splits,
        train=train,
        validation=validation,
        test=test,
        train_size=train_size,
        validation_size=validation_size,
        test_size=test_size,
        image_shape=shape,
        num_classes=builder.info.features[label_key].num_classes,
    )


def train_batches(
    data: ImageData,
    *,
    batch_size: int,
    steps: int,
    first_epoch: int,
    epochs: int,
    seed: int,
    shift: int = 0,
    flip: bool = False,
    augment: Augmentation | None = None,
    first_step: int = 0,
    shuffle_buffer: int = 50_000,
) -> tf.data.Dataset:
    """Returns the batches of the epochs `first_epoch`, ..., `epochs - 1`, one after the other.

    Each epoch has exactly `steps` batches of exactly `batch_size` examples. Epochs that are shorter
    than a pass over the data go on where the one before ended, so that all of it is seen. Images
    are bytes, 0..255, unless `augment` makes floats of the same range of them.

    Args:
        data: the data set.
        batch_size: examples in a batch.
        steps: batches in an epoch, at most `train_size // batch_size`.
        first_epoch: the epoch to begin with (not 0 when a run is resumed).
        epochs: the number of epochs of the whole run.
        seed: of shuffling and augmentation.
        shift: images are moved by up to this many pixels, up or down and left or right.
        flip: whether to mirror every other image, left to right.
        augment: function `(images, labels, seed)` that returns images and labels, after moving and
            mirroring; `seed` (two int32) is a function of (seed, epoch, step), and whatever is
            drawn must be drawn from it alone. Runs in a graph of tf.data's.
        first_step: step of `first_epoch` to begin with (not 0 when a run is resumed within it).
        shuffle_buffer: number of examples among which the next one is drawn.
    """
    base_seed = tf.constant([seed, 0], tf.int32)
    in_a_pass = data.train_size // batch_size
    begin = first_epoch * steps + first_step
    first_pass, done = divmod(begin, in_a_pass)
    passes = -(-epochs * steps // in_a_pass)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        # Of this function's graph only. `shuffle` mixes it into its seed, and with 0, which a user
        # may have chosen, does not take a tensor for a seed.
        tf.random.set_seed(1)
        pass_seed = tf.random.experimental.stateless_fold_in(base_seed, number)
        batches = (
            data.train.shuffle(
                min(data.train_size, shuffle_buffer),
                seed=tf.random.stateless_uniform([], pass_seed, None, None, tf.int64),
                reshuffle_each_iteration=False,
            )
            .batch(batch_size, drop_remainder=True)
            .enumerate()
            .skip(tf.where(number == first_pass, tf.constant(done, tf.int64), 0))
        )

        def prepare(
            step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = batch
            step_seed = tf.random.experimental.stateless_fold_in(pass_seed, step)
            images = _augment(images, step_seed, shift, flip)
            if augment is None:
                return images, labels
            return augment(images, labels, tf.random.experimental.stateless_fold_in(step_seed, 1))

        return batches.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)

    return (
        tf.data.Dataset.range(first_pass, passes)
        .flat_map(one_pass)
        .take(epochs * steps - begin)
        .prefetch(tf.data.AUTOTUNE)
    )


def test_batches(data: ImageData, batch_size: int) -> tf.data.Dataset:
    """Returns the whole test set, in order."""
    return _in_order(data.test, data.test_size, batch_size)


def validation_batches(data: ImageData, batch_size: int) -> tf.data.Dataset | None:
    """Returns all that is to validate on, in order; `None` if that is nothing."""
    if data.validation is None:
        return None
    return _in_order(data.validation, data.validation_size, batch_size)


def _in_order(examples: tf.data.Dataset, size: int, batch_size: int) -> tf.data.Dataset:
    batches = examples.batch(batch_size)
    return (batches.cache() if size <= 10_000 else batches).prefetch(tf.data.AUTOTUNE)


def _check_labels(name: str, split: str, dataset: tf.data.Dataset, key: str) -> None:
    """Refuses a split whose labels are kept secret: such sets hold −1 in their place."""
    found = [int(example[key]) for example in dataset.take(8)]
    if not found:
        raise UsageError(f"the split {split!r} of {name} has no examples")
    if max(found) < 0:
        raise UsageError(
            f"the split {split!r} of {name} has no labels (they are {found[0]}); choose another "
            "with --train_split, --validation_split or --test_split"
        )


def _find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a set, whether or not the set has been prepared."""
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UsageError(
            f"tensorflow-datasets knows no data set {name!r}; see tfds.list_builders()"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:  # no such version, or configuration
        raise UsageError(f"cannot open the data set {name!r}: {_first_line(error)}") from error


def prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files are there; only one process at a time prepares them."""
    builder = _find_builder(name, data_dir)
    if _is_prepared(builder):
        # Made anew: another process may have finished since, and a builder reads its info once.
        return _find_builder(name, data_dir)
    _supervised_keys(builder.info)  # better to refuse a set before its download
    try:
        with locked(Path(builder.data_dir_root) / f".{builder.name}.lock", wait=True):
            builder = _find_builder(name, data_dir)  # another process may be done with it by now
            if not _is_prepared(builder):
                _check_network(builder)
                tfds.disable_progress_bar()
                with contextlib.redirect_stdout(io.StringIO()):
                    builder.download_and_prepare()
        return builder
    except ModuleNotFoundError as error:
        raise UsageError(
            f"preparing {name!r} needs the package {error.name}: pip install {error.name}"
        ) from error
    except UsageError:
        raise
    except Exception as error:  # downloads fail in more ways than can be listed
        raise UsageError(
            f"cannot prepare {name!r} ({_first_line(error)}); without a network, prepare it "
            "elsewhere and pass its folder as --data_dir"
        ) from error


def _check_network(builder: tfds.core.DatasetBuilder) -> None:
    """Asks for what is to be downloaded, once: tensorflow-datasets itself tries for minutes.

    Raises:
        UsageError: its machine cannot be reached.
    """
    urls = [url for url in getattr(builder, "url_infos", None) or () if url.startswith("http")]
    failure: list[Exception] = []

    def ask() -> None:
        try:
            requests.head(urls[0], timeout=_PATIENCE)
        except requests.exceptions.RequestException as error:
            failure.append(error)

    if not urls:
        return
    # A thread, because nothing but the system can end the search for a name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    if failure or asking.is_alive():
        host = urllib.parse.urlsplit(urls[0]).hostname
        raise UsageError(
            f"{builder.name} must be downloaded, and {host} cannot be reached; without a network, "
            "prepare it elsewhere and pass its folder as --data_dir"
        )


def _first_line(error: Exception) -> str:
    """Returns an error's kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Like `builder.isprepared()`, which warns where there is nothing yet."""
    return bool((builder.data_path / "dataset_info.json").exists())


def _supervised_keys(info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Returns the keys of the image and of its label."""
    keys = info.supervised_keys
    if not keys or len(keys) < 2 or not all(isinstance(key, str) for key in keys[:2]):
        raise UsageError(f"{info.name} does not say what its image and label are (supervised_keys)")
    image, label = (info.features[key] for key in keys[:2])
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UsageError(
            f"{info.name} is not an image classification set: its {keys[0]!r} is a "
            f"{type(image).__name__} and its {keys[1]!r} a {type(label).__name__}; "
            "expected Image and ClassLabel"
        )
    return keys[0], keys[1]


def _image_shape(name: str, shape: tuple[int | None, ...], image_size: int) -> tuple[int, int, int]:
    """Returns height, width and channels of what the model is fed."""
    height, width, channels = shape
    if channels is None:
        raise UsageError(f"the images of {name} differ in their number of channels")
    if image_size:
        return image_size, image_size, channels
    if height is None or width is None:
        raise UsageError(f"the images of {name} differ in size; pass --image_size")
    return height, width, channels


def available_splits(info: tfds.core.DatasetInfo) -> list[str]:
    """Returns the splits of a set."""
    # Only tfds.testing.mock_data knows no splits; it makes up any.
    return list(info.splits) or ["train", "test"]


def _to_uint8(image: tf.Tensor, size: tuple[int, int] | None) -> tf.Tensor:
    """Brings an image to 0..255 and, if asked, to another size. Float images are taken as 0..1."""
    if image.dtype == tf.uint8 and size is None:
        return image
    peak = 1.0 if image.dtype.is_floating else float(image.dtype.max)
    image = tf.cast(image, tf.float32) * (255.0 / peak)
    if size is not None:
        image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def _cached(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Fills a memory cache at once: an epoch that leaves out its last batch would never fill it."""
    dataset = dataset.cache()
    for _ in dataset.batch(1024):
        pass
    return dataset


def _augment(images: tf.Tensor, seed: tf.Tensor, shift: int, flip: bool) -> tf.Tensor:
    """Moves and mirrors the images of a batch, each in its own way; black moves in from outside."""
    batch, height, width = images.shape[:3]
    seeds = tf.random.experimental.stateless_split(seed, 3)
    if shift:
        images = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]])
        top, left = (
            tf.random.stateless_uniform([batch, 1], seeds[i], 0, 2 * shift + 1, tf.int32)
            for i in range(2)
        )
        images = tf.gather(images, top + tf.range(height), axis=1, batch_dims=1)
        images = tf.gather(images, left + tf.range(width), axis=2, batch_dims=1)
    if flip:
        mirrored = tf.random.stateless_uniform([batch, 1, 1, 1], seeds[2]) < 0.5
        images = tf.where(mirrored, images[:, :, ::-1], images)
    return images
