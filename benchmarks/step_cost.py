"""What decay of γ costs in a training step, beside what people use today.

    python benchmarks/step_cost.py                   # about six minutes on two CPU cores
    python benchmarks/step_cost.py --jit_compile --only=resnet20
    python benchmarks/step_cost.py --devices=2       # tf.distribute.MirroredStrategy

Every contender trains a model of its own in the same process, one step in each round, in a random
order; the table gives the median of the ratios within a round, and that median's 95 % interval.
"SGD, again" is a second model of the same kind: how far it is from 1 is what the method cannot see.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras(open_devices=False)

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from contenders import adamw, decoupled, sgd, with_guidelines, with_keras  # noqa: E402
from timing import interleave, paired_median  # noqa: E402

from examples.models.resnet import build_model  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 400, "Steps of each contender.", 10)
_DEVICES = flags.DEFINE_integer("devices", 1, "Replicas, on virtual devices of the CPU.", 1)
_JIT = flags.DEFINE_bool("jit_compile", False, "Compile the steps with XLA.")
_ONLY = flags.DEFINE_enum("only", None, ["resnet20", "resnet56"], "Measure one network.")

# Name, images in a batch.
_NETWORKS = {"resnet20": 32, "resnet56": 4}
_BASES = {
    "SGD, again": "SGD",
    "Keras' L2 on every γ": "SGD",
    "ours, coupled": "SGD",
    "ours, all γ": "SGD",
    "AdamW, again": "AdamW",
    "ours, decoupled": "AdamW",
}


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table in Markdown."""
    del argv
    print("| network | batch | contender | ms per step | ratio (95 %) | to |")
    print("| --- | --- | --- | --- | --- | --- |")
    with scope():
        for network, batch in _NETWORKS.items():
            if _ONLY.value in (None, network):
                measure(network, batch)


def scope() -> contextlib.AbstractContextManager:
    """The scope of the strategy, if there is more than one device."""
    if _DEVICES.value == 1:
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * _DEVICES.value
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    return tf.distribute.MirroredStrategy(names).scope()


def measure(network: str, batch: int) -> None:
    """Prints the rows of one network."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 32, 32, 3)).astype("float32")
    labels = random.integers(0, 10, batch)
    contenders = {
        "SGD": compiled(network, sgd),
        "SGD, again": compiled(network, sgd),
        "Keras' L2 on every γ": compiled(network, with_keras),
        "ours, coupled": compiled(network, with_guidelines),
        "ours, all γ": compiled(network, lambda model: with_guidelines(model, "all")),
        "AdamW": compiled(network, adamw),
        "AdamW, again": compiled(network, adamw),
        "ours, decoupled": compiled(network, decoupled),
    }
    steps = {name: block(model, images, labels) for name, model in contenders.items()}
    interleave(steps, 3)  # Tracing, and caches.
    seconds = interleave(steps, _ROUNDS.value)
    for name, found in seconds.items():
        base = _BASES.get(name)
        middle, low, high = paired_median(found, seconds[base or name])
        shown = f"×{middle:.3f} ({low:.3f}–{high:.3f})" if base else "–"
        step = 1000 * np.median(found)
        print(
            f"| {network} | {batch} | {name} | {step:.1f} | {shown} | {base or '–'} |", flush=True
        )


def compiled(network: str, set_up: Callable) -> keras.Model:
    """Builds and compiles a model with the optimizer that `set_up(model)` returns."""
    keras.utils.set_random_seed(0)
    model = build_model(
        f"{network}_v1", input_shape=(32, 32, 3), num_classes=10, width=16, batch_norm_momentum=0.9
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(set_up(model), loss, jit_compile=_JIT.value)
    return model


def block(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """A function that trains one step, and returns the seconds it took."""

    def run() -> float:
        began = time.perf_counter()
        model.train_on_batch(images, labels)
        return time.perf_counter() - began

    return run


if __name__ == "__main__":
    app.run(main)
