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
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import given, penalties
from keras_gamma.decay.factors import Factors
from keras_gamma.decay.inner_optimizers import models_trained_by
from keras_gamma.decay.targets import Target


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
        self._factors = Factors(decay, decay_to)
        self._own = _Own()
        self._noted = given.Notes()
        self._announce()

    @property
    def decay(self) -> dict[str, float] | None:
        """Dict from variable path to factor, or `None`: every variable decays alike."""
        factors = self._factors.written
        return None if factors is None else dict(factors)

    @property
    def decay_to(self) -> str | dict[str, str]:
        """Where decay leads: `"zero"`, `"initial"`, or a dict from variable path to these."""
        found = self._factors.targets
        if isinstance(found, dict):
            return {path: str(to) for path, to in found.items()}
        return str(found)

    def set_decay(self, decay: Any, decay_to: Any = None) -> None:
        """Replaces the factors, and where decay leads. Steps that are traced with it are dropped.

        Args:
            decay: a `keras_gamma.DecayPlan`, a dict from variable path to factor, or `None`.
            decay_to: as for a new optimizer.

        Raises:
            ValueError: if the optimizer is built, and a variable of its has no factor, or is to be
                led to a start that is not known any more. All stays as it was then.
        """
        new = Factors(decay, decay_to)
        if self.built:
            own = _keras.variables_of(self)
            new.resolve(own, self.name)
            led = [number for number, to_start in enumerate(new.to_start) if to_start]
            unknown = [own[number].path for number in led if number not in self._own.starts]
            if unknown:
                raise ValueError(
                    f"Optimizer {self.name!r} is built, and did not keep where these variables "
                    f"started: {', '.join(unknown)}. Make a new optimizer with this plan."
                )
        self._factors = new
        self._note()
        self._announce()
        for model in models_trained_by(self):
            penalties.drop_traced_functions(model)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        variables = list(variables)
        if self.built:
            super().build(variables)
            self._note()
            return
        self._factors.resolve(variables, self.name)
        super().build(variables)
        self._own.numbers = {id(variable): number for number, variable in enumerate(variables)}
        for number, variable in enumerate(variables):
            if self._factors.to_start[number]:
                self._own.starts[number] = self._start_of(variable)
        self._note()

    def _note(self) -> None:
        """Lets the layers know whose variables these are, should another optimizer come."""
        own, factors = self._factors, self._factors.resolved
        described = None
        if factors is not None:
            variables = _keras.variables_of(self)
            described = given.describe(own.plan, factors, own.to_start, variables)
        self._noted.renew(self, described)

    def _announce(self) -> None:
        """Lets the layers of the model that the plan was made for know, before anybody trains."""
        plan = self._factors.plan
        model = None if plan is None or self.built else plan.made_for
        if model is None:
            return
        variables = self._factors.of_model(model)
        if variables:
            known = Factors(self.decay, self.decay_to)
            known.resolve(variables, self.name)
            described = given.describe(plan, known.resolved or (), known.to_start, variables)
            self._noted.announce(described, model)

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
        if self._factors.acts_alike:
            keras_decay(list(variables))
            return
        if not self._noted.is_settled:  # It was built by hand.
            self._note()
        groups: dict[float, list[Any]] = collections.defaultdict(list)
        starts: dict[float, list[tuple[Any, keras.Variable]]] = collections.defaultdict(list)
        for variable, number in zip(variables, self._numbers(variables), strict=True):
            factor = self._factors.factor_of(number, _path_of(variable))
            if not factor or not _keras.is_decayed(self, variable):
                continue
            groups[factor].append(variable)
            if number is not None and self._factors.to_start[number]:
                starts[factor].append((variable, self._own.starts[number]))
        strengths = {
            name: getattr(self, name)
            for name in ("weight_decay", "adam_weight_decay")  # Muon has both.
            if getattr(self, name, None) is not None
        }
        try:
            for factor, group in groups.items():
                for name, strength in strengths.items():
                    setattr(self, name, strength * factor)
                # Keras' own decay leads to 0: which is the start, as long as it is taken away. A
                # variable that has not moved comes back to the last bit.
                _keras.add_to_each(starts[factor], -1.0)
                keras_decay(group)
                _keras.add_to_each(starts[factor], 1.0)
        finally:
            for name, strength in strengths.items():
                setattr(self, name, strength)

    def factor(self, variable: Any) -> float:
        """The factor of a variable: a Keras variable, or the one behind it in the backend.

        Before the optimizer is built it is read off the paths; the largest, if several fit.
        """
        (number,) = self._numbers([variable])
        return self._factors.factor_of(number, _path_of(variable))

    def leads_to_start(self, variable: Any) -> bool:
        """Whether decay leads a variable back to its start; read as `factor` is."""
        (number,) = self._numbers([variable])
        return self._factors.leads_to_start(number, _path_of(variable))

    def _numbers(self, variables: Sequence[Any]) -> list[int | None]:
        """Which of the optimizer's own each of `variables` is, or the one behind it; or `None`."""
        known = self._own.numbers
        if not all(id(variable) in known for variable in variables) and self.built:
            own = enumerate(_keras.variables_of(self))
            known = known | {id(variable.value): number for number, variable in own}
        return [known.get(id(variable)) for variable in variables]

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "decay": self.decay}
        if self._factors.targets is not Target.ZERO:  # Else as before there was a choice.
            config["decay_to"] = self.decay_to
        return config


class _Own:
    """What an optimizer knows of its own variables. An object of its own, as `Factors` is."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}  # Of each variable, by its id.
        self.starts: dict[int, keras.Variable] = {}  # Where some started, by their numbers.


def _path_of(variable: Any) -> str:
    return str(getattr(variable, "path", ""))


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
        globals()[_name] = _derive(_keras.as_made(getattr(keras.optimizers, _base)), _name)

__all__ = sorted(name for name in NAMES.values() if name in globals())
