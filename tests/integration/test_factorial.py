"""The factorial experiment: its engine is `model.fit`, and its statistics are right."""

import keras
import numpy as np
import pytest

import keras_gamma
from examples.core.decay import decay_kernels
from examples.experiments import factorial_engine
from examples.models.resnet import build_model


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return build_model("resnet8_v1", input_shape=(8, 8, 1), num_classes=10, width=4)


@pytest.fixture(scope="module")
def engine(network):
    return factorial_engine.Engine(network)


@pytest.mark.parametrize("arm", ["none", "paper", "all"])
def test_a_run_is_that_of_fit(network, engine, arm):
    random = np.random.default_rng(0)
    images = random.normal(size=(24, 8, 8, 1)).astype("float32")
    labels = random.integers(0, 10, 24)
    order = np.concatenate([random.permutation(24).reshape(3, 8) for _ in range(4)])
    start = engine.initial_weights(5)

    guidelines = keras_gamma.Guidelines.parse(arm)
    slow = keras.models.clone_model(network)
    slow.set_weights(start)
    decay_kernels(slow, 1e-2)
    keras_gamma.apply_guidelines(slow, weight_decay=0.3, guidelines=guidelines)
    schedule = keras.optimizers.schedules.CosineDecay(0.05, len(order))
    data = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="data")
    slow.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[data],
    )
    fitted = slow.fit(
        images[order.ravel()], labels[order.ravel()], batch_size=8, shuffle=False, verbose=0
    )

    strengths = {role: 0.3 * guidelines.factor(role) for role in factorial_engine.ROLES}
    outcome = engine.train(
        start, images, labels, order,
        factorial_engine.cosine(0.05, len(order)), engine.decay(1e-2, strengths),
    )  # fmt: skip
    assert np.mean(outcome.losses) == pytest.approx(fitted.history["data"][0], abs=1e-5)
    for mine, theirs in zip(outcome.weights, slow.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_arms_differ_and_a_run_can_be_had_again(engine):
    random = np.random.default_rng(0)
    images = random.normal(size=(8, 8, 8, 1)).astype("float32")
    labels, order = np.arange(8), np.tile(np.arange(8), (3, 1))
    start, rates = engine.initial_weights(0), factorial_engine.cosine(0.1, 3)

    def train(**strengths):
        decay = engine.decay(0.0, strengths)
        return engine.train(start, images, labels, order, rates, decay).losses

    first = train()
    assert not np.allclose(train(trunk=1.0), first, atol=1e-4)
    assert np.allclose(train(), first, atol=1e-6)


def test_ratios_are_those_of_the_library(engine):
    images = np.random.default_rng(3).normal(size=(16, 8, 8, 1)).astype("float32")
    engine.model.set_weights(engine.initial_weights(2))
    plain = build_model("resnet8_v1", input_shape=(8, 8, 1), num_classes=10, width=4)
    plain.set_weights(engine.model.get_weights())
    theirs = [found.ratio for found in keras_gamma.dynamics.branch_ratios(plain, images)]
    np.testing.assert_allclose(engine.branch_ratios(images), theirs, rtol=1e-3)
    for now, before in zip(engine.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(now, before)
