"""Transformers of Keras' own layers, and of keras-hub's backbones.

| name | what |
| --- | --- |
| `vit` | vision transformer (Dosovitskiy et al., arXiv:2010.11929), with average pooling |
| `gpt` | decoder-only language model (Radford et al., 2019) |
| `keras_hub_vit`, `keras_hub_gpt2`, `keras_hub_llama` | keras-hub's backbones, of the same sizes |

In a pre-norm block, `x + f(norm(x))`, both γ are `residual_last`, and the last norm is `trunk`; in
a post-norm block, `norm(x + f(x))`, every γ is `trunk`.
"""

import dataclasses
import difflib
import types

import keras
from keras import layers, ops

from examples.core.cli import UsageError
from examples.core.settings import setting
from examples.models.inputs import image_input

VISION = ("vit", "keras_hub_vit")
LANGUAGE = ("gpt", "keras_hub_gpt2", "keras_hub_llama")


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of a transformer.

    Raises:
        UsageError: they do not go together.
    """

    depth: int = setting(4, "Blocks.", low=1)
    width: int = setting(64, "Features of the residual stream.", low=1)
    heads: int = setting(4, "Of the attention.", low=1)
    mlp_ratio: int = setting(4, "Hidden units, in multiples of --width.", low=1)
    dropout: float = setting(0.1, "At the end of every branch.", low=0.0, high=0.99)
    norm: str = setting("layer", "The normalization.", choices=["layer", "rms"])
    norm_position: str = setting(
        "pre", "x + f(norm(x)), or norm(x + f(x)).", choices=["pre", "post"]
    )

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"--heads={self.heads} must divide --width={self.width}")

    def make_norm(self, name: str) -> keras.Layer:
        kind = {"layer": layers.LayerNormalization, "rms": layers.RMSNormalization}[self.norm]
        return kind(epsilon=1e-6, name=name)


@dataclasses.dataclass(frozen=True)
class TransformerSettings:
    """Which transformer."""

    model: str = setting(
        None,
        "vit (the default) or keras_hub_vit; gpt (the default), keras_hub_gpt2 or "
        "keras_hub_llama for --task=lm.",
    )
    patch_size: int = setting(2, "Side of an image's patches (vision).", low=1)


def check_model_name(name: str, task: str) -> None:
    """Raises `UsageError` if there is no such model for the task."""
    names = VISION if task == "vision" else LANGUAGE
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown model {name!r} for --task={task}; expected {', '.join(names)}{hint}")


def vision_transformer(
    size: Size, *, image_shape: tuple[int, int, int], num_classes: int, patch_size: int
) -> keras.Model:
    """Returns a classifier of images; its outputs are logits of shape `(batch, num_classes)`."""
    patches = _grid(image_shape, patch_size)
    images, x = image_input(image_shape, "images")
    x = layers.Conv2D(size.width, patch_size, strides=patch_size, name="patches")(x)
    x = layers.Reshape((patches, size.width), name="sequence")(x)
    x = x + _positions(x[:, :, 0], patches, size.width)
    x = _blocks(size, layers.Dropout(size.dropout)(x), causal=False)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(images, _logits(num_classes)(x), name="vit")


def language_model(size: Size, *, vocabulary: int, length: int) -> keras.Model:
    """Returns a model of the next token; its outputs are logits `(batch, length, vocabulary)`."""
    x = tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = layers.Embedding(vocabulary, size.width, name="embedding")(x)
    x = x + _positions(tokens, length, size.width)
    x = _blocks(size, layers.Dropout(size.dropout)(x), causal=True)
    return keras.Model(tokens, _logits(vocabulary)(x), name="gpt")


def keras_hub_classifier(
    size: Size, *, image_shape: tuple[int, int, int], num_classes: int, patch_size: int
) -> keras.Model:
    """Returns a classifier on keras-hub's `ViTBackbone`, with weights at random."""
    _grid(image_shape, patch_size)
    _check_pre_layer_norm(size, "keras_hub_vit")
    backbone = _keras_hub().models.ViTBackbone(
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
    return keras.Model(images, _logits(num_classes)(x), name="keras_hub_vit")


def keras_hub_language_model(name: str, size: Size, *, vocabulary: int, length: int) -> keras.Model:
    """Returns a language model on keras-hub's GPT-2 or Llama backbone, with weights at random."""
    models = _keras_hub().models
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
    return keras.Model(tokens, _logits(vocabulary)(x), name=name)


def _blocks(size: Size, x: keras.KerasTensor, *, causal: bool) -> keras.KerasTensor:
    for number in range(size.depth):
        x = _block(size, x, f"block_{number}", causal)
    return size.make_norm("final_norm")(x) if size.norm_position == "pre" else x


def _block(size: Size, x: keras.KerasTensor, name: str, causal: bool) -> keras.KerasTensor:
    """An attention and an MLP, each in a residual branch."""

    def attention(h: keras.KerasTensor) -> keras.KerasTensor:
        h = layers.MultiHeadAttention(
            size.heads, size.width // size.heads, name=f"{name}_attention"
        )(h, h, use_causal_mask=causal)
        return layers.Dropout(size.dropout, name=f"{name}_attention_dropout")(h)

    def mlp(h: keras.KerasTensor) -> keras.KerasTensor:
        hidden = size.width * size.mlp_ratio
        h = layers.Dense(hidden, activation="gelu", name=f"{name}_mlp_in")(h)
        h = layers.Dense(size.width, name=f"{name}_mlp_out")(h)
        return layers.Dropout(size.dropout, name=f"{name}_mlp_dropout")(h)

    for branch, part in ((attention, "attention"), (mlp, "mlp")):
        norm = size.make_norm(f"{name}_{part}_norm")
        join = layers.Add(name=f"{name}_{part}_join")
        if size.norm_position == "pre":
            x = join([x, branch(norm(x))])
        else:
            x = norm(join([x, branch(x)]))
    return x


def _positions(like: keras.KerasTensor, length: int, width: int) -> keras.KerasTensor:
    """A learnt vector for each position; `like` has shape `(batch, length)`.

    The numbers 0, 1, ... are counted from `like`, so that the model is made of Keras' own
    layers and operations, and loads without this file.
    """
    numbers = ops.cumsum(ops.ones_like(like, dtype="int32"), axis=1) - 1
    return layers.Embedding(length, width, name="positions")(numbers)


def _logits(classes: int) -> keras.Layer:
    # In 32 bits also under mixed precision: the loss is computed from them.
    return layers.Dense(classes, dtype="float32", name="logits")


def _grid(image_shape: tuple[int, int, int], patch_size: int) -> int:
    """Returns the number of patches in an image."""
    height, width, _ = image_shape
    if height % patch_size or width % patch_size:
        raise UsageError(f"--patch_size={patch_size} must divide the images' {height} x {width}")
    return (height // patch_size) * (width // patch_size)


def _check_pre_layer_norm(size: Size, name: str) -> None:
    if (size.norm, size.norm_position) != ("layer", "pre"):
        raise UsageError(f"{name} has --norm=layer and --norm_position=pre, and no other")


def _keras_hub() -> types.ModuleType:
    try:
        import keras_hub
    except ImportError as error:
        raise UsageError("keras_hub_* models need keras-hub: pip install keras-hub") from error
    module: types.ModuleType = keras_hub
    return module
