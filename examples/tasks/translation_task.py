"""Translation as a task of `training`: data, metrics, and translations of the test set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples.core.files import write_atomic
from examples.core.run_state import Progress
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import sentences, tokens
from examples.models.blocks import Size
from examples.models.text_codes import PAD
from examples.models.transformer import keras_hub
from examples.tasks import next_token
from examples.tasks.image_task import ImageSettings
from examples.tasks.sentences import SentenceSettings, SentenceTask, asked, length_for, sizes

_SHOWN = 5
_AT_ONCE = 128  # texts, when translating


class TranslationTask(SentenceTask):
    """Texts with translations, and a model for them.

    Args:
        build: function `(vocabulary, source length, target length)` that returns a model of logits.
        size: of the model.
        settings: how sentences become numbers.
        images: which set, and which of its splits.
        training: hyperparameters.
        how: where data sets lie.
    """

    def __init__(
        self,
        build: Callable[[int, int, int], keras.Model],
        size: Size,
        settings: SentenceSettings,
        images: ImageSettings,
        training: TrainingSettings,
        how: RunSettings,
    ):
        self._build = build
        self._size = size
        self._settings = settings
        self._training = training
        self._eval_batch_size = images.eval_batch_size
        self.data = sentences.translated(asked(images, training, how), swap=settings.swap)
        train = self.data.parts["train"]
        made_here = self.data.splits is None
        kind = settings.tokenizer or ("bytes" if made_here else "pieces")
        both = [text for pair in zip(train.texts, train.answers, strict=True) for text in pair]
        self.tokens = tokens.learn(kind, both, settings.vocabulary_size)
        self.source_length = length_for(settings, self.tokens, train.texts)
        self.target_length = length_for(settings, self.tokens, train.answers)
        self._parts = {
            name: (
                self.tokens.encode(part.texts, self.source_length),
                self.tokens.encode(part.answers, self.target_length),
            )
            for name, part in self.data.parts.items()
        }
        self.train_size = len(train.texts)
        self.classes = self.tokens.size
        self.soft_labels = False
        self.selects = next_token.SELECTS
        self._scores: dict[str, float] = {}

    def show(self) -> None:
        print(
            f"{self.data.name}: {sizes(self.data)}; {self.source_length} tokens of "
            f"{self.tokens.size} to {self.target_length}",
            flush=True,
        )

    def describe(self) -> dict[str, Any]:
        return {
            **self.data.describe(),
            "vocabulary": self.tokens.size,
            "source_length": self.source_length,
            "target_length": self.target_length,
        }

    def make_model(self) -> keras.Model:
        return self._build(self.tokens.size, self.source_length, self.target_length - 1)

    def make_metrics(self) -> list[keras.metrics.Metric]:
        return next_token.make_metrics()

    def _shown(self, part: str) -> Callable[..., Any]:
        """From sources and targets to inputs, labels and weights.

        Padding weighs nothing, and tokens so much that a part's mean is that over its tokens; it is
        the same weight in every batch, so that replicas may share a batch as they like.
        """
        targets = self._parts[part][1][:, 1:]
        weight = targets.size / max(1, int(np.count_nonzero(targets != PAD)))

        def shifted(batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[Any, tf.Tensor, tf.Tensor]:
            source, target = (tf.cast(side, tf.int32) for side in batch)
            labels = target[:, 1:]
            weights = weight * tf.cast(labels != PAD, tf.float32)
            return {"source": source, "target": target[:, :-1]}, labels, weights

        return shifted

    def results(self, progress: Progress, test: Mapping[str, float]) -> dict[str, Any]:
        return next_token.results(progress, test) | self._scores

    def tell(self, metrics: dict[str, Any]) -> str:
        return (
            f"test BLEU {100 * metrics['test_bleu']:.1f}, {metrics['test_exact']:.1%} of "
            f"translations right to the letter, perplexity {metrics['final_test_perplexity']:.3f}"
        )

    def finish(self, model: keras.Model, directory: Path) -> None:
        """Translates the test set, and scores what comes out."""
        from examples.models import writing  # imports keras-hub

        translate = writing.translating(model, self._size, beams=self._settings.beams)
        sources = self._parts["test"][0]
        found = []
        for begin in range(0, len(sources), _AT_ONCE):
            some = sources[begin : begin + _AT_ONCE]
            # Always so many: one size is compiled.
            filled = np.pad(some, ((0, _AT_ONCE - len(some)), (0, 0)), mode="edge")
            found += self.tokens.decode(translate(filled)[: len(some)])
        test = self.data.parts["test"]
        self._scores = scores(found, list(test.answers))
        lines = [
            f"{source}\n  = {right}\n  : {here}\n"
            for source, right, here in zip(test.texts, test.answers, found, strict=True)
        ]
        path = directory / "translations.txt"
        write_atomic(path, "".join(lines).encode())
        print(f"Translations of the test set, below what is right, in {path}:")
        print("".join(lines[:_SHOWN]), end="", flush=True)
        self.keep_pieces(directory)


def scores(found: list[str], right: list[str]) -> dict[str, float]:
    """Returns keras-hub's BLEU, 0 to 1, and the part of the texts that is right to the letter."""
    bleu = keras_hub().metrics.Bleu()
    bleu.update_state([[text] for text in right], found)
    exact = [a == b for a, b in zip(found, right, strict=True)]
    return {
        "test_bleu": float(keras.ops.convert_to_numpy(bleu.result())),
        "test_exact": sum(exact) / len(exact),
    }
