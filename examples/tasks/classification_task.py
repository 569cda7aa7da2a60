"""Classification of sentences as a task of `training`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples.core.files import write_atomic
from examples.core.run_state import Progress
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import arrays, sentences, tokens
from examples.experiments import pictures
from examples.tasks.image_task import ImageSettings
from examples.tasks.sentences import SentenceSettings, asked, length_for, sizes


class ClassificationTask:
    """Texts with labels, and a model for them.

    Args:
        build: function `(vocabulary, length, classes)` that returns a model of logits.
        settings: how sentences become numbers.
        images: which set, and which of its splits.
        training: hyperparameters.
        how: where data sets lie.
    """

    def __init__(
        self,
        build: Callable[[int, int, int], keras.Model],
        settings: SentenceSettings,
        images: ImageSettings,
        training: TrainingSettings,
        how: RunSettings,
    ):
        self._build = build
        self._training = training
        self._eval_batch_size = images.eval_batch_size
        self.data = sentences.labelled(asked(images, training, how))
        train = self.data.parts["train"]
        kind = settings.tokenizer or "pieces"
        self.tokens = tokens.learn(kind, train.texts, settings.vocabulary_size)
        self.length = length_for(settings, self.tokens, train.texts)
        self._parts = {
            name: (self.tokens.encode(part.texts, self.length), part.answers)
            for name, part in self.data.parts.items()
        }
        self.train_size = len(train.texts)
        self.classes = len(self.data.classes)
        self.soft_labels = False
        self.selects = ("val_accuracy", False)

    def show(self) -> None:
        print(
            f"{self.data.name}: {sizes(self.data)}; {len(self.data.classes)} classes, "
            f"{self.length} tokens of {self.tokens.size}",
            flush=True,
        )

    def describe(self) -> dict[str, Any]:
        return {
            **self.data.describe(),
            "vocabulary": self.tokens.size,
            "length": self.length,
        }

    def make_model(self) -> keras.Model:
        return self._build(self.tokens.size, self.length, len(self.data.classes))

    def make_metrics(self) -> list[keras.metrics.Metric]:
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def train_batches(
        self, *, steps: int, first_epoch: int, first_step: int = 0
    ) -> tf.data.Dataset:
        return arrays.train_batches(
            self._parts["train"],
            _wide,
            size=self.train_size,
            batch_size=self._training.batch_size,
            steps=steps,
            first_epoch=first_epoch,
            first_step=first_step,
            epochs=self._training.epochs,
            seed=self._training.seed,
        )

    def validation_batches(self) -> tf.data.Dataset | None:
        return self._in_order("validation") if len(self._parts["validation"][1]) else None

    def test_batches(self) -> tf.data.Dataset:
        return self._in_order("test")

    def _in_order(self, part: str) -> tf.data.Dataset:
        return arrays.in_order(self._parts[part], _wide, self._eval_batch_size)

    def results(self, progress: Progress, test: Mapping[str, float]) -> dict[str, Any]:
        return {
            "final_test_accuracy": test["accuracy"],
            "final_test_loss": test["loss"],
            "final_loss": progress.rows[-1]["loss"],
            **progress.best("val_accuracy"),
        }

    def tell(self, metrics: dict[str, Any]) -> str:
        return f"test accuracy {metrics['final_test_accuracy']:.4f}"

    def finish(self, model: keras.Model, directory: Path) -> None:
        counts = np.zeros((len(self.data.classes),) * 2, int)
        for texts, labels in self.test_batches():
            found = np.argmax(model.predict_on_batch(texts.numpy()), axis=-1)
            np.add.at(counts, (labels.numpy(), found), 1)
        path = directory / "confusion.png"
        pictures.confusion_matrix(counts, path)
        print(f"Confusion matrix in {path}")
        if self.tokens.pieces is not None:
            write_atomic(directory / "pieces.spm", self.tokens.pieces)


def _wide(batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    texts, labels = batch
    return tf.cast(texts, tf.int32), labels
