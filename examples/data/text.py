"""Text as bytes: Python's standard library, files, or a set of tensorflow-datasets.

Whole files are held out, so that no line of a training file is tested. As with images, batches
are functions of (seed, epoch) alone.
"""

import dataclasses
import glob
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from examples.core.cli import UsageError
from examples.data import preparing
from examples.data.graphs import AT_A_TIME, ready
from examples.data.splits import choose

VOCABULARY = 256  # bytes
# Of ten files, one is held out for testing and one for validation.
_HELD_OUT = {1: "test", 6: "validation"}


@dataclasses.dataclass(frozen=True)
class TextData:
    """Bytes to learn from, to validate on (perhaps none), and to test on."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    files: int

    def describe(self) -> dict[str, object]:
        """Returns what belongs in a report."""
        parts = ("train", "validation", "test")
        sizes = {f"{part}_bytes": len(getattr(self, part)) for part in parts}
        return {"name": self.name, "files": self.files, **sizes}


def load_text(
    *, patterns: Sequence[str], dataset: str | None, data_dir: str | None, max_bytes: int
) -> TextData:
    """Reads text.

    Args:
        patterns: files, or glob patterns for files; empty for the standard library's sources.
        dataset: a set of tensorflow-datasets with a text feature, or `None`.
        data_dir: where prepared sets lie.
        max_bytes: how much to use, at most, for training; a ninth of it for validation, and as much
            for testing. 0: all.

    Raises:
        UsageError: there are no such files, or too few; or no such set.
    """
    if dataset:
        return _from_tfds(dataset, data_dir, max_bytes)
    if patterns:
        found = (glob.glob(pattern, recursive=True) for pattern in patterns)
        paths = sorted({Path(path) for paths in found for path in paths})
        name = " ".join(patterns)
    else:
        root = Path(sysconfig.get_path("stdlib"))
        paths = sorted([*root.glob("*.py"), *root.glob("[a-z]*/*.py")])
        paths = [p for p in paths if not {"site-packages", "test"} & set(p.parts)]
        name = f"the standard library of Python {sysconfig.get_python_version()}"
    paths = [path for path in paths if path.is_file()]
    if len(paths) < 2:
        raise UsageError(
            f"--text={','.join(patterns)} names {len(paths)} files; expected 2 or more, for whole "
            "files are held out"
        )
    parts: dict[str, list[bytes]] = {"train": [], "validation": [], "test": []}
    for number, path in enumerate(paths):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        parts[_HELD_OUT.get(number % 10, "train")].append(content)
    joined = {part: _joined(contents) for part, contents in parts.items()}
    return _cut(TextData(name, files=len(paths), **joined), max_bytes)


def train_batches(
    text: np.ndarray,
    *,
    length: int,
    batch_size: int,
    steps: int,
    first_epoch: int,
    epochs: int,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Returns the batches of the epochs `first_epoch`, ..., `epochs - 1`, one after the other.

    The first of them begins with its batch number `first_step`. An epoch cuts the text into pieces
    of `length + 1` bytes, from an offset of its own, and takes them in an order of its own. Inputs
    and labels have shape `(batch_size, length)`.
    """
    table = tf.constant(text)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.random.experimental.stateless_fold_in(
            tf.constant([seed, 0], tf.int32), epoch
        )
        seeds = tf.random.experimental.stateless_split(epoch_seed, 2)
        offset = tf.random.stateless_uniform([], seeds[0], 0, length, tf.int64)
        pieces = (tf.size(table, tf.int64) - offset - 1) // length
        starts = offset + length * tf.random.experimental.stateless_shuffle(
            tf.range(pieces), seeds[1]
        )
        batches = tf.data.Dataset.from_tensor_slices(starts)
        return (
            batches.batch(batch_size, drop_remainder=True)
            .take(steps)
            .skip(tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0))
            .map(lambda starts: _pieces(table, starts, length), num_parallel_calls=AT_A_TIME)
        )

    return ready(tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch))


def number_of_pieces(text: np.ndarray, length: int) -> int:
    """Returns how many training examples every epoch has, whatever its offset."""
    return max(0, (len(text) - 1 - (length - 1)) // length)


def test_batches(text: np.ndarray, *, length: int, batch_size: int) -> tf.data.Dataset:
    """Returns the test text in order; an incomplete piece at its end is left out."""
    table = tf.constant(text)
    starts = tf.range(0, len(text) - length, length, tf.int64)
    batches = tf.data.Dataset.from_tensor_slices(starts).batch(batch_size)
    return ready(batches.map(lambda starts: _pieces(table, starts, length)).cache())


def _pieces(table: tf.Tensor, starts: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    found = tf.gather(table, starts[:, tf.newaxis] + tf.range(length + 1, dtype=tf.int64))
    found = tf.ensure_shape(tf.cast(found, tf.int32), (starts.shape[0], length + 1))
    return found[:, :-1], found[:, 1:]


def _from_tfds(name: str, data_dir: str | None, max_bytes: int) -> TextData:
    builder = preparing.prepared(name, data_dir, _text_keys)
    keys = _text_keys(builder.info)
    key = "text" if "text" in keys else keys[0]
    splits = choose(builder.info.name, preparing.available_splits(builder.info))

    files = 0

    def read(split: str, limit: int) -> np.ndarray:
        nonlocal files
        parts, size = [], 0
        for example in builder.as_dataset(split=split, shuffle_files=False):
            parts.append(example[key].numpy())
            size += len(parts[-1])
            if limit and size >= limit:
                break
        files += len(parts)
        return _joined(parts)

    train = read(splits.train, max_bytes)
    validation = read(splits.validation or splits.test, max_bytes // 9)
    test = read(splits.test, max_bytes // 9)
    return _cut(TextData(builder.info.full_name, train, validation, test, files), max_bytes)


def _text_keys(info: tfds.core.DatasetInfo) -> list[str]:
    """Returns the features that are text."""
    found = info.features.items()
    keys = [key for key, feature in found if isinstance(feature, tfds.features.Text)]
    if not keys:
        raise UsageError(f"{info.name} has no text among its features: {list(info.features)}")
    return keys


def _joined(parts: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"\n".join(parts), np.uint8)


def _cut(text: TextData, max_bytes: int) -> TextData:
    if not max_bytes:
        return text
    held_out = max(1, max_bytes // 9)
    return dataclasses.replace(
        text,
        train=text.train[:max_bytes],
        validation=text.validation[:held_out],
        test=text.test[:held_out],
    )
