"""Residual networks for small images, and keras-cv's backbones behind the same door.

`resnet{6n+2}_v1` is the CIFAR network of He et al. (arXiv:1512.03385) with projection shortcuts;
`resnet{9n+2}_v2` its pre-activation form with bottlenecks (arXiv:1603.05027);
`keras_cv_resnet{18,34,50,101,152}[_v2]` an ImageNet-style backbone with a new classification head.
"""

import dataclasses
import re

import keras
from keras import layers

from examples.core.cli import UsageError
from examples.core.settings import setting
from examples.models.inputs import image_input

_STAGES = 3
_CONVOLUTIONS_PER_BLOCK = {1: 2, 2: 3}
_EXPANSION = 4  # of v2's bottleneck: output filters over inner filters

# depth: (block type, blocks of each stack), from arXiv:1512.03385, table 1
_KERAS_CV_STACKS = {
    18: ("basic_block", [2, 2, 2, 2]),
    34: ("basic_block", [3, 4, 6, 3]),
    50: ("block", [3, 4, 6, 3]),
    101: ("block", [3, 4, 23, 3]),
    152: ("block", [3, 8, 36, 3]),
}
# These backbones shrink their input 32 times: below this size, stages would work on a single pixel.
_KERAS_CV_SMALLEST_INPUT = 64

_OUR_NAME = re.compile(r"resnet(\d+)_v([12])")
_KERAS_CV_NAME = re.compile(r"keras_cv[_:]resnet(\d+)(_v2)?")


@dataclasses.dataclass(frozen=True)
class ResNetSettings:
    """Which residual network."""

    model: str = setting(
        "resnet14_v1",
        "resnet<6n+2>_v1, resnet<9n+2>_v2, or keras_cv_resnet{18,34,50,101,152}[_v2].",
    )
    width: int = setting(16, "Filters of the first stage (not keras_cv_*).", low=1)
    batch_norm_momentum: float = setting(
        0.9, "Of batch normalization (not keras_cv_*).", low=0.0, high=1.0
    )


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a network is built for.

    Args:
        image: height, width and channels of an image.
        classes: number of classes.
        width: filters of the first stage; keras-cv's backbones keep their own (64).
        batch_norm_momentum: of our networks; how much of the old statistics a step keeps.
    """

    image: tuple[int, int, int]
    classes: int
    width: int = 16
    batch_norm_momentum: float = 0.9


def check_model_name(name: str) -> None:
    """Raises `UsageError` unless `build_model` knows `name`; builds nothing."""
    if match := _OUR_NAME.fullmatch(name):
        blocks_per_stage(int(match[1]), int(match[2]))
    elif match := _KERAS_CV_NAME.fullmatch(name):
        if int(match[1]) not in _KERAS_CV_STACKS:
            depths = ", ".join(map(str, _KERAS_CV_STACKS))
            raise UsageError(f"{name}: keras-cv has ResNets of depth {depths}; got {match[1]}")
    else:
        raise UsageError(
            f"unknown model {name!r}; expected resnet<depth>_v1 (resnet20_v1), resnet<depth>_v2 "
            "(resnet29_v2) or keras_cv_resnet<depth>[_v2] (keras_cv_resnet18)"
        )


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    width: int = 16,
    batch_norm_momentum: float = 0.9,
) -> keras.Model:
    """Builds the classifier `name`; its outputs are logits of shape `(batch, num_classes)`.

    Args:
        name: see the module's docstring.
        input_shape: height, width and channels of an image.
        num_classes: number of classes.
        width: filters of the first stage; keras-cv's backbones keep their own (64).
        batch_norm_momentum: of our networks; how much of the old statistics a step keeps.

    Raises:
        UsageError: there is no such model, or keras-cv is not installed.
    """
    check_model_name(name)
    shape = Shape(input_shape, num_classes, width, batch_norm_momentum)
    if match := _OUR_NAME.fullmatch(name):
        build = resnet_v1 if match[2] == "1" else resnet_v2
        return build(int(match[1]), shape)
    match = _KERAS_CV_NAME.fullmatch(name)
    assert match is not None, "the name has been checked"
    return keras_cv_classifier(int(match[1]), shape, version=2 if match[2] else 1)


def blocks_per_stage(depth: int, version: int) -> int:
    """Returns n, where depth is 6n+2 (v1: two convolutions a block) or 9n+2 (v2: three)."""
    layers_per_n = _STAGES * _CONVOLUTIONS_PER_BLOCK[version]
    blocks, rest = divmod(depth - 2, layers_per_n)
    if rest or blocks < 1:
        below = layers_per_n * blocks + 2
        nearest = [d for d in (below, below + layers_per_n) if d > 2] or [layers_per_n + 2]
        raise UsageError(
            f"a ResNet v{version} has {layers_per_n}n+2 layers; got {depth}; nearest: "
            + " or ".join(f"resnet{d}_v{version}" for d in nearest)
        )
    return blocks


def resnet_v1(depth: int, shape: Shape) -> keras.Model:
    """Builds a post-activation network of `depth = 6n+2` layers."""
    blocks = blocks_per_stage(depth, version=1)
    parts = _Parts(shape.batch_norm_momentum)
    inputs, x = image_input(shape.image)
    x = parts.conv_norm(x, shape.width, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(_STAGES):
        filters = shape.width * 2**stage
        for block in range(blocks):
            name = f"stage{stage + 1}_block{block + 1}"
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = x
            if stride > 1:
                shortcut = parts.conv_norm(x, filters, 1, stride, name=f"{name}_shortcut")
            y = parts.conv_norm(x, filters, 3, stride, name=f"{name}_1")
            y = layers.ReLU(name=f"{name}_1_relu")(y)
            y = parts.conv_norm(y, filters, name=f"{name}_2")
            x = layers.Add(name=f"{name}_add")([shortcut, y])
            x = layers.ReLU(name=f"{name}_relu")(x)
    return keras.Model(inputs, _head(x, shape.classes), name=f"resnet{depth}_v1")


def resnet_v2(depth: int, shape: Shape) -> keras.Model:
    """Builds a pre-activation bottleneck network of `depth = 9n+2` layers.

    The first block of a stage changes the number of filters, so its shortcut is a convolution of
    the pre-activation; the others' is the identity.
    """
    blocks = blocks_per_stage(depth, version=2)
    parts = _Parts(shape.batch_norm_momentum)
    inputs, x = image_input(shape.image)
    x = parts.conv(x, shape.width, name="stem_conv")
    for stage in range(_STAGES):
        filters = shape.width * 2**stage
        for block in range(blocks):
            name = f"stage{stage + 1}_block{block + 1}"
            stride = 2 if stage > 0 and block == 0 else 1
            y = parts.norm_relu(x, name=f"{name}_pre")
            shortcut = x
            if block == 0:
                shortcut = parts.conv(
                    y, _EXPANSION * filters, 1, stride, name=f"{name}_shortcut_conv"
                )
            y = parts.conv(y, filters, 1, stride, name=f"{name}_1_conv")
            y = parts.norm_relu(y, name=f"{name}_1")
            y = parts.conv(y, filters, name=f"{name}_2_conv")
            y = parts.norm_relu(y, name=f"{name}_2")
            y = parts.conv(y, _EXPANSION * filters, 1, name=f"{name}_3_conv")
            x = layers.Add(name=f"{name}_add")([shortcut, y])
    x = parts.norm_relu(x, name="post")
    return keras.Model(inputs, _head(x, shape.classes), name=f"resnet{depth}_v2")


def keras_cv_classifier(depth: int, shape: Shape, *, version: int) -> keras.Model:
    """Builds a randomly initialized keras-cv backbone with pooling and a dense layer on top.

    The backbone is made from its class: keras-cv's named ones ask the network for a preset. Images
    below 64 pixels are enlarged to it.
    """
    try:
        import keras_cv
    except ImportError as error:
        raise UsageError("keras_cv_* models need keras-cv: pip install keras-cv") from error
    block_type, stackwise_blocks = _KERAS_CV_STACKS[depth]
    backbones = {1: keras_cv.models.ResNetBackbone, 2: keras_cv.models.ResNetV2Backbone}
    inputs, x = image_input(shape.image)
    scale = _KERAS_CV_SMALLEST_INPUT / min(shape.image[:2])
    size = [round(side * max(scale, 1)) for side in shape.image[:2]]
    if scale > 1:
        x = layers.Resizing(*size, name="enlarge")(x)
    backbone = backbones[version](
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=stackwise_blocks,
        stackwise_strides=[1, 2, 2, 2],
        block_type=block_type,
        include_rescaling=False,
        input_shape=(*size, shape.image[2]),
        name=f"resnet{depth}_v{version}_backbone",
    )
    return keras.Model(
        inputs, _head(backbone(x), shape.classes), name=f"keras_cv_resnet{depth}_v{version}"
    )


class _Parts:
    """The layers both of our networks are made of."""

    def __init__(self, batch_norm_momentum: float):
        self._momentum = batch_norm_momentum

    def conv(
        self, x: keras.KerasTensor, filters: int, size: int = 3, stride: int = 1, *, name: str
    ) -> keras.KerasTensor:
        """A convolution without a bias, which the normalization behind it would cancel."""
        return layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        )(x)

    def norm(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        return layers.BatchNormalization(momentum=self._momentum, epsilon=1e-5, name=name)(x)

    def conv_norm(
        self, x: keras.KerasTensor, filters: int, size: int = 3, stride: int = 1, *, name: str
    ) -> keras.KerasTensor:
        """Convolution, then normalization: half a v1 block."""
        x = self.conv(x, filters, size, stride, name=f"{name}_conv")
        return self.norm(x, name=f"{name}_bn")

    def norm_relu(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        """Normalization, then ReLU: what precedes each convolution in v2."""
        return layers.ReLU(name=f"{name}_relu")(self.norm(x, name=f"{name}_bn"))


def _head(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Pools over the image; the logits stay in float32 under mixed precision."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(
        num_classes, kernel_initializer="he_normal", dtype="float32", name="logits"
    )(x)
