"""Classification of sentences as a task of `training`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from examples.core.run_state import Progress
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import sentences, tokens
from examples.tasks import confusion
from examples.tasks.image_task import ImageSettings
from examples.tasks.sentences import SentenceSettings, SentenceTask, asked, length_for, sizes


class ClassificationTask(SentenceTask):
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
        confusion.draw(model, self.test_batches(), self.classes, directory)
        self.keep_pieces(directory)

    def _shown(self, part: str) -> Callable[..., Any]:
        return _wide


def _wide(batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    texts, labels = batch
    return tf.cast(texts, tf.int32), labels
