"""Image classification data of tensorflow-datasets, of any size.

Sets of small images of one size are decoded at once, and kept in memory if they fit. Others are
streamed: in every epoch, examples are read from their files, shuffled as they are (encoded), and
decoded when they are needed. Which it is depends on the set, not on the machine, for the order of
the examples depends on it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
import tensorflow_datasets as tfds

from examples.core.cli import UsageError
from examples.core.memory import memory
from examples.data import decoding
from examples.data.graphs import AT_A_TIME, unconverted
from examples.data.preparing import available_splits, first_line, prepared, supervised_keys
from examples.data.reading import Records, joined, records_of
from examples.data.splits import Splits, choose, warn_if_shared

# From a record of a file to an image and its label; a seed asks for a part of it drawn at random.
Decoder: TypeAlias = Callable[
    [tuple[tf.Tensor, ...], tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]
]

_LARGE = 2 << 30  # bytes of decoded training images, from which on a set is streamed
_SIDE = 224  # of images that differ in size, by default
_PART = 3  # a cache may take this part of the memory: a third
_LABELS = 8  # that are looked at, at the start


@dataclasses.dataclass(frozen=True)
class ImageData:
    """An image classification data set; images are uint8, all of one shape.

    Attributes:
        train: training examples, in order, as they would be evaluated.
        records: encoded training examples, if they are streamed.
        decode: what makes examples of records.
    """

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
    decode: Decoder
    records: Records | None = None
    cropped: bool = False

    @property
    def image_bytes(self) -> int:
        """Of a decoded image."""
        height, width, channels = self.image_shape
        return height * width * channels

    def describe(self) -> dict[str, object]:
        """Returns what belongs in a report."""
        fields = ("full_name", "train_size", "validation_size", "test_size", "num_classes")
        return {name: getattr(self, name) for name in fields} | {
            "splits": dataclasses.asdict(self.splits),
            "shape": list(self.image_shape),
        }


@unconverted
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
        image_size: side of the images. Those that differ in size are cropped (`decoding`), to
            224 by default; others are resized, and 0 keeps their size.
        limit_examples: number of training examples to use; 0 uses all. The test set stays whole.
        cache: whether to keep decoded images in memory, if they take less than a third of it.
        train_split: what to learn from; see `splits.choose` for the defaults.
        validation_split: what to validate on; `none` for nothing.
        test_split: what to test on.

    Raises:
        UsageError: the set is unknown, cannot be had, is not one of images of one label each, lacks
            files, or a split is not there, or has no labels.
    """
    builder = prepared(name, data_dir)
    splits = choose(
        builder.info.name,
        available_splits(builder.info),
        train=train_split,
        validation=validation_split,
        test=test_split,
    )
    kind = _Kind.of(builder.info, image_size)
    readings = {
        split: _open(builder, split, kind)
        for split in {splits.train, splits.test, splits.validation}
        if split is not None
    }
    warn_if_shared(builder.info, splits)
    large = kind.varies or readings[splits.train].size * kind.image_bytes > _LARGE
    streamed = large and readings[splits.train].records is not None

    chosen = {
        "train": readings[splits.train].first(limit_examples or readings[splits.train].size),
        **({"validation": readings[splits.validation]} if splits.validation else {}),
        "test": readings[splits.test],
    }
    size = sum(reading.size for reading in chosen.values()) * kind.image_bytes
    if not streamed and cache and size * _PART <= memory():
        examples = dict(zip(chosen, _in_memory(list(chosen.values())), strict=True))
    else:
        examples = {part: reading.examples() for part, reading in chosen.items()}
        if cache:
            told = chosen["train"].size * kind.image_bytes if streamed else size
            print(_told(builder.info.name, told), flush=True)
    records = chosen["train"].records
    return ImageData(
        full_name=builder.info.full_name,
        splits=splits,
        train=examples["train"],
        validation=examples.get("validation"),
        test=examples["test"],
        train_size=chosen["train"].size,
        validation_size=chosen["validation"].size if splits.validation else 0,
        test_size=chosen["test"].size,
        image_shape=kind.shape,
        num_classes=kind.classes,
        decode=kind.decoder(records.names if records else ()),
        records=records if streamed else None,
        cropped=kind.varies,
    )


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What the examples of a set are like, and what becomes of them."""

    info: tfds.core.DatasetInfo
    image_key: str
    label_key: str
    shape: tuple[int, int, int]  # height, width and channels of what the model is fed
    classes: int
    varies: bool  # in size, so that images are cropped

    @classmethod
    def of(cls, info: tfds.core.DatasetInfo, image_size: int) -> "_Kind":
        image_key, label_key = supervised_keys(info)
        height, width, channels = info.features[image_key].shape
        classes = info.features[label_key].num_classes
        if channels is None:
            raise UsageError(f"the images of {info.name} differ in their number of channels")
        if not classes:
            raise UsageError(f"{info.name} does not say how many classes it has")
        varies = height is None or width is None
        if varies and not image_size:
            image_size = _SIDE
            print(f"The images of {info.name} differ in size: cropped to --image_size={_SIDE}.")
        shape = (image_size, image_size, channels) if image_size else (height, width, channels)
        return cls(info, image_key, label_key, shape, classes, varies)

    @property
    def image_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def resize(self) -> tuple[int, int] | None:
        """The size that all images are brought to, if it is another."""
        return self.shape[:2] if self.info.features[self.image_key].shape != self.shape else None

    def decoder(self, names: tuple[str, ...]) -> Decoder:
        """Returns what decodes records of such files."""
        keys = {self.image_key: True, self.label_key: True}
        features = tfds.decode.PartialDecoding(keys).extract_features(self.info.features)
        skip = {self.image_key: tfds.decode.SkipDecoding()}

        def decode(
            record: tuple[tf.Tensor, ...], seed: tf.Tensor | None = None
        ) -> tuple[tf.Tensor, tf.Tensor]:
            file, place, example = record
            where = [tf.gather(tf.constant(names), file), place]
            with tf.control_dependencies([decoding.check_whole(example, where)]):
                example = tf.identity(example)
            found = features.deserialize_example(example, decoders=skip)
            encoded, label = found[self.image_key], found[self.label_key]
            with tf.control_dependencies(decoding.checks(encoded, label, self.classes, where)):
                encoded = tf.identity(encoded)
            size, channels = self.shape[:2], self.shape[2]
            if not self.varies:
                image = to_uint8(features[self.image_key].decode_example(encoded), self.resize)
            elif seed is None:
                image = decoding.center_part(encoded, size, channels)
            else:
                image = decoding.random_part(encoded, seed, size, channels)
            return image, label

        return decode


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A split, and both ways to read it."""

    builder: tfds.core.DatasetBuilder
    split: str
    kind: _Kind
    size: int
    records: Records | None  # None for a set that tensorflow-datasets makes up

    def first(self, number: int) -> "_Reading":
        """Returns the first examples only."""
        return dataclasses.replace(
            self,
            size=min(self.size, number),
            records=self.records and self.records.first(number),
        )

    def examples(self) -> tf.data.Dataset:
        """Returns decoded examples, in order."""
        if self.records is not None:
            decode = self.kind.decoder(self.records.names)
            return self.records.in_order().map(
                lambda *record: decode(record, None), num_parallel_calls=AT_A_TIME
            )
        kind = self.kind

        def decoded(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = example[kind.image_key], example[kind.label_key]
            with tf.control_dependencies(
                decoding.checks(image, label, kind.classes, [f"the split {self.split}"])
            ):
                return to_uint8(tf.identity(image), kind.resize), label

        dataset = self.builder.as_dataset(split=self.split, shuffle_files=False).take(self.size)
        return dataset.map(decoded, num_parallel_calls=AT_A_TIME)


def _open(builder: tfds.core.DatasetBuilder, split: str, kind: _Kind) -> _Reading:
    """Returns a split, once it is known that it is there, and has labels."""
    info = builder.info
    skip = {kind.image_key: tfds.decode.SkipDecoding()}
    try:
        records = records_of(info, split) if info.splits else None
        dataset = builder.as_dataset(split=split, shuffle_files=False) if not records else None
    except (ValueError, AssertionError, KeyError) as error:  # tfds' own ways of not knowing a split
        there = ", ".join(available_splits(info))
        raise UsageError(
            f"{info.name} has no split {split!r} ({first_line(error)}); it has {there}"
        ) from error
    if records is not None:
        if records.size == 0:
            check_labels(info.name, split, [])
        records.check_files()
        size = records.size
        labels = [
            int(info.features.deserialize_example(example, decoders=skip)[kind.label_key])
            for example in records.head(_LABELS)
        ]
    else:
        assert dataset is not None
        size = len(dataset)
        labels = [int(example[kind.label_key]) for example in dataset.take(_LABELS)]
    if labels or not size:  # else its files have ended early, which is told when they are read
        check_labels(info.name, split, labels)
    return _Reading(builder, split, kind, size, records)


def check_labels(name: str, split: str, labels: list[int]) -> None:
    """Refuses a split whose labels are kept secret: such sets hold −1 in their place.

    Args:
        name: of the set.
        split: of it.
        labels: a few of it.

    Raises:
        UsageError: all are negative, or there are none.
    """
    if not labels:
        raise UsageError(f"the split {split!r} of {name} has no examples")
    if max(labels) < 0:
        raise UsageError(
            f"the split {split!r} of {name} has no labels (they are {labels[0]}); choose another "
            "with --train_split, --validation_split or --test_split"
        )


def to_uint8(image: tf.Tensor, size: tuple[int, int] | None) -> tf.Tensor:
    """Brings an image to 0..255 and, if asked, to another size. Float images are taken as 0..1."""
    if image.dtype == tf.uint8 and size is None:
        return image
    peak = 1.0 if image.dtype.is_floating else float(image.dtype.max)
    image = tf.cast(image, tf.float32) * (255.0 / peak)
    if size is not None:
        image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def _told(name: str, size: int) -> str:
    return (
        f"Images of {name} are decoded anew in every epoch: kept in memory they would take "
        f"{size / 1e9:.2f} GB (a third of this machine's is {memory() / _PART / 1e9:.1f} GB)."
    )


def _in_memory(readings: Sequence[_Reading]) -> list[tf.data.Dataset]:
    """Decoded examples of several splits, kept in memory.

    One graph reads the files of all: to trace and to start one takes longer than to read a small
    set.
    """
    records = [reading.records for reading in readings if reading.records is not None]
    if len(records) < len(readings):
        return [_filled(reading.examples()) for reading in readings]
    sizes = [reading.size for reading in readings]
    whole = dataclasses.replace(readings[0], size=sum(sizes), records=joined(records))
    examples = _filled(whole.examples())
    begins = itertools.accumulate(sizes, initial=0)
    return [examples.skip(begin).take(size) for begin, size in zip(begins, sizes, strict=False)]


def _filled(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Fills a memory cache at once: an epoch that leaves out its last batch would never fill it."""
    dataset = dataset.cache()
    for _ in dataset.batch(1024):
        pass
    return dataset
