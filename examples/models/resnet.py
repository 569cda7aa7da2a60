"""Residual networks for small images, and keras-cv's backbones behind the same door.

`resnet{6n+2}_v1` is the CIFAR network of He et al. (arXiv:1512.03385) with projection shortcuts;
`resnet{9n+2}_v2` its pre-activation form with bottlenecks (arXiv:1603.05027);
`keras_cv_resnet{18,34,50,101,152}[_v2]` (or `cv:resnet50`) an ImageNet-style backbone of keras-cv
with a new classification head; `hub:<preset>` a backbone of keras-hub, by the name of a preset or
the folder of one; `applications:<name>` one of keras.applications.
"""

import dataclasses
import re

import keras
from keras import layers

from examples.core.cli import UsageError
from examples.core.settings import setting
from examples.models import backbones
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
_KERAS_CV_NAME = re.compile(r"(?:keras_cv_|cv:)resnet(\d+)(_v2)?")


@dataclasses.dataclass(frozen=True)
class ResNetSettings:
    """Which residual network."""

    model: str = setting(
        "resnet14_v1",
        "resnet<6n+2>_v1, resnet<9n+2>_v2, cv:resnet{18,34,50,101,152}[_v2], hub:<preset of "
        "keras-hub, or folder>, or applications:<name in keras.applications>.",
    )
    width: int = setting(16, "Filters of the first stage (of resnet*_v*).", low=1)
    batch_norm_momentum: float = setting(
        0.9, "Of batch normalization (of resnet*_v*).", low=0.0, high=1.0
    )
    stochastic_depth: float = setting(
        0.0,
        "Leave out the last branch with this probability while training, earlier ones more seldom "
        "(arXiv:1603.09382; of resnet*_v*).",
        low=0.0,
        high=0.99,
    )


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a network is built for.

    Args:
        image: height, width and channels of an image.
        classes: number of classes.
        width: filters of the first stage; keras-cv's backbones keep their own (64).
        batch_norm_momentum: of our networks; how much of the old statistics a step keeps.
        stochastic_depth: of our networks; how often the last branch is left out.
    """

    image: tuple[int, int, int]
    classes: int
    width: int = 16
    batch_norm_momentum: float = 0.9
    stochastic_depth: float = 0.0


def check_model_name(name: str) -> None:
    """Raises `UsageError` unless `build_model` knows `name`; builds nothing."""
    if match := _OUR_NAME.fullmatch(name):
        blocks_per_stage(int(match[1]), int(match[2]))
    elif match := _KERAS_CV_NAME.fullmatch(name):
        if int(match[1]) not in _KERAS_CV_STACKS:
            depths = ", ".join(map(str, _KERAS_CV_STACKS))
            raise UsageError(f"{name}: keras-cv has ResNets of depth {depths}; got {match[1]}")
    elif not name.startswith(backbones.KINDS):
        raise UsageError(
            f"unknown model {name!r}; expected resnet<depth>_v1 (resnet20_v1), resnet<depth>_v2 "
            "(resnet29_v2), cv:resnet<depth>[_v2] (cv:resnet18), hub:<preset>, applications:<name>"
        )


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    width: int = 16,
    batch_norm_momentum: float = 0.9,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """Builds the classifier `name`; its outputs are logits of shape `(batch, num_classes)`.

    Args:
        name: see the module's docstring.
        input_shape: height, width and channels of an image.
        num_classes: number of classes.
        width: filters of the first stage; keras-cv's backbones keep their own (64).
        batch_norm_momentum: of our networks; how much of the old statistics a step keeps.
        stochastic_depth: of our networks; how often the last branch is left out in training.

    Raises:
        UsageError: there is no such model, or keras-cv is not installed.
    """
    check_model_name(name)
    shape = Shape(input_shape, num_classes, width, batch_norm_momentum, stochastic_depth)
    if match := _OUR_NAME.fullmatch(name):
        build = resnet_v1 if match[2] == "1" else resnet_v2
        return build(int(match[1]), shape)
    match = _KERAS_CV_NAME.fullmatch(name)
    if match is None:
        inputs, x = image_input(input_shape)
        return keras.Model(
            inputs, _head(backbones.features(name, x), num_classes), name="backbone_and_head"
        )
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
    last = _STAGES * blocks
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
            y = parts.maybe_left_out(y, shape, (stage * blocks + block + 1) / last, name)
            x = layers.Add(name=f"{name}_add")([shortcut, y])
            x = layers.ReLU(name=f"{name}_relu")(x)
    return keras.Model(inputs, _head(x, shape.classes), name=f"resnet{depth}_v1")


def resnet_v2(depth: int, shape: Shape) -> keras.Model:
    """Builds a pre-activation bottleneck network of `depth = 9n+2` layers.

    The first block of a stage changes the number of filters, so its shortcut is a convolution of
    the pre-activation; the others' is the identity.
    """
    blocks = blocks_per_stage(depth, version=2)
    last = _STAGES * blocks
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
            y = parts.maybe_left_out(y, shape, (stage * blocks + block + 1) / last, name)
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
        raise UsageError("cv:* models need keras-cv: pip install keras-cv") from error
    block_type, stackwise_blocks = _KERAS_CV_STACKS[depth]
    kinds = {1: keras_cv.models.ResNetBackbone, 2: keras_cv.models.ResNetV2Backbone}
    inputs, x = image_input(shape.image)
    scale = _KERAS_CV_SMALLEST_INPUT / min(shape.image[:2])
    size = [round(side * max(scale, 1)) for side in shape.image[:2]]
    if scale > 1:
        x = layers.Resizing(*size, name="enlarge")(x)
    backbone = kinds[version](
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

    def maybe_left_out(
        self, y: keras.KerasTensor, shape: Shape, place: float, name: str
    ) -> keras.KerasTensor:
        """Leaves a branch out at random, one image at a time: dropout with one mask for all of it.

        What is kept counts 1 / (1 - rate) as much, so that its mean stays.
        """
        if not shape.stochastic_depth:
            return y
        rate = shape.stochastic_depth * place
        return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}_depth")(y)

    def norm_relu(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        """Normalization, then ReLU: what precedes each convolution in v2."""
        return layers.ReLU(name=f"{name}_relu")(self.norm(x, name=f"{name}_bn"))


def _head(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Pools over the image; the logits stay in float32 under mixed precision."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(
        num_classes, kernel_initializer="he_normal", dtype="float32", name="logits"
    )(x)
