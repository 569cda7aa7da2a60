"""Scale-invariant kernels: found, checked by scaling them, and held at norm 1."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.dynamics import find_scale_invariant, project_scale_invariant
from tests.models.role_models import BY_NAME, CASES


def value(x):
    return keras.ops.convert_to_numpy(x)


def network():
    """Kernels of every sort; what is to be found of each is written down in EXPECTED."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, padding="same", name="with_bias")(x)
    y = layers.BatchNormalization(epsilon=1e-7, name="bn1")(y)
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="through_relu")(y)
    y = layers.BatchNormalization(epsilon=1e-7, name="bn2")(layers.ReLU()(y))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
    z = layers.BatchNormalization(epsilon=1e-7, name="bn3")(y)
    y = layers.Conv2D(4, 1, use_bias=False, name="in_front_of_gelu")(z)
    y = layers.BatchNormalization(epsilon=1e-7, name="bn4")(layers.Activation("gelu")(y))
    y = layers.Conv2D(4, 1, use_bias=False, name="in_front_of_add")(y)
    y = layers.Add(name="join")([z, y])
    y = layers.Conv2D(4, 1, use_bias=False, name="pooled")(y)
    y = layers.BatchNormalization(epsilon=1e-7, name="bn5")(layers.AveragePooling2D(2)(y))
    y = layers.Conv2D(6, 1, use_bias=False, name="in_front_of_ln")(y)
    y = layers.LayerNormalization(epsilon=1e-7, name="ln")(y)
    y = layers.Conv2D(6, 1, name="bias_and_ln")(y)
    y = layers.LayerNormalization(epsilon=1e-7, name="ln2")(y)
    y = layers.Conv2D(6, 1, use_bias=False, name="first_of_two")(y)
    y = layers.Conv2D(6, 1, use_bias=False, name="second_of_two")(y)
    y = layers.BatchNormalization(epsilon=1e-7, name="bn6")(y)
    return keras.Model(x, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(y)))


EXPECTED = {
    "with_bias/kernel": True,
    "through_relu/kernel": True,
    "depthwise/kernel": True,
    "pooled/kernel": False,  # Pooling keeps filters apart, but that is not looked into.
    "in_front_of_ln/kernel": False,
    "second_of_two/kernel": True,
}
OTHERS = {"in_front_of_gelu/kernel", "in_front_of_add/kernel", "bias_and_ln/kernel",
          "first_of_two/kernel", "head/kernel"}  # fmt: skip


def test_kernels_found():
    found = find_scale_invariant(network())
    assert {e.path: e.per_filter for e in found} == EXPECTED
    assert set(found.others) == OTHERS
    assert "bias" in found.others["bias_and_ln/kernel"]
    assert "6 of 11 kernels" in str(found)


def outputs(model, x):
    """In training mode, where normalizations use the batch."""
    return value(model(x, training=True))


@pytest.mark.one_in(15)
@pytest.mark.parametrize("name", [case.name for case in CASES if case.inputs is None])
def test_scaling_changes_nothing(name):
    """Every kernel that is found is scaled by 3, or each filter by a factor of its own."""
    keras.utils.set_random_seed(1)
    model = BY_NAME[name].build()
    found = find_scale_invariant(model)
    if not len(found) or any("int" in t.dtype or t.dtype == "bool" for t in model.inputs):
        assert not any(e.path in found.others for e in found)
        return
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(getattr(layer, "epsilon", None), float):
            layer.epsilon = 1e-9
        if isinstance(getattr(layer, "rate", None), float):
            layer.rate = 0.0
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = True
    data = [rng.normal(size=(8, *t.shape[1:])).astype("float32") for t in model.inputs]
    model = keras.Model(model.inputs, model.outputs)
    states = [(v, value(v)) for v in model.non_trainable_variables]

    def run():
        for variable, state in states:
            variable.assign(state)
        return [value(t) for t in keras.tree.flatten(model(data, training=True))]

    before = run()
    for entry in found:
        old = value(entry.variable)
        factor = rng.uniform(0.5, 3.0, old.shape[-1]) if entry.per_filter else 3.0
        entry.variable.assign(old * factor)
        after = run()
        entry.variable.assign(old)
        for a, b in zip(before, after, strict=True):
            scale = np.abs(a).max() + 1e-6
            tolerance = 2e-2 if name == "mixed_precision" else 2e-3
            np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


def spread_out(model):
    """Gives every variable a value of its own, moving statistics included."""
    rng = np.random.default_rng(2)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.path or "gamma" in variable.path else -0.5
        variable.assign(rng.uniform(low, 1.5, variable.shape))


def test_projection_leaves_the_function_and_holds_the_norm():
    model = network()
    spread_out(model)
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    before = value(model(x)), outputs(model, x)
    spread_out(model)  # Calls in training mode move the statistics.
    held = project_scale_invariant(model)
    after = value(model(x)), outputs(model, x)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2 * np.abs(a).max())
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.ones((16, 2), "float32"), epochs=3, verbose=0)
    assert {e.path for e in held} == set(EXPECTED)
    for entry in held:
        squares = np.square(value(entry.variable)).sum(axis=tuple(entry.axes))
        np.testing.assert_allclose(squares, 1.0, rtol=1e-4)


def test_in_front_of_running_statistics_of_ones_own():
    """Found where a norm is written out inside a larger layer; not held: who would rescale them?"""
    model = BY_NAME["statistics_by_hand"].build()
    spread_out(model)
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 4)).astype("float32")
    before = value(model(x))
    found = {e.path.partition("/")[0]: e for e in find_scale_invariant(model)}
    assert found.keys() == {"stem", "first", "last"}
    assert not any(e.per_filter for e in found.values())
    held = project_scale_invariant(model)
    assert len(held) == 0
    assert "running statistics" in held.others[found["stem"].path]
    np.testing.assert_array_equal(value(model(x)), before)
    # Normalized by running statistics in training, too: those follow a kernel in the long run only.
    others = find_scale_invariant(BY_NAME["statistics_in_one"].build()).others
    assert [w for path, w in others.items() if path.startswith("stem/") and "normalizes" in w]


def test_it_survives_saving(tmp_path):
    model = network()
    project_scale_invariant(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    loaded.fit(x, np.ones((4, 2), "float32"), verbose=0)
    assert loaded.get_layer("depthwise").get_config()["depthwise_constraint"] is not None
    kernel = value(loaded.get_layer("through_relu").kernel)
    np.testing.assert_allclose(np.square(kernel).sum(axis=(0, 1, 2)), 1.0, rtol=1e-4)
    again = project_scale_invariant(loaded)  # Its own constraints are not in the way.
    assert len(again) == len(EXPECTED)


def direction(decay, project):
    """The directions of a kernel's filters after training."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    y = layers.Dense(4, use_bias=False, name="fc")(x)
    y = layers.BatchNormalization(scale=False, center=False)(y)
    model = keras.Model(x, layers.Dense(1, trainable=False)(y))
    if project:
        project_scale_invariant(model)
    model.compile(keras.optimizers.SGD(0.1, weight_decay=decay), "mse")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 4)), rng.normal(size=(64, 1))
    model.fit(*data, epochs=20, verbose=0, shuffle=False)
    kernel = value(model.get_layer("fc").kernel)
    return kernel / np.linalg.norm(kernel, axis=0)


@pytest.mark.slow
def test_decay_matters_less_where_the_norm_is_held():
    """Decay changes the effective learning rate η/‖w‖², more and more; held, by 1/(1 − ηλ) only."""
    free = np.abs(direction(0.0, False) - direction(1.0, False)).max()
    held = np.abs(direction(0.0, True) - direction(1.0, True)).max()
    assert held < free / 3


def test_a_constraint_of_somebody_else_is_left_alone():
    model = network()
    model.get_layer("depthwise").kernel.constraint = keras.constraints.NonNeg()
    before = [value(v) for v in model.variables]
    with pytest.raises(ValueError, match=r"depthwise/kernel has a constraint already, NonNeg"):
        project_scale_invariant(model)
    for a, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, value(v))


def test_a_filter_of_zeros_is_refused():
    model = network()
    kernel = model.get_layer("with_bias").kernel
    kernel.assign(np.zeros(kernel.shape))
    with pytest.raises(ValueError, match="has no direction"):
        project_scale_invariant(model)
    assert keras_gamma.dynamics.find_scale_invariant(model)[0].variable.constraint is None
