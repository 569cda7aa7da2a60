"""What an optimizer's step does to a weight whose norm does not matter: an `UpdateRule`."""

import dataclasses
import math
from typing import Any

import keras

from keras_gamma.dynamics import equilibrium

# How the turn of w per step depends on its norm: as 1/‖w‖^power.
_POWERS = (
    # Steps are proportional to the gradient, which is proportional to 1/‖w‖.
    (keras.optimizers.SGD, 2),
    # Steps are the learning rate times ‖w‖, or its RMS.
    (keras.optimizers.Lamb, 0),
    (keras.optimizers.Adafactor, 0),
    # Steps do not depend on the scale of the gradient.
    (keras.optimizers.Adam, 1),
    (keras.optimizers.Nadam, 1),
    (keras.optimizers.Adamax, 1),
    (keras.optimizers.RMSprop, 1),
    (keras.optimizers.Adagrad, 1),
    (keras.optimizers.Lion, 1),
    *([(keras.optimizers.Muon, 1)] if hasattr(keras.optimizers, "Muon") else []),  # Keras 3.10
)


@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """How one optimizer turns scale-invariant weights.

    Args:
        name: string, the optimizer's class.
        power: integer, or `None` where it is not known: the effective learning rate is
            η/‖w‖^power.
        kind: `"sgd"`, `"adam"` or `None`: which formulas of `equilibrium` hold.
        momentum: float: m, or β₁.
        nesterov: bool.
        why_not: string, why no formula holds, or `None`.
    """

    name: str
    power: int | None
    kind: str | None = None
    momentum: float = 0.0
    nesterov: bool = False
    why_not: str | None = None

    def effective_learning_rate(self, learning_rate: float, norm: Any) -> Any:
        """The learning rate that a weight of norm 1 would need to turn as fast.

        η/‖w‖² for SGD, η/‖w‖ where steps do not depend on the scale of the gradient (Adam and its
        kin), η where they are proportional to ‖w‖ (Lamb, Adafactor): van Laarhoven,
        arXiv:1706.05350, for the first two.

        Args:
            learning_rate: float: η.
            norm: float or array: ‖w‖.

        Returns:
            A float or array, or `None` where the rule is not known.
        """
        if self.power is None:
            return None
        return learning_rate / norm**self.power

    def angle(self, learning_rate: float, coupled: float, decoupled: float) -> float | None:
        """RMS angle per step in equilibrium, in radians, or `None` where no formula holds.

        Args:
            learning_rate: float: η.
            coupled: float: λ of the L2 in the loss, in torch's units.
            decoupled: float: λ of Keras' decoupled decay.
        """
        if not self._holds(coupled, decoupled):
            return None
        if self.kind == "adam":
            return equilibrium.adamw_angle(learning_rate, decoupled, self.momentum)
        decay = coupled + decoupled * (1 - self.momentum)
        return equilibrium.sgd_coupled_angle(learning_rate, decay, self.momentum, self.nesterov)

    def norm(
        self,
        learning_rate: float,
        coupled: float,
        decoupled: float,
        size: int,
        gradient: float | None,
    ) -> float | None:
        """‖w‖ in equilibrium, or `None` where no formula holds.

        Args:
            learning_rate: float: η.
            coupled: float: λ of the L2 in the loss, in torch's units.
            decoupled: float: λ of Keras' decoupled decay.
            size: integer, the number of weights in w.
            gradient: float, the RMS of ‖g‖·‖w‖; used for SGD only.
        """
        if not self._holds(coupled, decoupled):
            return None
        if self.kind == "adam":
            return equilibrium.adamw_norm(learning_rate, decoupled, size)
        if gradient is None:
            return None
        decay = coupled + decoupled * (1 - self.momentum)
        return equilibrium.sgd_coupled_norm(learning_rate, decay, gradient, self.momentum)

    def gradient(self, learning_rate: float, step_times_norm: float) -> float | None:
        """The RMS of ‖g‖·‖w‖ for SGD, from that of ‖step‖·‖w‖; `None` for other rules.

        Successive gradients are taken as uncorrelated, as in `equilibrium`.
        """
        if self.kind != "sgd" or not learning_rate:
            return None
        m = self.momentum
        square = (1 + m) ** 2 + m**4 / (1 - m**2) if self.nesterov else 1 / (1 - m**2)
        return step_times_norm / (learning_rate * math.sqrt(square))

    def _holds(self, coupled: float, decoupled: float) -> bool:
        if self.kind == "adam" and coupled:
            return False
        return self.kind is not None and bool(coupled or decoupled)


def rule_of(optimizer: Any) -> UpdateRule:
    """The `UpdateRule` of an optimizer, unwrapped.

    Args:
        optimizer: a Keras optimizer.

    Returns:
        An `UpdateRule`.

    Example:

    >>> import keras
    >>> from keras_gamma.dynamics.update_rules import rule_of
    >>> rule_of(keras.optimizers.SGD(0.1)).effective_learning_rate(0.1, norm=2.0)
    0.025
    >>> rule_of(keras.optimizers.AdamW(0.1)).effective_learning_rate(0.1, norm=2.0)
    0.05
    """
    name = type(optimizer).__name__
    power = next((p for one, p in _POWERS if isinstance(optimizer, one)), None)
    rule = UpdateRule(name, power, why_not=f"no formula for the equilibrium of {name} is known")
    m = getattr(optimizer, "momentum", 0.0)
    if optimizer.gradient_accumulation_steps:
        return dataclasses.replace(rule, why_not="gradients are accumulated over several steps")
    if _clips(optimizer):
        return dataclasses.replace(rule, why_not="gradients are clipped")
    if isinstance(optimizer, keras.optimizers.SGD) and m < 1:
        return UpdateRule(name, power, "sgd", float(m), bool(optimizer.nesterov and m))
    # Nadam and Adamax are not of these classes.
    if isinstance(optimizer, keras.optimizers.Adam) and not optimizer.amsgrad:
        return UpdateRule(name, power, "adam", float(optimizer.beta_1))
    if isinstance(optimizer, keras.optimizers.RMSprop) and not (m or optimizer.centered):
        return UpdateRule(name, power, "adam", 0.0)
    return rule


def _clips(optimizer: Any) -> bool:
    return any(
        getattr(optimizer, name, None) is not None
        for name in ("clipnorm", "global_clipnorm", "clipvalue")
    )
