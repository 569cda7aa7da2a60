"""The periodic instability of normalization with weight decay, made to happen, and seen.

    python examples/instability.py

trains three convolutions with batch normalization on the digits, with so much L2 that the norms of
the kernels shrink faster than training can hold them: the effective learning rate η/‖w‖² climbs
until a step overshoots, the loss spikes, the norms jump, and it begins anew (Lobacheva et al.,
arXiv:2106.15739). `GammaMonitor` says so once, with layer and step; all events are listed at the
end. Under a minute on two CPU cores. Results in --output_dir: monitor.jsonl, monitor.png.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # Run as a script.
    import _repository  # noqa: F401

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import keras
from absl import flags

import keras_gamma
from examples.core.cli import run_main
from examples.experiments.effective_lr_runs import load_digits, make_network
from keras_gamma.dynamics.monitor import GammaMonitor

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", "runs/instability", "Folder of the run.")
flags.DEFINE_integer("epochs", 300, "Passes over the training set.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.05, "Of plain SGD.", lower_bound=0.0)
flags.DEFINE_float("weight_decay", 0.05, "L2 in the loss, in torch's units.", lower_bound=0.0)
flags.DEFINE_bool("held", False, "Hold ‖w‖ = 1: no decay can shrink it.")
flags.DEFINE_integer("seed", 0, "Of weights and shuffling.")


def main(argv: Sequence[str]) -> None:
    """Trains, and lists what the monitor saw."""
    del argv
    keras.utils.set_random_seed(FLAGS.seed)
    model = make_network()
    for entry in keras_gamma.dynamics.find_scale_invariant(model):
        if entry.variable.trainable:
            entry.variable.regularizer = keras.regularizers.L2(FLAGS.weight_decay / 2)
    if FLAGS.held:
        keras_gamma.dynamics.project_scale_invariant(model)
    model.compile(
        keras.optimizers.SGD(FLAGS.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    directory = Path(FLAGS.output_dir)
    monitor = GammaMonitor(
        every=10, jsonl=directory / "monitor.jsonl", picture=directory / "monitor.png"
    )
    (x, y), _ = load_digits(FLAGS.seed, share_wrong=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message="GammaMonitor")
        model.fit(x, y, batch_size=128, epochs=FLAGS.epochs, verbose=0, callbacks=[monitor])
    print(f"{len(monitor.events)} destabilizations in {monitor.history[-1]['step']} steps")
    for event in monitor.events:
        print(
            f"  step {event.step}: ‖w‖ of {event.layer} {event.peak:.3g} -> {event.trough:.3g} -> "
            f"{event.norm:.3g}, loss {event.loss_before:.3g} -> {event.loss_spike:.3g}"
        )
    print(f"Picture in {directory / 'monitor.png'}")


if __name__ == "__main__":
    run_main(main)
