"""Fails loudly when Keras moves a private name that keras_gamma leans on, or adds an operation."""

import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma._keras import exclusions
from keras_gamma._keras import names as _keras
from keras_gamma.network import operations

PACKAGE = pathlib.Path(keras_gamma.__file__).parent


def test_private_names_are_where_we_expect_them():
    from keras.src.backend.common import global_state
    from keras.src.layers import layer as layer_module
    from keras.src.ops.node import Node
    from keras.src.ops.operation import Operation

    assert Operation is keras.Operation
    assert "symbolic_call" in vars(Operation)
    if "symbolic_call" in vars(keras.Layer):  # From Keras 3.10 on.
        assert layer_module.Node is Node
    else:
        assert keras.version().startswith(("3.8.", "3.9."))
    layer = layers.Dense(2)
    assert layer._flatten_layers(include_self=True, recursive=True) == [layer]
    assert (layer._layers, layer._inbound_nodes, layer._losses) == ([], [], [])
    assert layer._loss_ids == set()
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert optimizer._exclude_from_weight_decay == set()
    assert optimizer._exclude_from_weight_decay_pattern.pattern == "bias"
    assert optimizer._var_key(keras.Variable(1.0)) is not None
    optimizer.build([keras.Variable(1.0)])
    assert len(optimizer._trainable_variables) == 1
    assert optimizer._use_weight_decay(optimizer._trainable_variables[0])
    if exclusions.DECIDES_WHEN_BUILT:  # From Keras 3.16 on.
        [key] = optimizer._weight_decay_by_var_key
        assert key == optimizer._var_key(optimizer._trainable_variables[0])
    else:
        assert len(optimizer._exclude_from_weight_decay_cache) == 1
    assert callable(optimizer._apply_weight_decay)
    assert optimizer._get_current_learning_rate() is optimizer._learning_rate
    assert keras.Input((2,), name="tokens")._keras_history.operation.name == "tokens"
    assert "dense" in global_state.get_global_attribute("object_name_uids")


def test_a_symbolic_call_goes_through_the_places_that_are_intercepted():
    seen = []

    class Handler:
        paused = False

        def enter(self, layer, args, kwargs, call):
            if layer.name == "known":
                return self(layer, args, {})
            return call(layer, *args, **kwargs)

        def __call__(self, operation, args, kwargs):
            seen.append((type(operation).__name__, bool(kwargs)))
            return keras.KerasTensor((2, 3))

    dense, known = layers.Dense(3), layers.BatchNormalization(name="known")
    dense.build((2, 3))
    whole = keras.Layer.__call__
    with _keras.intercept_symbolic_calls(Handler()):
        y = dense(keras.KerasTensor((2, 3)))
        known(y, training=False)  # Its `__call__` is left out: it is not even built.
        keras.ops.relu(y + 1.0)
    assert seen == [
        ("Dense", False),
        ("BatchNormalization", False),
        ("Add", False),
        ("Relu", False),
    ]
    assert not known.built
    assert keras.Layer.__call__ is whole
    assert dense._inbound_nodes == []
    dense(keras.Input((3,)))
    assert len(dense._inbound_nodes) == 1  # Afterwards all is as it was.


def keras_operations():
    """Names of all operation classes of this Keras."""
    import keras.src.ops

    names = set()
    for module in pkgutil.iter_modules(keras.src.ops.__path__):
        if module.name.endswith("_test"):
            continue
        members = vars(importlib.import_module(f"keras.src.ops.{module.name}")).values()
        names |= {
            c.__name__
            for c in members
            if inspect.isclass(c)
            and issubclass(c, keras.Operation)
            and not issubclass(c, keras.Layer)
        }
    return names - {"Operation", "Function"}


def test_every_operation_of_keras_is_classified():
    """A new Keras may bring new operations: say what they do to scale before supporting it."""
    known = set(operations.KINDS) | operations._SCALELESS
    assert keras_operations() - known == set()


def modules():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_name_outside_its_room(path):
    if path.parent.name == "_keras":
        return
    source = path.read_text(encoding="utf-8")
    assert "keras.src" not in source.replace('"keras.src.', "")


def test_tensorflow_is_imported_in_functions_only():
    """The other backends do without it. (Who may import it at all is a contract.)"""
    found = [path.name for path in modules() if re.search("^import tensorflow", path.read_text())]
    assert found == []


def test_a_stand_in_has_the_path_of_its_variable():
    variable = layers.Dense(2, name="fc")
    variable.build((None, 3))
    new = _keras.stand_in(variable.kernel, (2, 2), 1.0)
    assert (new.path, new.name, new.trainable) == ("fc/kernel", "kernel", True)


def test_a_stand_in_can_be_decayed_in_place():
    variable = layers.Dense(2, name="fc")
    variable.build((None, 3))
    new = _keras.stand_in(variable.kernel, (2, 2), 1.0)
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.apply([keras.ops.zeros((2, 2))], [new])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(new), 0.5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.distribute only")
def test_what_distributed_training_leans_on():
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(1)(x))
    model.compile("sgd", "mse", metrics=["mae"])
    assert model._initial_epoch is None
    model._symbolic_build(data_batch=(keras.KerasTensor((2, 3)), keras.KerasTensor((2, 1))))
    assert model.optimizer.built and len(model.metrics[1].variables) == 2
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=1.0)
    variable = keras.Variable([3.0, 4.0])
    optimizer.build([variable])
    added = []
    optimizer._all_reduce_sum_gradients = lambda pairs: added.append(len(pairs)) or list(pairs)
    optimizer.apply([keras.ops.convert_to_tensor([30.0, 40.0])], [variable])
    assert added == [1]
    np.testing.assert_allclose(variable.numpy(), [2.4, 3.2], rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.distribute only")
def test_gradients_are_added_before_they_are_clipped():
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=1.0)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    for outer, scale in ((optimizer, 1.0), (scaled, 2.0)):
        variable = keras.Variable([0.0, 0.0])
        outer.built or outer.build([variable])
        variable = variable if outer is optimizer else optimizer._trainable_variables[0]
        variable.assign([0.0, 0.0])
        with _keras.gradients_added_first(outer, lambda grads: [3.0 * grad for grad in grads]):
            outer.apply([keras.ops.convert_to_tensor([0.2 * scale, 0.0])], [variable])
            outer.apply([keras.ops.convert_to_tensor([0.0, 2.0 * scale])], [variable])
        np.testing.assert_allclose(variable.numpy(), [-0.6, -1.0], rtol=1e-6)
        assert not {"apply", "_all_reduce_sum_gradients"} & {*vars(outer), *vars(optimizer)}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow shows steps")
def test_a_traced_step_can_be_looked_at():
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(1, name="fc")(x))
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    [*steps] = _keras.traced_steps(model)
    assert steps
    for old, new in steps:
        assert set(old.uses) == {0, 1}  # The kernel, the bias.
        assert old.uses[0]["MatMul"] + old.uses[0]["ReadVariableOp"] > 0
        assert old.uses == new.uses


def test_whether_a_step_was_traced_before():
    """TensorFlow's and JAX's functions count what they have compiled; torch compiles nothing."""
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(1, name="fc")(x))
    model.compile("sgd", "mse")
    assert _keras.traced_before(model) is False
    model.make_train_function()
    assert _keras.traced_before(model) is False
    model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    assert _keras.traced_before(model) is (keras.backend.backend() != "torch")
    model.compile("sgd", "mse", run_eagerly=True)
    assert _keras.traced_before(model) is False
