"""What `GammaMonitor` costs: training steps with and without it, interleaved.

    python benchmarks/monitor_cost.py     # about three minutes on two CPU cores

Prints the median ratio of the time of `--every` steps, one of which is measured, and the share of
that time that is spent inside the monitor, which two noisy cores blur less. What it does once, when
training begins, is in neither, and printed apart.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from timing import Timer, interleave, ratio  # noqa: E402

import keras_gamma  # noqa: E402
from examples.models.resnet import build_model  # noqa: E402
from keras_gamma.dynamics.monitor import GammaMonitor  # noqa: E402

_EVERY = flags.DEFINE_integer("every", 100, "Steps from one measurement to the next.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Runs of each contender.", 2)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images in a batch.", 1)
_PROBE = flags.DEFINE_integer("probe", 16, "Images in the probe.", 1)


class Clocked(GammaMonitor):
    """Adds up the time spent in the calls between the first and the last batch."""

    spent = 0.0
    start = 0.0

    def on_train_begin(self, logs=None):
        began = time.perf_counter()
        super().on_train_begin(logs)
        self.start = time.perf_counter() - began

    def on_train_batch_begin(self, batch, logs=None):
        began = time.perf_counter()
        super().on_train_batch_begin(batch, logs)
        self.spent += time.perf_counter() - began

    def on_train_batch_end(self, batch, logs=None):
        began = time.perf_counter()
        super().on_train_batch_end(batch, logs)
        self.spent += time.perf_counter() - began


def main(argv: Sequence[str]) -> None:
    """Measures, and prints."""
    del argv
    keras.utils.set_random_seed(0)
    model = build_model(
        "resnet20_v1", input_shape=(32, 32, 3), num_classes=10, width=16, batch_norm_momentum=0.9
    )
    keras_gamma.apply_guidelines(model, weight_decay=1e-4)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    random = np.random.default_rng(0)
    images = random.standard_normal((_BATCH.value * _EVERY.value, 32, 32, 3)).astype("float32")
    labels = random.integers(0, 10, len(images))
    begins = []
    shares: dict = {}

    def run(*callbacks):
        timer = Timer()
        model.fit(
            images,
            labels,
            batch_size=_BATCH.value,
            verbose=0,
            callbacks=[timer, *callbacks, timer],
        )
        return timer.seconds

    def watched(name, probe):
        monitor = Clocked(every=_EVERY.value, probe=probe)
        seconds = run(monitor)
        begins.append(monitor.start)
        shares.setdefault(name, []).append(monitor.spent / seconds)
        return seconds

    contenders = {
        "without": lambda: run(),
        "monitor": lambda: watched("monitor", None),
        "monitor, probe": lambda: watched("monitor, probe", images[: _PROBE.value]),
    }
    interleave(contenders, 1)
    begins.clear()
    shares.clear()
    seconds = interleave(contenders, _ROUNDS.value)
    for name, found in seconds.items():
        middle, low, high = ratio(found, seconds["without"])
        step = 1000 * np.median(found) / _EVERY.value
        share = f"{np.median(shares[name]):.2%} inside" if name in shares else ""
        print(f"{name:16} {step:7.2f} ms per step  ×{middle:.3f} ({low:.3f}–{high:.3f})  {share}")
    print(f"when training begins: {np.median(begins):.2f} s")


if __name__ == "__main__":
    app.run(main)
