"""How much memory there is, and what does not fit into it."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import keras

from examples.core.cli import UsageError

_BYTES = 4  # of a number
_OVER = re.compile(r"RESOURCE_EXHAUSTED|OOM when|out of memory|not enough memory|t allocate memory")


def memory() -> int:
    """Returns the bytes of memory of this machine, or of the part of it that we may use."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        found = min(found, int(text))
    return found


def check_attention(*, batch_size: int, depth: int, heads: int, tokens: int, flag: str) -> None:
    """Refuses texts, or images, whose attention cannot fit: better than to be killed for it.

    The estimate is of the least: each block keeps its scores, one number for each head and each
    pair of tokens, for the way back.

    Args:
        batch_size: texts that this machine trains on at once.
        depth: number of blocks.
        heads: of the attention.
        tokens: of a text.
        flag: which decides about the tokens.

    Raises:
        UsageError: it cannot.
    """
    needed = _BYTES * batch_size * depth * heads * tokens**2
    there = memory()
    if needed > there and not _without_scores():
        raise UsageError(
            f"{flag} means {tokens:,} tokens, whose attention takes {needed / 1e9:,.0f} GB "
            f"(--batch_size={batch_size} x --depth={depth} x --heads={heads} x {tokens:,} x "
            f"{tokens:,} numbers); this machine has {there / 1e9:.0f} GB: make them less"
        )


@contextlib.contextmanager
def told_if_it_ends() -> Iterator[None]:
    """Says in one line that memory has come to its end, in the words of whichever backend.

    Raises:
        UsageError: it has.
    """
    try:
        yield
    except Exception as error:
        told = isinstance(error, MemoryError) or _OVER.search(str(error))
        if not told or "space left" in str(error):  # The latter is a disk.
            raise
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(
            f"out of memory ({first[:120]}); make --batch_size, the model or what it reads less "
            "(with --noresume)"
        ) from error


def _without_scores() -> bool:
    """Whether Keras may use an attention that keeps no scores: on the GPU of JAX or torch."""
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.default_backend() != "cpu")
    if keras.backend.backend() == "torch":
        import torch

        return bool(torch.cuda.is_available())
    return False
