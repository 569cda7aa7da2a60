"""The training scripts beside the plainest Keras script of the same model, batch and data.

    python benchmarks/script_cost.py --script=resnet   # or transformer; KERAS_BACKEND=jax or torch

They train on the digits in processes of their own, in turn: a ResNet-14, or the small ViT. Our
ResNet has an L2 penalty on its kernels and on some γ, which is work in each step: so there are two
plain scripts, without one, and with Keras' L2 on the kernels. (AdamW of the ViT's decays in both.)
Prints, for each round, seconds from the start of the process to the end of the first step, and
those of an epoch after the first, with its evaluation: on the clock, and the processor's, of all
threads, so that other work on the machine counts less; and the median ratios, with the smallest and
the largest. All leave determinism off, or have it on (`--deterministic`); none moves images about
(`--shift=0`). An epoch is 40 steps, which is little beside what our scripts do after each (a
checkpoint, a row of the log, TensorBoard): with `--passes=8` it is 320.
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
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).resolve().parents[1]
_FLAGS = flags.FLAGS
BATCH, EXAMPLES = 32, 1280

PLAIN = """
import json, time, sys
import keras, numpy as np
from sklearn.datasets import load_digits
sys.path.insert(0, {root!r})
{imports}
deterministic = {deterministic}
keras.utils.set_random_seed(0)
if deterministic:
    import tensorflow as tf
    tf.config.experimental.enable_op_determinism()
images, labels = load_digits(return_X_y=True)
x = (images.reshape(-1, 8, 8, 1) * 255 / 16).astype("uint8")
model = {model}
{decay}
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
held_out = slice({examples}, {examples} + 144)
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


SCRIPTS = {
    "resnet": {
        "imports": "from examples.models.resnet import build_model",
        "model": "build_model('resnet14_v1', input_shape=(8, 8, 1), num_classes=10, width=24)",
        "optimizer": "keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)",
    },
    "transformer": {
        "imports": "from examples.models.transformer import Size, vision_transformer",
        "model": "vision_transformer(Size(depth=4, width=64, heads=4, mlp_ratio=4, dropout=0.1, "
        "norm='layer', norm_position='pre'), image_shape=(8, 8, 1), num_classes=10, patch_size=2)",
        "optimizer": "keras.optimizers.AdamW(2e-3, weight_decay=0.05)",
    },
}
CLOCKS = ("clock", "processor")
L2 = """
for layer in model.layers:
    if hasattr(layer, "kernel"):
        layer.kernel.regularizer = keras.regularizers.L2(2.5e-4)
"""
PLAIN_SCRIPTS = {
    "resnet": {"plain": "", "plain with L2": L2},
    "transformer": {"plain": ""},
}


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
    subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, cwd=ROOT)
    first, ends = json.loads(out.read_text())
    spans = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(ends)]
    clock, processor = (statistics.median(side) for side in zip(*spans, strict=True))
    return Cost((first[0] - begun, first[1]), (clock, processor))


def measure_all(number: int, folder: Path) -> dict[str, Cost]:
    """Runs our script, and each of the plain ones, in an order that changes from round to round."""
    words = [
        f"--epochs={_FLAGS.epochs}", f"--batch_size={BATCH}",
        f"--train_split={'+'.join([f'train[:{EXAMPLES}]'] * _FLAGS.passes)}",
        f"--validation_split=train[{EXAMPLES}:{EXAMPLES + 144}]",
        f"--deterministic={str(_FLAGS.deterministic).lower()}", "--verbose=2", "--shift=0",
        f"--data_dir={folder}/data", f"--output_dir={folder}/{number}",
    ]  # fmt: skip
    names = ["ours", *PLAIN_SCRIPTS[_FLAGS.script]]
    turned = number % len(names)
    found = {}
    for name in names[turned:] + names[:turned]:
        if name == "ours":
            script = f"train_{_FLAGS.script}"
            found[name] = measure(OURS, folder / "out", flags=words, script=script)
            continue
        found[name] = measure(
            PLAIN, folder / "out", deterministic=_FLAGS.deterministic, examples=EXAMPLES,
            batch=BATCH, passes=_FLAGS.passes, decay=PLAIN_SCRIPTS[_FLAGS.script][name],
            **SCRIPTS[_FLAGS.script],
        )  # fmt: skip
    return found


def main(argv: Sequence[str]) -> None:
    """Measures in turn."""
    del argv
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    title = f"{backend}, {_FLAGS.script}, {EXAMPLES // BATCH * _FLAGS.passes} steps an epoch"
    rounds: list[dict[str, Cost]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_FLAGS.rounds + 1):
            found = measure_all(number, Path(folder))
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
        for name in PLAIN_SCRIPTS[_FLAGS.script]:
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
    flags.DEFINE_enum("script", "resnet", list(SCRIPTS), "Which.")
    flags.DEFINE_integer("rounds", 5, "Of all.", 1)
    flags.DEFINE_integer("epochs", 6, "Of each script.", 2)
    flags.DEFINE_integer("passes", 1, "Over the digits, in an epoch.", 1)
    flags.DEFINE_bool("deterministic", False, "Deterministic kernels, for both.")
    app.run(main)
