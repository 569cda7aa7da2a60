"""Texts as numbers, and back: bytes, or pieces of words learnt on the spot; keras-hub's tokenizers.

Whatever the kind, `PAD`, `START` and `END` (examples/models/text_codes.py) are the same numbers.
"""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from examples.core.cli import UsageError
from examples.models.text_codes import END, PAD, START
from examples.models.transformer import keras_hub

KINDS = ("bytes", "pieces")
_AT_ONCE = 4096
_LEARNT_FROM = 200_000  # texts


class Tokens:
    """How texts become numbers.

    Args:
        pieces: SentencePiece's model, as `learn` makes it; `None` for bytes.
    """

    def __init__(self, pieces: bytes | None = None):
        self.pieces = pieces
        tokenizers = keras_hub().tokenizers
        if pieces is None:
            self._tokenizer: Any = tokenizers.ByteTokenizer(lowercase=False)
            self.size = 256
        else:
            self._tokenizer = tokenizers.SentencePieceTokenizer(pieces)
            self.size = self._tokenizer.vocabulary_size()

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Returns `(texts, length)`: START, the text, END, then PAD; longer texts are cut."""
        found = np.full((len(texts), length), PAD, np.uint16)
        for row, tokens in zip(found, self._rows(texts), strict=True):
            cut = [START, *tokens[: length - 2], END]
            row[: len(cut)] = cut
        return found

    def length_of(self, texts: Sequence[str]) -> int:
        """Returns the length that no text exceeds, with its START and END."""
        return max(map(len, self._rows(texts)), default=0) + 2

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Returns the texts of the tokens before END or PAD."""
        texts = []
        for row in tokens.astype(np.int32):
            stop = np.flatnonzero((row == END) | (row == PAD))
            row = row[: stop[0]] if len(stop) else row
            text = self._tokenizer.detokenize(row[row != START].tolist())
            text = text.numpy() if hasattr(text, "numpy") else text
            texts.append(text.decode(errors="replace") if isinstance(text, bytes) else str(text))
        return texts

    def _rows(self, texts: Sequence[str]) -> Iterator[list[int]]:
        for begin in range(0, len(texts), _AT_ONCE):
            found = self._tokenizer(list(texts[begin : begin + _AT_ONCE]))
            yield from found.to_list() if isinstance(found, tf.RaggedTensor) else found


def learn(kind: str, texts: Sequence[str], size: int) -> Tokens:
    """Learns a vocabulary.

    Args:
        kind: one of `KINDS`.
        texts: to learn from.
        size: number of tokens; bytes have 256.

    Raises:
        UsageError: the texts have not so many.
    """
    if kind == "bytes":
        return Tokens()
    with contextlib.suppress(ImportError, AttributeError):  # says nothing of each of its rounds
        importlib.import_module("sentencepiece").set_min_log_level(2)
    dataset = tf.data.Dataset.from_tensor_slices(list(texts[:_LEARNT_FROM]))
    try:
        pieces = keras_hub().tokenizers.compute_sentence_piece_proto(dataset, size)
    except (RuntimeError, ValueError) as error:
        why = str(error).strip().rpartition("] ")[2]
        raise UsageError(f"--vocabulary_size={size} does not fit these texts: {why}") from error
    return Tokens(pieces)
