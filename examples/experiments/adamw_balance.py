"""Why AdamW's equilibrium is off the formula: every term of the balance, measured.

    python examples/experiments/adamw_balance.py                  # as in effective_lr.py: transient
    python examples/experiments/adamw_balance.py --steps=7000     # long enough to settle

`keras_gamma.dynamics.equilibrium` takes successive gradients as uncorrelated, the second moment as
stationary, and steps as orthogonal to w. For the network of effective_lr.py this prints, for each
layer over the last half of training, what each of these is worth. AdamW's step is written out,
because its parts are what is measured. Half a minute, or two.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The repository's root, so that the script runs from anywhere, and before anything is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from absl import flags

from examples.core.cli import run_main
from examples.experiments.effective_lr_runs import ARMS, BATCH, load_digits, make_network
from examples.experiments.reports import markdown_table
from keras_gamma.dynamics import equilibrium

FLAGS = flags.FLAGS
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7

if "steps" not in FLAGS:
    flags.DEFINE_integer("steps", 1380, "Steps of training.", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "Seed.")


class Balance:
    """AdamW on one network, with what a step does to ‖w‖ written down.

    Args:
        model: the network; gives logits.
        rate: η.
        decay: λ, decoupled.
    """

    def __init__(self, model: keras.Model, rate: float, decay: float):
        self._model, self._rate, self._decay = model, rate, decay
        self._weights = [variable.value for variable in model.trainable_variables]
        self._first = [tf.Variable(tf.zeros_like(w)) for w in self._weights]
        self._second = [tf.Variable(tf.zeros_like(w)) for w in self._weights]
        self.step = tf.function(self._step)

    def _step(self, images: Any, labels: Any, number: Any) -> Any:
        """Takes a step; returns, by layer, ‖w‖², ‖u‖², w·u, ‖g/√v‖² and w·g/√v."""
        with tf.GradientTape() as tape:
            logits = self._model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        found = []
        gradients = tape.gradient(loss, self._weights)
        for w, m, v, g in zip(self._weights, self._first, self._second, gradients, strict=True):
            m.assign(BETA_1 * m + (1 - BETA_1) * g)
            v.assign(BETA_2 * v + (1 - BETA_2) * g * g)
            scale = tf.sqrt(v / (1 - BETA_2**number)) + EPSILON
            u = m / (1 - BETA_1**number) / scale
            pairs = ((w, w), (u, u), (w, u), (g / scale, g / scale), (w, g / scale))
            found.append(tf.stack([tf.reduce_sum(a * b) for a, b in pairs]))
            w.assign((1 - self._rate * self._decay) * w - self._rate * u)
        return tf.stack(found)


def main(argv: Sequence[str]) -> None:
    """Trains, and prints the table."""
    del argv
    keras.utils.set_random_seed(FLAGS.seed)
    arm = ARMS["AdamW, λ 1"]
    rate, decay = arm["rate"], arm["decay"]
    model = make_network()
    sizes = [math.prod(variable.shape) for variable in model.trainable_variables]
    balance = Balance(model, rate, decay)
    (images, labels), _ = load_digits(FLAGS.seed, share_wrong=0.1)
    random = np.random.default_rng(FLAGS.seed)
    rows: list[np.ndarray] = []
    while len(rows) < FLAGS.steps:
        order = random.permutation(len(labels))
        for begin in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[begin : begin + BATCH]
            number = tf.constant(float(len(rows) + 1))
            rows.append(balance.step(images[batch], labels[batch].astype("int32"), number).numpy())
    seen = np.mean(rows[len(rows) // 2 :], axis=0)
    angles = np.sqrt(np.mean([row[:, 1] / row[:, 0] for row in rows[len(rows) // 2 :]], axis=0))
    lines = [
        [str(n), *(f"{x:.3f}" for x in terms(seen[n], angles[n] * rate, size, rate, decay))]
        for n, size in enumerate(sizes)
    ]
    header = [
        "layer", "‖w‖ / formula", "angle / formula", "‖g/√v‖² / C", "‖u‖² / formula",
        "push outwards", "growth / decay", "‖w‖ / that of the balance",
    ]  # fmt: skip
    print(markdown_table(header, lines))


def terms(
    seen: np.ndarray, angle: float, size: int, rate: float, decay: float
) -> tuple[float, ...]:
    """Returns the terms of the table, for one layer.

    Args:
        seen: means of what `Balance` returns.
        angle: RMS angle per step, without that of decay, which has none.
        size: C, number of weights.
        rate: η.
        decay: λ.
    """
    square, update, radial, whitened, instant = map(float, seen)
    norm = math.sqrt(square)
    share = (1 - BETA_1) / (1 + BETA_1)
    growth = rate**2 * update - 2 * rate * radial
    return (
        norm / equilibrium.adamw_norm(rate, decay, size),
        angle / equilibrium.adamw_angle(rate, decay, BETA_1),
        whitened / size,
        update / (size * share),
        -2 * instant / (rate * size),
        growth / (2 * rate * decay * square),
        norm / math.sqrt(growth / (2 * rate * decay)),
    )


if __name__ == "__main__":
    run_main(main)
