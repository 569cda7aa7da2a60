"""Units of weight decay, checked by steps of Keras' optimizers with no gradient of the data."""

import keras
import numpy as np
import pytest

from keras_gamma.decay import units


def shares(optimizer, steps, l2=0.0):
    """The shares of w = 1 that the steps take off, with no gradient but that of l2·Σw²."""
    w = keras.Variable(np.ones((1,), "float32"))
    values = [1.0]
    for _ in range(steps):
        optimizer.apply([2.0 * l2 * keras.ops.convert_to_tensor(w.value)], [w])
        values.append(float(keras.ops.convert_to_numpy(w)[0]))
    values = np.array(values)
    return 1.0 - values[1:] / values[:-1]


def coupled(decay, eta, steps=400, **kwargs):
    """The share per step in the long run under torch's coupled decay, by Keras' L2."""
    l2 = units.l2_from(weight_decay=decay)
    return shares(keras.optimizers.SGD(eta, **kwargs), steps, l2)[-1]


def decoupled(decay, eta, **kwargs):
    return shares(keras.optimizers.SGD(eta, weight_decay=decay, **kwargs), 20)[-1]


def test_one_coupled_step_is_torchs():
    """w ← w − η·λ·w: with η = 0.5 and λ = 0.25, an eighth."""
    assert units.l2_from(weight_decay=0.25) == 0.125
    assert units.weight_decay_from_l2(0.125) == 0.25
    assert shares(keras.optimizers.SGD(0.5), 1, l2=0.125)[0] == pytest.approx(0.125)


def test_one_decoupled_step_is_that_of_the_paper():
    """Keras' and torch's AdamW both take η·λ off."""
    optimizer = keras.optimizers.AdamW(0.5, weight_decay=0.25)
    assert shares(optimizer, 1)[0] == pytest.approx(0.125)
    assert units.to_learning_rate_free(0.25, 0.5) == 0.125


def test_copying_the_number_over_is_a_tenfold_error():
    """The two figures that users meet at m = 0.9, η = 0.1, λ = 0.01."""
    assert coupled(0.01, 0.1, momentum=0.9) == pytest.approx(0.0111, abs=1e-4)
    assert decoupled(0.01, 0.1, momentum=0.9) == pytest.approx(0.0010, abs=1e-4)
    converted = units.decoupled_from_coupled(0.01, 0.9)
    assert decoupled(converted, 0.1, momentum=0.9) == pytest.approx(0.0100, abs=1e-4)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("decay", [1e-3, 1e-2])
def test_exact_form_against_keras(decay, momentum, nesterov):
    eta = 0.1
    share = coupled(decay, eta, momentum=momentum, nesterov=nesterov)
    converted = units.decoupled_from_coupled(decay, momentum, learning_rate=eta, nesterov=nesterov)
    # Float32: one step changes w by a share of 1e-4 or so, known to 1e-7.
    assert eta * converted == pytest.approx(share, abs=3e-7, rel=1e-3)
    assert decoupled(converted, eta, momentum=momentum) == pytest.approx(share, abs=3e-7, rel=1e-3)
    back = units.coupled_from_decoupled(converted, momentum, learning_rate=eta, nesterov=nesterov)
    assert back == pytest.approx(decay, rel=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_first_order_form_is_the_limit_of_the_exact_one(nesterov):
    for eta, tolerance in [(1e-3, 2e-2), (1e-5, 2e-4)]:
        exact = units.decoupled_from_coupled(0.1, 0.9, learning_rate=eta, nesterov=nesterov)
        assert units.decoupled_from_coupled(0.1, 0.9) == pytest.approx(exact, rel=tolerance)
    assert units.coupled_from_decoupled(1.0, 0.9) == pytest.approx(0.1)


def test_dampening():
    """torch: v ← m·v + (1 − dampening)·g, as a recurrence."""
    m, dampening, eta, decay = 0.9, 0.9, 0.1, 0.1
    w, v, before = 1.0, 0.0, 1.0
    for _ in range(2000):
        before, v = w, m * v + (1 - dampening) * decay * w
        w -= eta * v
    converted = units.decoupled_from_coupled(decay, m, learning_rate=eta, dampening=dampening)
    assert eta * converted == pytest.approx(1 - w / before, rel=1e-6)
    assert units.decoupled_from_coupled(decay, m, dampening=dampening) == pytest.approx(decay)


def test_where_coupled_decay_oscillates():
    """Both roots are complex: w changes its sign, and no share per step describes it."""
    signs = np.sign(np.cumprod(1 - shares(keras.optimizers.SGD(0.1, momentum=0.9), 60, l2=0.5)))
    assert -1 in signs
    with pytest.raises(ValueError, match="oscillates"):
        units.decoupled_from_coupled(1.0, 0.9, learning_rate=0.1)
    with pytest.raises(ValueError, match="oscillates"):
        units.decoupled_from_coupled(20.0, 0.0, learning_rate=0.1)
    with pytest.raises(ValueError, match="oscillates"):
        units.decoupled_from_coupled(20.0, 0.5, learning_rate=0.1, nesterov=True)


def test_shares_that_coupled_decay_cannot_reach():
    with pytest.raises(ValueError, match=r"takes off more .* 0\.05132"):
        units.coupled_from_decoupled(1.0, 0.9, learning_rate=0.1)
    assert units.coupled_from_decoupled(1.0, 0.0, learning_rate=0.1) == 1.0


def test_learning_rate_free():
    assert units.from_learning_rate_free(0.125, 0.5) == 0.25
    assert units.to_learning_rate_free(units.from_learning_rate_free(3e-5, 1e-3), 1e-3) == 3e-5


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), None, "1", True])
def test_strengths_that_make_no_sense(value):
    for convert in (
        units.weight_decay_from_l2,
        lambda v: units.decoupled_from_coupled(v, 0.9),
        lambda v: units.coupled_from_decoupled(v, 0.9),
        lambda v: units.from_learning_rate_free(v, 0.1),
        lambda v: units.to_learning_rate_free(v, 0.1),
    ):
        with pytest.raises(ValueError, match="must be a finite number ≥ 0"):
            convert(value)


def test_arguments_out_of_range():
    for momentum in (1.0, 1.5):
        with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1\)"):
            units.decoupled_from_coupled(0.1, momentum)
        with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1\)"):
            units.coupled_from_decoupled(0.1, momentum)
    with pytest.raises(ValueError, match="`learning_rate` must be greater than 0"):
        units.from_learning_rate_free(0.1, 0.0)
    with pytest.raises(ValueError, match="exclude each other"):
        units.decoupled_from_coupled(0.1, 0.9, nesterov=True, dampening=0.1)
    with pytest.raises(ValueError, match=r"`dampening` must be in \[0, 1\]"):
        units.decoupled_from_coupled(0.1, 0.9, dampening=2)


def left_of(optimizer, steps, l2=0.0):
    """What the steps leave of w = 1, with no gradient but that of l2·w²."""
    return float(np.prod(1.0 - shares(optimizer, steps, l2)))


@pytest.mark.slow
def test_a_dose_says_what_a_run_leaves():
    """By steps of Keras' own optimizers under a schedule, without gradients of the data."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 300)
    for decay, tolerance in ((2e-3, 0.03), (1e-2, 0.12)):  # 0.3 and 1.5
        dose = units.dose(decay, schedule, 300, momentum=0.9)
        assert dose == pytest.approx(150 * decay, rel=0.01)
        left = left_of(keras.optimizers.SGD(schedule, momentum=0.9), 300, l2=decay / 2)
        assert -np.log(left) == pytest.approx(dose, rel=tolerance)
    left = left_of(keras.optimizers.AdamW(schedule, weight_decay=5e-2), 300)
    assert -np.log(left) == pytest.approx(units.dose(5e-2, schedule, 300), rel=0.01)


def test_a_dose_of_numbers():
    rates = [0.5, 0.25, 0.25]
    assert units.dose(0.1, rates, momentum=0.5) == pytest.approx(0.2)
    assert units.dose(0.1, np.array(rates)) == pytest.approx(0.1)
    assert units.dose(0.1, lambda step: rates[step], 3) == pytest.approx(0.1)
    assert units.dose(0.1, 0.5, 4) == pytest.approx(0.2)
    assert units.dose(0.1, 0.5, 0) == 0.0
    assert units.left_by(0.0) == 1.0


def test_a_long_schedule_is_asked_at_some_steps():
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.1 if step < 20_000 else 0.01

    rates = [0.1] * 20_000 + [0.01] * 13_337
    exact = units.dose(1e-4, rates, momentum=0.9)
    assert units.dose(1e-4, schedule, len(rates), momentum=0.9) == pytest.approx(exact, rel=1e-3)
    assert len(asked) <= 2000 and min(asked) < 20 and max(asked) > len(rates) - 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.1, 0.5), "`steps`, the number of updates"),
        ((0.1, 0.5, 1.5), "`steps`, the number of updates"),
        ((0.1, 0.5, True), "`steps`, the number of updates"),
        ((0.1, [0.5], 1), "`steps` is the number of learning rates"),
        ((-0.1, 0.5, 1), "`weight_decay` must be"),
        ((0.1, [0.5, -0.5]), "`learning_rate` must be"),
        ((0.1, float("nan"), 3), "`learning_rate` must be"),
    ],
)
def test_bad_doses(arguments, says):
    with pytest.raises(ValueError, match=says):
        units.dose(*arguments)
