"""The roads that a model may take, and who is asked afterwards what shrinks: the model itself.

Nothing here asks keras_gamma what it decided: penalties are read off the variables' gradients of
`model.losses`, decoupled decay off a step with gradients of zero.
"""

import copy
import os
import pathlib
import pickle
import subprocess
import sys

import keras
import numpy as np
from keras import layers

import keras_gamma

ETA, DECAY, L2 = 0.5, 0.25, 0.125


@keras.saving.register_keras_serializable(package="storage_roads")
class OwnNorm(layers.Layer):
    """A third party's norm: no regularizer argument, and a scale with a name of its own."""

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
        return x * keras.ops.rsqrt(square + self.epsilon) * self.gain

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


keras_gamma.register_normalization(OwnNorm, kind="rms", scale="gain")

if hasattr(layers, "RMSNormalization"):
    RMSNormalization = layers.RMSNormalization
else:  # Before Keras 3.9; what matters here is that it takes no regularizer either.

    @keras.saving.register_keras_serializable(package="storage_roads")
    class RMSNormalization(OwnNorm):
        """Stands in for Keras' own."""


def steady_paths():
    """Whether the paths of variables survive saving, as they do from Keras 3.16 on."""
    return tuple(map(int, keras.version().split(".")[:2])) >= (3, 16)


def residual(x, norm, name):
    y = layers.Dense(4, activation="relu", name=f"{name}_fc")(norm(x))
    return layers.Add(name=f"{name}_join")([x, y])


def base(name="base"):
    """Three residual blocks, with a norm of Keras that takes a regularizer, and two that do not."""
    x = keras.Input((4,))
    y = residual(x, layers.LayerNormalization(name="built_in"), "one")
    y = residual(y, RMSNormalization(name="rms"), "two")
    y = residual(y, OwnNorm(name="third_party"), "three")
    return keras.Model(x, y, name=name)


def with_head(inner, name="whole"):
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="out")(inner(x)), name=name)


def with_head_twice(inner):
    x = keras.Input((4,))
    return keras.Model(x, with_head(inner, "middle")(x), name="top")


def loss():
    """Not "mse": Keras cannot read that back from .h5."""
    return keras.losses.MeanSquaredError()


# What really shrinks -------------------------------------------------------------------------


def penalties(model):
    """Class name of a layer -> l2 of the penalty on its γ, as `fit` would add it."""
    found = {}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.trainable and variable.regularizer is not None:
                ones = keras.ops.ones(variable.shape)
                l2 = float(keras.ops.convert_to_numpy(variable.regularizer(ones))) / 4
                found.setdefault(type(layer).__name__, []).append(l2)
    assert len(model.losses) == sum(map(len, found.values()))
    return found


def decayed(model):
    """Last two parts of the paths of the variables that a step with gradients of zero shrinks."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = model.trainable_variables
    kept = [keras.ops.convert_to_numpy(v) for v in variables]
    for variable in variables:
        variable.assign(np.ones(variable.shape, "float32"))
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    left = [float(keras.ops.convert_to_numpy(v).ravel()[0]) for v in variables]
    for variable, value in zip(variables, kept, strict=True):
        variable.assign(value)
    return sorted(
        "/".join(v.path.split("/")[-2:])
        for v, rest in zip(variables, left, strict=True)
        if rest < 0.99
    )


# Roads: each takes a compiled model and a folder, and returns what came out of it -------------


def keras_archive(model, folder):
    model.save(folder / "m.keras")
    return keras_gamma.load_model(folder / "m.keras")


def keras_archive_by_keras(model, folder):
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


def unzipped(model, folder):
    model.save(folder / "m", zipped=False)
    return keras_gamma.load_model(folder / "m")


def h5(model, folder):
    model.save(folder / "m.h5")
    loaded = keras.models.load_model(folder / "m.h5")
    if (
        getattr(loaded, "optimizer", None) is not None
    ):  # Keras builds it without variables: it needs a new one.
        loaded.compile(type(loaded.optimizer).from_config(loaded.optimizer.get_config()), loss())
    return loaded


def by_clone_model(model, folder):
    clone = keras.models.clone_model(model)
    if not clone.compiled:  # Keras 3.8 leaves that to its caller.
        clone.compile_from_config(model.get_compile_config())
    return clone


def by_our_clone_model(model, folder):
    return keras_gamma.decay.clone_model(model)


def by_from_config(model, folder):
    again = type(model).from_config(model.get_config())
    again.compile_from_config(model.get_compile_config())
    return again


def by_deepcopy(model, folder):
    return copy.deepcopy(model)


def by_pickle(model, folder):
    return pickle.loads(pickle.dumps(model))


def by_deepcopy_carried_over(model, folder):
    again = copy.deepcopy(model)
    keras_gamma.decay.carry_over(model, again)
    return again


def freeze_and_unfreeze(model, folder):
    for trainable in (False, True):
        model.trainable = trainable
        model.compile(model.optimizer, loss())
    return model


def by_quantize(model, folder):
    model.layers[1].quantize("int8")  # The head stays: Keras' decay of nothing fails on torch.
    return model


def backup_and_restore(model, folder):
    x = np.ones((4, 4), "float32")
    y = np.ones((4, 2), "float32")

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    try:
        model.fit(x, y, epochs=2, verbose=0, callbacks=[backup, Stop()])
    except KeyboardInterrupt:
        backup = keras.callbacks.BackupAndRestore(folder / "backup")
        model.fit(x, y, epochs=2, verbose=0, callbacks=[backup])
    return model


def in_another_process(model, folder, backend=None):
    """Loads in a new process, saves there again, and loads what came of it here."""
    model.save(folder / "m.keras")
    code = (
        "import keras_gamma, sys, warnings, pathlib; warnings.simplefilter('ignore');"
        "import tests.decay.storage_roads;"
        "m = keras_gamma.load_model(sys.argv[1] + '/m.keras'); m.save(sys.argv[1] + '/n.keras')"
    )
    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parents[2]))
    environment["KERAS_BACKEND"] = backend or keras.backend.backend()
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        env=environment,
        capture_output=True,
    )
    return keras_gamma.load_model(folder / "n.keras")


# What torch writes names torch's own optimizers: Keras can train it nowhere else.
OTHER_BACKEND = "tensorflow" if keras.backend.backend() == "jax" else "jax"


def in_another_backend(model, folder):
    return in_another_process(model, folder, OTHER_BACKEND)
