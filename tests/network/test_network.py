"""A model is traced once, and its network handed on."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.network import tracing
from keras_gamma.roles.classification import find_joins


def block():
    x = keras.Input((8,), name="x")
    y = layers.Dense(8, name="fc")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(x, layers.Add(name="join")([x, y]), name="block")


@pytest.fixture
def traces(monkeypatch):
    """Counts traces."""
    seen = []
    once = tracing._trace_once

    def counted(model, *more):
        seen.append(model.name)
        return once(model, *more)

    monkeypatch.setattr(tracing, "_trace_once", counted)
    return seen


def test_what_is_derived_is_computed_once():
    network, calls = keras_gamma.network.trace(block()), []

    def count(graph):
        calls.append(graph)
        return len(graph.nodes)

    assert network.derive(count) == network.derive(count) == 5
    assert calls == [network.graph]
    assert network.derive(find_joins) is network.derive(find_joins)


def test_a_network_is_not_traced_again_and_takes_no_inputs():
    network = keras_gamma.network.trace(block())
    assert keras_gamma.network.trace(network) is network
    with pytest.raises(ValueError, match="leave `inputs` out"):
        keras_gamma.network.trace(network, (None, 8))


OPERATIONS = {
    "find_roles": lambda m, path: keras_gamma.find_roles(m),
    "apply_guidelines": lambda m, path: keras_gamma.apply_guidelines(m, l2=1e-4),
    "exclude_from_weight_decay": lambda m, path: keras_gamma.exclude_from_weight_decay(
        keras.optimizers.AdamW(weight_decay=0.01), m
    ),
    "plan_weight_decay": lambda m, path: keras_gamma.plan_weight_decay(m),
    "verify": lambda m, path: keras_gamma.verify(m),
    "plot_roles": lambda m, path: keras_gamma.plot_roles(m, path / "roles.svg"),
    "find_scale_invariant": lambda m, path: keras_gamma.dynamics.find_scale_invariant(m),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_traces_once_and_takes_a_network_without_a_trace(name, traces, tmp_path):
    if name == "plot_roles":
        pytest.importorskip("matplotlib")
    operation = OPERATIONS[name]
    expected = str(operation(block(), tmp_path))
    assert traces == ["block"]
    network = keras_gamma.network.trace(block())
    traces.clear()
    assert str(operation(network, tmp_path)) == expected
    assert traces == []


def test_branch_ratios_trace_once_and_take_a_network_of_that_batch(traces):
    batch = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    model = block()
    [ratio] = keras_gamma.dynamics.branch_ratios(model, batch)
    assert traces == ["block"]
    network = keras_gamma.network.trace(model, batch)
    assert keras_gamma.dynamics.branch_ratios(network, batch) == [ratio]
    with pytest.raises(ValueError, match="traced on inputs of shapes"):
        keras_gamma.dynamics.branch_ratios(network, batch[:4])


def test_the_monitor_traces_once_at_the_start(traces):
    model = block()
    model.compile("sgd", "mse")
    x = np.zeros((8, 8), "float32")
    monitor = keras_gamma.callbacks.GammaMonitor(every=1, probe=x)
    model.fit(x, x, batch_size=4, verbose=0, callbacks=[monitor])
    assert traces == ["block"]
    assert len(monitor.history) == 2


def test_shapes_that_keras_recorded_are_not_inferred_again(monkeypatch):
    x = keras.Input((8, 8, 2))
    conv = layers.Conv2D(4, 3, strides=2)
    model = keras.Model(x, layers.Conv2D(3, 1)(layers.BatchNormalization()(conv(x))))
    inferred = []
    infer = layers.Conv2D.compute_output_shape

    def counted(layer, shape):
        inferred.append(shape)
        return infer(layer, shape)

    monkeypatch.setattr(layers.Conv2D, "compute_output_shape", counted)
    assert [t.shape for t in keras_gamma.network.trace(model).steps[-1].args] == [(2, 3, 3, 4)]
    assert not inferred
    # Called on another shape than the first time, that is of no use.
    larger = keras.Input((16, 16, 2))
    model = keras.Model(larger, conv(larger))
    inferred.clear()
    network = keras_gamma.network.trace(model)
    assert network.steps[-1].outputs.shape == (2, 7, 7, 4)
    assert inferred == [(2, 16, 16, 2)]
