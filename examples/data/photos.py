"""Made photographs: a tensorflow-datasets set of JPEGs that differ in size, made on the spot.

    python examples/data/photos.py --images=50000 --shards=16 --data_dir=made

writes `photos` into the folder `made`; then `--dataset=photos --data_dir=made` trains on it. It has
the shape of ImageNet (JPEGs of 200 to 640 pixels a side in several files, train and validation, a
class for each), of which nothing can be downloaded everywhere: for tests and for measurements.
Pictures are cut out of a large one of clouds of all sizes, whose spectrum is that of photographs;
the class decides about the tint.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any

if not __package__:  # Run as a script.
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags

CLASSES = 10
SIDES = (200, 640)  # pixels
_CANVAS = 2048  # side of the large picture
_VALIDATION = 8  # every so many-th is added for validation


class Photos(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # tfds has no types
    """Made JPEGs of mixed size, in classes that differ in tint.

    Args:
        images: number of images to learn from; an eighth as many are added for validation.
        seed: of all that is drawn.
        sides: shortest and longest side.
        **options: as of any builder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012
    url_infos = None  # Nothing is downloaded.

    def __init__(
        self,
        *,
        images: int = 1000,
        seed: int = 0,
        sides: tuple[int, int] = SIDES,
        **options: Any,
    ):
        self._images, self._seed, self._sides = images, seed, sides
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Made JPEGs of mixed size.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        held_out = max(1, self._images // _VALIDATION)
        return {
            "train": self._generate_examples(0, self._images),
            "validation": self._generate_examples(self._images, held_out),
        }

    def _generate_examples(self, first: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        canvas = clouds(_CANVAS, self._seed)
        for number in range(first, first + count):
            random = np.random.default_rng((self._seed, number))
            label = int(random.integers(CLASSES))
            image = _cut(canvas, label, self._sides, random)
            encoded = tf.io.encode_jpeg(image, quality=90).numpy()
            yield number, {"image": io.BytesIO(encoded), "label": label}


def clouds(side: int, seed: int) -> np.ndarray:
    """Returns an image of noise whose amplitude falls with frequency, float32 of 0..255."""
    random = np.random.default_rng(seed)
    frequencies = np.hypot(*np.meshgrid(np.fft.rfftfreq(side), np.fft.fftfreq(side)))
    frequencies[0, 0] = 1.0
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(random.standard_normal((side, side)))
        plane = np.fft.irfft2(noise / frequencies, (side, side))
        planes.append(plane / plane.std())
    image: np.ndarray = np.clip(128 + 48 * np.stack(planes, -1), 0, 255).astype(np.float32)
    return image


def make(
    data_dir: str,
    *,
    images: int,
    shards: int,
    seed: int = 0,
    sides: tuple[int, int] = SIDES,
) -> tfds.core.DatasetBuilder:
    """Writes the set into a folder, unless it is there; returns its builder."""
    builder = Photos(images=images, seed=seed, sides=sides, data_dir=data_dir)
    if not builder.data_path.exists():
        tfds.disable_progress_bar()
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=shards)
        )
    return builder


def _cut(
    canvas: np.ndarray, label: int, sides: tuple[int, int], random: np.random.Generator
) -> np.ndarray:
    """Returns a part of the large picture, with the tint of a class."""
    height, width = random.integers(sides[0], sides[1] + 1, 2)
    top, left = random.integers(0, [_CANVAS - height, _CANVAS - width])
    angle = 2 * np.pi * label / CLASSES
    tint = 1 + 0.4 * np.cos(angle + 2 * np.pi / 3 * np.arange(3, dtype=np.float32))
    part = canvas[top : top + height, left : left + width] * tint.astype(np.float32)
    image: np.ndarray = np.clip(part, 0, 255).astype(np.uint8)
    return image


def main(argv: Sequence[str]) -> None:
    """Makes the set."""
    del argv
    builder = make(flags.FLAGS.data_dir, images=flags.FLAGS.images, shards=flags.FLAGS.shards)
    for name, split in builder.info.splits.items():
        megabytes = split.num_bytes / 1e6
        print(f"{name}: {split.num_examples} images, {split.num_shards} files, {megabytes:.0f} MB")


if __name__ == "__main__":
    flags.DEFINE_integer("images", 50_000, "Images to learn from.", 1)
    flags.DEFINE_integer("shards", 16, "Files of each split.", 1)
    flags.DEFINE_string("data_dir", None, "Folder to write into.", required=True)
    app.run(main)
