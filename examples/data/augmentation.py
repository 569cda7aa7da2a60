"""Augmentation of image batches by Keras' own layers, each draw a function of a step's seed alone.

Keras' layers draw from a `SeedGenerator`, which counts calls; here they draw from one that counts
the draws of a step, so that a run that is resumed at a step sees what an uninterrupted one sees.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from examples.core.settings import setting

# (images, labels, seed) to images and labels
Augmentation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
_BYTES = (0.0, 255.0)


@dataclasses.dataclass(frozen=True)
class AugmentationSettings:
    """What is done to training images, beside moving and mirroring them."""

    rand_augment: float = setting(
        0.0,
        "Strength of RandAugment's operations, two for each batch (arXiv:1909.13719); 0: none.",
        low=0.0,
        high=1.0,
    )
    erase: bool = setting(False, "Erase a random rectangle of each image (arXiv:1708.04896).")
    mixup: float = setting(
        0.0, "Mix pairs of images, with weights from Beta(α, α) (arXiv:1710.09412); 0: do not.",
        low=0.0,
    )  # fmt: skip
    cutmix: float = setting(
        0.0, "Swap rectangles between pairs of images, α as in --mixup (arXiv:1905.04899); with "
        "both, each batch gets one of them.", low=0.0,
    )  # fmt: skip

    @property
    def mixes(self) -> bool:
        """Whether labels become mixtures."""
        return bool(self.mixup or self.cutmix)


def make_augmentation(settings: AugmentationSettings, classes: int) -> Augmentation | None:
    """Returns what the settings ask for; `None` for nothing.

    Args:
        settings: what is done to images.
        classes: how many there are; labels become rows where images are mixed.
    """
    one_by_one = []
    if settings.rand_augment:
        one_by_one.append(
            _drawing(layers.RandAugment(value_range=_BYTES, factor=settings.rand_augment))
        )
    if settings.erase:
        one_by_one.append(_drawing(layers.RandomErasing(value_range=_BYTES)))
    mixing = []
    if settings.mixup:
        mixing.append(_drawing(layers.MixUp(alpha=settings.mixup)))
    if settings.cutmix:
        mixing.append(_drawing(layers.CutMix(factor=settings.cutmix)))
    if not one_by_one and not mixing:
        return None

    def augment(
        images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32)
        seeds = tf.random.experimental.stateless_split(seed, len(one_by_one) + len(mixing) + 1)
        for number, layer in enumerate(one_by_one):
            images = _call(layer, images, seeds[number])
        if not mixing:
            return images, labels
        batch = {"images": images, "labels": tf.one_hot(labels, classes)}
        mixed = [
            _call(layer, batch, seeds[len(one_by_one) + number])
            for number, layer in enumerate(mixing)
        ]
        if len(mixed) == 2:
            first = tf.random.stateless_uniform([], seeds[-1]) < 0.5
            chosen = {key: tf.where(first, mixed[0][key], mixed[1][key]) for key in batch}
        else:
            [chosen] = mixed
        shape = images.shape
        return tf.ensure_shape(chosen["images"], shape), tf.ensure_shape(
            chosen["labels"], batch["labels"].shape
        )

    return augment


def _call(drawing: tuple[Any, "_Draws"], inputs: Any, seed: tf.Tensor) -> Any:
    """Applies a layer of Keras' with a seed of its own."""
    layer, draws = drawing
    draws.begin(seed)
    return layer(inputs, training=True)


def _drawing(layer: Any) -> tuple[Any, "_Draws"]:
    """Has a layer, and those within it, draw from seeds of ours.

    In a graph of tf.data's, Keras' layers run on TensorFlow, whatever the backend of the model, and
    ask `_get_seed_generator` for what to draw from: the one private name of Keras' here.
    """
    draws = _Draws()
    for one in layer._flatten_layers():
        one._get_seed_generator = lambda backend=None: draws
    return layer, draws


class _Draws(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras has no types
    """The seeds of a step's draws, one after the other."""

    def __init__(self) -> None:
        super().__init__(0)
        self._of_step: Any = None
        self._count = 0

    def begin(self, seed: tf.Tensor) -> None:
        """Begins anew, with the seed of a step."""
        self._of_step, self._count = seed, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._of_step, self._count)
