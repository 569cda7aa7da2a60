"""The factors that an optimizer is made with, noted on the layers whose variables it updates.

They come back with the optimizer's config. But another optimizer may be compiled with one day, and
would not know of them: the layers do, and say so when a training step begins (`step_check`).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import layer_records, optimizer_records, places
from keras_gamma.decay.decay_plan import DecayEntry, DecayPlan
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.optimizer_records import Given
from keras_gamma.decay.targets import Target

_REASON = "The optimizer was made with it (decay=…)."


def describe(
    plan: DecayPlan | None,
    factors: Sequence[float],
    to_start: Sequence[bool],
    variables: Sequence[keras.Variable],
) -> Given:
    """What an optimizer does to its variables, as a plan.

    Args:
        plan: the plan that the optimizer was given, if it was one: it knows reasons.
        factors: list of floats, the factor of each variable.
        to_start: list of bools, whether decay leads each back to its start.
        variables: the variables that the optimizer updates.
    """
    known = {} if plan is None else {entry.path: entry for entry in plan}
    entries = []
    paths = places.unique_paths(variables)
    for path, factor, back in zip(paths, factors, to_start, strict=True):
        entry = known.get(path, DecayEntry(path, "", None, factor, _REASON))
        to = Target.INITIAL if back else Target.ZERO
        entries.append(dataclasses.replace(entry, factor=factor, to=to))
    guidelines = Guidelines.get(None) if plan is None else plan.guidelines
    return Given(DecayPlan(entries, guidelines), variables)


class Notes:
    """Where the factors of one optimizer are noted. A copy of the optimizer begins without."""

    def __init__(self) -> None:
        self._given: Given | None = None
        self._models: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        self.is_settled = False  # Whether it is known who trains with the optimizer.

    def __reduce__(self) -> tuple[type[Notes], tuple[()]]:
        return Notes, ()

    def announce(self, given: Given, model: keras.Model) -> None:
        """Notes `given` on the layers of the model that it was made for; who trains may differ."""
        self._given = given
        if optimizer_records.note_on_layers(model, given):
            self._models.add(model)

    def renew(self, optimizer: Any, given: Given | None) -> None:
        """Notes `given` in place of what was noted, on the layers of the model that trains.

        Args:
            optimizer: the optimizer. If a plan was put onto it, that one is noted already.
            given: what it does; `None` for nothing.
        """
        models = list(self._models)
        for model in models:
            layer_records.forget_spared(model, self._given)
        self._models.clear()
        self._given = given
        if given is None or optimizer_records.of(optimizer) is not None:
            return
        for model in models if self.is_settled else [*_keras.models_asking(), *models]:
            self.is_settled = True
            if optimizer_records.note_on_layers(model, given):
                self._models.add(model)
                break
