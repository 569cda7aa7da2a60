"""Trains on two devices with `DecayGuard`; says what it and the audit found."""

import contextlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import keras
import numpy as np
from keras import layers

import keras_gamma
from keras_gamma.callbacks import DecayGuard


def make(strategy, excluded):
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        x = keras.Input((4,))
        y = layers.Dense(4, name="fc")(layers.LayerNormalization(name="ln")(x))
        y = layers.LayerNormalization(name="final")(layers.Add()([x, y]))
        model = keras.Model(x, layers.Dense(2, name="out")(y))
        model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), "mse")
        if excluded:
            keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    return model


def distribute(kind):
    """The strategy, or `None` if what is set is Keras' own distribution."""
    if kind.endswith("parallel"):
        devices = keras.distribution.list_devices()
        assert len(devices) == 2
        if kind == "data_parallel":
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
            return None
        mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
        layout = keras.distribution.LayoutMap(mesh)
        layout[".*kernel"] = (None, "model")
        layout[".*gamma"] = ("model",)
        distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
        keras.distribution.set_distribution(distribution)
        return None
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def fit(model, kind, strategy, callbacks):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4)).astype("float32")
    y = rng.normal(size=(16, 2)).astype("float32")
    if kind == "distributed_fit":
        import tensorflow as tf

        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        keras_gamma.distributed_fit(model, batches, epochs=2, verbose=0, callbacks=callbacks)
        return
    with strategy.scope() if kind == "scope" else contextlib.nullcontext():
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)


def main(kind):
    strategy = distribute(kind)
    guarded, plain, wrong = (make(strategy, excluded) for excluded in (True, True, False))
    plan = keras_gamma.plan_weight_decay(guarded)
    answers = [keras_gamma.audit(model, plan).answer for model in (guarded, wrong)]
    print("audit:", ", ".join(answers))
    fit(guarded, kind, strategy, [guard := DecayGuard(plan)])
    try:
        fit(wrong, kind, strategy, [DecayGuard(plan)])
        told = "went on"
    except RuntimeError as error:
        told = "stopped" if "final/gamma: weight decay" in str(error) else str(error)
    print(f"guard: {guard.audit.answer}, and {told}")
    fit(plain, kind, strategy, [])
    pairs = zip(guarded.get_weights(), plain.get_weights(), strict=True)
    print("same weights:", all(np.array_equal(a, b) for a, b in pairs))


if __name__ == "__main__":
    main(sys.argv[1])
