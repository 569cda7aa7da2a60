"""Batches of images: functions of (seed, epoch, step) alone.

There is no state that a killed process could lose: training resumed at step 5 of epoch 7 sees the
batches that an uninterrupted one would have seen.
"""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from examples.data.graphs import AT_A_TIME, ready, unconverted
from examples.data.loading import ImageData

# Images and labels of a batch, and a seed for whatever is drawn.
Augmentation: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# An image and a label, or batches of them.
_Pair: TypeAlias = tuple[tf.Tensor, tf.Tensor]

_SMALL = 256 << 20  # bytes of decoded images, to keep for evaluation


@unconverted
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
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    """Returns the batches of the epochs `first_epoch`, ..., `epochs - 1`, one after the other.

    Each epoch has exactly `steps` batches of exactly `batch_size` examples. Epochs that are shorter
    than a pass over the data go on where the one before ended, so that all of it is seen. Images
    are bytes, 0..255, unless `augment` makes floats of the same range of them.

    Args:
        data: the data set.
        batch_size: examples in a batch, of all workers together.
        steps: batches in an epoch, at most `train_size // batch_size`.
        first_epoch: the epoch to begin with (not 0 when a run is resumed).
        epochs: the number of epochs of the whole run.
        seed: of shuffling and augmentation.
        shift: images are moved by up to this many pixels, up or down and left or right.
        flip: whether to mirror every other image, left to right.
        augment: function `(images, labels, seed)` that returns images and labels, after cropping,
            moving and mirroring; `seed` (two int32) is a function of (seed, epoch, step), and
            whatever is drawn must be drawn from it alone. Runs in a graph of tf.data's. Of a
            streamed set it sees a batch in equal parts, of at least 8 examples each, as its readers
            bring them.
        first_step: step of `first_epoch` to begin with (not 0 when a run is resumed within it).
        shuffle_buffer: number of examples among which the next one is drawn; streamed sets have
            buffers of their own (`reading`).
        worker: number of the worker that the batches are for.
        workers: number of workers that read together (see `can_share`); each gets its rows of the
            batches, and reads no others.
    """
    base_seed = tf.constant([seed, 0], tf.int32)
    in_a_pass = data.train_size // batch_size
    begin = first_epoch * steps + first_step
    first_pass, done = divmod(begin, in_a_pass)
    passes = -(-epochs * steps // in_a_pass)

    streamed = data.records is not None  # Then images are mirrored one by one.

    def changed(images: tf.Tensor, labels: tf.Tensor, batch_seed: tf.Tensor) -> _Pair:
        images = _augment(images, batch_seed, shift, flip and not streamed)
        if augment is None:
            return images, labels
        return augment(images, labels, tf.random.experimental.stateless_fold_in(batch_seed, 1))

    further = changed if shift or augment or (flip and not streamed) else None

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        pass_seed = tf.random.experimental.stateless_fold_in(base_seed, number)
        first = tf.where(number == first_pass, tf.constant(done, tf.int64), 0)
        if data.records is None:
            return _whole(data, batch_size, first, pass_seed, further, shuffle_buffer)
        count = data.records.readers(batch_size)
        mine = range(worker * count // workers, (worker + 1) * count // workers)
        return _streamed(data, batch_size, in_a_pass, first, pass_seed, flip, further, mine)

    batches = tf.data.Dataset.range(first_pass, passes).flat_map(one_pass)
    return ready(batches.take(epochs * steps - begin))


def can_share(data: ImageData, batch_size: int, workers: int) -> bool:
    """Whether so many workers can read a part of the data each; else each reads all of it."""
    return data.records is not None and data.records.readers(batch_size) % workers == 0


def test_batches(data: ImageData, batch_size: int) -> tf.data.Dataset:
    """Returns the whole test set, in order."""
    return _in_order(data, data.test, data.test_size, batch_size)


def validation_batches(data: ImageData, batch_size: int) -> tf.data.Dataset | None:
    """Returns all that is to validate on, in order; `None` if that is nothing."""
    if data.validation is None:
        return None
    return _in_order(data, data.validation, data.validation_size, batch_size)


def _in_order(
    data: ImageData, examples: tf.data.Dataset, size: int, batch_size: int
) -> tf.data.Dataset:
    batches = examples.batch(batch_size)
    small = size * data.image_bytes <= _SMALL
    return ready(batches.cache() if small else batches)


def _whole(
    data: ImageData,
    batch_size: int,
    first: tf.Tensor,
    seed: tf.Tensor,
    changed: Augmentation | None,
    buffer: int,
) -> tf.data.Dataset:
    """A pass over decoded images, each worker over all of them."""
    # Of this function's graph only. `shuffle` mixes it into its seed, and with 0, which a user
    # may have chosen, does not take a tensor for a seed.
    tf.random.set_seed(1)
    batches = data.train.shuffle(
        min(data.train_size, buffer),
        seed=tf.random.stateless_uniform([], seed, None, None, tf.int64),
        reshuffle_each_iteration=False,
    ).batch(batch_size, drop_remainder=True)
    if changed is None:
        return batches.skip(first)

    def prepared(step: tf.Tensor, pair: _Pair) -> _Pair:
        return changed(*pair, tf.random.experimental.stateless_fold_in(seed, step))

    return batches.enumerate().skip(first).map(prepared, num_parallel_calls=AT_A_TIME)


def _streamed(
    data: ImageData,
    batch_size: int,
    steps: int,
    first: tf.Tensor,
    seed: tf.Tensor,
    flip: bool,
    changed: Augmentation | None,
    readers: range,
) -> tf.data.Dataset:
    """A pass over encoded images, by some of the readers; each gives its share of each batch.

    A batch of large images is copied as seldom as can be: each time costs a tenth of decoding it.
    """
    assert data.records is not None
    share = batch_size // data.records.readers(batch_size)
    rows = share * len(readers)
    fold = tf.random.experimental.stateless_fold_in
    seeds = tf.random.experimental.stateless_split(seed, 3)
    # `stateless_fold_in(seeds[1], n)` is this number and n: drawn once, and not for each example.
    drawn = tf.random.stateless_uniform([], seeds[1], None, None, tf.int64)

    def decoded(number: tf.Tensor, record: tuple[tf.Tensor, ...]) -> _Pair:
        # Which example of the pass this is, however many workers there are.
        place = first * batch_size + number
        if rows != batch_size:
            step, row = first + number // rows, readers.start * share + number % rows
            place = step * batch_size + row
        image, label = data.decode(record, tf.stack([drawn, place]))
        if flip:
            turn = tf.random.stateless_uniform([], tf.stack([place, drawn])) < 0.5
            image = tf.cond(turn, lambda: tf.reverse(image, [1]), lambda: image)
        return image, label

    examples = (
        data.records.batchwise(batch_size, steps, first, seeds[0], readers)
        .enumerate()
        .map(decoded, num_parallel_calls=AT_A_TIME)
    )
    if changed is None:
        return examples.batch(rows, drop_remainder=True)

    def prepared(number: tf.Tensor, pair: _Pair) -> _Pair:
        step, reader = first + number // len(readers), readers.start + number % len(readers)
        return changed(*pair, fold(fold(seeds[2], step), reader))

    def joined(*pair: tf.Tensor) -> _Pair:
        images, labels = (tf.reshape(part, (rows, *part.shape[2:])) for part in pair)
        return images, labels

    return (
        examples.batch(share, drop_remainder=True)
        .enumerate()
        .map(prepared, num_parallel_calls=AT_A_TIME)
        .batch(len(readers), drop_remainder=True)
        .map(joined)
    )


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
        mirrored = tf.random.stateless_uniform([batch], seeds[2]) < 0.5
        # TensorFlow has fast kernels for turning rows of pixels, and for choosing whole images.
        rows = tf.reshape(images, (-1, *images.shape[2:]))
        turned = tf.reshape(tf.reverse(rows, [1]), images.shape)
        images = tf.raw_ops.Select(condition=mirrored, x=turned, y=images)
    return images
