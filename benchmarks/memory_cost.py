"""The peak of memory of a training run, with and without keras_gamma.

    python benchmarks/memory_cost.py

Trains a ResNet-50 for eight steps. Every run is a process of its own; rounds are interleaved, and
the table gives the median of the ratios within a round, with the smallest and the largest. "SGD,
again" is a second run without decay: how far it is from 1 is what the method cannot see.
"""

import functools
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from contenders import adamw, decoupled, sgd, with_guidelines, with_keras  # noqa: E402
from timing import interleave  # noqa: E402

import keras_gamma  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of each contender.", 1)
_RUN = flags.DEFINE_string("run", None, "Do one run, of this contender, and print its peak.")

# Name -> what to train, and the name of what it is compared with.
_CONTENDERS = {
    "SGD": (sgd, None),
    "SGD, again": (sgd, "SGD"),
    "Keras' L2 on every γ": (with_keras, "SGD"),
    "ours, coupled": (with_guidelines, "SGD"),
    "ours, coupled, audited": (with_guidelines, "SGD"),
    "AdamW": (adamw, None),
    "ours, decoupled": (decoupled, "AdamW"),
    "ours, decoupled, audited": (decoupled, "AdamW"),
}
_SHAPE = (64, 64, 3)
_BATCH = 8
_STEPS = 8


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table in Markdown."""
    del argv
    if _RUN.value:
        print(peak(_RUN.value))
        return
    peaks = interleave(
        {name: functools.partial(in_process, name) for name in _CONTENDERS}, _ROUNDS.value
    )
    print("| contender | peak, MiB | ratio (range) | to |\n| --- | --- | --- | --- |")
    for name, (_, base) in _CONTENDERS.items():
        ratios = np.divide(peaks[name], peaks[base or name])
        shown = f"×{np.median(ratios):.3f} ({ratios.min():.3f}–{ratios.max():.3f})"
        middle = np.median(peaks[name])
        print(f"| {name} | {middle:.0f} | {shown if base else '–'} | {base or '–'} |")


def in_process(contender: str) -> float:
    """The peak of one run, in MiB, in a process of its own."""
    command = [sys.executable, __file__, f"--run={contender}"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def peak(contender: str) -> float:
    """Builds, compiles and trains a few steps; the largest resident set of this process, in MiB."""
    set_up, _ = _CONTENDERS[contender]
    model = keras.applications.ResNet50(weights=None, input_shape=_SHAPE, classes=10)
    model.compile(set_up(model), "sparse_categorical_crossentropy")
    if contender.endswith("audited"):
        keras_gamma.audit(model)
    images = np.zeros((_STEPS * _BATCH, *_SHAPE), "float32")
    model.fit(images, np.zeros(len(images)), batch_size=_BATCH, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    app.run(main)
