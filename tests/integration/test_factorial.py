"""The factorial experiment: its engine is `model.fit`, and its statistics are right."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import keras_gamma
from examples.core.decay import decay_kernels, tell_dose
from examples.experiments import (
    factorial_adamw,
    factorial_amendment,
    factorial_cells,
    factorial_depth,
    factorial_engine,
    factorial_map,
    factorial_plan,
    factorial_report,
    factorial_sections,
    factorial_statistics,
    factorial_transformers,
)
from examples.experiments.factorial_statistics import Design, Hypothesis
from examples.experiments.reports import Report
from examples.models.resnet import build_model

ROOT = Path(__file__).resolve().parents[2]
ARABIC = {f"| {n}" for n in "1234567"}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return plain_network()


def plain_network():
    network = build_model("resnet8_v1", input_shape=(8, 8, 1), num_classes=10, width=4)
    return factorial_engine.without_standardization(network)


@pytest.fixture(scope="module")
def engine(network):
    return factorial_engine.Engine(network)


@pytest.mark.slow
@pytest.mark.one_in(3)
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


@pytest.mark.slow
def test_decoupled_decay_is_that_of_the_optimizer(network):
    """`keras.optimizers.SGD(weight_decay=λ)` with all but γ and kernels excluded."""
    random = np.random.default_rng(0)
    images = random.normal(size=(24, 8, 8, 1)).astype("float32")
    labels = random.integers(0, 10, 24)
    order = np.arange(24).reshape(3, 8)
    decoupled = factorial_engine.Engine(network, decoupled=True)
    start = decoupled.initial_weights(5)
    slow = keras.models.clone_model(network)
    slow.set_weights(start)
    decay_kernels(slow, 1e-2)
    schedule = keras.optimizers.schedules.CosineDecay(0.05, len(order))
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=0.7)
    kept = [e.variable for e in keras_gamma.find_roles(slow) if e.role != "trunk"]
    gammas = {id(e.variable) for e in keras_gamma.find_roles(slow)}
    others = [v for v in slow.trainable_variables if id(v) not in gammas]
    optimizer.exclude_from_weight_decay(kept + others)
    slow.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    slow.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    rates = factorial_engine.cosine(0.05, len(order))
    decay = decoupled.decay(1e-2, {"trunk": 0.7})
    outcome = decoupled.train(start, images, labels, order, rates, decay)
    for mine, theirs in zip(outcome.weights, slow.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.slow
def test_a_transformer_is_that_of_adamw():
    """`keras.optimizers.AdamW(weight_decay=λ)` of kernels and of the last γ."""
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, size=(24, 8, 8, 1)).astype("float32")
    labels = random.integers(0, 10, 24)
    order = np.arange(24).reshape(3, 8)
    engine = factorial_adamw.AdamWEngine(1, 8, "pre")
    assert {role: len(found) for role, found in engine.gammas.items() if found} == {
        "residual_last": 2, "trunk": 1,
    }  # fmt: skip
    start = engine.initial_weights(5)
    slow = factorial_adamw.network(1, 8, "pre")
    slow.set_weights(start)
    schedule = keras.optimizers.schedules.CosineDecay(0.01, len(order))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.7)
    last = slow.get_layer("final_norm").gamma
    optimizer.exclude_from_weight_decay(
        [v for v in slow.trainable_variables if v is not last and v.name != "kernel"]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for batch in order:
        with tf.GradientTape() as tape:
            value = loss(labels[batch], slow(images[batch], training=True))
        # Of an embedding that is used twice Keras squares each gradient by itself; here their sum.
        gradients = tape.gradient(value, [v.value for v in slow.trainable_variables])
        optimizer.apply(list(map(tf.convert_to_tensor, gradients)), slow.trainable_variables)
    rates = factorial_engine.cosine(0.01, len(order))
    outcome = engine.train(start, images, labels, order, rates, engine.decay(0.7, {"trunk": 0.7}))
    for mine, theirs in zip(outcome.weights, slow.get_weights(), strict=True):
        # (The gradient of the keys' biases is rounding, which Adam makes steps of.)
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_the_doses_of_transformers_are_those_of_their_steps():
    for rate in (0.01, 0.001):
        cell = factorial_plan.transformer(rate, 3.0)
        rates = factorial_engine.cosine(cell.rate, cell.steps)
        assert cell.kernels * rates.sum() == pytest.approx(3.0, rel=1e-3)
    jobs = list(factorial_plan.transformers())
    assert len({factorial_cells.key_of(job) for job in jobs}) == len(jobs) == 24 * 10


def test_the_network_takes_the_images_as_they_are_scaled(engine):
    """Those of the experiment are in -1..1; scaled twice, they would hardly differ."""
    images, _ = factorial_cells.held_out("validation")
    assert images.min() == -1.0 and images.max() == 1.0
    kinds = [type(layer).__name__ for layer in engine.model.layers]
    assert kinds[:2] == ["InputLayer", "Conv2D"] and "Rescaling" not in kinds


def test_some_gammas_can_start_at_zero(engine):
    start = engine.initial_weights(0)
    zeroed = engine.zeroed(start, "residual_last")
    changed = [v.path for v, a, b in zip(engine.model.weights, start, zeroed, strict=True)
               if not np.array_equal(a, b)]  # fmt: skip
    assert len(changed) == 3 and all(path.endswith("gamma") for path in changed)
    engine.model.set_weights(zeroed)
    images = np.random.default_rng(3).normal(size=(16, 8, 8, 1)).astype("float32")
    assert engine.branch_ratios(images) == [0.0] * 3
    with pytest.raises(ValueError, match="not built for a pace"):
        engine.train(start, images, np.zeros(16), np.zeros((1, 8)), [0.1], [], pace=2.0)


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
    plain = plain_network()
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


def test_arms_are_all_subsets_and_bits_say_which():
    arms = factorial_sections.arms_of(["residual_last", "trunk"])
    assert arms == ["none", "residual_last", "trunk", "residual_last+trunk"]
    bits = [factorial_sections.bits_of(arm, ["residual_last", "trunk"]) for arm in arms]
    assert bits == ["00", "10", "01", "11"]
    roles = ["residual_last", "shortcut", "interior", "trunk"]
    assert factorial_sections.presets(roles) == {
        "guidelines − none": ("1010", "0000"),
        "all − none": ("1111", "0000"),
        "guidelines − all": ("1010", "1111"),
    }
    # All of what the guidelines decay: the two presets are the same arm.
    assert list(factorial_sections.presets(["interior"])) == ["guidelines − none", "all − none"]


def test_power_is_told():
    told = factorial_sections.power(8, 0.5)
    assert "8 seeds" in told and "±0.42 points" in told and "46 seeds" in told
    assert "nothing can be told" in factorial_sections.power(1, 0.5)


def test_the_clock_counts_what_was_there(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(factorial_sections.time, "monotonic", lambda: now[0])
    clock = factorial_sections.Clock(20)
    now[0] += 60.0
    # Ten were there; one took a minute; nine are left.
    assert clock.tick(11) == "█" * 11 + "░" * 9 + " 9 min left"
    now[0] += 180.0
    assert clock.tick(20).endswith(" 0 min left")


def test_the_report_tells_what_the_numbers_were_made_of(tmp_path):
    random = np.random.default_rng(4)
    roles = ["residual_last", "trunk"]
    accuracies = {}
    for seed in range(6):
        block = 90 + random.normal()
        for arm in factorial_sections.arms_of(roles):
            effect = -2.0 * ("trunk" in arm) + random.normal(0, 0.05)
            accuracies[seed, arm] = block + effect
    report = Report("test")
    factorial_sections.add(report, accuracies, roles, tmp_path)
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "|" in line}
    assert lines["trunk"].endswith("| below 0 |") and "-2.0" in lines["trunk"]
    assert lines["residual_last"].endswith("| equivalent to nothing within 0.3 |")
    assert "equivalent to nothing" in lines["residual_last × trunk"]
    assert "below 0" in lines["all − none"]
    assert (tmp_path / "effects.png").stat().st_size > 10_000


def test_the_plan_is_what_was_written_down():
    text = (ROOT / "docs" / "experiments" / "preregistration.md").read_text(encoding="utf-8")
    text, amendment = text.split("## Amendment")
    rows = [line.split(" | ") for line in text.splitlines() if line[:3] in ARABIC | {"| 8", "| 9"}]
    assert len(rows) == len(factorial_plan.PLAN)
    for row, (cell, seeds) in zip(rows, factorial_plan.PLAN, strict=True):
        first, last = map(int, row[4].split("–"))
        above = row[2] == "one step above"
        tuned = factorial_plan.RATE_OF[cell.depth]
        assert (cell.depth, cell.dose) == (int(row[1]), float(row[3]))
        assert (seeds.start, seeds.stop - 1) == (first, last)
        assert cell.rate == (0.1 if above else tuned) and (not above or tuned < 0.1)
        assert cell.steps == 300
    # The amendment: its lines 1 to 7, depth, dose, number of arms (without those told of in words).
    told = [line.strip("| ").split(" | ") for line in amendment.splitlines() if line[:3] in ARABIC]
    assert len(told) == 7
    arms = (6, 4, 5, 4, 3, 4, 4)
    for words, count, (runs, seeds) in zip(told, arms, factorial_plan.AMENDMENT, strict=False):
        assert words[3] == f"{seeds.start}–{seeds.stop - 1}" and seeds.start == 100
        cell = runs[-1][0]
        assert words[1].startswith(f"depth {cell.depth}") and f"D = {cell.dose:g}" in words[1]
        assert ("one step above" in words[1]) == (cell.rate == 0.1 and cell.depth == 56)
        assert len(runs) == count


def test_the_second_amendment_is_what_was_written_down():
    text = (ROOT / "docs" / "experiments" / "preregistration.md").read_text(encoding="utf-8")
    text = text.split("## Second amendment: depth")[1].split("\n## ")[0]
    assert "Depths 8, 14, 32 and 56, each at its own rate, D = 10; seeds 200 to 219" in text
    jobs = list(factorial_plan.depth())
    assert len(jobs) == 4 * 4 * 20
    assert {job["seed"] for job in jobs} == set(range(200, 220))
    first = [(job["depth"], job["rate"], job["dose"], job["arm"]) for job in jobs[:16]]
    assert first == [
        (depth, rate, dose, arm)
        for depth, rate in ((8, 0.3), (14, 0.3), (32, 0.1), (56, 0.03))
        for dose, arm in ((0.0, "0000"), (10.0, "1000"), (10.0, "0101"), (10.0, "1101"))
    ]


def test_the_third_amendment_is_what_was_written_down():
    text = (ROOT / "docs" / "experiments" / "preregistration.md").read_text(encoding="utf-8")
    text = text.split("## Third amendment")[1].split("\n## ")[0]
    for words in ("Seeds 300 to 323", "at D = 3 and D = 10", "500 of the digits", "(480 steps)"):
        assert words in text
    assert "0.01 for pre-norm" in text and "0.003 for post-norm" in text
    jobs = list(factorial_plan.transformers())
    assert {job["seed"] for job in jobs} == set(range(300, 324))
    first = [(job["variant"], job["rate"], job["dose"], job["arm"]) for job in jobs[:10]]
    pre = [(dose, arm) for dose in (3.0, 10.0) for arm in ("1000", "0001", "1001")]
    assert first == [
        ("pre", 0.01, 0.0, "0000"),
        *(("pre", 0.01, dose, arm) for dose, arm in pre),
        ("post", 0.003, 0.0, "0000"),
        ("post", 0.003, 3.0, "0001"),
        ("post", 0.003, 10.0, "0001"),
    ]
    assert {job["examples"] for job in jobs} == {500}
    assert factorial_plan.transformer(0.01, 3.0).steps == 480


def test_the_fourth_amendment_is_what_was_written_down():
    text = (ROOT / "docs" / "experiments" / "preregistration.md").read_text(encoding="utf-8")
    text = text.split("## Fourth amendment")[1].split("\n## ")[0]
    assert "λ = 0.3" in text and "Seeds 400 to 423" in text
    jobs = list(factorial_plan.usual())
    assert len(jobs) == 6 * 24 and {job["seed"] for job in jobs} == set(range(400, 424))
    for job in jobs:
        total = factorial_engine.cosine(job["rate"], 480).sum()
        assert job["dose"] == pytest.approx(0.0 if job["arm"] == "0000" else 0.3 * total, abs=1e-5)


def test_transformers_are_judged_by_what_the_numbers_were_made_of():
    """By hand: residual_last +2, trunk −1 (pre-norm) and −3 (post-norm), at dose 10 all twofold."""
    rows = []
    for job in factorial_plan.transformers():
        times = {0.0: 0.0, 3.0: 1.0, 10.0: 2.0}[job["dose"]]
        last, trunk = (bit == "1" for bit in (job["arm"][0], job["arm"][3]))
        effect = 2 * last - (1 if job["variant"] == "pre" else 3) * trunk
        noise = 0.01 * ((job["seed"] * 7 + int(job["arm"], 2)) % 5)
        rows.append({**job, "accuracy": 90 + times * effect + noise, "ratio": 1.0})
    cells = factorial_transformers.BY_DOSE
    found = factorial_transformers.judge(factorial_transformers.Transformers(rows, cells))
    for times, family in zip((1, 2), found.values(), strict=True):
        means = [verdict.hypothesis.seen.mean for verdict in family]
        np.testing.assert_allclose(means, [2 * times, -times, -3 * times, times], atol=0.05)
        assert [verdict.text for verdict in family] == ["holds"] * 4
    cut = factorial_transformers.Transformers(rows[:-1], cells)
    assert cut.seeds == list(range(300, 323))
    assert "not reached" in factorial_transformers.tables(rows[:9], cells, "X")


def depth_rows(effects, ratios, noise=0.1):
    """Accuracies of 90, to which residual_last adds an effect; arms 01.1 have 2 more."""
    rows = []
    for (depth, effect), ratio in zip(effects.items(), ratios, strict=True):
        rate = {8: 0.3, 14: 0.3, 32: 0.1, 56: 0.03}[depth]
        for seed in range(6):
            for arm in ("0000", "1000", "0101", "1101"):
                value = 90 + effect * (arm[0] == "1") + 2 * (arm[1] == "1")
                value += noise * (seed - 2.5) * (arm[0] == "1")
                rows.append(
                    {
                        "depth": depth,
                        "rate": rate,
                        "dose": 0.0 if arm == "0000" else 10.0,
                        "arm": arm,
                        "seed": seed,
                        "accuracy": value,
                        "ratio": ratio,
                    }
                )
    return rows


@pytest.mark.parametrize(
    ("effects", "ratios", "verdicts", "whole"),
    [
        ((-1.0, 0.0, 2.0, 3.0), (4.0, 3.0, 2.0, 1.0), ["holds"] * 3, "holds"),
        ((-1.0, 0.0, 2.0, 3.0), (4.0, 2.0, 3.0, 1.0), ["holds"] * 3, "refuted"),
        ((1.0, 0.0, 2.0, 3.0), (4.0, 3.0, 2.0, 1.0), ["holds", "refuted", "holds"], "refuted"),
        ((3.0, 2.0, 1.0, 0.0), (4, 3, 2, 1), ["refuted", "refuted", "holds"], "refuted"),
    ],
)
def test_depth_is_judged_by_what_the_numbers_were_made_of(effects, ratios, verdicts, whole):
    rows = depth_rows(dict(zip((8, 14, 32, 56), effects, strict=True)), ratios)
    depths = factorial_depth.Depths(rows)
    cell = factorial_depth.CELLS[2]
    assert depths.alone(cell).mean() == pytest.approx(effects[2])
    assert depths.balanced(cell).mean() == pytest.approx(effects[2])
    # By hand: the slope through (3, a), (3.81, b), (5, c), (5.81, d).
    slope = np.polyfit(np.log2([8, 14, 32, 56]), effects, 1)[0]
    assert depths.slope().mean() == pytest.approx(slope)
    found = factorial_depth.judge(depths)
    assert [verdict.text for verdict in found] == verdicts
    assert factorial_depth.turns(depths, found) == whole


def test_seeds_without_all_depths_are_left_out():
    rows = depth_rows({8: -1.0, 14: 0.0, 32: 2.0, 56: 3.0}, (4, 3, 2, 1))
    depths = factorial_depth.Depths(rows[:-1])
    assert depths.seeds == [0, 1, 2, 3, 4]
    few = [row for row in rows if row["depth"] < 56]
    assert "not reached" in factorial_depth.tables(few)


def test_seeds_share_data_and_nothing_of_the_test():
    cell = factorial_plan.PRIMARY
    one, again, other = (factorial_cells.data_of(cell, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.order, again.order)
    np.testing.assert_array_equal(one.train[0], again.train[0])
    assert not np.array_equal(one.order, other.order)
    # Every pass has every image once.
    assert sorted(one.order[:5].ravel()) == list(range(150))
    test, validation = (factorial_cells.held_out(split)[0] for split in ("test", "validation"))
    assert (len(test), len(validation)) == (900, 297)
    held = {image.tobytes() for image in (*test, *validation)}
    assert not held & {image.tobytes() for image in one.train[0]}


def test_the_binaries_tell_the_dose():
    paper, every = keras_gamma.Guidelines(), keras_gamma.Guidelines.all()
    told = tell_dose("sgd", "coupled", 5e-3, paper, lambda step: 0.05, 300, 0.9)
    assert told == (
        "Over 300 steps decay alone would leave 47% of residual_last and interior γ (dose 0.75)."
    )
    told = tell_dose("adamw", "decoupled", 0.05, paper, lambda step: 1e-3, 1000, 0.9)
    assert "(dose 0.05)" in told and "1/λ" not in told
    told = tell_dose("adamw", "decoupled", 0.5, paper, lambda step: 1e-3, 1000, 0.9)
    assert "cannot stay far above 1/λ (2)" in told
    assert "1/λ" not in tell_dose("sgd", "decoupled", 0.5, paper, lambda step: 1e-3, 1000, 0.9)
    assert "cost" in tell_dose("sgd", "coupled", 0.1, paper, lambda step: 0.05, 300, 0.9)
    # Seen with decay of residual_last beside skips without decay, and above the dose.
    assert "cost" not in tell_dose("sgd", "coupled", 0.1, every, lambda step: 0.05, 300, 0.9)
    assert "cost" not in tell_dose("sgd", "coupled", 0.06, paper, lambda step: 0.05, 300, 0.9)
    told = tell_dose("adam", "coupled", 5e-3, paper, lambda step: 0.05, 300, 0.9)
    assert "none can be told" in told
    none = keras_gamma.Guidelines.none()
    told = tell_dose("adam", "coupled", 5e-3, none, lambda step: 0.05, 300, 0.9)
    assert told == "Dose: no γ decays."


def test_the_numbers_of_the_docs_come_from_the_rows():
    """`python examples/experiments/factorial_report.py` mends it."""
    rows = factorial_report.read(factorial_report.ROWS)
    others = (
        factorial_report.read_beside(factorial_report.ROWS, stage)
        for stage in ("amendment", "depth", "transformers", "usual")
    )
    text = factorial_report.EVIDENCE.read_text(encoding="utf-8")
    shown = text.split(factorial_report.BEGIN)[1].split(factorial_report.END)[0]
    assert shown.strip() == factorial_report.tables(rows, *others)


def test_rows_are_those_of_the_plan_and_runs_can_be_had_again():
    rows = factorial_report.read(factorial_report.ROWS)
    stages = (
        factorial_plan.amendment,
        factorial_plan.depth,
        factorial_plan.transformers,
        factorial_plan.usual,
    )
    others = [
        factorial_report.read_beside(factorial_report.ROWS, stage.__name__) for stage in stages
    ]
    more, deep, *_ = others
    every = (rows, *others)
    for found, stage in zip(every, (factorial_plan.test, *stages), strict=True):
        # In the order of the plan, as far as the time went.
        left = map(factorial_cells.key_of, stage())
        assert all(factorial_cells.key_of(row) in left for row in found)
    seeds = [{row["seed"] for row in found} for found in every]
    assert sum(map(len, seeds)) == len(set.union(*seeds))
    # "none" does not depend on the dose, so that cells of one depth have its runs twice.
    seen = {}
    for row in (*rows, *more, *deep):
        if row["arm"] == factorial_cells.NONE:
            place = (row["depth"], row["rate"], row["seed"])
            assert seen.setdefault(place, row["accuracy"]) == row["accuracy"]
    assert len(seen) >= 16


@pytest.mark.slow
def test_the_ablation_crosses_roles(tmp_path):
    flags = ["--design=factorial", "--roles=residual_last", "--seeds=2", "--epochs=1"]
    flags += ["--model=resnet8_v1", "--width=4", "--limit_examples=160", "--monitor_every=2"]
    flags += ["--warmup_epochs=0", f"--output_dir={tmp_path}"]
    command = [sys.executable, str(ROOT / "examples" / "ablation.py")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 seeds, if a main effect varies by 0.5 points" in done.stdout
    assert "[4/4]" in done.stdout and "0 min left" in done.stdout
    report = (tmp_path / "report.md").read_text()
    for heading in ("## Effects", "## Presets", "| residual_last | "):
        assert heading in report
    assert (tmp_path / "effects.png").exists()
    wrong = subprocess.run([*command, *flags, "--roles=stem"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "'stem' is no role" in wrong.stderr


# The amendment ---------------------------------------------------------------------------------


def made_row(cell, arm, seed, accuracy, variant="", ratio=1.0):
    dose = 0.0 if arm == factorial_cells.NONE else cell.dose
    row = {"depth": cell.depth, "rate": cell.rate, "dose": dose, "arm": arm, "variant": variant}
    return row | {"seed": seed, "accuracy": accuracy, "ratio": ratio}


def texts(family):
    return [verdict.text for verdict in family]


def means(family):
    return [verdict.hypothesis.seen.mean for verdict in family]


def test_the_amendment_judges_what_the_numbers_were_made_of():
    """Effects written by hand, with noise of 0.05 points by seed and run."""
    random = np.random.default_rng(3)
    primary, strong = factorial_plan.PRIMARY, factorial_plan.cell(14, 30.0)
    fast, slow = (dataclasses.replace(strong, rate=rate) for rate in (0.5, 0.1))
    made = [
        (primary, "0000", "", 90.0),
        (primary, "1010", "", 91.0),
        (primary, "1111", "", 92.0),
        (primary, "1101", "", 93.0),
        (primary, "1010", "decoupled", 91.1),
        (primary, "1111", "decoupled", 91.9),
        (primary, "0101", "", 91.5),
        (primary, "0101", "zero", 92.5),
        (primary, "1101", "zero", 92.9),
        (strong, "1111", "", 89.0),
        (strong, "1101", "", 92.0),
        (slow, "1111", "", 91.0),
        (fast, "1101", "", 92.5),
    ]
    rows = [
        made_row(cell, arm, seed, value + seed + random.normal(0, 0.05), variant)
        for seed in range(100, 110)
        for cell, arm, variant, value in made
    ]
    found = {name[0]: family for name, family in factorial_amendment.judge(rows).items()}
    assert set(found) == {"R", "K", "Z", "I"}
    assert texts(found["R"]) == ["holds"] * 3
    assert means(found["R"]) == pytest.approx([2, 1, 3], abs=0.1)
    assert texts(found["K"]) == ["equivalent to nothing within 0.3"]
    # Decay +1.5; a start at 0 +1.0; both together +1.4, which is half of 0.4 − 1.5.
    assert means(found["Z"]) == pytest.approx([1.5, 1.0, -0.55], abs=0.1)
    assert texts(found["Z"]) == ["holds"] * 3
    assert means(found["I"]) == pytest.approx([-3, 1.5, -1.5], abs=0.1)
    assert texts(found["I"]) == ["holds", "holds", "below 0"]


def test_starving_is_judged_on_both_sides_of_the_limit():
    random = np.random.default_rng(5)
    cell = factorial_plan.cell(14, 10.0)  # 6 joins
    rows = []
    for seed in range(100, 112):
        values = {
            "0000": (90.0, 1.0),
            "1010": (88.0, 0.1),
            "1000": (91.0, 0.1),
            "1101": (88.5, 0.5),
        }
        for arm, (value, ratio) in values.items():
            rows.append(made_row(cell, arm, seed, value + random.normal(0, 0.1), ratio=ratio))
    found = {one.arm: one for one in factorial_amendment.feeding(rows)}
    assert found["1010"].total == pytest.approx(0.6) and found["1010"].text == "holds"
    assert found["1000"].starved and found["1000"].text == "refuted"
    assert found["1101"].total == pytest.approx(3.0) and found["1101"].text == "refuted"
    assert found["1101"].seen.mean == pytest.approx(-1.5, abs=0.1)
    assert factorial_amendment.overall(list(found.values())) == "refuted"
    assert factorial_amendment.overall([found["1010"]]) == "cannot be told"
    fed = dataclasses.replace(found["1010"], total=2.0)
    assert factorial_amendment.overall([found["1010"], fed]) == "holds"
    assert [factorial_amendment.joins(depth) for depth in (8, 14, 56)] == [3, 6, 27]


def test_the_map_compares_with_none_of_the_same_seeds():
    cell, other = factorial_plan.cell(14, 10.0), factorial_plan.cell(14, 3.0)
    rows = [made_row(cell, "0000", seed, 90.0 + seed) for seed in range(3)]
    rows += [made_row(cell, "1111", seed, 91.0 + 2 * seed) for seed in range(2)]
    rows += [made_row(other, "1111", 2, 50.0)]
    panels = factorial_map.values(rows)
    name = "14, η 0.3"
    assert set(panels["all"]) == {(name, 10.0), (name, 3.0)} == set(panels["none"])
    place = panels["all"][name, 10.0]
    assert (place.accuracy, place.gain, place.trained, place.seeds) == (92.0, 1.5, 1.0, 2)
    assert panels["all"][name, 3.0].trained == 0.0
    assert not panels["guidelines"] and not panels[factorial_map.BEST]
