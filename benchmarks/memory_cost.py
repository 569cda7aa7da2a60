"""The peak of memory of a training run, with and without keras_gamma.

    python benchmarks/memory_cost.py                 # about ten minutes on two CPU cores

Every run is a process of its own; rounds are interleaved, and the table gives the median of the
ratios within a round, with the smallest and the largest. "plain, again" is a second plain run: how
far it is from 1 is what the method cannot see.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma import _quiet  # noqa: E402

_quiet.import_keras()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from timing import interleave  # noqa: E402

import keras_gamma  # noqa: E402
from examples.resnet import build_model  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of each contender.", 1)
_RUN = flags.DEFINE_string("run", None, "Do one run, of 'network/contender', and print its peak.")

_NETWORKS = {
    "ResNet-50, batch 8": (
        lambda: keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10),
        (8, 64, 64, 3),
    ),
    "ResNet-56, batch 32": (
        lambda: build_model("resnet56_v1", (32, 32, 3), 10, width=16, batch_norm_momentum=0.9),
        (32, 32, 32, 3),
    ),
}


def _coupled(model):
    keras_gamma.apply_guidelines(model, weight_decay=1e-4)
    return keras.optimizers.SGD(1e-3, momentum=0.9)


def _by_hand(model):
    for gamma in keras_gamma.find_roles(model):
        gamma.variable.regularizer = keras.regularizers.L2(5e-5)
    return keras.optimizers.SGD(1e-3, momentum=0.9)


def _decoupled(model):
    plan = keras_gamma.plan_weight_decay(model)
    return keras_gamma.optimizers.AdamW(1e-3, weight_decay=0.05, decay=plan)


# Name -> the optimizer for a model, and what it is compared with.
_CONTENDERS = {
    "SGD": (lambda model: keras.optimizers.SGD(1e-3, momentum=0.9), None),
    "SGD, again": (lambda model: keras.optimizers.SGD(1e-3, momentum=0.9), "SGD"),
    "Keras' L2 on every γ": (_by_hand, "SGD"),
    "coupled": (_coupled, "SGD"),
    "coupled, audited": (_coupled, "SGD"),
    "AdamW": (lambda model: keras.optimizers.AdamW(1e-3, weight_decay=0.05), None),
    "decoupled": (_decoupled, "AdamW"),
    "decoupled, audited": (_decoupled, "AdamW"),
}


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table in Markdown."""
    del argv
    if _RUN.value:
        print(peak(*_RUN.value.split("/")))
        return
    print("| network | contender | peak, MiB | ratio (range) | to |")
    print("| --- | --- | --- | --- | --- |")
    for network in _NETWORKS:
        runs = {
            name: lambda name=name: in_process(f"{network}/{name}")  # noqa: B023
            for name in _CONTENDERS
        }
        peaks = interleave(runs, _ROUNDS.value)
        for name, (_, base) in _CONTENDERS.items():
            ratios = np.divide(peaks[name], peaks[base or name])
            shown = f"×{np.median(ratios):.3f} ({ratios.min():.3f}–{ratios.max():.3f})"
            print(
                f"| {network} | {name} | {np.median(peaks[name]):.0f} | "
                f"{shown if base else '–'} | {base or '–'} |",
                flush=True,
            )


def in_process(run: str) -> float:
    """The peak of one run, in MiB, in a process of its own."""
    command = [sys.executable, __file__, f"--run={run}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(network: str, contender: str) -> float:
    """Builds, compiles and trains a few steps; the largest resident set of this process, in MiB."""
    build, shape = _NETWORKS[network]
    set_up, _ = _CONTENDERS[contender]
    model = build()
    model.compile(set_up(model), "sparse_categorical_crossentropy")
    if contender.endswith("audited"):
        keras_gamma.audit(model)
    images = np.zeros((8 * shape[0], *shape[1:]), "float32")
    model.fit(images, np.zeros(len(images)), batch_size=shape[0], verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    app.run(main)
