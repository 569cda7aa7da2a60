"""Batches of examples that lie in memory, as functions of (seed, epoch, step) alone."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from examples.data.graphs import AT_A_TIME, ready

# Examples in any structure, the first axis of each array being the example.
Examples: TypeAlias = Any
Prepare: TypeAlias = Callable[[Any], Any]


def train_batches(
    examples: Examples,
    prepare: Prepare,
    *,
    size: int,
    batch_size: int,
    steps: int,
    first_epoch: int,
    first_step: int,
    epochs: int,
    seed: int,
) -> tf.data.Dataset:
    """Returns the batches of all epochs, one after the other, from a step of an epoch on.

    A pass takes each example once, in an order of its own. Epochs that are shorter than a pass go
    on where the one before ended.

    Args:
        examples: all of them.
        prepare: what is made of a batch of them.
        size: how many examples to use.
        batch_size: examples in a batch.
        steps: batches in an epoch, at most `size // batch_size`.
        first_epoch: the epoch to begin with.
        first_step: its step to begin with.
        epochs: number of epochs of the whole run.
        seed: of the order.
    """
    tables = tf.nest.map_structure(tf.constant, examples)
    in_a_pass = size // batch_size
    begin = first_epoch * steps + first_step
    first_pass, done = divmod(begin, in_a_pass)
    passes = -(-epochs * steps // in_a_pass)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        here = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int32), number)
        order = tf.random.experimental.stateless_shuffle(tf.range(size), here)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)
        return batches.skip(tf.where(number == first_pass, tf.constant(done, tf.int64), 0)).map(
            lambda chosen: prepare(
                tf.nest.map_structure(lambda table: tf.gather(table, chosen), tables)
            ),
            num_parallel_calls=AT_A_TIME,
        )

    batches = tf.data.Dataset.range(first_pass, passes).flat_map(one_pass)
    return ready(batches.take(epochs * steps - begin))


def in_order(examples: Examples, prepare: Prepare, batch_size: int) -> tf.data.Dataset:
    """Returns the batches of all examples, in order; the last one may be smaller."""
    batches = tf.data.Dataset.from_tensor_slices(examples).batch(batch_size)
    return ready(batches.map(lambda *parts: prepare(parts)))


def held_out(size: int, parts: int = 10) -> dict[str, np.ndarray]:
    """Splits by a fixed rule: of every ten examples one is for testing, one for validation."""
    number = np.arange(size) % parts
    return {
        "train": np.flatnonzero((number != 1) & (number != 6)),
        "validation": np.flatnonzero(number == 6),
        "test": np.flatnonzero(number == 1),
    }
