"""One process of the runs in test_distributed.py: trains, and writes down what came out.

Arguments: a folder, and flags of `examples.cluster`. In the environment: DECAYS, the names of what
to train with, and VALIDATION, the number of examples to evaluate on. Each process writes NAME.json
and NAME.npz for the decay called NAME into the folder, under its own index.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

import keras_gamma
from examples.cluster.opening import open_run
from examples.cluster.settings import ClusterSettings
from examples.core import settings

STEPS, BATCH = 20, 8
SETTINGS = {"batch_size": BATCH}


def make_model():
    """A residual network with γ of several roles, and normalization over the batch."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="one")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="one_bn")(y))
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="two")(y)
    x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization(name="two_bn")(y)]))
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.GlobalMaxPooling2D()(x)))


def compile_model(model, decay):
    """Compiles with one of several kinds of decay, or of clipping, strong enough to show."""
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    if decay == "coupled":
        keras_gamma.apply_guidelines(model, weight_decay=0.2)
    elif decay == "decoupled":
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
        keras_gamma.exclude_from_weight_decay(optimizer, model)
    elif decay == "clipped":
        optimizer = keras.optimizers.SGD(0.5, global_clipnorm=0.1)
    elif decay == "unclipped":
        optimizer = keras.optimizers.SGD(0.5)
    elif decay == "unspared":
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def data(size, batch, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(size, 6, 6, 1)).astype("float32")
    y = generator.integers(0, 3, size)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


class Losses(keras.callbacks.Callback):
    """The running mean of the loss after each step."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


def train(folder, cluster, decay):
    with cluster.scope():
        model = make_model()
        compile_model(model, decay)
    mine = folder / str(cluster.index)
    losses = Losses()
    history = cluster.fit(
        model,
        data(STEPS * BATCH, BATCH, 1),
        steps_per_epoch=STEPS // 2,
        epochs=2,
        validation_data=data(int(os.environ["VALIDATION"]), BATCH, 2),
        verbose=2,
        callbacks=[
            losses,
            keras.callbacks.CSVLogger(str(mine / f"{decay}.csv")),
            keras.callbacks.ModelCheckpoint(str(mine / f"{decay}.keras")),
        ],
    )
    written = sorted(path.name for path in mine.glob(f"{decay}.*"))
    result = {"losses": losses.losses, "history": history.history, "written": written}
    result["synchronized"] = model.get_layer("stem_bn").synchronized
    result["left_on_optimizer"] = sorted(
        {"apply", "_all_reduce_sum_gradients"} & {*vars(model.optimizer)}
    )
    (mine / f"{decay}.json").write_text(json.dumps(result | cluster.describe()))
    variables = [*model.variables, *model.optimizer.variables]
    np.savez(mine / f"{decay}.npz", *map(keras.ops.convert_to_numpy, variables))
    return model


def disagree(cluster, model):
    """Gives each worker other weights: no one must train on."""
    layer = model.get_layer("logits")
    layer.bias.assign(layer.bias + float(cluster.index))
    try:
        keras_gamma.distributed_fit(model, data(BATCH, BATCH, 1), verbose=0)
    except RuntimeError as error:
        return str(error)
    return "no error"


def main():
    folder = Path(sys.argv[1])
    settings.define(ClusterSettings)
    flags.FLAGS(["worker", *sys.argv[2:]])
    devices = settings.read(ClusterSettings)
    opened = open_run(str(folder / "run"), SETTINGS, resume=True, devices=devices)
    with opened as (run, cluster):
        del run
        (folder / str(cluster.index)).mkdir()
        for decay in os.environ["DECAYS"].split():
            model = train(folder, cluster, decay)
        if cluster.workers > 1:
            (folder / str(cluster.index) / "error").write_text(disagree(cluster, model))


if __name__ == "__main__":
    main()
