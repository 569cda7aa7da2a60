"""The runs of `effective_lr.py`: a network that depends on the directions of its filters alone."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_gamma
from examples.data import digits
from examples.experiments import experiment
from examples.experiments.significance import geometric_mean
from keras_gamma.dynamics.monitor import GammaMonitor

MOMENTUM = 0.9
FACTOR = 4.0
BATCH = 64

# What is trained, by name. `rate` is η, `decay` coupled λ in torch's units (AdamW: decoupled),
# `start` multiplies the initial kernels, `held`: ‖w‖ = 1 is held.
ARMS: dict[str, dict[str, Any]] = {
    "η 0.1, λ 0.005": {"rate": 0.1, "decay": 5e-3},
    "η 0.05, λ 0.01": {"rate": 0.05, "decay": 1e-2},
    "η 0.2, λ 0.0025": {"rate": 0.2, "decay": 2.5e-3},
    "η 0.05, λ 0.005": {"rate": 0.05, "decay": 5e-3},
    "η 0.2, λ 0.005": {"rate": 0.2, "decay": 5e-3},
    "η 0.4, λ 0.00125, w ×2": {"rate": 0.4, "decay": 1.25e-3, "start": 2.0},
    "η 0.1, λ 0": {"rate": 0.1, "decay": 0.0},
    "η 0.01, λ 0": {"rate": 0.01, "decay": 0.0},
    "η 0.01, λ 0, w ×4": {"rate": 0.01, "decay": 0.0, "start": FACTOR},
    "‖w‖ = 1, λ 0": {"rate": 0.02, "decay": 0.0, "held": True},
    "‖w‖ = 1, λ 0.005": {"rate": 0.02, "decay": 5e-3, "held": True},
    "Adam": {"rate": 2e-3, "decay": 0.0, "optimizer": "adam"},
    "Adam, w ×4": {"rate": 2e-3, "decay": 0.0, "optimizer": "adam", "start": FACTOR},
    "AdamW, λ 1": {"rate": 2e-3, "decay": 1.0, "optimizer": "adamw"},
}
BASE = "η 0.1, λ 0.005"


def work(job: experiment.Job) -> experiment.Row:
    """Does one job."""
    keras.utils.set_random_seed(job["seed"])
    if job["arm"] == "invariance":
        return {"change": measure_invariance(job["seed"])}
    return train(**ARMS[job["arm"]], seed=job["seed"], epochs=job["epochs"])


def make_network() -> keras.Model:
    """Builds a network that depends on the directions of its filters alone."""
    x = keras.Input((8, 8, 1))
    y = x
    for number, (filters, strides) in enumerate([(16, 1), (16, 1), (32, 2)]):
        y = layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=f"conv{number}")(y)
        # With ε = 0 the norm of the filter in front does not matter at all.
        y = layers.BatchNormalization(momentum=0.9, center=False, scale=False, epsilon=0.0)(y)
        y = layers.ReLU()(y)
    y = layers.GlobalAveragePooling2D()(y)
    y = layers.Dense(10, use_bias=False, trainable=False, name="fixed")(y)
    return keras.Model(x, layers.Rescaling(10.0)(y))


def train(
    *,
    rate: float,
    decay: float,
    seed: int,
    epochs: int,
    start: float = 1.0,
    held: bool = False,
    optimizer: str = "sgd",
) -> experiment.Row:
    """Trains once; returns accuracies, losses, angles and norms."""
    model = make_network()
    kernels = [entry.variable for entry in keras_gamma.dynamics.find_scale_invariant(model)]
    trained = [kernel for kernel in kernels if kernel.trainable]
    for kernel in trained:
        kernel.assign(start * kernel)
        if decay and optimizer == "sgd":
            kernel.regularizer = keras.regularizers.L2(decay / 2)
    if held:
        keras_gamma.dynamics.project_scale_invariant(model)
    made: keras.optimizers.Optimizer
    if optimizer == "sgd":
        made = keras.optimizers.SGD(rate, momentum=MOMENTUM)
    elif optimizer == "adam":
        made = keras.optimizers.Adam(rate)
    else:
        made = keras.optimizers.AdamW(rate, weight_decay=decay)
    crossentropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="data")
    model.compile(
        made,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", crossentropy],
    )
    (x, y), test = load_digits(seed, share_wrong=0.1)
    monitor = GammaMonitor(every=10)
    done = model.fit(
        x, y, batch_size=BATCH, epochs=epochs, validation_data=test, verbose=0, callbacks=[monitor]
    )
    return {
        "accuracy": [100 * value for value in done.history["val_accuracy"]],
        "loss": done.history["data"],  # The data's alone, without penalties.
        "step": [row["step"] for row in monitor.history],
        **{name: curve(monitor, name) for name in ("norm", "angle", "effective_learning_rate")},
        **{name: curve(monitor, name) for name in ("predicted_norm", "predicted_angle")},
    }


def curve(monitor: GammaMonitor, name: str) -> list[float | None]:
    """Returns the geometric mean over the kernels of something measured, step by step."""
    found: list[float | None] = []
    for row in monitor.history:
        found.append(geometric_mean([of.get(name) for of in row["kernels"].values()]))
    return found


def load_digits(seed: int, share_wrong: float) -> tuple[Any, Any]:
    """Returns the digits for training, some with a wrong label, and for testing."""
    splits = {
        name: ((split.images / 16 - 0.5).astype("float32"), split.labels)
        for name, split in digits.load().items()
    }
    images, labels = splits["train"]
    random = np.random.default_rng(seed)
    wrong = random.choice(len(labels), int(share_wrong * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    return (images, labels), splits["test"]


class WeightNormalizedDense(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A dense layer with the kernel g·v/‖v‖ (Salimans & Kingma, arXiv:1602.07868)."""

    def __init__(self, units: int):
        super().__init__()
        self.units = units

    def build(self, shape: tuple[int, ...]) -> None:
        self.v = self.add_weight(shape=(shape[-1], self.units), name="v")
        self.g = self.add_weight(shape=(self.units,), initializer="ones", name="g")

    def call(self, x: Any) -> Any:
        norm = keras.ops.sqrt(keras.ops.sum(self.v**2, axis=0))
        return x @ (self.v * (self.g / norm))


def measure_invariance(seed: int) -> dict[str, float]:
    """Returns by how much the output changes if the weights in front are multiplied.

    The largest change over factors from 0.1 to 10, relative to the output's spread.
    """
    random = np.random.default_rng(seed)
    x = random.standard_normal((64, 12)).astype("float32")
    fronts: dict[str, tuple[layers.Layer, Callable[[Any], Any], str]] = {}
    for name, norm in (
        ("BN", layers.BatchNormalization(epsilon=1e-6)),
        ("LN", layers.LayerNormalization(epsilon=1e-6)),
    ):
        dense = layers.Dense(8, use_bias=False)
        after = (lambda y, norm=norm: norm(y, training=True)) if name == "BN" else norm
        fronts[name] = dense, after, "kernel"
    fronts["WN"] = WeightNormalizedDense(8), lambda y: y, "v"
    fronts["none"] = layers.Dense(8, use_bias=False), lambda y: y, "kernel"
    found = {}
    for name, (front, after, attribute) in fronts.items():
        before = keras.ops.convert_to_numpy(after(front(x)))
        variable = getattr(front, attribute)
        value = keras.ops.convert_to_numpy(variable)
        changes = []
        for factor in (0.1, 0.5, 2.0, 10.0):
            variable.assign(factor * value)
            now = keras.ops.convert_to_numpy(after(front(x)))
            changes.append(float(np.abs(now - before).max() / before.std()))
        found[name] = max(changes)
    return found
