"""Input of large image sets: rate beside bare decoding, memory, and each example once.

    python benchmarks/input_rate.py --images=50000     # makes the set first: about 3 GB, once

Makes JPEGs of mixed size in 16 files (`examples/data/photos.py`), unless they are there. Then, in
turn and in one process, reads them through the input pipeline of the training scripts, and by a
bare loop that reads the same files and does nothing but `tf.io.decode_and_crop_jpeg`, on parts
drawn in the same way, in parallel on all cores. `--resize` lets the bare loop resize, too, without
which no batch can be made. Prints the median ratio of the rates of a round, on the clock and in
processor's seconds, of all threads, so that other work on the machine counts less; how much the
memory of the process has grown beyond TensorFlow's, and how often two workers together read each
example.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import tensorflow as tf
from absl import app, flags

from examples.data import batches, decoding, loading, photos
from examples.data.loading import ImageData

SIZE = 224
CLOCKS = ("clock", "processor")
_FLAGS = flags.FLAGS


def rss() -> tuple[float, float]:
    """Returns the memory of this process now, and at most so far, in GB."""
    text = Path("/proc/self/status").read_text()
    found = dict(line.split(":", 1) for line in text.splitlines())
    now, most = (float(found[name].split()[0]) * 1024 / 1e9 for name in ("VmRSS", "VmHWM"))
    return now, most


def ours(data: ImageData, batch_size: int) -> Iterator[int]:
    """Yields the number of images in each batch of training."""
    steps = data.train_size // batch_size
    found = batches.train_batches(
        data, batch_size=batch_size, steps=steps, first_epoch=0, epochs=1000, seed=0, flip=True
    )
    for images, _ in found:
        yield len(images)


def bare(data: ImageData, batch_size: int, resize: bool) -> Iterator[int]:
    """Yields the number of images decoded, so many at a time."""
    assert data.records is not None
    spec = {"image": tf.io.FixedLenFeature([], tf.string)}

    def decode(number: tf.Tensor, example: tf.Tensor) -> tf.Tensor:
        encoded = tf.io.parse_single_example(example, spec)["image"]
        seed = tf.stack([tf.constant(0, tf.int64), number])
        if resize:
            return tf.reduce_sum(decoding.random_part(encoded, seed, (SIZE, SIZE), 3)[0, 0])
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=decoding.ASPECT,
            area_range=decoding.AREA,
            max_attempts=10,
        )
        window = tf.concat([begin[:2], extent[:2]], 0)
        return tf.reduce_sum(tf.io.decode_and_crop_jpeg(encoded, window, 3)[0, 0])

    found = tf.data.TFRecordDataset(list(data.records.names)).repeat().enumerate()
    found = found.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    for part in found.batch(batch_size).prefetch(2):
        yield len(part)


def rates(reader: Iterator[int], seconds: float) -> tuple[float, float]:
    """Returns images per second, and per second of the processor, over about so many seconds."""
    next(reader)  # What was ready already does not count.
    began, work, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        images += next(reader)
    return images / (time.perf_counter() - began), images / (time.process_time() - work)


def times_read(data: ImageData, batch_size: int, workers: int) -> Counter[int]:
    """Returns how many examples are read how many times, by so many workers in an epoch."""
    assert data.records is not None
    seen: Counter[tuple[int, int]] = Counter()
    steps = data.train_size // batch_size
    readers = data.records.readers(batch_size)
    for worker in range(workers):
        mine = range(worker * readers // workers, (worker + 1) * readers // workers)
        found = data.records.batchwise(
            batch_size, steps, tf.constant(0, tf.int64), tf.constant([0, 0]), mine
        )
        for files, places in found.map(lambda file, place, _: (file, place)).batch(4096):
            seen.update(zip(files.numpy().tolist(), places.numpy().tolist(), strict=True))
    counts = Counter(seen.values())
    if left := data.train_size - len(seen):
        counts[0] = left
    return counts


def main(argv: Sequence[str]) -> None:
    """Makes the set, and measures."""
    del argv
    photos.make(_FLAGS.data_dir, images=_FLAGS.images, shards=16)
    before, _ = rss()  # TensorFlow is there, and has decoded nothing yet.
    data = loading.load_images(
        "photos", data_dir=_FLAGS.data_dir, image_size=SIZE, validation_split="none"
    )
    assert data.records is not None
    average = data.records.average_bytes
    print(f"{data.train_size} JPEGs of {average / 1e3:.0f} kB on average in 16 files")
    readers = {"ours": ours(data, _FLAGS.batch_size)}
    rates(readers["ours"], _FLAGS.seconds)
    print(f"memory beyond TensorFlow: {rss()[1] - before:.2f} GB")
    readers["bare"] = bare(data, _FLAGS.batch_size, _FLAGS.resize)
    ratios: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
    for number in range(_FLAGS.rounds):
        order = ("ours", "bare") if number % 2 else ("bare", "ours")
        found = {}
        for name in order:
            found[name] = rates(readers[name], _FLAGS.seconds)
            time.sleep(_FLAGS.pause)  # Until the buffers are full, and nothing runs on.
        for place, clock in enumerate(CLOCKS):
            mine, bares = found["ours"][place], found["bare"][place]
            ratios[clock].append(mine / bares)
            print(f"{clock}: ours {mine:.0f} images/s, bare {bares:.0f}: {mine / bares:.3f}")
    for clock, some in ratios.items():
        median = statistics.median(some)
        print(f"{clock}: median ratio {median:.3f} ({min(some):.3f} to {max(some):.3f})")
    print(f"memory beyond TensorFlow, both: {rss()[1] - before:.2f} GB")
    print(f"times that an example is read by two workers: {dict(times_read(data, 100, 2))}")


if __name__ == "__main__":
    flags.DEFINE_integer("images", 50_000, "Images of the set.", 1)
    flags.DEFINE_string("data_dir", "/tmp/made_photos", "Where the set is, or will be.")
    flags.DEFINE_integer("batch_size", 128, "Images in a batch.", 1)
    flags.DEFINE_integer("rounds", 9, "Of both.", 1)
    flags.DEFINE_float("seconds", 5.0, "Of each in a round.", 0.1)
    flags.DEFINE_float("pause", 1.0, "Seconds after each, while buffers fill.", 0.0)
    flags.DEFINE_bool("resize", False, "Let the bare loop resize, too.")
    app.run(main)
