"""From the bytes of an image file to an array: crops, sizes, and what is refused.

To train, a part of the image is drawn as in Inception (arXiv:1409.4842): 8 to 100 % of its area, of
a shape between 3:4 and 4:3. To evaluate, the square in its middle is taken, 0.875 of the shorter
side. Only that part is decoded, where the file is a JPEG.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

import tensorflow as tf

from examples.core.cli import UsageError
from examples.data.reading import ENDS_EARLY

Choice: TypeAlias = Callable[[tf.Tensor], tf.Tensor]  # from a shape to (top, left, height, width)

AREA = (0.08, 1.0)  # of the part that is trained on, in that of the whole
ASPECT = (3 / 4, 4 / 3)  # its width over its height
CENTER = 0.875  # side of the part that is evaluated, over the shorter side of the whole

# How files begin that TensorFlow can decode: JPEG, PNG, GIF, BMP.
_MAGIC = (b"\xff\xd8", b"\x89P", b"GI", b"BM")
_WHERE = ("Graph execution error", "Detected at node", "File ")
NO_IMAGE, NO_LABEL = "no image:", "label out of range:"


def checks(
    encoded: tf.Tensor, label: tf.Tensor, classes: int, where: list[tf.Tensor | str]
) -> list[tf.Operation]:
    """Returns assertions that stop the pipeline at what is no image, or belongs to no class.

    Args:
        encoded: content of an image file; or an image, which needs no check.
        label: its class.
        classes: number of classes.
        where: where it was read, for the error.
    """
    known = tf.logical_and(label >= 0, label < classes)
    found = [_check(known, NO_LABEL, label, *where)]
    if encoded.dtype == tf.string:
        starts = tf.strings.substr(encoded, 0, 2) == tf.constant(_MAGIC)
        found.append(_check(tf.reduce_any(starts), NO_IMAGE, *where))
    return found


def check_whole(example: tf.Tensor, where: list[tf.Tensor | str]) -> tf.Operation:
    """Returns an assertion that stops the pipeline where a file ends before its time.

    Args:
        example: as it was read from the file; empty at its end.
        where: as for `checks`.
    """
    return _check(tf.strings.length(example) > 0, ENDS_EARLY, *where)


def _check(condition: tf.Tensor, *told: tf.Tensor | str) -> tf.Operation:
    # `tf.debugging.Assert` would branch first, for each example anew.
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(x) for x in told])


@contextlib.contextmanager
def told_in_a_line() -> Iterator[None]:
    """Says in one line what is wrong with the data that a pipeline stopped at.

    Raises:
        UsageError: so it is.
    """
    try:
        yield
    except tf.errors.OpError as error:
        message = explain(error)
        if message is None:
            raise
        raise UsageError(f"{message}. Mend the data; the same command resumes the run") from error


def explain(error: tf.errors.OpError) -> str | None:
    """Returns what an error of a pipeline says of the data, or `None` if it is about more."""
    text = error.message or ""
    if found := re.search(rf"\[?{NO_IMAGE}\]? \[?([^\]\n]*)\]?(?: \[?(\d+)\]?)?", text):
        return f"what should be an image is none: {_place(found[1], found[2])}"
    if found := re.search(rf"\[?{ENDS_EARLY}\]? \[?([^\]\n]*)\]? \[?(\d+)\]?", text):
        return f"a file of the data set is damaged: there is no {_place(found[1], found[2])}"
    if found := re.search(
        rf"\[?{NO_LABEL}\]? \[?(-?\d+)\]? \[?([^\]\n]*)\]?(?: \[?(\d+)\]?)?", text
    ):
        return f"the label {found[1]} is none of the classes: {_place(found[2], found[3])}"
    # Under `fit`, TensorFlow tells first where the step was defined.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_WHERE)] or [type(error).__name__]
    line = next((line for line in told if " record at " in line), told[0])
    line = re.sub(r"\{\{.*?\}\} *|\s*\[Op:.*", "", line)
    if isinstance(error, tf.errors.DataLossError):
        return f"a file of the data set is damaged ({line})"
    if isinstance(error, tf.errors.NotFoundError) and "tfrecord" in text:
        return f"a file of the data set is missing ({line})"
    if re.search("jpe?g|png|decode", text, re.IGNORECASE):
        return f"an image cannot be decoded ({line})"
    return None


def _place(file: str, number: str | None) -> str:
    file = file.strip("'\" ")
    return f"example {number} (from 0) of {file}" if number is not None else file


def random_part(
    encoded: tf.Tensor, seed: tf.Tensor, size: tuple[int, int], channels: int
) -> tf.Tensor:
    """Decodes a part of an image, drawn from `seed`, at a size of (height, width), to uint8."""

    def draw(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=ASPECT,
            area_range=AREA,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], 0)

    return _resized(_part(encoded, draw, channels), size, channels)


def center_part(encoded: tf.Tensor, size: tuple[int, int], channels: int) -> tf.Tensor:
    """Decodes the middle of an image, at a size of (height, width), to uint8."""

    def middle(shape: tf.Tensor) -> tf.Tensor:
        height, width = shape[0], shape[1]
        short = tf.cast(tf.minimum(height / size[0], width / size[1]), tf.float32)
        # Of the shape that is asked for, as large as fits, and CENTER of that.
        extent = [
            tf.maximum(1, tf.cast(tf.round(CENTER * short * tf.cast(side, tf.float32)), tf.int32))
            for side in size
        ]
        return tf.stack([(height - extent[0]) // 2, (width - extent[1]) // 2, *extent])

    return _resized(_part(encoded, middle, channels), size, channels)


def _part(encoded: tf.Tensor, choose: Choice, channels: int) -> tf.Tensor:
    """Decodes the part (top, left, height, width) that `choose` finds for a shape."""

    def of_jpeg() -> tf.Tensor:
        window = choose(tf.io.extract_jpeg_shape(encoded))
        return tf.io.decode_and_crop_jpeg(encoded, window, channels)

    def of_other() -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels, expand_animations=False)
        top, left, height, width = tf.unstack(choose(tf.shape(image)))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_other)


def _resized(image: tf.Tensor, size: tuple[int, int], channels: int) -> tf.Tensor:
    image = tf.image.resize(image, size)
    image = tf.cast(tf.round(image), tf.uint8)  # a mean of pixels, and so within 0..255
    return tf.ensure_shape(image, (*size, channels))
