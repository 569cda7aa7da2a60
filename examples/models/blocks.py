"""The blocks that transformers are made of, of Keras' own layers.

A block is written once, for two uses: a model of whole sequences is built of `new` layers; a text
is written position by position with the layers of a trained one (`writing`).
"""

import dataclasses
from typing import Any, Protocol

import keras
from keras import layers, ops

from examples.core.cli import UsageError
from examples.core.settings import setting


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of a transformer.

    Raises:
        UsageError: they do not go together.
    """

    depth: int = setting(
        4, "Blocks (for --task=translation, of encoder and decoder each; default there: 2).", low=1
    )
    width: int = setting(64, "Features of the residual stream.", low=1)
    heads: int = setting(4, "Of the attention.", low=1)
    mlp_ratio: int = setting(4, "Hidden units, in multiples of --width.", low=1)
    dropout: float = setting(0.1, "At the end of every branch.", low=0.0, high=0.99)
    norm: str = setting("layer", "The normalization.", choices=["layer", "rms"])
    norm_position: str = setting(
        "pre",
        "x + f(norm(x)), or norm(x + f(x)); by default pre, but post for --task=classification, "
        "as in BERT.",
        choices=["pre", "post"],
    )

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"--heads={self.heads} must divide --width={self.width}")


class Parts(Protocol):
    """Where a block has its layers from."""

    def layer(self, kind: type[keras.Layer], *args: Any, name: str, **kwargs: Any) -> Any:
        """Returns the layer of that name."""

    def attend(self, size: Size, x: Any, context: Any, *, name: str, **masks: Any) -> Any:
        """Returns what `x` sees of `context`, or of itself if that is `None`."""


class NewParts:
    """Makes each layer anew, for a model of whole sequences."""

    def layer(self, kind: type[keras.Layer], *args: Any, name: str, **kwargs: Any) -> Any:
        return kind(*args, name=name, **kwargs)

    def attend(self, size: Size, x: Any, context: Any, *, name: str, **masks: Any) -> Any:
        layer = layers.MultiHeadAttention(size.heads, size.width // size.heads, name=name)
        return layer(x, x if context is None else context, **masks)


def norm(size: Size, parts: Parts, name: str) -> Any:
    """Returns a normalization of the kind that is asked for."""
    kind = {"layer": layers.LayerNormalization, "rms": layers.RMSNormalization}[size.norm]
    return parts.layer(kind, epsilon=1e-6, name=name)


def blocks(
    size: Size,
    parts: Parts,
    x: Any,
    *,
    name: str = "block",
    final: str = "final_norm",
    causal: bool = False,
    mask: Any = None,
    looks_at: tuple[Any, Any] | None = None,
) -> Any:
    """Returns `x` after `size.depth` blocks, and a last normalization if they are pre-norm.

    Args:
        size: how many, and of what size.
        parts: where the layers come from.
        x: vectors, `(batch, length, width)`.
        name: of the blocks.
        final: name of the last normalization.
        causal: whether a position sees only those before it.
        mask: of what may be seen, `(batch, 1, length)`; `None`: everything.
        looks_at: what a decoder looks at in between, `(batch, its length, width)` or what stands
            for it; and what may be seen of it, `(batch, 1, its length)`.
    """
    for number in range(size.depth):
        here = f"{name}_{number}"
        h = _Branches(size, parts, here)
        x = h.join(x, "attention", None, {"use_causal_mask": causal, "attention_mask": mask})
        if looks_at is not None:
            context, seen = looks_at
            x = h.join(x, "cross", context, {"attention_mask": seen})
        x = h.join(x, "mlp", None, {})
    return norm(size, parts, final)(x) if size.norm_position == "pre" else x


@dataclasses.dataclass(frozen=True)
class _Branches:
    """The residual branches of one block."""

    size: Size
    parts: Parts
    name: str

    def join(self, x: Any, part: str, context: Any, masks: dict[str, Any]) -> Any:
        """Returns `x + f(norm(x))` or `norm(x + f(x))`."""
        scale = norm(self.size, self.parts, f"{self.name}_{part}_norm")
        add = self.parts.layer(layers.Add, name=f"{self.name}_{part}_join")
        if self.size.norm_position == "pre":
            return add([x, self._branch(scale(x), part, context, masks)])
        return scale(add([x, self._branch(x, part, context, masks)]))

    def _branch(self, x: Any, part: str, context: Any, masks: dict[str, Any]) -> Any:
        size, parts, name = self.size, self.parts, f"{self.name}_{part}"
        if part == "mlp":
            hidden = size.width * size.mlp_ratio
            x = parts.layer(layers.Dense, hidden, activation="gelu", name=f"{name}_in")(x)
            x = parts.layer(layers.Dense, size.width, name=f"{name}_out")(x)
        else:
            x = parts.attend(size, x, context, name=name, **masks)
        return parts.layer(layers.Dropout, size.dropout, name=f"{name}_dropout")(x)


def embedded(
    size: Size,
    parts: Parts,
    tokens: Any,
    *,
    vocabulary: int,
    length: int,
    name: str = "",
    at: Any = None,
) -> Any:
    """Returns vectors of tokens and their places, `(batch, length, width)`.

    Args:
        size: their width.
        parts: where the layers come from.
        tokens: numbers of shape `(batch, length)`.
        vocabulary: how many tokens there are.
        length: how many places there are.
        name: what the names of the layers begin with.
        at: place of the first token; `None` for 0.
    """
    x = parts.layer(layers.Embedding, vocabulary, size.width, name=f"{name}embedding")(tokens)
    x = x + positions(parts, tokens, length, size.width, name=f"{name}positions", at=at)
    return parts.layer(layers.Dropout, size.dropout, name=f"{name}embedding_dropout")(x)


def positions(
    parts: Parts, like: Any, length: int, width: int, name: str = "positions", at: Any = None
) -> Any:
    """Returns a learnt vector for each place from `at` on; `like` has shape `(batch, length)`.

    The numbers 0, 1, ... are counted from `like`, so that the model is made of Keras' own
    layers and operations, and loads without this file.
    """
    numbers = ops.cumsum(ops.ones_like(like, dtype="int32"), axis=1) - 1
    if at is not None:
        numbers = numbers + at
    return parts.layer(layers.Embedding, length, width, name=name)(numbers)


def logits(parts: Parts, classes: int) -> Any:
    # In 32 bits also under mixed precision: the loss is computed from them.
    return parts.layer(layers.Dense, classes, dtype="float32", name="logits")
