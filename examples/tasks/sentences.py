"""What the tasks of sentences share: their flags, and their texts as numbers."""

import dataclasses
from collections.abc import Sequence

from examples.core.cli import UsageError
from examples.core.settings import setting
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import tokens
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
