"""What is written down for the variables of an optimizer: a factor each, and where decay leads.

Written by path; found for each variable when the optimizer is built.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import keras

from keras_gamma.decay import places, targets
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.targets import Target
from keras_gamma.decay.units import check_strength

Written = TypeVar("Written")


class Factors:
    """The factors and targets: as written down, and for each variable of the built optimizer.

    An object of its own, for TensorFlow's optimizers wrap plain dicts and lists.

    Args:
        decay: see `DecayByPath`.
        decay_to: likewise.

    Raises:
        ValueError: if either is none.
    """

    def __init__(self, decay: Any, decay_to: Any) -> None:
        self.written = _check(decay)
        self.targets = targets.of(decay_to, decay)
        self.plan: DecayPlan | None = None
        if isinstance(decay, DecayPlan):  # A plain one: what is put onto an optimizer knows more.
            self.plan = DecayPlan(decay, decay.guidelines, decay.weight_decay)
            if decay.made_for is not None:
                self.plan.made_for = decay.made_for
        # In the order of the optimizer's variables.
        self.resolved: list[float] | None = None
        self.to_start: list[bool] = []

    def resolve(self, variables: Sequence[keras.Variable], name: str) -> None:
        """Finds what is written for each of `variables`; raises if one is not written down."""
        written = _written_for(self.written, variables, name)
        if self.written is not None:
            self.resolved = [self.written[path] for path in written]
        if isinstance(self.targets, dict):
            chosen = [self.targets[path] for path in written]
        else:
            chosen = [self.targets] * len(variables)
        factors = self.resolved or [1.0] * len(variables)
        self.to_start = [
            target is Target.INITIAL and factor > 0
            for target, factor in zip(chosen, factors, strict=True)
        ]

    def of_model(self, model: keras.Model) -> list[keras.Variable]:
        """The variables that are written down, in `model`; none if it has others by now."""
        trained = [at for at in places.locate(model) if at.trained]
        variables = [at.variable for at in trained]
        paths = [at.path for at in trained]
        as_written = self.written is not None and list(self.written) == paths
        return variables if as_written and places.unique_paths(variables) == paths else []

    @property
    def acts_alike(self) -> bool:
        """Whether every variable decays alike, to 0: as by Keras."""
        return self.resolved is None and not any(self.to_start)

    def factor_of(self, number: int | None, path: str) -> float:
        """The factor of a variable: by its number in the built optimizer, else by its path.

        The largest, if several paths fit.
        """
        if self.written is None:
            return 1.0
        if number is not None and self.resolved is not None:
            return self.resolved[number]
        return max(_fitting(self.written, path), default=0.0)

    def leads_to_start(self, number: int | None, path: str) -> bool:
        """Whether decay leads a variable back to its start; found as `factor_of` is."""
        if number is not None:
            return self.to_start[number]
        if not isinstance(self.targets, dict):
            return self.targets is Target.INITIAL
        return Target.INITIAL in _fitting(self.targets, path)


def _fitting(written: Mapping[str, Written], path: str) -> list[Written]:
    """What is written down for a path, or else for paths that Keras may have made it of."""
    exact = [value for key, value in written.items() if key.partition("#")[0] == path]
    return exact or [value for key, value in written.items() if places.is_renamed(key, path)]


def _check(decay: Any) -> dict[str, float] | None:
    """`decay` as a dict of finite factors ≥ 0, or `None`."""
    if decay is None:
        return None
    factors = decay.factors() if hasattr(decay, "factors") else decay
    if not isinstance(factors, dict):
        raise ValueError(
            "`decay` must be a keras_gamma.DecayPlan (see plan_weight_decay) or a dict from "
            f"variable path to factor. Received: {decay!r}"
        )
    return {path: check_strength(f"decay of {path}", value) for path, value in factors.items()}


def _written_for(
    factors: Mapping[str, float] | None, variables: Sequence[keras.Variable], name: str
) -> list[str]:
    """The path that is written down for each of `variables`; every one must have one."""
    if factors is None:
        return [variable.path for variable in variables]
    found, missing = places.written_for(list(factors), variables)
    if missing:
        raise ValueError(
            f"Optimizer {name!r} has no decision on weight decay for: {', '.join(missing)}. Its "
            f"decisions are for: {', '.join(factors)}. Make them for this model with "
            "keras_gamma.plan_weight_decay."
        )
    _check_repeated(factors, found, name)
    return list(found)


def _check_repeated(factors: Mapping[str, float], found: Sequence[str], name: str) -> None:
    """Raises `ValueError` where some variables of one path are there, and it is not known which."""
    chosen = set(found)
    groups = collections.defaultdict(list)
    for path in factors:
        groups[path.partition("#")[0]].append(path)
    for path, group in groups.items():
        present = [one for one in group if one in chosen]
        if 0 < len(present) < len(group) and len({factors[one] for one in group}) > 1:
            raise ValueError(
                f"Optimizer {name!r} has decisions for {len(group)} variables of the path {path}, "
                f"which differ, but {len(present)} of them are trained: which ones cannot be told. "
                "Give the layers unique names."
            )
