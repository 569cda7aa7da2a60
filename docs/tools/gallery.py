"""Makes docs/gallery.md and its pages: `python docs/tools/gallery.py`.

Weights are random and the transformers small: roles follow from the structure alone.
"""

import pathlib
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
import keras_hub  # noqa: E402

import keras_gamma  # noqa: E402
from keras_gamma.report.palette import COLORS  # noqa: E402

PAGES = ROOT / "docs" / "gallery"


def application(name: str) -> Callable[[], keras.Model]:
    return lambda: getattr(keras.applications, name)(weights=None)


def bert() -> keras.Model:
    return keras_hub.models.BertBackbone(100, 2, 2, 16, 32)


def gpt2() -> keras.Model:
    return keras_hub.models.GPT2Backbone(100, 2, 2, 16, 32)


def vit() -> keras.Model:
    return keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )


MODELS: dict[str, tuple[str, Callable[[], keras.Model]]] = {
    "ResNet50": ("post-activation blocks; projections on four skips", application("ResNet50")),
    "ResNet50V2": ("pre-activation blocks", application("ResNet50V2")),
    "MobileNetV2": (
        "inverted bottlenecks; blocks with and without a skip",
        application("MobileNetV2"),
    ),
    "EfficientNetB0": ("squeeze-and-excite inside of branches", application("EfficientNetB0")),
    "DenseNet121": ("concatenation, and no sum at all", application("DenseNet121")),
    "Xception": ("separable convolutions", application("Xception")),
    "ConvNeXtTiny": ("LayerNormalization and LayerScale", application("ConvNeXtTiny")),
    "BERT": ("post-norm transformer, 2 layers", bert),
    "GPT-2": ("pre-norm transformer, 2 layers", gpt2),
    "ViT": ("pre-norm vision transformer, 2 layers", vit),
}


def small() -> keras.Model:
    """Two blocks of a ResNet, for the first page."""

    def norm(x: keras.KerasTensor, name: str, **settings: object) -> keras.KerasTensor:
        x = keras.layers.Conv2D(8, 3, padding="same", name=f"{name}_conv", **settings)(x)
        return keras.layers.BatchNormalization(name=f"{name}_bn")(x)

    relu = keras.layers.ReLU
    inputs = keras.Input((16, 16, 3), name="image")
    x = relu()(norm(inputs, "stem"))
    for i, stride in ((1, 1), (2, 2)):
        y = norm(relu()(norm(x, f"block{i}_1", strides=stride)), f"block{i}_2")
        skip = x if stride == 1 else norm(x, f"block{i}_skip", strides=stride)
        x = relu()(keras.layers.Add()([skip, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="head")(x), name="two_blocks")


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    keras_gamma.plot_roles(small(), ROOT / "docs" / "pictures" / "two_blocks.svg")
    roles = list(COLORS)
    lines = [
        "# Gallery",
        "",
        "Ten well-known models with the roles of their γ in colour, each with its table. A click",
        "on a box finds its row, a click on a row its box. Made by `python docs/tools/gallery.py`.",
        "",
        f"| model | what to see | {' | '.join(roles)} |",
        f"| --- | --- |{' --- |' * len(roles)}",
    ]
    for name, (what, build) in MODELS.items():
        keras.backend.clear_session()
        network = keras_gamma.network.trace(build())
        file = f"{name.lower().replace('-', '')}.html"
        keras_gamma.plot_roles(network, PAGES / file)
        counts = keras_gamma.find_roles(network).counts()
        numbers = " | ".join(str(counts[keras_gamma.Role(role)] or "–") for role in roles)
        lines.append(f"| [{name}](gallery/{file}) | {what} | {numbers} |")
    (ROOT / "docs" / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
