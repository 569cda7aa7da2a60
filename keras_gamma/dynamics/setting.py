"""What is known of a run before it begins: the optimizer's rule, and each kernel's decay."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import names as _keras
from keras_gamma.checks import effects
from keras_gamma.decay.shrinkage import decays, learning_rate, unwrap, why_not_lasting
from keras_gamma.dynamics.scale_invariance import ScaleInvariant
from keras_gamma.dynamics.update_rules import UpdateRule, rule_of

Decay = tuple[float, float] | None  # (coupled, decoupled), where they are known.


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """The optimizer of a run, and what it does to each scale-invariant kernel.

    Args:
        optimizer: the optimizer to ask for the learning rate, or `None`.
        rule: its `UpdateRule`.
        decays: for each kernel `(coupled, decoupled)`, or `None` where there is no telling, or
            where the norm is held, so that nothing settles.
        notes: tuple of strings: what cannot be told in this setting.
    """

    optimizer: Any
    rule: UpdateRule
    decays: tuple[Decay, ...]
    notes: tuple[str, ...]

    def learning_rate(self) -> float | None:
        """The learning rate of the next step."""
        return None if self.optimizer is None else learning_rate(self.optimizer)

    def effective(self, rate: float | None, norm: Any) -> Any:
        """The effective learning rate at a norm, or at each of an array; `None` if not known."""
        if rate is None or not np.all(norm):
            return None
        return self.rule.effective_learning_rate(rate, norm)

    def predict(
        self, index: int, rate: float | None, size: int, step_times_norm: float
    ) -> dict[str, float | None]:
        """Angle and norm at which decay and gradients of a kernel balance, where a formula holds.

        Args:
            index: integer, the kernel's place in `decays`.
            rate: float, the learning rate.
            size: integer, the number of weights that share a norm.
            step_times_norm: float, the RMS of ‖step‖·‖w‖.
        """
        decay = self.decays[index]
        if decay is None or rate is None:
            return {}
        angle = self.rule.angle(rate, *decay)
        if angle is None:
            return {}
        gradient = self.rule.gradient(rate, step_times_norm)
        norm = self.rule.norm(rate, *decay, size, gradient)
        return {"predicted_angle": angle, "predicted_norm": norm}


def setting_of(model: keras.Model, kernels: Sequence[ScaleInvariant]) -> Setting:
    """The `Setting` of a compiled model and its scale-invariant kernels."""
    optimizer, rule, notes = _rule(model)
    pairs, more = _decays(optimizer, [entry.variable for entry in kernels])
    held = [entry.variable.constraint is not None for entry in kernels]
    free = tuple(None if h else pair for h, pair in zip(held, pairs, strict=True))
    return Setting(optimizer, rule, free, (*notes, *more, *_limits(model, rule, free)))


def _rule(model: keras.Model) -> tuple[Any, UpdateRule, list[str]]:
    """The optimizer to ask for the learning rate, its `UpdateRule`, and notes."""
    optimizer = model.optimizer
    try:
        inner = unwrap(optimizer)
    except ValueError:
        name = type(optimizer).__name__
        return None, UpdateRule(name, None), [f"{name} has no single learning rate"]
    rule = rule_of(inner)
    notes = []
    if rule.power is None:
        notes.append(f"the effective learning rate of {rule.name} is not known")
    if rule.why_not and rule.kind is None:
        notes.append(f"no equilibrium is predicted: {rule.why_not}")
    return inner, rule, notes


def _decays(optimizer: Any, variables: list[keras.Variable]) -> tuple[list[Decay], list[str]]:
    """The decay of each variable as it is in effect, and notes."""
    nothing: list[Decay] = [None] * len(variables)
    if optimizer is None or not variables:
        return nothing, []
    if _keras.inside_a_strategy():
        return nothing, ["the decay of the kernels is not measured inside strategy.scope()"]
    reason = why_not_lasting(optimizer)
    if reason:
        return nothing, [f"the decay of the kernels is not measured: {reason}"]
    taken = decays(optimizer, variables)
    found: list[Decay] = [
        None if one.to_start else (effects.pull(variable), one.share)
        for variable, one in zip(variables, taken, strict=True)
    ]
    if any(one.to_start for one in taken):
        return found, ["no equilibrium is predicted for kernels that decay to where they started"]
    return found, []


def _limits(model: keras.Model, rule: UpdateRule, pairs: Sequence[Decay]) -> Iterator[str]:
    """What cannot be told in this setting."""
    if rule.kind == "adam" and any(pair and pair[0] for pair in pairs):
        yield f"no equilibrium is predicted for kernels with a penalty in the loss of {rule.name}"
    if steps_per_call(model) > 1:
        yield "angles are those of single steps, and steps_per_execution is more than 1"


def steps_per_call(model: keras.Model) -> int:
    """Training steps in one call of the training function."""
    value = getattr(model, "steps_per_execution", 1)
    return int(value) if isinstance(value, (int, float)) else 1


def steps_taken(optimizer: Any) -> int:
    """Training steps so far; `iterations` counts those that changed the weights."""
    updates = int(keras.ops.convert_to_numpy(optimizer.iterations))
    return updates * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)


def as_float(value: Any) -> float:
    """A scalar of a backend as a float."""
    return float(keras.ops.convert_to_numpy(value))
