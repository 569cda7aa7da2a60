"""The training scripts beside the plainest Keras script of the same model, batch and data.

    python benchmarks/script_cost.py --script=resnet   # or transformer; KERAS_BACKEND=jax or torch

They train in processes of their own, in turn: of `--size=digits` a ResNet-14, or the small ViT, on
8 x 8 pixels in batches of 32; of `--size=cifar` a ResNet-20, or that ViT with patches as many, on
made images of 32 x 32, which all read with tensorflow-datasets, in batches of 128. What our scripts
train by asks for work in each step: the ResNet's for an L2 penalty on its kernels and on some γ,
and both for a schedule. So there are two plain scripts: the plainest, and one of the same recipe,
by Keras' own means. (AdamW of the ViT's decays in all.) Prints, for each round, seconds from the
start of the process to the end of the first step, and those of an epoch after the first, with its
evaluation: on the clock, and the processor's, of all threads, so that other work on the machine
counts less; and the median ratios, with the smallest and the largest. All leave determinism off, or
have it on (`--deterministic`); none moves images about (`--shift=0`). An epoch is 40 steps, or 20,
which is little beside what our scripts do after each (a checkpoint, a row of the log, TensorBoard):
`--passes=8` makes it eight times as long.
"""

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags

import keras_gamma
from examples.models import resnet

ROOT = Path(__file__).resolve().parents[1]
_FLAGS = flags.FLAGS
PEAK, L2 = 0.1, 2.5e-4  # of our ResNet's learning rate, and its penalty: --weight_decay / 2

PLAIN = """
import json, time, sys
import keras, numpy as np
sys.path.insert(0, {root!r})
{imports}
deterministic = {deterministic}
keras.utils.set_random_seed(0)
if deterministic:
    import tensorflow as tf
    tf.config.experimental.enable_op_determinism()
{data}
model = {model}
rate = {rate}
{penalty}
model.compile(
    {optimizer},
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
times = []
class Times(keras.callbacks.Callback):
    first = None
    def on_train_batch_end(self, batch, logs=None):
        Times.first = Times.first or (time.time(), time.process_time())
    def on_epoch_end(self, epoch, logs=None):
        times.append((time.time(), time.process_time()))
train = [np.concatenate([part[:{examples}]] * {passes}) for part in (x, labels)]
held_out = slice({examples}, {examples} + {held_out})
model.fit(*train, batch_size={batch}, epochs={epochs}, verbose=2,
          validation_data=(x[held_out], labels[held_out]), callbacks=[Times()])
json.dump([Times.first, times], open({out!r}, "w"))
"""
OURS = """
import json, sys, time
sys.path.insert(0, {root!r})
from examples import {script} as script
from examples.core import cli, training
times = []
class Times(training.SaveProgress):
    first = None
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        Times.first = Times.first or (time.time(), time.process_time())
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        times.append((time.time(), time.process_time()))
        if epoch == {epochs} - 1:
            json.dump([Times.first, times], open({out!r}, "w"))
training.SaveProgress = Times
sys.argv[1:] = {flags!r}
cli.run_main(script.main)
"""


VIT = """vision_transformer(
    Size(depth=4, width=64, heads=4, mlp_ratio=4, dropout=0.1, norm="layer", norm_position="pre"),
    image_shape={shape}, num_classes=10, patch_size={patch})"""


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the images, and of how many.

    Attributes:
        shape: of an image.
        batch: examples in a batch.
        examples: to learn from, in one pass.
        held_out: to evaluate on.
        load: code of a plain script that makes `x` and `labels`.
        resnet: name of the ResNet.
        width: of its first stage.
        patch: side of the ViT's patches.
        words: flags of our script.
    """

    shape: tuple[int, int, int]
    batch: int
    examples: int
    held_out: int
    load: str
    resnet: str
    width: int
    patch: int
    words: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Examples of the training split: those to evaluate on are its last."""
        return self.examples + self.held_out


SIZES = {
    "digits": Size(
        shape=(8, 8, 1), batch=32, examples=1280, held_out=144, resnet="resnet14_v1", width=24,
        patch=2,
        load="""
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
x = (images.reshape(-1, 8, 8, 1) * 255 / 16).astype("uint8")
""",
    ),
    "cifar": Size(
        shape=(32, 32, 3), batch=128, examples=2560, held_out=256, resnet="resnet20_v1", width=16,
        patch=8,
        load="""
import tensorflow_datasets as tfds
x, labels = tfds.as_numpy(tfds.load(
    "made", split="train", data_dir={folder!r} + "/data", batch_size=-1, as_supervised=True))
""",
        words=("--dataset=made",),
    ),
}  # fmt: skip
MODELS = {
    "resnet": (
        "from examples.models.resnet import build_model",
        "build_model({resnet!r}, input_shape={shape}, num_classes=10, width={width})",
        "keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)",
    ),
    "transformer": (
        "from examples.models.transformer import Size, vision_transformer",
        VIT,
        "keras.optimizers.AdamW(rate, weight_decay=0.05)",
    ),
}
RATES = {"resnet": PEAK, "transformer": 2e-3}
CLOCKS = ("clock", "processor")
PLAINEST, RECIPE = "the plainest", "one of the same recipe"
SCHEDULE = """keras.optimizers.schedules.CosineDecay(
    {peak} / {warm_up}, decay_steps={steps} - {warm_up}, warmup_target={peak},
    warmup_steps={warm_up})"""
PENALTY = """
for layer in model.layers:
    if hasattr(layer, "kernel"):
        layer.kernel.regularizer = keras.regularizers.L2({l2})
    if layer.name in {scaled}:
        layer.gamma.regularizer = keras.regularizers.L2({l2})
"""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds, on the clock and the processor's.

    Attributes:
        start: to the end of the first step.
        epoch: of an epoch after the first, the median.
    """

    start: tuple[float, float]
    epoch: tuple[float, float]


def measure(code: str, out: Path, **values: object) -> Cost:
    """Runs a script."""
    text = code.format(root=str(ROOT), out=str(out), epochs=_FLAGS.epochs, **values)
    begun = time.time()
    run = subprocess.run(
        [sys.executable, "-c", text], check=False, capture_output=True, text=True, cwd=ROOT
    )
    if run.returncode:
        raise SystemExit(f"A script ended with {run.returncode}:\n{run.stderr[-2000:]}")
    first, ends = json.loads(out.read_text())
    spans = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(ends)]
    clock, processor = (statistics.median(side) for side in zip(*spans, strict=True))
    return Cost((first[0] - begun, first[1]), (clock, processor))


def measure_ours(number: int, folder: Path) -> Cost:
    """Runs our script."""
    size = SIZES[_FLAGS.size]
    words = [
        *size.words,
        f"--epochs={_FLAGS.epochs}", f"--batch_size={size.batch}",
        f"--train_split={'+'.join([f'train[:{size.examples}]'] * _FLAGS.passes)}",
        f"--validation_split=train[{size.examples}:{size.rows}]",
        f"--deterministic={str(_FLAGS.deterministic).lower()}", "--verbose=2", "--shift=0",
        f"--data_dir={folder}/data", f"--output_dir={folder}/{number}",
    ]  # fmt: skip
    if _FLAGS.script == "resnet":
        words += [f"--model={size.resnet}", f"--width={size.width}", f"--weight_decay={2 * L2}",
                  f"--learning_rate={PEAK}"]  # fmt: skip
    else:
        words.append(f"--patch_size={size.patch}")
    return measure(OURS, folder / "out", flags=words, script=f"train_{_FLAGS.script}")


def measure_plain(name: str, folder: Path, scaled: Sequence[str]) -> Cost:
    """Runs a plain script; one of our recipe has a penalty on the γ of the layers `scaled`, too."""
    size, peak = SIZES[_FLAGS.size], RATES[_FLAGS.script]
    steps = size.examples // size.batch * _FLAGS.passes * _FLAGS.epochs
    imports, model, optimizer = MODELS[_FLAGS.script]
    rate, penalty = str(peak), ""
    if name == RECIPE:
        rate = SCHEDULE.format(peak=peak, steps=steps, warm_up=steps // _FLAGS.epochs)
        penalty = PENALTY.format(l2=L2, scaled=list(scaled)) if scaled else ""
    return measure(
        PLAIN, folder / "out", deterministic=_FLAGS.deterministic, imports=imports,
        model=model.format(**dataclasses.asdict(size)), data=size.load.format(folder=str(folder)),
        optimizer=optimizer, rate=rate, penalty=penalty, examples=size.examples,
        held_out=size.held_out, batch=size.batch, passes=_FLAGS.passes,
    )  # fmt: skip


def measure_all(number: int, folder: Path, scaled: Sequence[str]) -> dict[str, Cost]:
    """Runs our script, and the plain ones, in an order that changes from round to round."""
    names = ["ours", PLAINEST, RECIPE]
    turned = number % len(names)
    return {
        name: measure_ours(number, folder)
        if name == "ours"
        else measure_plain(name, folder, scaled)
        for name in names[turned:] + names[:turned]
    }


class Made(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # tfds has no types
    """Images of noise, as large and as many as `--size=cifar` says, which differ in brightness."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # Nothing is downloaded.

    def __init__(self, images: np.ndarray, labels: np.ndarray, **options: Any):
        self._images, self._labels = images, labels
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self._images.shape[1:]),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Made images.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        first, rest = slice(SIZES["cifar"].rows), slice(SIZES["cifar"].rows, None)
        return {"train": self._generate_examples(first), "test": self._generate_examples(rest)}

    def _generate_examples(self, part: slice) -> Iterator[tuple[int, dict[str, Any]]]:
        pairs = zip(self._images[part], self._labels[part], strict=True)
        for number, (image, label) in enumerate(pairs):
            yield number, {"image": image, "label": label}


def prepare(folder: Path) -> None:
    """Writes the images of `--size=cifar`, which all scripts read with tensorflow-datasets."""
    size, random = SIZES["cifar"], np.random.default_rng(0)
    rows = size.rows + size.held_out
    labels = random.integers(0, 10, rows)
    noise = random.normal(64 + 16 * labels[:, None, None, None], 48, (rows, *size.shape))
    images = np.clip(noise, 0, 255).astype("uint8")
    tfds.disable_progress_bar()
    Made(images, labels, data_dir=folder / "data").download_and_prepare()


def penalized() -> list[str]:
    """The layers on whose γ our ResNet has a penalty."""
    if _FLAGS.script != "resnet":
        return []
    size = SIZES[_FLAGS.size]
    model = resnet.build_model(
        size.resnet, input_shape=size.shape, num_classes=10, width=size.width
    )
    plan = keras_gamma.apply_guidelines(model, l2=L2)
    return [entry.path.split("/")[0] for entry in plan if entry.strength]


def main(argv: Sequence[str]) -> None:
    """Measures in turn."""
    del argv
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    size = SIZES[_FLAGS.size]
    steps = size.examples // size.batch * _FLAGS.passes
    title = f"{backend}, {_FLAGS.script}, {_FLAGS.size}, {steps} steps an epoch"
    rounds: list[dict[str, Cost]] = []
    scaled = penalized()
    with tempfile.TemporaryDirectory() as folder:
        if _FLAGS.size == "cifar":
            prepare(Path(folder))
        for number in range(_FLAGS.rounds + 1):
            found = measure_all(number, Path(folder), scaled)
            if number == 0:
                continue  # The first prepares the data, and fills the file system's cache.
            rounds.append(found)
            for place, clock in enumerate(CLOCKS):
                told = "; ".join(
                    f"{name} {cost.start[place]:.1f} s and {cost.epoch[place]:.2f} s"
                    for name, cost in sorted(found.items())
                )
                print(f"{title}, {clock}, to the first step and an epoch: {told}", flush=True)
    for place, clock in enumerate(CLOCKS):
        for name in (PLAINEST, RECIPE):
            starts = [found["ours"].start[place] / found[name].start[place] for found in rounds]
            rates = [found[name].epoch[place] / found["ours"].epoch[place] for found in rounds]
            print(
                f"{title}, {clock}, beside {name}: start to first step {shown(starts)}, examples "
                f"per second {shown(rates)}; medians of {len(rounds)} rounds"
            )


def shown(ratios: list[float]) -> str:
    """Returns the median, and the range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    flags.DEFINE_enum("script", "resnet", list(MODELS), "Which.")
    flags.DEFINE_enum("size", "digits", list(SIZES), "Of images and batches.")
    flags.DEFINE_integer("rounds", 5, "Of all.", 1)
    flags.DEFINE_integer("epochs", 6, "Of each script.", 2)
    flags.DEFINE_integer("passes", 1, "Over the images, in an epoch.", 1)
    flags.DEFINE_bool("deterministic", False, "Deterministic kernels, for both.")
    app.run(main)
