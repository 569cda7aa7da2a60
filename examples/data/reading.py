"""Large sets: encoded examples, read from their files in an order that (seed, pass) decides.

In each pass the files are put into an order of its own, laid end to end, and cut into equal parts
for a number of readers. Each reader shuffles the encoded examples of its part in a buffer of its
own; a batch takes as many from each. The number of readers depends on the data and on the batch,
not on the machines: several workers take some of the readers each, so that nobody reads what
another decodes, and all of them together see the very batches that one alone would see.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from examples.core.cli import UsageError

# Number of a file, place in it, and the encoded example.
Record: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]

ENDS_EARLY = "ends early:"  # of a file, in an error

_READERS = 64  # at most
_SHARE = 8  # examples that a reader gives to a batch, at least
# Bytes read of a file at a time, as TensorFlow does by default. tensorflow-datasets' 8 MB for each
# reader fit into no processor's cache, so that each example would be copied from memory.
_READ = 256 << 10
_BUFFERS = 512 << 20  # bytes of encoded examples to shuffle among, of all readers together


@dataclasses.dataclass(frozen=True)
class Records:
    """Encoded examples in files.

    Attributes:
        names: of the files.
        skips: examples at the start of each file that do not belong here.
        takes: examples of each that do.
        open: function that opens a file as a dataset of encoded examples.
        average_bytes: of an encoded example, on average.
    """

    names: tuple[str, ...]
    skips: tuple[int, ...]
    takes: tuple[int, ...]
    open: Callable[[tf.Tensor], tf.data.Dataset]
    average_bytes: float

    @property
    def size(self) -> int:
        """Number of examples."""
        return sum(self.takes)

    def first(self, number: int) -> "Records":
        """Returns the first examples only."""
        before = np.cumsum((0, *self.takes))[:-1]
        takes = np.clip(number - before, 0, self.takes)
        kept = np.flatnonzero(takes)
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in kept),
            skips=tuple(self.skips[i] for i in kept),
            takes=tuple(int(takes[i]) for i in kept),
        )

    def check_files(self) -> None:
        """Looks whether all files are there.

        Raises:
            UsageError: some are not.
        """
        folders: dict[str, set[str]] = {}
        missing = []
        for name in self.names:
            folder, _, last = name.rpartition("/")
            if folder not in folders:
                folders[folder] = set(tf.io.gfile.listdir(folder))
            if last not in folders[folder]:
                missing.append(name)
        if missing:
            raise UsageError(
                f"{len(missing)} of {len(self.names)} files of the data set are missing: "
                f"{missing[0]}{' ...' * (len(missing) > 1)}; copy them there, or prepare the set "
                "anew"
            )

    def in_order(self) -> tf.data.Dataset:
        """Returns all examples, as `Record`s."""
        return self._read(np.arange(len(self.names)), self.skips, self.takes)

    def head(self, number: int) -> Iterator[tf.Tensor]:
        """Yields the first encoded examples, without a graph, which takes longer than a few do."""
        for name, skip, take in zip(self.names, self.skips, self.takes, strict=True):
            some = min(number, take)
            yield from self.open(tf.constant(name)).skip(skip).take(some)
            number -= some
            if number <= 0:
                return

    def readers(self, batch_size: int) -> int:
        """Returns the number of readers for batches of a size."""
        most = max(1, min(_READERS, len(self.names), batch_size // _SHARE))
        return next(n for n in range(most, 0, -1) if batch_size % n == 0)

    def batchwise(
        self,
        batch_size: int,
        steps: int,
        first_step: tf.Tensor,
        seed: tf.Tensor,
        readers: range,
    ) -> tf.data.Dataset:
        """Returns what some of the readers read in a pass, batch by batch, as `Record`s.

        Args:
            batch_size: examples in a whole batch.
            steps: batches in the pass.
            first_step: number of the batch to begin with.
            seed: of the pass, two int32.
            readers: those wanted; each gives its equal share of a batch at a time, in turn.
        """  # fmt: skip
        count = self.readers(batch_size)
        share = batch_size // count
        part = self.size // count
        buffer = int(min(part, max(share, _BUFFERS / count / self.average_bytes)))
        seeds = tf.random.experimental.stateless_split(seed, 2)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(self.names)), seeds[0])
        takes = tf.gather(tf.constant(self.takes, tf.int64), order)
        skips = tf.gather(tf.constant(self.skips, tf.int64), order)
        ends = tf.cumsum(takes)

        def read(reader: tf.Tensor) -> tf.data.Dataset:
            # Of this function's graph only: `shuffle` mixes it into its seed.
            tf.random.set_seed(1)
            low = tf.maximum(ends - takes, reader * part)
            high = tf.minimum(ends, (reader + 1) * part)
            some = high > low
            skipped = skips + low - (ends - takes)
            files = (tf.boolean_mask(x, some) for x in (order, skipped, high - low))
            own = tf.random.experimental.stateless_fold_in(seeds[1], reader)
            return (
                self._read(*files)
                .shuffle(
                    buffer,
                    seed=tf.random.stateless_uniform([], own, None, None, tf.int64),
                    reshuffle_each_iteration=False,
                )
                .skip(first_step * share)
                .take((steps - first_step) * share)
            )

        return tf.data.Dataset.range(readers.start, readers.stop).interleave(
            read,
            cycle_length=len(readers),
            block_length=share,
            # More threads than processors would only take turns.
            num_parallel_calls=min(len(readers), 16, max(2, os.cpu_count() or 2)),
            deterministic=True,
        )

    def _read(self, files: Any, skips: Any, takes: Any) -> tf.data.Dataset:
        """Returns the examples of some files; of each, some."""
        names = tf.constant(self.names)

        def one(file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
            # TensorFlow takes a file that was cut off for a shorter one: `decode` refuses this end.
            end = tf.data.Dataset.from_tensors(tf.constant(b""))
            found = self.open(names[file]).skip(skip).concatenate(end).take(take)
            places = tf.data.Dataset.range(skip, skip + take)
            return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(file).repeat(), places, found))

        columns = tuple(tf.cast(x, tf.int64) for x in (files, skips, takes))
        return tf.data.Dataset.from_tensor_slices(columns).flat_map(one)


def joined(parts: Sequence[Records]) -> Records:
    """Returns the examples of several parts of a set, one part after another."""
    return dataclasses.replace(
        parts[0],
        names=tuple(name for part in parts for name in part.names),
        skips=tuple(skip for part in parts for skip in part.skips),
        takes=tuple(take for part in parts for take in part.takes),
    )


def records_of(info: tfds.core.DatasetInfo, split: str) -> Records:
    """Returns the encoded examples of a split."""
    found = info.splits[split]
    whole = [one for one in info.splits.values() if one.num_examples]
    adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[info.file_format]
    return Records(
        names=tuple(str(one.filename) for one in found.file_instructions),
        skips=tuple(int(one.skip) for one in found.file_instructions),
        takes=tuple(int(one.take) for one in found.file_instructions),
        open=partial(adapter.make_tf_data, buffer_size=_READ),
        average_bytes=max(
            1.0, sum(one.num_bytes for one in whole) / sum(one.num_examples for one in whole)
        ),
    )
