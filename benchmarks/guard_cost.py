"""What `DecayGuard` costs: an epoch of ResNet-20 on the digits, with and without, interleaved.

    python benchmarks/guard_cost.py     # about four minutes on two CPU cores

Prints the ratio of the median epoch with the guard to the median one without (in brackets the
quartiles of the ratios within a round), and the time inside the guard in steps. All of it is the
processor's time, of all threads: what other processes take does not count. "without, again" is
what two contenders that are alike differ by. In a
first `fit` the guard comes before the step is traced, so each epoch is one of a step
that was traced already; it looks at the same things.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from timing import Timer, interleave, ratio  # noqa: E402

import keras_gamma  # noqa: E402
from examples.models.resnet import build_model  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 15, "Epochs of each contender.", 2)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images in a batch.", 1)


class Clocked(keras_gamma.callbacks.DecayGuard):
    """Knows how long the check took."""

    spent = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        began = time.process_time()
        super().on_train_batch_begin(batch, logs)
        self.spent += time.process_time() - began


def main(argv: Sequence[str]) -> None:
    """Measures, and prints."""
    del argv
    digits = load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    labels = digits.target
    steps = -(-len(images) // _BATCH.value)
    for decay in ("coupled", "decoupled"):
        keras.utils.set_random_seed(0)
        model = build_model(
            "resnet20_v1", input_shape=(8, 8, 1), num_classes=10, width=16, batch_norm_momentum=0.9
        )
        if decay == "coupled":
            keras_gamma.apply_guidelines(model, weight_decay=1e-4)
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        else:
            optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
            keras_gamma.exclude_from_weight_decay(optimizer, model)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        first = Clocked()
        model.fit(images[: _BATCH.value], labels[: _BATCH.value], verbose=0, callbacks=[first])
        spent = []

        def run(*callbacks: Any, model: keras.Model = model) -> float:
            timer = Timer(time.process_time)
            batches = [timer, *callbacks, timer]
            model.fit(images, labels, batch_size=_BATCH.value, verbose=0, callbacks=batches)
            return float(timer.seconds)

        def guarded(run: Any = run, spent: list[float] = spent) -> float:
            seconds = run(guard := Clocked())
            spent.append(guard.spent)
            return float(seconds)

        contenders = {"without": run, "with": guarded, "without, again": run}
        interleave(contenders, 1)
        spent.clear()
        seconds = interleave(contenders, _ROUNDS.value)
        base = float(np.median(seconds["without"]))
        step = base / steps
        print(
            f"{decay}: {_ROUNDS.value} rounds, {steps} steps of {1000 * step:.1f} ms of the "
            f"processor, {len(model.trainable_variables)} trainable variables"
        )
        for name, found in seconds.items():
            _, low, high = ratio(found, seconds["without"])
            middle = float(np.median(found)) / base
            print(f"  {name:16} ×{middle:.3f} ({low:.3f}–{high:.3f})")
        print(
            f"  inside the guard: {1000 * np.median(spent):.0f} ms, {np.median(spent) / step:.1f} "
            f"steps; the first time in a process {1000 * first.spent:.0f} ms"
        )


if __name__ == "__main__":
    app.run(main)
