"""Where weight decay and gradient steps balance: angles and norms of scale-invariant weights.

If the function does not depend on ‖w‖ (a kernel in front of a normalization), the gradient is
orthogonal to w and shrinks as 1/‖w‖. Steps make ‖w‖ grow, decay makes it shrink, and it settles
where both are equal. There, per step, w turns by an angle that depends on η and λ alone (van
Laarhoven, arXiv:1706.05350; Kosson et al., arXiv:2305.17212).

The balance: a gradient g moves w by `D = η·g / (1 − m)` in all (SGD with momentum m), at a right
angle to w, and successive gradients are taken as uncorrelated. So in equilibrium the growth of ‖w‖²
per step, E‖D‖², is what decay takes off, `2·d·‖w‖²`, where `d = η·λ / (1 − m)` for coupled λ. One
step itself has the mean square length `E‖g‖²·η² / (1 − m²)`, since it is a moving average of
gradients. The angle is its root over ‖w‖. Formulas hold for η·λ « 1. They are checked against
simulations with Keras' own optimizers in `tests/dynamics/test_equilibrium.py`.

How far off they are where gradients are a network's, and not noise: SGD 1 %. AdamW 2 to 4 % for
the angle and 5 to 9 % for the norm once settled; up to 10 and 23 % in a run not much longer than
the memory of the second moment, 1 / (1 − β₂) steps. docs/evidence.md has the terms: a second moment
that lags behind growing gradients, successive gradients that undo each other, and a step that is
not at a right angle to w, since each weight is divided by its own √v. With them measured
(`examples/experiments/adamw_balance.py`) the norm is that of the balance to within 1 %.

Units: `weight_decay` is coupled λ as torch counts it (gradient λ·w; Keras' `L2(l2)` is λ = 2·l2)
where the name of the function says `coupled`, else Keras' decoupled `weight_decay` (w loses η·λ·w).
"""

import math

from keras_gamma.decay.units import check_strength


def sgd_coupled_angle(
    learning_rate: float, weight_decay: float, momentum: float = 0.0, nesterov: bool = False
) -> float:
    """RMS angle per step, in radians, of SGD with L2 in the loss: √(2ηλ / (1 + m)).

    With Nesterov's momentum, the step is m·v − η·g, with a mean square of
    `η²·((1 + m)² + m⁴ / (1 − m²))·E‖g‖²`, and so the angle
    √(2ηλ·((1 + m)²·(1 − m) + m⁴ / (1 + m))).

    Args:
        learning_rate: float ≥ 0: η.
        weight_decay: float ≥ 0: λ, coupled, in torch's units (`2 · l2` in Keras').
        momentum: float in [0, 1): m.
        nesterov: bool.

    Returns:
        A float, in radians.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_gamma.dynamics import equilibrium
    >>> round(equilibrium.sgd_coupled_angle(0.1, 5e-4, momentum=0.9), 5)
    0.00725

    Reference:

    - [Kosson et al., 2023](https://arxiv.org/abs/2305.17212), table 1
    """
    eta, decay, m = _check(learning_rate, weight_decay, momentum)
    share = (1 + m) ** 2 * (1 - m) + m**4 / (1 + m) if nesterov else 1 / (1 + m)
    return math.sqrt(2 * eta * decay * share)


def sgd_coupled_norm(
    learning_rate: float, weight_decay: float, gradient: float, momentum: float = 0.0
) -> float:
    """‖w‖ in the equilibrium of SGD with L2 in the loss: ⁴√(η·G² / (2λ·(1 − m))).

    Args:
        learning_rate: float ≥ 0: η.
        weight_decay: float > 0: λ, coupled, in torch's units.
        gradient: float ≥ 0: G, the RMS of ‖g‖·‖w‖, the gradient's norm where ‖w‖ = 1.
        momentum: float in [0, 1): m, Nesterov's or not.

    Returns:
        A float.

    Raises:
        ValueError: if an argument is out of its range, or `weight_decay` is 0: nothing holds
            the norm then.

    Example:

    >>> from keras_gamma.dynamics import equilibrium
    >>> round(equilibrium.sgd_coupled_norm(0.1, 5e-4, gradient=1.0, momentum=0.9), 3)
    5.623
    """
    eta, decay, m = _check(learning_rate, weight_decay, momentum)
    size = check_strength("gradient", gradient)
    _refuse_zero(decay)
    return math.sqrt(math.sqrt(eta * size**2 / (2 * decay * (1 - m))))


def sgd_decoupled_angle(
    learning_rate: float, weight_decay: float, momentum: float = 0.0, nesterov: bool = False
) -> float:
    """RMS angle per step, in radians, of Keras' `SGD(weight_decay=λ)`: √(2ηλ·(1 − m) / (1 + m)).

    Keras' decay does not pass through the momentum, so its λ is coupled λ·(1 − m).

    Args:
        learning_rate: float ≥ 0: η.
        weight_decay: float ≥ 0: λ, Keras' decoupled.
        momentum: float in [0, 1): m.
        nesterov: bool.

    Returns:
        A float, in radians.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_gamma.dynamics import equilibrium
    >>> round(equilibrium.sgd_decoupled_angle(0.1, 5e-3, momentum=0.9), 5)
    0.00725
    """
    eta, decay, m = _check(learning_rate, weight_decay, momentum)
    return sgd_coupled_angle(eta, decay * (1 - m), m, nesterov)


def sgd_decoupled_norm(
    learning_rate: float, weight_decay: float, gradient: float, momentum: float = 0.0
) -> float:
    """‖w‖ in the equilibrium of Keras' `SGD(weight_decay=λ)`: ⁴√(η·G² / (2λ·(1 − m)²)).

    Args:
        learning_rate: float ≥ 0: η.
        weight_decay: float > 0: λ, Keras' decoupled.
        gradient: float ≥ 0: G, the RMS of ‖g‖·‖w‖.
        momentum: float in [0, 1): m.

    Returns:
        A float.

    Raises:
        ValueError: as `sgd_coupled_norm`.

    Example:

    >>> from keras_gamma.dynamics import equilibrium
    >>> round(equilibrium.sgd_decoupled_norm(0.1, 5e-3, gradient=1.0, momentum=0.9), 3)
    5.623
    """
    eta, decay, m = _check(learning_rate, weight_decay, momentum)
    return sgd_coupled_norm(eta, decay * (1 - m), gradient, m)


def adamw_angle(learning_rate: float, weight_decay: float, beta_1: float = 0.9) -> float:
    """RMS angle per step, in radians, of AdamW: √(2ηλ·(1 − β₁) / (1 + β₁)).

    The step is η times a moving average of gradients that the second moment has brought to a mean
    square of 1; all of it, D, has E‖D‖² = η²·C for C weights. With β₁ = 0, that of RMSprop with
    Keras' decoupled decay and without momentum. Error where gradients are a network's: see above.

    Args:
        learning_rate: float ≥ 0: η.
        weight_decay: float ≥ 0: λ, Keras' and torch's decoupled.
        beta_1: float in [0, 1): β₁.

    Returns:
        A float, in radians.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_gamma.dynamics import equilibrium
    >>> round(equilibrium.adamw_angle(1e-3, 0.05), 5)
    0.00229

    Reference:

    - [Kosson et al., 2023](https://arxiv.org/abs/2305.17212), table 1
    """
    eta, decay, beta = _check(learning_rate, weight_decay, beta_1, "beta_1")
    return math.sqrt(2 * eta * decay * (1 - beta) / (1 + beta))


def adamw_norm(learning_rate: float, weight_decay: float, size: int) -> float:
    """‖w‖ in the equilibrium of AdamW: √(η·C / (2λ)). Error in a network: see the module.

    Args:
        learning_rate: float ≥ 0: η.
        weight_decay: float > 0: λ, Keras' and torch's decoupled.
        size: integer: C, the number of weights in w.

    Returns:
        A float.

    Raises:
        ValueError: as `sgd_coupled_norm`.

    Example:

    >>> from keras_gamma.dynamics import equilibrium
    >>> equilibrium.adamw_norm(1e-3, 0.05, size=100)
    1.0
    """
    eta, decay, _ = _check(learning_rate, weight_decay, 0.0)
    _refuse_zero(decay)
    return math.sqrt(eta * check_strength("size", size) / (2 * decay))


def _check(
    learning_rate: object, weight_decay: object, share: object, name: str = "momentum"
) -> tuple[float, float, float]:
    eta = check_strength("learning_rate", learning_rate)
    decay = check_strength("weight_decay", weight_decay)
    share_checked = check_strength(name, share)
    if share_checked >= 1:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {share!r}")
    return eta, decay, share_checked


def _refuse_zero(decay: float) -> None:
    if not decay:
        raise ValueError(
            "`weight_decay` must be greater than 0: without decay ‖w‖ grows without end."
        )
