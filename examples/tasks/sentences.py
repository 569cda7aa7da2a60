"""What the tasks of sentences share: their flags, their texts as numbers, and their batches."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from examples.core.cli import UsageError
from examples.core.files import write_atomic
from examples.core.settings import setting
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import arrays, tokens
from examples.data.sentences import Asked, Sentences
from examples.data.tokens import Tokens
from examples.tasks.image_task import ImageSettings

_LONGEST = 128


@dataclasses.dataclass(frozen=True)
class SentenceSettings:
    """How sentences become numbers, and how translations are written."""

    tokenizer: str = setting(
        None,
        "Bytes, or pieces of words that SentencePiece learns from the training set; default: "
        "pieces, but bytes for the dates that --task=translation makes on the spot.",
        choices=list(tokens.KINDS),
    )
    vocabulary_size: int = setting(2000, "Number of pieces.", low=8, high=2**16)
    max_tokens: int = setting(
        0, f"Longer texts are cut; 0: the longest text's, at most {_LONGEST}.", low=0
    )
    swap: bool = setting(False, "Translate the other way.")
    beams: int = setting(4, "Of beam search; 1: the likeliest token each time.", low=1)


def asked(images: ImageSettings, training: TrainingSettings, how: RunSettings) -> Asked:
    """Returns which set and splits the flags ask for."""
    return Asked(
        images.dataset,
        how.data_dir,
        images.train_split,
        images.validation_split,
        images.test_split,
        training.limit_examples,
    )


def length_for(settings: SentenceSettings, vocabulary: Tokens, texts: Sequence[str]) -> int:
    """Returns to how many tokens texts are filled up, or cut."""
    if settings.max_tokens in (1, 2):
        raise UsageError(
            f"--max_tokens={settings.max_tokens} leaves no room: a text has a start and an end, too"
        )
    return settings.max_tokens or min(_LONGEST, vocabulary.length_of(texts))


def sizes(data: Sentences) -> str:
    size = {name: len(part.texts) for name, part in data.parts.items()}
    return (
        f"{size['train']:,} texts to learn from, {size['validation']:,} to validate on, "
        f"{size['test']:,} to test on"
    )


class SentenceTask(ABC):
    """The batches of a task of sentences; a subclass sets the attributes when it is made."""

    tokens: Tokens
    train_size: int
    _training: TrainingSettings
    _eval_batch_size: int
    _parts: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> texts, and what is asked for

    @abstractmethod
    def _shown(self, part: str) -> Callable[..., Any]:
        """Returns the function from a batch of a part to what the model is trained on."""

    def train_batches(
        self, *, steps: int, first_epoch: int, first_step: int = 0
    ) -> tf.data.Dataset:
        return arrays.train_batches(
            self._parts["train"],
            self._shown("train"),
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
        return arrays.in_order(self._parts[part], self._shown(part), self._eval_batch_size)

    def keep_pieces(self, directory: Path) -> None:
        """Writes the pieces that were learned, if any, beside the model."""
        if self.tokens.pieces is not None:
            write_atomic(directory / "pieces.spm", self.tokens.pieces)
