"""Image classification as a task of `training`: data, metrics, and a confusion matrix."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from examples.core.run_state import Progress
from examples.core.settings import setting
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data import batches, loading
from examples.data.augmentation import AugmentationSettings, make_augmentation
from examples.tasks import confusion

_MANY = 20  # classes, from which on it is told how often the right one is among five


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """Which images, and how they are shown."""

    dataset: str = setting(
        "digits", "An image classification set of tensorflow-datasets, or digits."
    )
    train_split: str | None = setting(
        None, "What to learn from, as tensorflow-datasets names it; default: train."
    )
    validation_split: str | None = setting(
        None,
        "What the score after each epoch is of; none for no score. Default: the set's own, or a "
        "tenth of train, which is not trained on then.",
    )
    test_split: str | None = setting(
        None, "What the score at the very end is of; default: test, or validation."
    )
    image_size: int = setting(
        0,
        "Side of the images: those that differ in size are cropped to it (0: 224), others resized "
        "(0: left).",
        low=0,
    )
    shift: int = setting(
        -1,
        "Move training images by up to so many pixels; -1: an eighth, or 0 where they are cropped.",
        low=-1,
    )
    flip: bool = setting(False, "Mirror every other training image, left to right.")
    eval_batch_size: int = setting(512, "Examples in a test batch.", low=1)


class ImageTask:
    """A data set of tensorflow-datasets, and a model for it.

    Args:
        build: function `(image_shape, num_classes)` that returns a model of logits.
        settings: which images, and how they are shown.
        training: hyperparameters.
        how: where data sets lie, and whether to keep them in memory.
        augmentation: what is done to training images.
    """

    def __init__(
        self,
        build: Callable[[tuple[int, int, int], int], keras.Model],
        settings: ImageSettings,
        training: TrainingSettings,
        how: RunSettings,
        augmentation: AugmentationSettings,
    ):
        self._build = build
        self._settings = settings
        self._training = training
        self.images = loading.load_images(
            settings.dataset,
            data_dir=how.data_dir,
            image_size=settings.image_size,
            limit_examples=training.limit_examples,
            cache=how.cache,
            train_split=settings.train_split,
            validation_split=settings.validation_split,
            test_split=settings.test_split,
        )
        self.train_size = self.images.train_size
        self.classes = self.images.num_classes
        self.soft_labels = augmentation.mixes
        self._augment = make_augmentation(augmentation, self.classes)
        self.selects = ("val_accuracy", False)

    def show(self) -> None:
        images, splits = self.images, self.images.splits
        print(
            f"{images.full_name}: {images.train_size} images to learn from ({splits.train}), "
            f"{images.validation_size} to validate on ({splits.validation or 'none'}), "
            f"{images.test_size} to test on ({splits.test}); {images.image_shape}, "
            f"{images.num_classes} classes",
            flush=True,
        )

    def describe(self) -> dict[str, Any]:
        return self.images.describe()

    def make_model(self) -> keras.Model:
        return self._build(self.images.image_shape, self.images.num_classes)

    def make_metrics(self) -> list[keras.metrics.Metric]:
        found = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        if self.classes > _MANY:
            found.append(keras.metrics.SparseTopKCategoricalAccuracy(k=5, name="top5"))
        return found

    def train_batches(
        self,
        *,
        steps: int,
        first_epoch: int,
        first_step: int = 0,
        worker: int = 0,
        workers: int = 1,
    ) -> tf.data.Dataset:
        settings, training = self._settings, self._training
        # A part drawn at random needs no moving.
        usual = 0 if self.images.cropped else min(self.images.image_shape[:2]) // 8
        return batches.train_batches(
            self.images,
            batch_size=training.batch_size,
            steps=steps,
            first_epoch=first_epoch,
            first_step=first_step,
            epochs=training.epochs,
            seed=training.seed,
            shift=settings.shift if settings.shift >= 0 else usual,
            flip=settings.flip,
            augment=self._augment,
            worker=worker,
            workers=workers,
        )

    def train_part(
        self, *, steps: int, first_epoch: int, first_step: int = 0, worker: int, workers: int
    ) -> tf.data.Dataset | None:
        if not batches.can_share(self.images, self._training.batch_size, workers):
            return None
        return self.train_batches(
            steps=steps,
            first_epoch=first_epoch,
            first_step=first_step,
            worker=worker,
            workers=workers,
        )

    def validation_batches(self) -> tf.data.Dataset | None:
        return batches.validation_batches(self.images, self._settings.eval_batch_size)

    def test_batches(self) -> tf.data.Dataset:
        return batches.test_batches(self.images, self._settings.eval_batch_size)

    def results(self, progress: Progress, test: Mapping[str, float]) -> dict[str, Any]:
        return {
            "final_test_accuracy": test["accuracy"],
            **({"final_test_top5": test["top5"]} if "top5" in test else {}),
            "final_test_loss": test["loss"],
            "final_loss": progress.rows[-1]["loss"],
            **progress.best("val_accuracy"),
        }

    def tell(self, metrics: dict[str, Any]) -> str:
        return f"test accuracy {metrics['final_test_accuracy']:.4f}"

    def finish(self, model: keras.Model, directory: Path) -> None:
        confusion.draw(model, self.test_batches(), self.images.num_classes, directory)
