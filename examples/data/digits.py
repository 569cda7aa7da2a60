"""scikit-learn's digits as a tensorflow-datasets data set: 1,797 real 8x8 images, no download.

Importing this module registers the builder, so that `tfds.load("digits")` works.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

_TEST_EVERY = 5


def stratified_split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Splits examples by a fixed rule: sorted by label (stably), every fifth one is a test example.

    The rule draws no random numbers, so it gives the same split with every version of every
    library, and each class is split 4:1 to within one example.

    Args:
        labels: class of each example, shape `(examples,)`.

    Returns:
        Indices of the `train` and of the `test` examples, each in ascending order.
    """
    by_label = np.argsort(labels, kind="stable")
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[by_label[::_TEST_EVERY]] = True
    return {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}


class Split(NamedTuple):
    """Examples of one split: numbers in scikit-learn's order, grey levels 0 to 16, labels."""

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def load() -> dict[str, Split]:
    """Returns both splits; images have shape `(examples, 8, 8, 1)`."""
    from sklearn import datasets  # only to prepare the set

    found = datasets.load_digits()
    return {
        split: Split(indices, found.images[indices][..., np.newaxis], found.target[indices])
        for split, indices in stratified_split(found.target).items()
    }


class Digits(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # tfds has no types
    """Handwritten digits, 8x8 pixels, 17 grey levels: 1,437 for training, 360 for testing."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Fixed stratified split; grey levels 0..255."}  # noqa: RUF012
    # There are no downloads to check. Looking for their checksums needs importlib_resources, which
    # tensorflow-datasets 4.9.10 forgets to require (tensorflow/datasets#11212).
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The test part of UCI's Optical Recognition of Handwritten Digits, as "
            "scikit-learn bundles it, split 4:1 within each class.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to download
        return {name: self._generate_examples(split) for name, split in load().items()}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields each example with its index in scikit-learn's order as the key."""
        # 17 grey levels, 0..16, onto the whole range of a byte: 0 -> 0, 16 -> 255.
        images = np.round(split.images * (255 / 16)).astype(np.uint8)
        for index, image, label in zip(split.indices, images, split.labels, strict=True):
            yield int(index), {"image": image, "label": int(label)}
