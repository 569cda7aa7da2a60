"""The factorial experiment: its engine is `model.fit`, and its statistics are right."""

import itertools

import keras
import numpy as np
import pytest
from scipy import stats

import keras_gamma
from examples.core.decay import decay_kernels
from examples.experiments import factorial_engine, factorial_statistics
from examples.experiments.factorial_statistics import Design, Hypothesis
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


def test_effects_are_those_that_the_numbers_were_made_of():
    random = np.random.default_rng(0)
    results = {}
    for seed in range(5):
        block = random.normal()
        for bits in itertools.product("01", repeat=3):
            a, b, c = map(int, bits)
            results[seed, "".join(bits)] = block + 2 * a - b + 0.5 * a * c
    results[9, "000"] = 1.0  # A seed that was interrupted.
    design = Design.of(("a", "b", "c"), results)
    assert design.seeds == (0, 1, 2, 3, 4)
    # c is on in half of the arms: its product with a adds half of 0.5 to the effect of either.
    np.testing.assert_allclose(design.effect("a"), 2.25)
    np.testing.assert_allclose(design.effect("b"), -1.0)
    np.testing.assert_allclose(design.effect("c"), 0.25)
    np.testing.assert_allclose(design.effect("a", "c"), 0.25)
    np.testing.assert_allclose(design.effect("a", "b"), 0.0, atol=1e-12)
    np.testing.assert_allclose(design.difference("101", "000"), 2.5)
    assert design.only([3, 1]).values.shape == (2, 2, 2, 2)


def test_an_equivalence_is_two_t_tests():
    values = np.array([0.05, 0.2, -0.1, 0.12, 0.08, 0.02])
    # The interval of 90 % touches the margin where p is 0.05.
    low, high = stats.t.interval(0.9, 5, values.mean(), stats.sem(values))
    assert factorial_statistics.equivalence(values, high) == pytest.approx(0.05)
    assert factorial_statistics.equivalence(-values, high) == pytest.approx(0.05)
    assert low > -high


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.05], 1, "holds"),
        ([1.0, 1.1, 0.9, 1.05], -1, "refuted"),
        ([0.1, 0.11, 0.09, 0.105], 1, "holds, but equivalent to nothing within 0.3"),
        ([0.01, -0.02, 0.015, 0.0], 1, "equivalent to nothing within 0.3"),
        ([2.0, -2.0, 1.0, -1.5], 1, "cannot be told"),
        ([2.0], 1, "not reached"),
    ],
)
def test_verdicts(values, sign, expected):
    found = factorial_statistics.judge_family([Hypothesis("", sign, np.array(values))])
    assert found[0].text == expected


def test_families_are_corrected():
    one = Hypothesis("", 1, np.array([0.5, 0.1, 0.9, 0.7]))
    alone = factorial_statistics.judge_family([one])[0]
    among = factorial_statistics.judge_family([one] * 4)[0]
    assert alone.text == "holds"
    assert among.p == pytest.approx(min(1, 4 * alone.p))
    assert among.text == "cannot be told"


def test_power_is_what_simulation_says():
    random = np.random.default_rng(1)
    effect = factorial_statistics.detectable(0.5, 12)
    drawn = random.normal(effect, 0.5, (4000, 12))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert factorial_statistics.half_width(0.5, 1) == np.inf
