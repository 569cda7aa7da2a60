"""Language modelling as a task of `training`: data, metrics, and a sample of text."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples.core.cli import UsageError
from examples.core.files import write_atomic
from examples.core.run_state import Progress
from examples.core.settings import setting
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import text
from examples.models.blocks import Size
from examples.tasks import next_token


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """Which text, and the sample of it."""

    text: tuple[str, ...] = setting(
        (),
        "Files or glob patterns to learn from (lm); default: the sources of Python's standard "
        "library, or the set of --dataset.",
    )
    max_bytes: int = setting(1_000_000, "Bytes to learn from, at most; 0: all.", low=0)
    sequence_length: int = setting(128, "Bytes in an example.", low=2)
    prompt: str = setting("def ", "What the sample of text begins with.", empty=True)
    sample_bytes: int = setting(400, "Length of the sample.", low=0)
    temperature: float = setting(0.7, "Of the sample; 0: the likeliest byte.", low=0.0)


class TextTask:
    """Bytes, and a model of the next one.

    Args:
        build: function `(vocabulary, length)` that returns a model of logits.
        size: of the model.
        settings: which text, and the sample of it.
        training: hyperparameters.
        how: where data sets lie.
        dataset: a text set of tensorflow-datasets, or `None` for files.
        eval_batch_size: examples in a test batch of images; texts are longer.
    """

    def __init__(
        self,
        build: Callable[[int, int], keras.Model],
        size: Size,
        settings: TextSettings,
        training: TrainingSettings,
        how: RunSettings,
        dataset: str | None,
        eval_batch_size: int,
    ):
        self._build = build
        self._size = size
        self._settings = settings
        self._training = training
        self._eval_batch_size = eval_batch_size
        self.text = text.load_text(
            patterns=settings.text,
            dataset=dataset,
            data_dir=how.data_dir,
            max_bytes=settings.max_bytes,
        )
        self.length = settings.sequence_length
        self.classes = text.VOCABULARY
        self.soft_labels = False
        self.selects = next_token.SELECTS
        self.train_size = text.number_of_pieces(self.text.train, self.length)
        if training.limit_examples:
            self.train_size = min(self.train_size, training.limit_examples)
        if len(self.text.test) <= self.length:
            raise UsageError(
                f"--sequence_length={self.length} is more than the {len(self.text.test)} bytes "
                "that are held out for testing"
            )

    def show(self) -> None:
        print(
            f"{self.text.name}: {len(self.text.train):,} bytes to learn from, "
            f"{len(self.text.validation):,} to validate on, {len(self.text.test):,} to test on, of "
            f"{self.text.files} files",
            flush=True,
        )

    def describe(self) -> dict[str, Any]:
        return self.text.describe()

    def make_model(self) -> keras.Model:
        return self._build(text.VOCABULARY, self.length)

    def make_metrics(self) -> list[keras.metrics.Metric]:
        return next_token.make_metrics()

    def train_batches(
        self, *, steps: int, first_epoch: int, first_step: int = 0
    ) -> tf.data.Dataset:
        return text.train_batches(
            self.text.train,
            length=self.length,
            batch_size=self._training.batch_size,
            steps=steps,
            first_epoch=first_epoch,
            first_step=first_step,
            epochs=self._training.epochs,
            seed=self._training.seed,
        )

    def validation_batches(self) -> tf.data.Dataset | None:
        held_out = self.text.validation
        return self._in_order(held_out) if len(held_out) > self.length else None

    def test_batches(self) -> tf.data.Dataset:
        return self._in_order(self.text.test)

    def _in_order(self, content: np.ndarray) -> tf.data.Dataset:
        size = max(1, self._eval_batch_size // 8)
        return text.test_batches(content, length=self.length, batch_size=size)

    def results(self, progress: Progress, test: Mapping[str, float]) -> dict[str, Any]:
        return {
            "final_test_bits_per_byte": test["nats"] / math.log(2),
            **next_token.results(progress, test),
        }

    def tell(self, metrics: dict[str, Any]) -> str:
        return (
            f"test {metrics['final_test_bits_per_byte']:.3f} bits per byte, next byte right "
            f"{metrics['final_test_accuracy']:.1%}"
        )

    def finish(self, model: keras.Model, directory: Path) -> None:
        settings = self._settings
        sample = generate(
            model,
            self._size,
            settings.prompt,
            settings.sample_bytes,
            settings.temperature,
            self._training.seed,
        )
        print(f"A sample, after {settings.prompt!r} ({directory / 'sample.txt'}):\n{sample}")
        write_atomic(directory / "sample.txt", (sample + "\n").encode())


def generate(
    model: keras.Model, size: Size, prompt: str, count: int, temperature: float, seed: int
) -> str:
    """Continues a text by so many bytes, each drawn from the model's distribution.

    See `writing.continued`. An empty prompt counts as a line break.
    """
    from examples.models import writing  # imports keras-hub

    given = list(prompt.encode() or b"\n")
    found = writing.continued(model, size, given, count, temperature=temperature, seed=seed)
    return bytes(found).decode(errors="replace")
