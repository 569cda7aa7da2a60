"""Transformers of Keras' own layers, and of keras-hub's backbones.

| name | what |
| --- | --- |
| `vit` | vision transformer (Dosovitskiy et al., arXiv:2010.11929), with average pooling |
| `gpt` | decoder-only language model (Radford et al., 2019) |
| `bert` | encoder of text with a class token (Devlin et al., arXiv:1810.04805) |
| `seq2seq` | encoder and decoder (Vaswani et al., arXiv:1706.03762) |
| `keras_hub_vit`, `keras_hub_gpt2`, `keras_hub_llama` | keras-hub's backbones, of the same sizes |

In a pre-norm block, `x + f(norm(x))`, the γ are `residual_last`, and the last norm is `trunk`; in
a post-norm block, `norm(x + f(x))`, every γ is `trunk`. A pre-norm cross-attention normalizes its
queries alone, which act through the softmax only: its γ is `other`.
"""

import dataclasses
import difflib
import types
from typing import Any

import keras
from keras import layers, ops

from examples.core.cli import UsageError
from examples.core.settings import setting
from examples.models.blocks import NewParts, Parts, Size, blocks, embedded, logits, positions
from examples.models.inputs import image_input
from examples.models.text_codes import PAD

__all__ = ["Size"]

MODELS = {
    "vision": ("vit", "keras_hub_vit"),
    "lm": ("gpt", "keras_hub_gpt2", "keras_hub_llama"),
    "classification": ("bert",),
    "translation": ("seq2seq",),
}


@dataclasses.dataclass(frozen=True)
class TransformerSettings:
    """Which transformer."""

    model: str = setting(
        None,
        "vision: vit (the default) or keras_hub_vit; lm: gpt (the default), keras_hub_gpt2 or "
        "keras_hub_llama; classification: bert; translation: seq2seq.",
    )
    patch_size: int = setting(2, "Side of an image's patches (vision).", low=1)


def check_model_name(name: str, task: str) -> None:
    """Raises `UsageError` if there is no such model for the task."""
    names = MODELS[task]
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown model {name!r} for --task={task}; expected {', '.join(names)}{hint}")


def vision_transformer(
    size: Size, *, image_shape: tuple[int, int, int], num_classes: int, patch_size: int
) -> keras.Model:
    """Returns a classifier of images; its outputs are logits of shape `(batch, num_classes)`."""
    patches, parts = _grid(image_shape, patch_size), NewParts()
    images, x = image_input(image_shape, "images")
    x = layers.Conv2D(size.width, patch_size, strides=patch_size, name="patches")(x)
    x = layers.Reshape((patches, size.width), name="sequence")(x)
    x = x + positions(parts, x[:, :, 0], patches, size.width)
    x = blocks(size, parts, layers.Dropout(size.dropout)(x))
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(images, logits(parts, num_classes)(x), name="vit")


def language_model(size: Size, *, vocabulary: int, length: int) -> keras.Model:
    """Returns a model of the next token; its outputs are logits `(batch, length, vocabulary)`."""
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = next_tokens(size, NewParts(), tokens, vocabulary=vocabulary, length=length)
    return keras.Model(tokens, x, name="gpt")


def next_tokens(
    size: Size,
    parts: Parts,
    tokens: keras.KerasTensor,
    *,
    vocabulary: int,
    length: int,
    at: Any = None,
) -> keras.KerasTensor:
    """Returns the logits of what follows each of the tokens, the first of which stands at `at`."""
    x = embedded(size, parts, tokens, vocabulary=vocabulary, length=length, at=at)
    return logits(parts, vocabulary)(blocks(size, parts, x, causal=True))


def text_classifier(size: Size, *, vocabulary: int, length: int, num_classes: int) -> keras.Model:
    """Returns a classifier of texts, which looks at the vector of their first token.

    Its inputs are tokens `(batch, length)`, filled up with `PAD`; its outputs are logits
    `(batch, num_classes)`.
    """
    parts = NewParts()
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = embedded(size, parts, tokens, vocabulary=vocabulary, length=length)
    x = blocks(size, parts, x, mask=_there(tokens))
    return keras.Model(tokens, logits(parts, num_classes)(x[:, 0]), name="bert")


def translator(
    size: Size, *, vocabulary: int, source_length: int, target_length: int
) -> keras.Model:
    """Returns a model of the next token of a translation.

    Its inputs are a dictionary of tokens, `source` `(batch, source_length)` and `target` `(batch,
    target_length)`; its outputs are logits `(batch, target_length, vocabulary)`.
    """
    parts = NewParts()
    source = keras.Input((source_length,), dtype="int32", name="source")
    target = keras.Input((target_length,), dtype="int32", name="target")
    looks_at = encoded(size, parts, source, vocabulary=vocabulary), _there(source)
    x = decoded(size, parts, target, looks_at, vocabulary=vocabulary, length=target_length)
    return keras.Model({"source": source, "target": target}, x, name="seq2seq")


def encoded(
    size: Size, parts: Parts, source: keras.KerasTensor, *, vocabulary: int
) -> keras.KerasTensor:
    """Returns a vector for each token of the source."""
    length = source.shape[1]
    x = embedded(size, parts, source, vocabulary=vocabulary, length=length, name="source_")
    return blocks(size, parts, x, mask=_there(source), name="encoder", final="encoder_norm")


def decoded(
    size: Size,
    parts: Parts,
    target: keras.KerasTensor,
    looks_at: tuple[Any, keras.KerasTensor],
    *,
    vocabulary: int,
    length: int,
    at: Any = None,
) -> keras.KerasTensor:
    """Returns the logits of what follows each token, the first of which stands at `at`.

    What it looks at: see `blocks`.
    """
    x = embedded(size, parts, target, vocabulary=vocabulary, length=length, name="target_", at=at)
    x = blocks(
        size, parts, x, causal=True, looks_at=looks_at, name="decoder", final="decoder_norm",
    )  # fmt: skip
    return logits(parts, vocabulary)(x)


def _there(tokens: keras.KerasTensor) -> keras.KerasTensor:
    """Returns where there are tokens, `(batch, 1, length)`."""
    return ops.expand_dims(ops.not_equal(tokens, PAD), 1)


def keras_hub_classifier(
    size: Size, *, image_shape: tuple[int, int, int], num_classes: int, patch_size: int
) -> keras.Model:
    """Returns a classifier on keras-hub's `ViTBackbone`, with weights at random."""
    _grid(image_shape, patch_size)
    _check_pre_layer_norm(size, "keras_hub_vit")
    backbone = keras_hub().models.ViTBackbone(
        image_shape=image_shape,
        patch_size=patch_size,
        num_layers=size.depth,
        num_heads=size.heads,
        hidden_dim=size.width,
        mlp_dim=size.width * size.mlp_ratio,
        dropout_rate=size.dropout,
        name="backbone",
    )
    images, x = image_input(image_shape, "images")
    x = layers.GlobalAveragePooling1D(name="pool")(backbone(x))
    return keras.Model(images, logits(NewParts(), num_classes)(x), name="keras_hub_vit")


def keras_hub_language_model(name: str, size: Size, *, vocabulary: int, length: int) -> keras.Model:
    """Returns a language model on keras-hub's GPT-2 or Llama backbone, with weights at random."""
    models = keras_hub().models
    if name == "keras_hub_gpt2":
        _check_pre_layer_norm(size, name)
        backbone = models.GPT2Backbone(
            vocabulary_size=vocabulary,
            num_layers=size.depth,
            num_heads=size.heads,
            hidden_dim=size.width,
            intermediate_dim=size.width * size.mlp_ratio,
            dropout=size.dropout,
            max_sequence_length=length,
            name="backbone",
        )
    else:
        if (size.norm, size.norm_position) != ("rms", "pre"):
            raise UsageError(f"{name} has --norm=rms and --norm_position=pre, and no other")
        backbone = models.LlamaBackbone(
            vocabulary_size=vocabulary,
            num_layers=size.depth,
            num_query_heads=size.heads,
            num_key_value_heads=size.heads,
            hidden_dim=size.width,
            intermediate_dim=size.width * size.mlp_ratio,
            dropout=size.dropout,
            name="backbone",
        )
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = backbone({"token_ids": tokens, "padding_mask": ops.ones_like(tokens)})
    return keras.Model(tokens, logits(NewParts(), vocabulary)(x), name=name)


def _grid(image_shape: tuple[int, int, int], patch_size: int) -> int:
    """Returns the number of patches in an image."""
    height, width, _ = image_shape
    if height % patch_size or width % patch_size:
        raise UsageError(f"--patch_size={patch_size} must divide the images' {height} x {width}")
    return (height // patch_size) * (width // patch_size)


def _check_pre_layer_norm(size: Size, name: str) -> None:
    if (size.norm, size.norm_position) != ("layer", "pre"):
        raise UsageError(f"{name} has --norm=layer and --norm_position=pre, and no other")


def keras_hub() -> types.ModuleType:
    """Returns keras-hub.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise UsageError("this needs keras-hub: pip install keras-hub") from error
    module: types.ModuleType = keras_hub
    return module
