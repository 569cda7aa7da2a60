"""Backbones of keras-hub and keras.applications, for images that were brought to -1..1.

| name | weights |
| --- | --- |
| `hub:<preset>` | those of the preset: a name that keras-hub downloads, or a folder |
| `applications:<name>` | at random; those of a file with --init_from |
"""

from pathlib import Path

import keras
from keras import layers

from examples.core.cli import UsageError
from examples.models.transformer import keras_hub

KINDS = ("hub:", "applications:")

# What keras.applications' networks were trained on, where that is not -1..1 (imagenet_utils).
_BYTES = ("ConvNeXt", "EfficientNet", "MobileNetV3")
_BLUE_FIRST = ("ResNet", "VGG")
_BLUE_GREEN_RED = (103.939, 116.779, 123.68)
_MEANS, _DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def features(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the feature map, `(batch, height, width, channels)`, that a backbone makes of images.

    Args:
        name: see the module.
        x: images, -1..1.

    Raises:
        UsageError: there is no such backbone, or it takes no such images.
    """
    kind, _, rest = name.partition(":")
    shape = tuple(x.shape[1:])
    if kind == "hub":
        backbone, x = _of_keras_hub(rest), _as_keras_hub_has_it(rest, x)
    else:
        backbone, x = _of_applications(rest, shape), _as_applications_has_it(rest, x)
    try:
        found = backbone(x)
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"--model={name} and images of shape {shape}: {first}") from error
    if len(getattr(found, "shape", ())) != 4:
        raise UsageError(f"--model={name} is no backbone for images with one feature map")
    return found


def _of_keras_hub(preset: str) -> keras.Model:
    folder = Path(preset).expanduser()
    source = str(folder) if folder.is_dir() else preset
    try:
        return keras_hub().models.Backbone.from_preset(source)
    except UsageError:
        raise
    except Exception as error:  # keras-hub fails to find or to download in many ways
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"--model=hub:{preset} cannot be loaded ({type(error).__name__}: {first}); without a "
            "network, pass the folder of a preset"
        ) from error


def _as_keras_hub_has_it(preset: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """Scales images as the preset's own converter does, if it has one."""
    try:
        converter = keras_hub().layers.ImageConverter.from_preset(preset)
    except Exception:  # Not every preset has one; the images stay as they are.
        return x
    if converter.scale is None:
        return x
    x = layers.Rescaling(127.5, offset=127.5, name="as_bytes")(x)
    offset = 0.0 if converter.offset is None else converter.offset
    return layers.Rescaling(converter.scale, offset=offset, name="as_the_preset_has_it")(x)


def _as_applications_has_it(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """Scales images as the `preprocess_input` of keras.applications does for this network."""
    if name.startswith(_BYTES):
        return layers.Rescaling(127.5, offset=127.5, name="as_bytes")(x)
    if name.startswith(_BLUE_FIRST) and not name.endswith("V2"):
        offset = [127.5 - mean for mean in _BLUE_GREEN_RED]
        return layers.Rescaling(127.5, offset=offset, name="blue_first")(x[..., ::-1])
    if name.startswith("DenseNet"):
        scale = [0.5 / deviation for deviation in _DEVIATIONS]
        offset = [(0.5 - m) / d for m, d in zip(_MEANS, _DEVIATIONS, strict=True)]
        return layers.Rescaling(scale, offset=offset, name="standard")(x)
    return x


def _of_applications(name: str, shape: tuple[int, ...]) -> keras.Model:
    make = getattr(keras.applications, name, None)
    if not name[:1].isupper() or make is None:
        there = [one for one in dir(keras.applications) if one[:1].isupper()]
        raise UsageError(f"keras.applications has no {name!r}; it has {', '.join(there)}")
    try:
        return make(include_top=False, weights=None, input_shape=shape)
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"--model=applications:{name} and images of {shape}: {first}") from error
