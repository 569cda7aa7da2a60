"""Equilibria against the balance that they stand for, and in numbers. No backend."""

import itertools
import math

import pytest

from keras_gamma.dynamics import equilibrium

GRID = list(itertools.product((0.01, 0.3), (1e-4, 0.02), (0.0, 0.5, 0.9)))


def step_and_drift(eta, m, nesterov):
    """Mean squares of one step, and of all that one gradient of size 1 moves, added up by hand."""
    v, steps = 0.0, []
    for t in range(2_000):
        g = 1.0 if t == 0 else 0.0
        v = m * v - eta * g
        steps.append(m * v - eta * g if nesterov else v)
    return sum(s * s for s in steps), sum(steps) ** 2


@pytest.mark.parametrize("eta, decay, m", GRID)
@pytest.mark.parametrize("nesterov", [False, True])
def test_growth_is_what_decay_takes_off(eta, decay, m, nesterov):
    step, drift = step_and_drift(eta, m, nesterov)
    shrinks = eta * decay / (1 - m)  # per step, in the long run
    norm4 = drift / (2 * shrinks)  # with ‖g‖ = 1/‖w‖: drift/‖w‖² = 2·shrinks·‖w‖²
    found = equilibrium.sgd_coupled_norm(eta, decay, 1.0, m)
    assert found == pytest.approx(norm4**0.25)
    assert equilibrium.sgd_coupled_norm(eta, decay, 3.0, m) == pytest.approx(found * 3**0.5)
    angle = math.sqrt(step / norm4)
    assert equilibrium.sgd_coupled_angle(eta, decay, m, nesterov) == pytest.approx(angle)
    # Keras' decay does not pass through the momentum.
    free = decay / (1 - m)
    assert equilibrium.sgd_decoupled_norm(eta, free, 1.0, m) == pytest.approx(found)
    assert equilibrium.sgd_decoupled_angle(eta, free, m, nesterov) == pytest.approx(angle)


@pytest.mark.parametrize("eta, decay, beta", GRID)
def test_adamw(eta, decay, beta):
    # Each of C weights is moved by a moving average of mean square (1 − β)/(1 + β); all that one
    # gradient moves is η.
    size = 50
    norm = equilibrium.adamw_norm(eta, decay, size)
    assert eta**2 * size == pytest.approx(2 * eta * decay * norm**2)
    step = eta**2 * size * (1 - beta) / (1 + beta)
    found = equilibrium.adamw_angle(eta, decay, beta)
    assert found == pytest.approx(math.sqrt(step) / norm)


def test_defaults():
    assert equilibrium.sgd_coupled_angle(0.5, 0.25) == 0.5
    assert equilibrium.sgd_decoupled_angle(0.5, 0.25) == 0.5
    assert equilibrium.sgd_coupled_norm(0.5, 0.25, 1.0) == 1.0
    assert equilibrium.sgd_decoupled_norm(0.5, 0.25, 1.0) == 1.0
    assert equilibrium.adamw_angle(0.5, 0.25) == equilibrium.adamw_angle(0.5, 0.25, 0.9)
    assert equilibrium.sgd_coupled_angle(0.1, 0.0, 0.9) == 0.0


NORMS = (
    lambda eta=0.1, decay=0.1, m=0.5: equilibrium.sgd_coupled_norm(eta, decay, 1.0, m),
    lambda eta=0.1, decay=0.1, m=0.5: equilibrium.sgd_decoupled_norm(eta, decay, 1.0, m),
    lambda eta=0.1, decay=0.1: equilibrium.adamw_norm(eta, decay, 10),
)
ANGLES = (
    lambda eta=0.1, decay=0.1, m=0.5: equilibrium.sgd_coupled_angle(eta, decay, m),
    lambda eta=0.1, decay=0.1, m=0.5: equilibrium.sgd_decoupled_angle(eta, decay, m),
    lambda eta=0.1, decay=0.1, m=0.5: equilibrium.adamw_angle(eta, decay, m),
)


@pytest.mark.parametrize("function", (*NORMS, *ANGLES))
def test_ranges_of_rates_and_strengths(function):
    with pytest.raises(ValueError, match=r"^`learning_rate` must be a finite number ≥ 0"):
        function(eta=-1)
    with pytest.raises(ValueError, match=r"^`weight_decay` must be a finite number ≥ 0"):
        function(decay=-1)


@pytest.mark.parametrize("function", (*NORMS[:2], *ANGLES))
def test_ranges_of_momenta(function):
    name = "beta_1" if function is ANGLES[2] else "momentum"
    with pytest.raises(ValueError) as error:
        function(m=1.0)
    assert str(error.value) == f"`{name}` must be in [0, 1). Received: 1.0"
    with pytest.raises(ValueError, match=rf"^`{name}` must be a finite number ≥ 0"):
        function(m=-0.1)


@pytest.mark.parametrize("function", NORMS)
def test_without_decay_nothing_holds_the_norm(function):
    with pytest.raises(ValueError) as error:
        function(decay=0.0)
    assert str(error.value) == (
        "`weight_decay` must be greater than 0: without decay ‖w‖ grows without end."
    )


def test_sizes():
    with pytest.raises(ValueError, match=r"^`gradient` must be"):
        equilibrium.sgd_coupled_norm(0.1, 0.1, -1.0)
    with pytest.raises(ValueError, match=r"^`size` must be"):
        equilibrium.adamw_norm(0.1, 0.1, -1)
