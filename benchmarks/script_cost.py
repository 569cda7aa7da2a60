"""The training script beside the plainest Keras script of the same model, batch and data.

    python benchmarks/script_cost.py     # KERAS_BACKEND=jax or torch for the others

Both train a ResNet-14 on the digits in processes of their own, in turn. Prints, for each round, the
processor's seconds from the start of the process to the end of the first step, and those of an
epoch after the first, with its evaluation; and the median ratios. It is processor time, of all
threads, so that other work on the machine hardly counts. Both leave determinism off, or both have
it on (`--deterministic`).
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).resolve().parents[1]
_FLAGS = flags.FLAGS
EPOCHS, BATCH, EXAMPLES = 4, 32, 1280

PLAIN = """
import json, time, sys
import keras, numpy as np
from sklearn.datasets import load_digits
sys.path.insert(0, {root!r})
from examples.models.resnet import build_model
deterministic = {deterministic}
keras.utils.set_random_seed(0)
if deterministic:
    import tensorflow as tf
    tf.config.experimental.enable_op_determinism()
images, labels = load_digits(return_X_y=True)
x = (images.reshape(-1, 8, 8, 1) * 255 / 16).astype("uint8")
model = build_model("resnet14_v1", input_shape=(8, 8, 1), num_classes=10, width=24)
model.compile(
    keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
times = []
class Times(keras.callbacks.Callback):
    first = None
    def on_train_batch_end(self, batch, logs=None):
        Times.first = Times.first or time.process_time()
    def on_epoch_end(self, epoch, logs=None):
        times.append(time.process_time())
model.fit(x[:{examples}], labels[:{examples}], batch_size={batch}, epochs={epochs}, verbose=2,
          validation_data=(x[{examples}:{examples} + 144], labels[{examples}:{examples} + 144]),
          callbacks=[Times()])
json.dump([Times.first, times], open({out!r}, "w"))
"""
OURS = """
import json, sys, time
sys.path.insert(0, {root!r})
from examples import train_resnet
from examples.core import cli, training
times = []
class Times(training.SaveProgress):
    first = None
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        Times.first = Times.first or time.process_time()
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        times.append(time.process_time())
        if epoch == {epochs} - 1:
            json.dump([Times.first, times], open({out!r}, "w"))
training.SaveProgress = Times
sys.argv[1:] = {flags!r}
cli.run_main(train_resnet.main)
"""


def measure(code: str, out: Path, **values: object) -> tuple[float, float]:
    """Runs a script; returns seconds to the end of the first step, and of an epoch."""
    text = code.format(root=str(ROOT), out=str(out), epochs=EPOCHS, **values)
    subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, cwd=ROOT)
    first, ends = json.loads(out.read_text())
    return first, statistics.median(b - a for a, b in itertools.pairwise(ends))


def main(argv: Sequence[str]) -> None:
    """Measures in turn."""
    del argv
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    starts, epochs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_FLAGS.rounds + 1):
            words = [
                f"--epochs={EPOCHS}", f"--batch_size={BATCH}", f"--limit_examples={EXAMPLES}",
                f"--deterministic={str(_FLAGS.deterministic).lower()}", "--verbose=2",
                f"--data_dir={folder}/data", f"--output_dir={folder}/{number}",
            ]  # fmt: skip
            plain = measure(
                PLAIN, Path(folder) / "plain", deterministic=_FLAGS.deterministic,
                examples=EXAMPLES, batch=BATCH,
            )  # fmt: skip
            ours = measure(OURS, Path(folder) / "ours", flags=words)
            if number == 0:
                continue  # The first prepares the data, and fills the file system's cache.
            starts.append(ours[0] / plain[0])
            epochs.append(ours[1] / plain[1])
            print(
                f"{backend}: first step after {ours[0]:.1f} s, plain {plain[0]:.1f} s; "
                f"epoch {ours[1]:.2f} s, plain {plain[1]:.2f} s", flush=True,
            )  # fmt: skip
    print(
        f"{backend}: median ratios: start to first step {statistics.median(starts):.2f}, "
        f"epoch {statistics.median(epochs):.2f} (of {len(epochs)} rounds)"
    )


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "Of both.", 1)
    flags.DEFINE_bool("deterministic", False, "Deterministic kernels, for both.")
    app.run(main)
