"""Small sums as one program: the same numbers, and on JAX one compilation."""

import keras
import numpy as np
import pytest

from keras_gamma._keras import at_once

SHAPES = [(2,), (2, 2), (2, 2, 2), ()]


def made(name):
    """An optimizer, and variables that it was built for, at 1."""
    config = {"SGD": {"momentum": 0.9}, "Adam": {}, "Lion": {}}[name]
    optimizer = getattr(keras.optimizers, name)(0.5, weight_decay=0.1, **config)
    variables = [keras.Variable(np.ones(s, "float32"), name=f"v{i}") for i, s in enumerate(SHAPES)]
    optimizer.exclude_from_weight_decay(var_list=[variables[1]])
    optimizer.build(variables)
    return optimizer, variables


@pytest.mark.parametrize("name", ["SGD", "Adam", "Lion"])
@pytest.mark.parametrize("most", [128, 0])
def test_a_step_is_that_of_apply(monkeypatch, name, most):
    monkeypatch.setattr(at_once, "MOST", most)
    optimizer, variables = made(name)
    gradients = [np.full(s, 0.25 * i, "float32") for i, s in enumerate(SHAPES)]
    found = at_once.step_of(optimizer, gradients, variables)
    optimizer, variables = made(name)
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    wanted = [keras.ops.convert_to_numpy(v) for v in variables]
    assert (wanted[1] != wanted[2]).all()  # Excluded, and not.
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_what_decides_in_python():
    def decides():
        total = keras.ops.sum(np.ones(3, "float32"))
        return total * 2 if float(total) > 2 else total

    assert float(at_once.at_once(decides)) == 6.0


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX's compilations")
def test_one_compilation_on_jax():
    import jax

    compiled = []

    def count(event, seconds, **more):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    optimizer, variables = made("Adam")
    gradients = [np.zeros(s, "float32") for s in SHAPES]
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        at_once.step_of(optimizer, gradients, variables)
        assert len(compiled) == 1
    finally:
        jax.monitoring.clear_event_listeners()
