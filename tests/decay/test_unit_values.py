"""Units of decay against steps that are taken by hand. No backend."""

import itertools
import math

import pytest

from keras_gamma.decay import units

DECAYS = (1e-5, 1e-3, 0.02)
MOMENTA = (0.0, 0.5, 0.9)


def long_run(eta, decay, momentum, nesterov=False, dampening=0.0, coupled=True):
    """The share of w that a step takes off in the long run, without gradients of the data."""
    w, v = 1.0, 0.0
    for _ in range(6_000):
        before = w
        g = decay * w
        if not coupled:
            w -= eta * g
        else:
            v = momentum * v + (1 - dampening) * g
            w -= eta * (g + momentum * v if nesterov else v)
        share = 1 - w / before
        w, v = w / w, v / w
    return share


@pytest.mark.parametrize("decay, momentum", list(itertools.product(DECAYS, MOMENTA)))
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_exact_form_shrinks_alike(decay, momentum, nesterov):
    eta = 0.1
    found = units.decoupled_from_coupled(decay, momentum, learning_rate=eta, nesterov=nesterov)
    expected = long_run(eta, decay, momentum, nesterov)
    assert eta * found == pytest.approx(expected, rel=1e-6)
    back = units.coupled_from_decoupled(found, momentum, learning_rate=eta, nesterov=nesterov)
    assert back == pytest.approx(decay, rel=1e-9)


@pytest.mark.parametrize("dampening", [0.25, 0.5, 1.0])
def test_dampening(dampening):
    found = units.decoupled_from_coupled(0.01, 0.5, learning_rate=0.1, dampening=dampening)
    assert 0.1 * found == pytest.approx(long_run(0.1, 0.01, 0.5, dampening=dampening), rel=1e-6)
    short = units.decoupled_from_coupled(0.01, 0.5, dampening=dampening)
    assert short == pytest.approx(0.02 * (1 - dampening))


def test_first_order_forms():
    assert units.decoupled_from_coupled(1e-4, 0.9) == pytest.approx(1e-3)
    assert units.decoupled_from_coupled(1e-4, 0.0) == 1e-4
    assert units.coupled_from_decoupled(1e-3, 0.9) == pytest.approx(1e-4)
    assert units.coupled_from_decoupled(1e-3, 0.0, learning_rate=0.1) == 1e-3
    assert units.decoupled_from_coupled(0.0, 0.9, learning_rate=0.1) == 0.0
    assert units.coupled_from_decoupled(0.0, 0.9, learning_rate=0.1) == 0.0


def test_simple_conversions():
    assert units.l2_from(l2=0.5) == 0.5
    assert units.l2_from(weight_decay=0.5) == 0.25
    assert units.l2_from(l2=0) == 0.0
    assert units.weight_decay_from_l2(0.25) == 0.5
    assert units.from_learning_rate_free(0.5, 0.25) == 2.0
    assert units.to_learning_rate_free(2.0, 0.25) == 0.5


def test_one_of_two_strengths():
    with pytest.raises(ValueError) as error:
        units.l2_from()
    assert str(error.value) == (
        "Give exactly one of `l2` (Keras: penalty l2·Σγ²) and `weight_decay` (torch, timm: "
        "gradient weight_decay·γ, the same as l2 = weight_decay/2). Received: neither."
    )
    with pytest.raises(ValueError, match=r"Received: both \(l2=1, weight_decay=2\)\.$"):
        units.l2_from(l2=1, weight_decay=2)


@pytest.mark.parametrize(
    "wrong", [-1, math.nan, math.inf, True, "1", b"1", None, [1], 10**400, 1e39]
)
def test_strengths(wrong):
    with pytest.raises(ValueError) as error:
        units.check_strength("name", wrong)
    assert (
        str(error.value) == f"`name` must be a finite number ≥ 0 (of 32 bits). Received: {wrong!r}"
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: units.decoupled_from_coupled(0.1, 1.0),
        lambda: units.decoupled_from_coupled(0.1, -0.1),
        lambda: units.decoupled_from_coupled(0.1, 0.9, dampening=1.1),
        lambda: units.decoupled_from_coupled(-0.1, 0.9),
        lambda: units.decoupled_from_coupled(0.1, 0.9, learning_rate=0.0),
        lambda: units.coupled_from_decoupled(0.1, 1.0),
        lambda: units.coupled_from_decoupled(0.1, 0.9, learning_rate=-1.0),
        lambda: units.from_learning_rate_free(0.1, 0.0),
        lambda: units.to_learning_rate_free(0.1, 0.0),
        lambda: units.weight_decay_from_l2(-1.0),
    ],
)
def test_ranges(call):
    with pytest.raises(ValueError):
        call()


def test_nesterov_and_dampening():
    with pytest.raises(ValueError) as error:
        units.decoupled_from_coupled(0.1, 0.5, nesterov=True, dampening=0.1)
    assert str(error.value) == (
        "Nesterov's momentum and dampening exclude each other, as in torch."
    )


def test_where_coupled_decay_oscillates():
    """Up to (1 − √m)² it does not, for m = 0.25 up to 0.25."""
    at_most = units.decoupled_from_coupled(2.5 - 1e-9, 0.25, learning_rate=0.1)
    assert 0.1 * at_most == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ValueError) as error:
        units.decoupled_from_coupled(2.6, 0.25, learning_rate=0.1)
    assert str(error.value) == (
        "With learning_rate·weight_decay = 0.26 and momentum 0.25, coupled decay oscillates, which "
        "decoupled decay cannot do. Received: weight_decay=2.6, learning_rate=0.1."
    )


def test_what_coupled_decay_cannot_reach():
    """With m = 0.25 a step takes off half of w at most."""
    assert units.coupled_from_decoupled(5.0, 0.25, learning_rate=0.1) == pytest.approx(2.5)
    with pytest.raises(ValueError) as error:
        units.coupled_from_decoupled(5.1, 0.25, learning_rate=0.1)
    assert str(error.value) == (
        "learning_rate·weight_decay = 0.51 takes off more at each step than coupled decay with "
        "momentum 0.25 can, 0.5. Received: weight_decay=5.1, learning_rate=0.1."
    )
    with pytest.raises(ValueError):
        units.coupled_from_decoupled(10.1, 0.0, learning_rate=0.1)


RATES = [0.1, 0.2, 0.3, 0.4]


def test_doses_of_constant_listed_and_scheduled_rates():
    expected = sum(RATES) * 0.02 / 0.5
    assert units.dose(0.02, RATES, momentum=0.5) == pytest.approx(expected)
    assert units.dose(0.02, iter(RATES), momentum=0.5) == pytest.approx(expected)
    assert units.dose(0.02, RATES.__getitem__, 4, momentum=0.5) == pytest.approx(expected)
    assert units.dose(0.02, 0.25, 4, momentum=0.5) == pytest.approx(expected)
    assert units.dose(0.02, 0.25, 4) == pytest.approx(0.02)
    assert units.dose(0.02, 0.25, 0) == units.dose(0.02, []) == 0.0
    assert units.dose(0.02, RATES.__getitem__, 0) == 0.0
    assert units.left_by(0.0) == 1.0 and units.left_by(2.0) == pytest.approx(math.exp(-2))


def test_a_long_schedule_is_asked_at_steps_that_are_spread_evenly():
    asked = []

    def schedule(step):
        asked.append(step)
        return step / 1e6

    found = units.dose(0.5, schedule, 1_000_000)
    assert len(asked) == len(set(asked)) == 2_000
    assert asked[0] == 250 and asked[-1] == 999_750
    assert found == pytest.approx(0.5 * 1_000_000 * 0.5, rel=1e-3)
    asked.clear()
    units.dose(0.5, schedule, 2_000)
    assert asked == list(range(2_000))


@pytest.mark.parametrize("steps", [None, -1, 1.0, True, "4"])
def test_steps(steps):
    with pytest.raises(ValueError) as error:
        units.dose(0.1, 0.1, steps)
    assert str(error.value) == (
        f"`steps`, the number of updates of the run, must be an integer ≥ 0. Received: {steps!r}"
    )


def test_steps_of_a_list():
    with pytest.raises(ValueError) as error:
        units.dose(0.1, RATES, 4)
    assert str(error.value) == (
        "`steps` is the number of learning rates, if a list of them is given. Received: steps=4"
    )


@pytest.mark.parametrize(
    "name, call",
    [
        ("weight_decay", lambda: units.l2_from(weight_decay=-1)),
        ("l2", lambda: units.l2_from(l2=-1)),
        ("l2", lambda: units.weight_decay_from_l2(-1)),
        ("weight_decay", lambda: units.decoupled_from_coupled(-1, 0.5)),
        ("momentum", lambda: units.decoupled_from_coupled(0.1, -1)),
        ("dampening", lambda: units.decoupled_from_coupled(0.1, 0.5, dampening=-1)),
        ("learning_rate", lambda: units.decoupled_from_coupled(0.1, 0.5, learning_rate=-1)),
        ("weight_decay", lambda: units.coupled_from_decoupled(-1, 0.5)),
        ("momentum", lambda: units.coupled_from_decoupled(0.1, -1)),
        ("learning_rate", lambda: units.coupled_from_decoupled(0.1, 0.5, learning_rate=-1)),
        ("decay", lambda: units.from_learning_rate_free(-1, 0.1)),
        ("learning_rate", lambda: units.from_learning_rate_free(0.1, -1)),
        ("weight_decay", lambda: units.to_learning_rate_free(-1, 0.1)),
        ("learning_rate", lambda: units.to_learning_rate_free(0.1, -1)),
        ("weight_decay", lambda: units.dose(-1, 0.1, 1)),
        ("momentum", lambda: units.dose(0.1, 0.1, 1, momentum=-1)),
        ("learning_rate", lambda: units.dose(0.1, -1, 1)),
        ("learning_rate", lambda: units.dose(0.1, [-1])),
        ("learning_rate", lambda: units.dose(0.1, lambda step: -1, 1)),
        ("dose", lambda: units.left_by(-1)),
    ],
)
def test_what_is_out_of_range_is_named(name, call):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == f"`{name}` must be a finite number ≥ 0 (of 32 bits). Received: -1"


def test_shares_and_rates():
    with pytest.raises(ValueError) as error:
        units.decoupled_from_coupled(0.1, 1.0)
    assert str(error.value) == "`momentum` must be in [0, 1). Received: 1.0"
    with pytest.raises(ValueError) as error:
        units.decoupled_from_coupled(0.1, 0.5, dampening=1.5)
    assert str(error.value) == "`dampening` must be in [0, 1]. Received: 1.5"
    with pytest.raises(ValueError) as error:
        units.dose(0.1, 0.1, 1, momentum=1.5)
    assert str(error.value) == "`momentum` must be in [0, 1). Received: 1.5"
    with pytest.raises(ValueError) as error:
        units.to_learning_rate_free(0.1, 0.0)
    assert str(error.value) == "`learning_rate` must be greater than 0. Received: 0."


def test_nesterov_where_the_roots_meet():
    """s = 1 − 4m/(1 + m)², the largest that does not oscillate, takes off (1 − m)/(1 + m)."""
    m = 0.25
    s = 1 - 4 * m / (1 + m) ** 2
    found = units.decoupled_from_coupled(s - 1e-9, m, learning_rate=1.0, nesterov=True)
    assert found == pytest.approx((1 - m) / (1 + m), abs=1e-3)
    with pytest.raises(ValueError, match="oscillates"):
        units.decoupled_from_coupled(s + 1e-6, m, learning_rate=1.0, nesterov=True)
    with pytest.raises(ValueError, match="oscillates"):
        units.decoupled_from_coupled(1.5, 0.0, learning_rate=1.0)
    with pytest.raises(ValueError, match="oscillates"):
        units.decoupled_from_coupled(1.5, 0.0, learning_rate=1.0, nesterov=True)
    back = units.coupled_from_decoupled(0.6, m, learning_rate=1.0, nesterov=True)
    assert back == pytest.approx(s)
    with pytest.raises(ValueError, match="takes off more"):
        units.coupled_from_decoupled(0.61, m, learning_rate=1.0, nesterov=True)
    assert units.coupled_from_decoupled(1.0, 0.0, learning_rate=1.0) == 1.0
