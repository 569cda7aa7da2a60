"""Language modelling as a task of `training`: data, metrics, and a sample of text."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from examples.core.cli import UsageError
from examples.core.files import write_atomic
from examples.core.run_state import Progress
from examples.data import text

FLAGS = flags.FLAGS


class TextTask:
    """Bytes, and a model of the next one.

    Args:
        build: function `(vocabulary, length)` that returns a model of logits.
        dataset: string, a text set of tensorflow-datasets, or `None` for files.
    """

    def __init__(self, build: Callable[[int, int], keras.Model], dataset: str | None):
        self._build = build
        self.text = text.load_text(
            patterns=FLAGS.text,
            dataset=dataset,
            data_dir=FLAGS.data_dir,
            max_bytes=FLAGS.max_bytes,
        )
        self.length = FLAGS.sequence_length
        self.train_size = text.number_of_pieces(self.text.train, self.length)
        if FLAGS.limit_examples:
            self.train_size = min(self.train_size, FLAGS.limit_examples)
        if len(self.text.test) <= self.length:
            raise UsageError(
                f"--sequence_length={self.length} is more than the {len(self.text.test)} bytes "
                "that are held out for testing"
            )

    def show(self) -> None:
        print(
            f"{self.text.name}: {len(self.text.train):,} bytes to learn from, "
            f"{len(self.text.test):,} held out, of {self.text.files} files",
            flush=True,
        )

    def describe(self) -> dict[str, Any]:
        return self.text.describe()

    def make_model(self) -> keras.Model:
        return self._build(text.VOCABULARY, self.length)

    def make_metrics(self) -> list[keras.metrics.Metric]:
        return [
            # The loss may hold penalties; this is the data's part of it, in nats.
            keras.metrics.SparseCategoricalCrossentropy(name="nats", from_logits=True),
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        ]

    def train_batches(self, *, steps: int, first_epoch: int) -> tf.data.Dataset:
        return text.train_batches(
            self.text.train,
            length=self.length,
            batch_size=FLAGS.batch_size,
            steps=steps,
            first_epoch=first_epoch,
            epochs=FLAGS.epochs,
            seed=FLAGS.seed,
        )

    def test_batches(self) -> tf.data.Dataset:
        size = max(1, FLAGS.eval_batch_size // 8)
        return text.test_batches(self.text.test, length=self.length, batch_size=size)

    def results(self, progress: Progress) -> dict[str, Any]:
        last = progress.rows[-1]
        return {
            "final_test_bits_per_byte": last["val_nats"] / math.log(2),
            "final_test_accuracy": last["val_accuracy"],
            "final_test_loss": last["val_loss"],
            "final_loss": last["loss"],
        }

    def tell(self, metrics: dict[str, Any]) -> str:
        return (
            f"test {metrics['final_test_bits_per_byte']:.3f} bits per byte, next byte right "
            f"{metrics['final_test_accuracy']:.1%}"
        )

    def finish(self, model: keras.Model, directory: Path) -> None:
        sample = generate(
            model, FLAGS.prompt, FLAGS.sample_bytes, self.length, FLAGS.temperature, FLAGS.seed
        )
        print(f"A sample, after {FLAGS.prompt!r} ({directory / 'sample.txt'}):\n{sample}")
        write_atomic(directory / "sample.txt", (sample + "\n").encode())


def generate(
    model: keras.Model, prompt: str, count: int, length: int, temperature: float, seed: int
) -> str:
    """Continues a text, byte by byte, each drawn from the model's distribution.

    Args:
        model: logits of the next byte for each place, `(1, length, 256)`.
        prompt: what to continue; empty for a line break.
        count: number of bytes to add.
        length: of the model's context; only the last `length` bytes are seen.
        temperature: logits are divided by it; 0 takes the likeliest byte.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    tokens = list(prompt.encode() or b"\n")

    @tf.function(reduce_retracing=True)
    def logits_at(window, place):
        return model(window, training=False)[0, place]

    for _ in range(count):
        seen = tokens[-length:]
        window = np.zeros((1, length), np.int32)
        window[0, : len(seen)] = seen  # What follows is not seen: the model is causal.
        logits = np.asarray(logits_at(window, tf.constant(len(seen) - 1)), np.float64)
        if temperature:
            weights = np.exp((logits - logits.max()) / temperature)
            tokens.append(int(random.choice(len(weights), p=weights / weights.sum())))
        else:
            tokens.append(int(logits.argmax()))
    return bytes(tokens).decode(errors="replace")
