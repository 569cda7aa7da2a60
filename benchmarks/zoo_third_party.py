"""Models of packages that are installed beside the project: small, with weights at random.

    pip install "keras_gamma[zoo]"

One model of each family that a package exports, the first by name; `every` yields all of them.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

SIDE = 64
Builder = Callable[[], keras.Model]
Recipes = Iterator[tuple[str, Builder]]


def _first_of_each_family(names: list[str], every: bool) -> list[str]:
    """Names that differ in sizes only (`RegNetX002`, `RegNetX004`) are one family."""
    sizes = r"(Atto|Femto|Pico|Nano|Tiny|Small|Base|Large|XLarge|Huge|XXS|XS|[SMLB]?\d+[A-Z]*\d*)+"
    families: dict[str, str] = {}
    for name in sorted(names):
        families.setdefault(name if every else re.sub(sizes, "", name), name)
    return sorted(families.values())


def kimm(every: bool = False) -> Recipes:
    """timm's models in Keras."""
    from kimm import models

    names = [n for n, c in vars(models).items() if isinstance(c, type) and n != "BaseModel"]
    for name in _first_of_each_family(names, every):
        build = getattr(models, name)
        shape = (224, 224, 3) if "Transformer" in name or "MobileViT" in name else (SIDE, SIDE, 3)
        yield name, lambda build=build, shape=shape: build(weights=None, input_shape=shape)


def medicai(every: bool = False) -> Recipes:
    """Medical images, in two dimensions: encoders, and decoders on the smallest encoder."""
    from medicai import models

    own: dict[str, dict[str, Any]] = {
        "UNETR": {"encoder_name": "vit_base"},
        "UNETRPlusPlus": {},
        "SwinUNETR": {"encoder_name": "swin_tiny"},
        "SegFormer": {"encoder_name": "mit_b0"},
        "TransUNet": {"encoder_name": "resnet18"},
        "UPerNet": {"encoder_name": "resnet18"},
        "UNet": {"encoder_name": "resnet18"},
        "AttentionUNet": {"encoder_name": "resnet18"},
        "UNetPlusPlus": {"encoder_name": "resnet18"},
        "DeepLabV3Plus": {"encoder_name": "resnet18"},
    }
    names = [
        n
        for n, c in vars(models).items()
        if isinstance(c, type) and issubclass(c, keras.Model) and not re.search("Backbone|Enc", n)
    ]
    for name in sorted({*_first_of_each_family(names, every), *(own.keys() & set(names))}):
        build = getattr(models, name)
        arguments = {"input_shape": (SIDE, SIDE, 3), "num_classes": 3, **own.get(name, {})}
        yield name, lambda build=build, arguments=arguments: build(**arguments)


def unet_collection(every: bool = False) -> Recipes:
    """U-Nets of many kinds."""
    del every
    from keras_unet_collection import models

    shape, widths = (SIDE, SIDE, 3), [8, 16, 32]
    norm = {"batch_norm": True}
    yield "unet_2d", lambda: models.unet_2d(shape, widths, 2, **norm)
    yield "vnet_2d", lambda: models.vnet_2d(shape, widths, 2, **norm)
    yield "unet_plus_2d", lambda: models.unet_plus_2d(shape, widths, 2, **norm)
    yield "r2_unet_2d", lambda: models.r2_unet_2d(shape, widths, 2, **norm)
    yield "att_unet_2d", lambda: models.att_unet_2d(shape, widths, 2, **norm)
    yield (
        "resunet_a_2d",
        lambda: models.resunet_a_2d(
            shape, widths, [1, 3], 2, aspp_num_down=16, aspp_num_up=8, **norm
        ),
    )
    yield "u2net_2d", lambda: models.u2net_2d(shape, 2, widths, **norm)
    yield "unet_3plus_2d", lambda: models.unet_3plus_2d(shape, 2, widths, **norm)
    yield (
        "transunet_2d",
        lambda: models.transunet_2d(
            shape, widths, 2, embed_dim=16, num_mlp=32, num_heads=2, num_transformer=2, **norm
        ),
    )
    yield (
        "swin_unet_2d",
        lambda: models.swin_unet_2d(shape, 8, 2, 2, 1, 1, (2, 2), [2, 2], [4, 4], 16),
    )


def bayesflow(every: bool = False) -> Recipes:
    """Networks for simulation-based inference."""
    del every
    from bayesflow import networks

    def called(network: Any, *shapes: tuple[int, ...]) -> keras.Model:
        inputs = [keras.Input(shape) for shape in shapes]
        return keras.Model(inputs, network(*inputs))

    # Eight normalizations or none; what they are built of is written as layers.
    yield "MLP (residual, layer)", lambda: called(networks.MLP([16, 16], norm="layer"), (8,))
    yield "DeepSet", lambda: called(networks.DeepSet(), (6, 8))
    yield "SetTransformer", lambda: called(networks.SetTransformer(), (6, 8))
    yield "TimeSeriesTransformer", lambda: called(networks.TimeSeriesTransformer(), (6, 8))
    yield "TimeSeriesNetwork", lambda: called(networks.TimeSeriesNetwork(), (8, 8))
    yield "ConvolutionalNetwork", lambda: called(networks.ConvolutionalNetwork(), (32, 32, 3))


def tcn(every: bool = False) -> Recipes:
    """Temporal convolutional networks."""
    del every
    from tcn import TCN

    def build(**arguments: Any) -> keras.Model:
        x = keras.Input((16, 4))
        y = TCN(8, dilations=(1, 2), return_sequences=True, **arguments)(x)
        return keras.Model(x, keras.layers.Dense(1)(y))

    yield "TCN (batch norm)", lambda: build(use_batch_norm=True)
    yield "TCN (layer norm)", lambda: build(use_layer_norm=True)
    yield "TCN (no skips)", lambda: build(use_batch_norm=True, use_skip_connections=False)


def vit_keras(every: bool = False) -> Recipes:
    """Vision transformers."""
    names = ["vit_b32", "vit_b16", "vit_l16", "vit_l32"] if every else ["vit_b32"]
    for name in names:

        def build(name: str = name) -> keras.Model:
            from vit_keras import vit

            return getattr(vit, name)(image_size=SIDE, pretrained=False, pretrained_top=False)

        yield name, build
