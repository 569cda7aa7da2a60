"""The formulas of `equilibrium` against simulations with Keras' own optimizers.

A scale-invariant weight is simulated as what it is: its gradient is noise at a right angle to w, of
length G/‖w‖. Nothing of the formulas goes into the simulation.
"""

import keras
import numpy as np
import pytest

from keras_gamma.dynamics import equilibrium

SIZE = 400
G = 3.0


def simulate(optimizer, l2=0.0, steps=3000, last=1000, size=SIZE, start=1.0, seed=0):
    """RMS angle and RMS norm over the last steps."""
    random = np.random.default_rng(seed)
    w = random.standard_normal(size)
    variable = keras.Variable((start * w / np.linalg.norm(w)).astype("float32"))
    optimizer.build([variable])
    angles, norms = [], []
    value = keras.ops.convert_to_numpy(variable).astype("float64")
    for step in range(steps):
        norm = np.linalg.norm(value)
        noise = random.standard_normal(size)
        noise -= value * (noise @ value) / norm**2
        gradient = G / norm * noise / np.linalg.norm(noise) + 2 * l2 * value
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        new = keras.ops.convert_to_numpy(variable).astype("float64")
        if step >= steps - last:
            chord = np.linalg.norm(new / np.linalg.norm(new) - value / norm)
            angles.append(2 * np.arcsin(chord / 2))
            norms.append(np.linalg.norm(new))
        value = new
    return np.sqrt(np.mean(np.square(angles))), np.sqrt(np.mean(np.square(norms)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True), (0.5, True)]
)
@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_sgd(kind, momentum, nesterov):
    # The same share of w is taken off per step in every case, so that all settle in time.
    eta, share = 0.1, 2e-3
    decay = share * (1 - momentum) / eta if kind == "coupled" else share / eta
    start = (eta * G**2 / 2 / share) ** 0.25  # Not where it ends, but not far.
    if kind == "coupled":
        optimizer = keras.optimizers.SGD(eta, momentum=momentum, nesterov=nesterov)
        angle, norm = simulate(optimizer, l2=decay / 2, start=start)
        expected = equilibrium.sgd_coupled_angle(eta, decay, momentum, nesterov)
        size = equilibrium.sgd_coupled_norm(eta, decay, G, momentum)
    else:
        optimizer = keras.optimizers.SGD(
            eta, momentum=momentum, nesterov=nesterov, weight_decay=decay
        )
        angle, norm = simulate(optimizer, start=start)
        expected = equilibrium.sgd_decoupled_angle(eta, decay, momentum, nesterov)
        size = equilibrium.sgd_decoupled_norm(eta, decay, G, momentum)
    assert angle == pytest.approx(expected, rel=0.03)
    assert norm == pytest.approx(size, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("beta_1", [0.0, 0.5, 0.9])
def test_adamw(beta_1):
    eta, decay = 2e-2, 0.1
    optimizer = keras.optimizers.AdamW(eta, beta_1=beta_1, weight_decay=decay)
    start = 0.8 * np.sqrt(eta * SIZE / 2 / decay)
    angle, norm = simulate(optimizer, start=start)
    assert angle == pytest.approx(equilibrium.adamw_angle(eta, decay, beta_1), rel=0.03)
    assert norm == pytest.approx(equilibrium.adamw_norm(eta, decay, SIZE), rel=0.03)


def test_the_momentum_matters():
    """Were decoupled decay counted as coupled, the angle at m = 0.9 would be √10 times as large."""
    coupled = equilibrium.sgd_coupled_angle(0.1, 1e-3, momentum=0.9)
    assert equilibrium.sgd_decoupled_angle(0.1, 1e-3, momentum=0.9) == pytest.approx(
        coupled / np.sqrt(10)
    )


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        (equilibrium.sgd_coupled_angle, (-0.1, 1e-3), "`learning_rate` must be a finite"),
        (equilibrium.sgd_coupled_angle, (0.1, float("nan")), "`weight_decay` must be a finite"),
        (equilibrium.sgd_coupled_angle, (0.1, 1e-3, 1.0), r"`momentum` must be in \[0, 1\)"),
        (equilibrium.adamw_angle, (0.1, 1e-3, 1.5), r"`beta_1` must be in \[0, 1\)"),
        (equilibrium.sgd_coupled_norm, (0.1, 0.0, 1.0), "grows without end"),
        (equilibrium.adamw_norm, (0.1, 0, 1.0), "grows without end"),
        (equilibrium.adamw_norm, (0.1, 0.1, "8"), "`size` must be a finite"),
    ],
)
def test_arguments_out_of_range(function, arguments, says):
    with pytest.raises(ValueError, match=says):
        function(*arguments)
