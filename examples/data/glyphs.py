"""Letters in the fonts that matplotlib brings along, distorted: a tensorflow-datasets data set.

Harder than the digits, and made on any machine without a download: a few hundred classes of
letters, many of which differ by an accent, and fonts in the test set that the training set has not
seen. Importing this module registers the builder, so that `tfds.load("glyphs")` works.
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tensorflow_datasets as tfds
from matplotlib import ft2font
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 16
TRAIN_PER_CLASS = 48
TEST_PER_CLASS = 20
_TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip
_TEST_FONTS = ("DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif-Bold", "STIXGeneralBolIta")
# Digits; Latin, Greek and Cyrillic letters.
_RANGES = (
    (0x30, 0x3A), (0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x180),
    (0x391, 0x3CA), (0x410, 0x450),
)  # fmt: skip
_LARGE = 48  # Glyphs are drawn and distorted at this size, and then made small.


@functools.cache
def classes() -> tuple[str, ...]:
    """Returns the characters that every font has, each shape once: A, but not Greek Α."""
    fonts = [_font_path(name) for name in (*_TRAIN_FONTS, *_TEST_FONTS)]
    covered = set.intersection(*(set(ft2font.FT2Font(str(f)).get_charmap()) for f in fonts))
    found: dict[bytes, str] = {}
    for code in itertools.chain.from_iterable(itertools.starmap(range, _RANGES)):
        if code in covered:
            found.setdefault(_plain(chr(code), "DejaVuSans").tobytes(), chr(code))
    return tuple(found.values())


def render(character: str, font: str, random: np.random.Generator) -> np.ndarray:
    """Draws a character, rotated, sheared, scaled, moved, blurred, and with noise.

    Args:
        character: one of `classes()`.
        font: name of a font of matplotlib's.
        random: of the distortions.

    Returns:
        An image, uint8, of shape `(SIDE, SIDE, 1)`.
    """
    image = Image.fromarray(_plain(character, font))
    angle = np.deg2rad(random.uniform(-15, 15))
    shear = random.uniform(-0.25, 0.25)
    scale = random.uniform(0.75, 1.1, size=2)
    shift = random.uniform(-4, 4, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(1 / scale)
    centre = np.full(2, (_LARGE - 1) / 2)
    offset = centre - matrix @ (centre + shift)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    affine = Image.Transform.AFFINE
    image = image.transform(image.size, affine, coefficients, Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.0, 1.5)))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    ink, paper = random.uniform(140, 255), random.uniform(0, 60)
    noisy = paper + small / 255 * (ink - paper) + random.normal(0, 12, small.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)[..., np.newaxis]


@functools.cache
def _plain(character: str, font: str) -> np.ndarray:
    """A character in the middle of a black square, undistorted."""
    image = Image.new("L", (_LARGE, _LARGE))
    ImageDraw.Draw(image).text(
        (_LARGE / 2, _LARGE * 0.68), character, 255, _font(font), anchor="ms"
    )
    return np.asarray(image)


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_path(name)), 34, layout_engine=ImageFont.Layout.BASIC)


def _font_path(name: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


class Glyphs(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # tfds has no types
    """Distorted letters, 16x16 pixels; the test set is in fonts that training has not seen."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "16 fonts, 4 of them for testing."}  # noqa: RUF012
    url_infos = None  # No downloads to check; see `examples.digits`.

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Latin, Greek and Cyrillic letters and digits in the fonts that matplotlib "
            "brings along (DejaVu, STIX), distorted at random.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=len(classes())),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://matplotlib.org",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to download
        return {
            "train": self._generate_examples(_TRAIN_FONTS, TRAIN_PER_CLASS, 0),
            "test": self._generate_examples(_TEST_FONTS, TEST_PER_CLASS, 1),
        }

    def _generate_examples(
        self, fonts: tuple[str, ...], per_class: int, stream: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields examples, fonts in turn; each is a function of its class and number alone."""
        for label, character in enumerate(classes()):
            for number in range(per_class):
                random = np.random.default_rng([stream, label, number])
                image = render(character, fonts[number % len(fonts)], random)
                yield label * per_class + number, {"image": image, "label": label}
