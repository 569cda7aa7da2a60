"""Keras' optimizers with a weight decay per variable, that survives saving.

One mechanism for all: a mixin in front of each Keras optimizer, which applies Keras' own decay
group by group, each with its strength. Keras' `MultiOptimizer` was weighed and not taken: each of
its inner optimizers clips only its own gradients (`global_clipnorm` becomes one norm per group),
counts its own iterations, and finds its variables by regular expressions on paths, which overlap,
and which fail when a reloaded Sequential has lost its name. The price of the mixin is one
overridden hook of Keras (`_keras.WeightDecayHook`).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import given, places, targets
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.targets import Target
from keras_gamma.decay.units import check_strength


class _Decay:
    """The factors and targets: as written down, and for each variable of the built optimizer.

    An object of its own, for TensorFlow's optimizers wrap plain dicts and lists.
    """

    def __init__(self, decay: Any, decay_to: Any) -> None:
        self.factors = _check(decay)
        self.targets = targets.of(decay_to, decay)
        self.plan: DecayPlan | None = None
        if isinstance(decay, DecayPlan):  # A plain one: what is put onto an optimizer knows models.
            self.plan = DecayPlan(decay, decay.guidelines, decay.weight_decay)
        # In the order of the optimizer's variables.
        self.resolved: list[float] | None = None
        self.to_start: list[bool] = []

    def resolve(self, variables: Sequence[keras.Variable], name: str) -> None:
        """Finds what is written for each of `variables`; raises if one is not written down."""
        written = _written_for(self.factors, variables, name)
        if self.factors is not None:
            self.resolved = [self.factors[path] for path in written]
        if isinstance(self.targets, dict):
            chosen = [self.targets[path] for path in written]
        else:
            chosen = [self.targets] * len(variables)
        factors = self.resolved or [1.0] * len(variables)
        self.to_start = [
            target is Target.INITIAL and factor > 0
            for target, factor in zip(chosen, factors, strict=True)
        ]


class DecayByPath(_keras.WeightDecayHook):
    """Mixin: decoupled weight decay with a factor for each variable, by path.

    `w ← w − learning_rate · weight_decay · factor · w` before each step; a factor of 0
    excludes. Variables on Keras' own exclude list stay excluded. Those whose decay leads to their
    start have that beside momentum and the like, among the optimizer's variables:
    `w ← w − learning_rate · weight_decay · factor · (w − w₀)`.
    """

    name: str
    built: bool

    def __init__(self, *args: Any, decay: Any = None, decay_to: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decay = _Decay(decay, decay_to)
        self._starts = _Starts()
        self._noted = given.Notes()

    @property
    def decay(self) -> dict[str, float] | None:
        """Dict from variable path to factor, or `None`: every variable decays alike."""
        factors = self._decay.factors
        return None if factors is None else dict(factors)

    @property
    def decay_to(self) -> str | dict[str, str]:
        """Where decay leads: `"zero"`, `"initial"`, or a dict from variable path to these."""
        found = self._decay.targets
        if isinstance(found, dict):
            return {path: str(to) for path, to in found.items()}
        return str(found)

    def set_decay(self, decay: Any, decay_to: Any = None) -> None:
        """Replaces the factors, and where decay leads.

        Args:
            decay: a `keras_gamma.DecayPlan`, a dict from variable path to factor, or `None`.
            decay_to: as for a new optimizer.

        Raises:
            ValueError: if the optimizer is built, and a variable of its has no factor, or is to be
                led to a start that is not known any more. All stays as it was then.
        """
        new = _Decay(decay, decay_to)
        if self.built:
            own = _keras.variables_of(self)
            new.resolve(own, self.name)
            led = [number for number, to_start in enumerate(new.to_start) if to_start]
            unknown = [own[number].path for number in led if number not in self._starts.kept]
            if unknown:
                raise ValueError(
                    f"Optimizer {self.name!r} is built, and did not keep where these variables "
                    f"started: {', '.join(unknown)}. Make a new optimizer with this plan."
                )
        self._decay = new
        self._note()

    def build(self, variables: Sequence[keras.Variable]) -> None:
        was_built = bool(self.built)
        self._decay.resolve(variables, self.name)
        super().build(list(variables))
        if not was_built:
            for number, variable in enumerate(variables):
                if self._decay.to_start[number]:
                    self._starts.kept[number] = self._start_of(variable)
        self._note()

    def _note(self) -> None:
        """Lets the layers know whose variables these are, should another optimizer come."""
        own, factors = self._decay, self._decay.resolved
        described = None
        if factors is not None:
            variables = _keras.variables_of(self)
            described = given.describe(own.plan, factors, own.to_start, variables)
        self._noted.renew(self, described)

    def _start_of(self, variable: keras.Variable) -> keras.Variable:
        """A new variable of the optimizer's, which is as `variable` is now."""

        def copied(shape: Any, dtype: Any = None) -> Any:
            # A buffer of its own: JAX gives each away in a step, torch writes to it in place.
            return keras.ops.copy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(variable)))

        made: keras.Variable = self.add_variable_from_reference(  # type: ignore[attr-defined]
            variable, name="start", initializer=copied
        )
        return made

    def decay_variables(
        self, variables: Sequence[Any], keras_decay: Callable[[list[Any]], None]
    ) -> None:
        """Called by Keras in place of its own decay, which is `keras_decay`."""
        if self._decay.resolved is None and not any(self._decay.to_start):
            keras_decay(list(variables))
            return
        if not self._noted.is_settled:  # It was built by hand.
            self._note()
        groups: dict[float, list[Any]] = collections.defaultdict(list)
        for variable in variables:
            factor = self.factor(variable)
            if factor and _keras.is_decayed(self, variable):
                groups[factor].append(variable)
        strengths = {
            name: getattr(self, name)
            for name in ("weight_decay", "adam_weight_decay")  # Muon has both.
            if getattr(self, name, None) is not None
        }
        try:
            for factor, group in groups.items():
                for name, strength in strengths.items():
                    setattr(self, name, strength * factor)
                led = [(v, start) for v in group if (start := self._start_for(v)) is not None]
                # Keras' own decay leads to 0: which is the start, as long as it is taken away. A
                # variable that has not moved comes back to the last bit.
                _keras.add_to_each(led, -1.0)
                keras_decay(group)
                _keras.add_to_each(led, 1.0)
        finally:
            for name, strength in strengths.items():
                setattr(self, name, strength)

    def factor(self, variable: Any) -> float:
        """The factor of a variable: a Keras variable, or the one behind it in the backend.

        Before the optimizer is built it is read off the paths; the largest, if several fit.
        """
        number = self._number(variable)
        if number is not None and self._decay.resolved is not None:
            return self._decay.resolved[number]
        factors = self._decay.factors
        if factors is None:
            return 1.0
        exact = [f for path, f in factors.items() if path.partition("#")[0] == variable.path]
        alike = [f for path, f in factors.items() if places.is_renamed(path, variable.path)]
        return max(exact or alike or [0.0])

    def leads_to_start(self, variable: Any) -> bool:
        """Whether decay leads a variable back to its start; read as `factor` is."""
        number = self._number(variable)
        if number is not None:
            return self._decay.to_start[number]
        found = self._decay.targets
        if not isinstance(found, dict):
            return found is Target.INITIAL
        exact = [to for path, to in found.items() if path.partition("#")[0] == variable.path]
        alike = [to for path, to in found.items() if places.is_renamed(path, variable.path)]
        return Target.INITIAL in (exact or alike)

    def _number(self, variable: Any) -> int | None:
        for number, one in enumerate(_keras.variables_of(self) if self.built else []):
            if one is variable or (
                not isinstance(variable, keras.Variable) and one.value is variable
            ):
                return number
        return None

    def _start_for(self, variable: Any) -> keras.Variable | None:
        """Where decay leads a variable, if not to 0."""
        number = self._number(variable)
        if number is None or not self._decay.to_start[number]:
            return None
        return self._starts.kept[number]

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "decay": self.decay}
        if self._decay.targets is not Target.ZERO:  # Else as before there was a choice.
            config["decay_to"] = self.decay_to
        return config


class _Starts:
    """The variables that hold where others started, by the numbers of these in the optimizer.

    An object of its own, as `_Decay` is.
    """

    def __init__(self) -> None:
        self.kept: dict[int, keras.Variable] = {}


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


_DOC = """{base} with decoupled weight decay per variable.

    `w ← w − learning_rate · weight_decay · factor(w) · w` before each step (Loshchilov & Hutter,
    arXiv:1711.05101), with the factors by variable path in `decay`. They are part of the
    config, so they come back with `keras.models.load_model`, `from_config` and
    `BackupAndRestore`; a variable that they do not name is an error, never a guess.

    Args:
        *args: as `keras.optimizers.{base}`.
        decay: a `keras_gamma.DecayPlan`, a dict from variable path to factor ≥ 0, or `None`, with
            which every variable decays alike.
        decay_to: where decay leads: `"zero"`, `"initial"` (to what the variables are when the
            optimizer is built: w ← w − learning_rate · weight_decay · factor(w) · (w − w₀)), a dict
            from variable path to these, or `None`: what the plan says, or zero.
        **kwargs: as `keras.optimizers.{base}`; `weight_decay` is the strength before the factors.

    Raises:
        ValueError: if a factor is not finite and ≥ 0, or, when it is built, if a variable has none.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(4, name="fc")(keras.layers.LayerNormalization(name="ln")(x))
    >>> model = keras.Model(x, y)
    >>> plan = keras_gamma.plan_weight_decay(model)
    >>> optimizer = keras_gamma.optimizers.{name}(weight_decay=0.05, decay=plan)
    >>> optimizer.decay
    {{'ln/gamma': 0.0, 'ln/beta': 0.0, 'fc/kernel': 1.0, 'fc/bias': 0.0}}

    Reference:

    - [Loshchilov & Hutter, 2019](https://arxiv.org/abs/1711.05101)
    - [Li et al., 2018](https://arxiv.org/abs/1802.01483), for the start in place of 0
    """

# Keras' name -> ours. (Keras' SGD, Lion, … decouple their weight decay, too.) Ftrl and
# ScheduleFreeAdamW are left out: no decay of theirs lasts (see `shrinkage.why_not_lasting`).
NAMES = {
    "Adadelta": "AdadeltaW",
    "Adafactor": "AdafactorW",
    "Adagrad": "AdagradW",
    "Adamax": "AdamaxW",
    "AdamW": "AdamW",
    "Lamb": "LambW",
    "Lion": "LionW",
    "Muon": "MuonW",
    "Nadam": "NadamW",
    "RMSprop": "RMSpropW",
    "SGD": "SGDW",
}


def _derive(base: type, name: str) -> type:
    cls = type(name, (DecayByPath, base), {"__module__": __name__, "__qualname__": name})
    cls.__doc__ = _DOC.format(base=base.__name__, name=name)
    registered: type = keras.saving.register_keras_serializable(package="keras_gamma")(cls)
    return registered


for _base, _name in NAMES.items():
    if hasattr(keras.optimizers, _base):  # An older Keras may lack one.
        globals()[_name] = _derive(getattr(keras.optimizers, _base), _name)

__all__ = sorted(name for name in NAMES.values() if name in globals())
