"""What `verify` costs: seconds, and its peak of memory beside one training step of one example.

    python benchmarks/verify_cost.py
    python benchmarks/verify_cost.py --models=ResNet50,EfficientNetV2M --side=128

Every run is a process of its own; what a process that only builds the model holds is taken off
both peaks. CPU seconds are those of all cores: on an idle machine, the clock shows less.
"""

import json
import resource
import subprocess
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

import keras_gamma  # noqa: E402

_MODELS = flags.DEFINE_list(
    "models",
    ["ResNet50", "ResNet152", "EfficientNetV2M", "NASNetMobile", "DenseNet169", "ConvNeXtTiny"],
    "Names in keras.applications.",
)
_SIDE = flags.DEFINE_integer("side", 224, "Of the images, in pixels.")
_RUN = flags.DEFINE_enum("run", None, ["build", "step", "verify"], "Do one run, and print it.")


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table in Markdown."""
    del argv
    if _RUN.value:
        print(json.dumps(run(_RUN.value, _MODELS.value[0])))
        return
    print("| model | γ | seconds | CPU seconds | peak, MiB | of a step, MiB | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in _MODELS.value:
        base, step, ours = (in_process(what, name) for what in ("build", "step", "verify"))
        peak, other = ours["peak"] - base["peak"], step["peak"] - base["peak"]
        whole = ours["peak"] / step["peak"]
        print(
            f"| {name} | {ours['gammas']} | {ours['seconds']:.1f} | {ours['cpu']:.1f} | "
            f"{peak:.0f} | {other:.0f} | {peak / other:.2f} ({whole:.2f} with the model) |"
        )


def in_process(what: str, name: str) -> dict[str, float]:
    """One run, in a process of its own."""
    command = [sys.executable, __file__, f"--run={what}", f"--models={name}"]
    command.append(f"--side={_SIDE.value}")
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(json.loads(found.splitlines()[-1]))


def run(what: str, name: str) -> dict[str, float]:
    """Builds a model, and does one thing with it: peak in MiB, and seconds."""
    shape = (_SIDE.value, _SIDE.value, 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    start, cpu, gammas = time.perf_counter(), time.process_time(), 0
    if what == "step":
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.train_on_batch(np.zeros((1, *shape), "float32"), np.zeros(1))
    elif what == "verify":
        gammas = len(keras_gamma.verify(model))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "gammas": gammas}


if __name__ == "__main__":
    app.run(main)
