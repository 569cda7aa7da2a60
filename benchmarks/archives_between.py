"""Archives between versions: written with one Keras, loaded with another; what shrinks is measured.

    python benchmarks/archives_between.py save FOLDER     # with one environment
    python benchmarks/archives_between.py load FOLDER     # with another: one line for each archive

A few seconds each. `save` writes archives that bear the version in their names, and beside each
what a step then does to the model it was made of: outputs, penalties, and which variables decay
with gradients of zero. `load` loads every archive in the folder, does the same, and compares. It
ends with an error if one differs; what Keras itself cannot load or train is told apart. Nothing is
asked of keras_gamma's records: the model itself tells.
"""

import json
import pathlib
import sys

import keras
import numpy as np
from keras import layers

import keras_gamma


@keras.saving.register_keras_serializable(package="archives_between")
class OwnNorm(layers.Layer):
    """A third party's norm: no regularizer argument, and a scale with a name of its own."""

    def build(self, shape: tuple[int, ...]) -> None:
        """Makes the scale."""
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Normalizes."""
        square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
        return x * keras.ops.rsqrt(square + 1e-6) * self.gain


@keras.saving.register_keras_serializable(package="archives_between")
class Nested(keras.Model):
    """A subclassed model with layers in a list, a list within a list, and a dict."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(4), [OwnNorm(), layers.LayerNormalization()]]
        self.by_name = {"norm": layers.LayerNormalization(), "out": layers.Dense(4)}

    def build(self, shape: tuple[int, ...]) -> None:
        """Builds every part."""
        for layer in (self.blocks[0], *self.blocks[1], *self.by_name.values()):
            layer.build(shape)
        self.built = True

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Two residual branches."""
        x = x + keras.ops.relu(self.blocks[0](self.blocks[1][0](x)))
        x = x + self.by_name["out"](self.blocks[1][1](x))
        return self.by_name["norm"](x)


def residual(x: keras.KerasTensor, norm: layers.Layer) -> keras.KerasTensor:
    """A branch that begins with `norm`."""
    return layers.Add()([x, layers.Dense(4, activation="relu")(norm(x))])


def functional() -> keras.Model:
    """Norms with a regularizer argument, and without one, in a model within a model."""
    x = keras.Input((4,))
    y = residual(residual(x, layers.LayerNormalization()), OwnNorm())
    inner = keras.Model(x, residual(y, layers.BatchNormalization()))
    z = keras.Input((4,))
    return keras.Model(z, layers.Dense(2)(layers.LayerNormalization()(inner(z))))


def nested() -> keras.Model:
    """A subclassed model, built."""
    model = Nested()
    model(np.ones((2, 4), "float32"))
    return model


def root_mean_square() -> keras.Model:
    """With Keras' own norm, from 3.9 on."""
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2)(residual(x, layers.RMSNormalization())))


def coupled(model: keras.Model) -> None:
    """Penalties."""
    keras_gamma.apply_guidelines(model, l2=0.125)
    model.compile(keras.optimizers.SGD(0.5), "mse")


def excluded(model: keras.Model) -> None:
    """An exclude list on an optimizer of Keras."""
    optimizer = keras.optimizers.AdamW(0.5, weight_decay=0.25)
    keras_gamma.exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, "mse")


def by_factor(model: keras.Model) -> None:
    """An optimizer of ours, with factors."""
    plan = keras_gamma.plan_weight_decay(model, guidelines="residual_last=1,interior=0.5")
    model.compile(keras_gamma.optimizers.SGDW(0.5, weight_decay=0.25, decay=plan), "mse")


MODELS = [functional, nested, root_mean_square]
DECISIONS = [coupled, excluded, by_factor]


def look(model: keras.Model) -> dict[str, list[float]]:
    """What a model does: outputs, penalties, and what is left of each variable by decay alone."""
    x = np.linspace(-1, 2, 12, dtype="float32").reshape(3, 4)
    outputs = keras.ops.convert_to_numpy(model(x, training=False)).ravel().tolist()
    variables = model.trainable_variables
    norms = [float(np.abs(keras.ops.convert_to_numpy(v)).sum()) for v in variables]
    losses = sorted(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses)
    model.optimizer.build(variables)
    model.optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    after = [float(np.abs(keras.ops.convert_to_numpy(v)).sum()) for v in variables]
    left = [b / a if a else 0.0 for a, b in zip(norms, after, strict=True)]
    return {"outputs": outputs, "losses": losses, "left": left}


def save(folder: pathlib.Path) -> None:
    """Writes an archive for every model and decision, and what to expect of it."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    for make in MODELS:
        if make is root_mean_square and not hasattr(layers, "RMSNormalization"):
            continue
        for decide in DECISIONS:
            model = make()
            decide(model)
            model.optimizer.build(model.trainable_variables)
            for variable in model.trainable_variables:
                variable.assign(
                    keras.ops.convert_to_tensor(np.random.uniform(0.5, 1, variable.shape))
                )
            backend = keras.backend.backend()
            name = f"{keras.version()}-{backend}-{make.__name__}-{decide.__name__}"
            model.save(folder / f"{name}.keras")
            expected = json.dumps(look(model))
            (folder / f"{name}.json").write_text(expected, encoding="utf-8")
            print(f"{name}: written")


def short(error: Exception) -> str:
    """The end of an error's message, where Keras says the cause."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-150:]}"


def by_keras_alone(path: pathlib.Path) -> str | None:
    """Why what Keras loads from an archive cannot take a step, or `None` if it can."""
    try:
        look(keras.models.load_model(path))
    except Exception as error:
        return short(error)
    return None


def load(folder: pathlib.Path) -> int:
    """Loads every archive of the folder, and returns how many differ from what is expected."""
    wrong = 0
    here = f"Keras {keras.version()}, {keras.backend.backend()}"
    for path in sorted(folder.glob("*.keras")):
        if "root_mean_square" in path.name and not hasattr(layers, "RMSNormalization"):
            print(f"{path.stem} -> {here}: skipped: no RMSNormalization before Keras 3.9")
            continue
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        try:
            found = look(keras_gamma.load_model(path))
            different = [
                key
                for key in expected
                if len(found[key]) != len(expected[key])
                or not np.allclose(found[key], expected[key], rtol=1e-4, atol=1e-5)
            ]
            verdict = f"differs in {', '.join(different)}" if different else "the same"
        except Exception as error:
            cause = by_keras_alone(path)
            if cause is not None:
                print(f"{path.stem} -> {here}: Keras itself cannot load or train it: {cause}")
                continue
            verdict = f"failed: {short(error)}"
        wrong += verdict != "the same"
        print(f"{path.stem} -> {here}: {verdict}")
    return wrong


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("save", "load"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[2])
    sys.exit(load(folder) > 0 if sys.argv[1] == "load" else save(folder))
