"""What was decided on the variables of one layer, and what of it is in force."""

from __future__ import annotations

import dataclasses
import json
import warnings
import weakref
from typing import Any

import keras

from keras_gamma._keras import structure
from keras_gamma.decay import penalties, plan_files
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.held import Held
from keras_gamma.decay.penalties import Slot
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import Decision, PlanEntry
from keras_gamma.decay.telling import DecisionNotKept

FORMAT, VERSION = "keras_gamma.layer", 1


@dataclasses.dataclass(frozen=True)
class Decided:
    """The decision on one γ, and the plan that it comes from."""

    slot: Slot
    entry: PlanEntry
    guidelines: Guidelines
    l2: float

    @property
    def is_in_force(self) -> bool:
        """Whether what stands on the γ is still what was decided."""
        wanted = self.entry.decision is Decision.APPLY
        regularizer = penalties.make(self.entry.strength, self.entry.neutral) if wanted else None
        return penalties.is_in_place(self.slot, regularizer)


@dataclasses.dataclass(frozen=True)
class Spared:
    """What a plan for an optimizer says of one variable of a layer.

    Args:
        variable: the variable.
        factor: float, what is left of the weight decay on it; 0 where it is excluded.
        source: what the plan was noted by, an `OptimizerRecord` or a `Given`.
    """

    variable: keras.Variable
    factor: float
    source: Any


class LayerDecisions:
    """The decisions on the variables that one layer owns.

    Args:
        layer: the `keras.Layer`.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self._layer = weakref.ref(layer)
        self.decisions: dict[int, Decided] = {}  # By the variable's number in the layer.
        self.spared: dict[int, Spared] = {}
        self.held = Held()

    @property
    def layer(self) -> keras.Layer:
        layer = self._layer()
        assert layer is not None, "its methods are reached through the layer alone"
        return layer

    def penalized(self) -> list[Decided]:
        """The decisions that put a penalty on a γ."""
        return [d for d in self.decisions.values() if d.entry.decision is Decision.APPLY]

    def with_penalty(self) -> list[keras.Variable]:
        """The γ that have a penalty by decision now."""
        return [d.slot.variable for d in self.penalized() if d.is_in_force]

    def penalizes(self) -> bool:
        """Whether a penalty by decision acts in a training step that adds the losses."""
        return any(variable.trainable for variable in self.with_penalty())

    def withheld(self) -> list[keras.Variable]:
        """The variables that an optimizer was told not to decay, or not in full."""
        return [spared.variable for spared in self.spared.values() if spared.factor < 1.0]

    def replaced(self) -> list[keras.Variable]:
        """Those of all these in place of which the layer has others now."""
        decided = {n: one.variable for n, one in self.spared.items() if one.factor < 1.0}
        decided |= {n: one.slot.variable for n, one in self.decisions.items()}
        return self.held.replaced(self.layer, decided)

    def hold(self, variable: keras.Variable) -> int:
        """The number of a variable that is decided on now, in place of any that was replaced."""
        number = number_of(self.layer, variable)
        for old in self.held.note(self.layer, number, variable):
            self.decisions.pop(old, None)
            self.spared.pop(old, None)
        return number

    def to_json(self) -> str | None:
        """What is in force, as JSON; `None` if nothing is."""
        changed = [d.entry.path for d in self.decisions.values() if not d.is_in_force]
        if changed:
            warnings.warn(
                f"The penalties of {named(self.layer)} were changed by other hands since "
                f"keras_gamma set them ({', '.join(changed)}), so its decision is not saved with "
                "the model. Apply the guidelines again.",
                DecisionNotKept,
                stacklevel=4,
            )
        kept = {n: d for n, d in self.decisions.items() if d.is_in_force}
        if not kept:
            return None
        return plan_files.to_json(
            FORMAT,
            VERSION,
            layer=type(self.layer).__name__,
            decisions=[
                {
                    "variable": number,
                    "shape": list(d.slot.variable.shape),
                    "plan": json.loads(GammaPlan([d.entry], d.guidelines, d.l2).to_json()),
                }
                for number, d in kept.items()
            ],
        )


def named(layer: keras.Layer) -> str:
    """A layer, as messages call it."""
    return f"{type(layer).__name__} {layer.name!r}"


def number_of(layer: keras.Layer, variable: keras.Variable) -> int:
    """The number of a variable among those that its layer holds itself."""
    own = structure.own_variables(layer)
    return next(i for i, (value, _) in enumerate(own) if value is variable)
