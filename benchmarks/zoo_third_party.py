"""Models of packages that are installed beside the project: small, with weights at random.

    pip install "keras_gamma[zoo]"

One model of each family that a package exports, the first by name; `every` yields all of them.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

SIDE = 64
Builder = Callable[[], keras.Model]
Recipes = Iterator[tuple[str, Builder]]


_WORDS = (
    "Atto", "Femto", "Pico", "Nano", "XXTiny", "XTiny", "Tiny", "Mini", "Small", "Medium", "Base",
    "Large", "XLarge", "Xlarge", "XXlarge", "Huge", "Giant",
)  # fmt: skip
_WORD = rf"(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z])"
_SIZE = re.compile(
    _WORD  # A word,
    + r"|(?<![Vv0-9])(?:X{0,2}[A-Z])?\d+(?:[A-Z](?![a-z]))?(?![0-9])"  # a number, not of a version,
    r"|(?<=_)X{0,2}[A-Z](?=_|$)|(?<=[Nn]et|LOX)[A-Z]$|(?<=V\d|iT)X{0,2}[TSBMLH]$"  # or a letter.
)


def _first_of_each_family(names: list[str], every: bool) -> list[str]:
    """Names that differ in sizes only (`RegNetX002`, `RegNetX004`) are one family: its smallest."""

    def size(name: str) -> list[int]:
        return [_WORDS.index(word) for word in re.findall(_WORD, name)] or [_WORDS.index("Base")]

    families: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (size(name), name)):
        family = re.sub("_+", "_", _SIZE.sub("", name)).strip("_")
        families.setdefault(name if every else family, name)
    return sorted(families.values())


def kimm(every: bool = False) -> Recipes:
    """timm's models in Keras."""
    from kimm import models

    names = [n for n, c in vars(models).items() if isinstance(c, type) and n != "BaseModel"]
    for name in _first_of_each_family(names, every):
        build = getattr(models, name)
        shape = (224, 224, 3) if "Transformer" in name or "MobileViT" in name else (SIDE, SIDE, 3)
        yield name, lambda build=build, shape=shape: build(weights=None, input_shape=shape)


def kecam(every: bool = False) -> Recipes:
    """Some 440 models of images, most with attention."""
    import zoo_kecam

    found = vars(zoo_kecam.models)
    names = [n for n, f in found.items() if inspect.isfunction(f) and n[0].isupper()]
    for name in _first_of_each_family(names, every):
        build = found[name]
        if any(word in name for word in ("GPT2", "LLaMA", "Text")):
            arguments = {"max_block_size": 16, "vocab_size": 64}
        else:
            side = 256 if "aloNe" in name or "aloBot" in name or "indow" in name else 64
            arguments = {"input_shape": (side, side, 3)}
        yield name, lambda build=build, arguments=arguments: build(pretrained=None, **arguments)


def volumes(every: bool = False) -> Recipes:
    """Classifiers of volumes."""
    del every
    from classification_models_3D.kkeras import Classifiers

    for name in sorted(Classifiers.models_names()):
        side = 96 if "inception" in name else 64

        def build(name: str = name, side: int = side) -> keras.Model:
            shape = (side, side, side, 3)
            return Classifiers.get(name)[0](input_shape=shape, weights=None, include_top=False)

        yield name, build


def segment(every: bool = False) -> Recipes:
    """Segmentation of volumes, on the smallest encoder, and some others."""
    del every
    import segmentation_models_3D as package

    for name, encoder in [
        ("FPN", "resnet18"),
        ("FPN", "seresnet18"),
        ("Linknet", "resnet18"),
        ("Linknet", "mobilenetv2"),
        ("PSPNet", "resnet18"),
        ("Unet", "resnet18"),
        ("Unet", "densenet121"),
        ("Unet", "efficientnetb0"),
    ]:
        side = 48 if name == "PSPNet" else 32

        def build(name: str = name, encoder: str = encoder, side: int = side) -> keras.Model:
            shape = (side, side, side, 3)
            return getattr(package, name)(encoder, input_shape=shape, encoder_weights=None)

        yield f"{name} ({encoder})", build


def aeon(every: bool = False) -> Recipes:
    """Networks for time series."""
    del every
    from aeon import networks

    for name in sorted(networks.__all__):
        if name.startswith("Base"):
            continue

        def build(name: str = name) -> keras.Model:
            made = getattr(networks, name)().build_network((64, 4))
            return keras.Model(*made[:2]) if not isinstance(made[0], keras.Model) else made[0]

        yield name, build


def kgcnn(every: bool = False) -> Recipes:
    """Networks of graphs."""
    del every
    import kgcnn.literature as package

    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda one: one.name):

        def build(name: str = found.name) -> keras.Model:
            return importlib.import_module(f"kgcnn.literature.{name}").make_model()

        yield found.name, build


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
        return keras.Model(inputs, network(inputs if len(inputs) > 1 else inputs[0]))

    image, condition = (16, 16, 2), (16, 16, 1)
    unet = {"widths": (8, 16), "res_blocks": 1, "groups": 4}

    # Eight normalizations or none; what they are built of is written as layers.
    yield "MLP (residual, layer)", lambda: called(networks.MLP([16, 16], norm="layer"), (8,))
    yield "DeepSet", lambda: called(networks.DeepSet(), (6, 8))
    yield "SetTransformer", lambda: called(networks.SetTransformer(), (6, 8))
    yield "TimeSeriesTransformer", lambda: called(networks.TimeSeriesTransformer(), (6, 8))
    yield "TimeSeriesNetwork", lambda: called(networks.TimeSeriesNetwork(), (8, 8))
    yield "FusionTransformer", lambda: called(networks.FusionTransformer(), (6, 8))
    yield "TimeMLP", lambda: called(networks.TimeMLP([16, 16]), (8,), (1,), (4,))
    yield (
        "UNet",
        lambda: called(networks.UNet(attn_stage=(False, True), **unet), image, (1,), condition),
    )
    for name in ("UViT", "ResidualUViT"):
        yield (
            name,
            lambda name=name: called(
                getattr(networks, name)(transformer_width=16, **unet), image, (1,), condition
            ),
        )
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
