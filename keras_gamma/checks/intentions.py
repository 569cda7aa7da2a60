"""What each variable was planned to be shrunk by, and where that differs from what was measured."""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_gamma.checks.effects import Effect
from keras_gamma.decay import application, optimizer_records, places, shrinkage
from keras_gamma.decay.decay_plan import DecayPlan
from keras_gamma.decay.deciding import scales_of
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.inner_optimizers import has_factors, parts
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import Decision
from keras_gamma.decay.targets import Target
from keras_gamma.network import Network
from keras_gamma.roles.classification import Role
from keras_gamma.roles.finding import find_roles

_TOLERANCE = 1e-3  # Relative; the measurement is one step in float32.


@dataclasses.dataclass
class Wish:
    """What one variable was planned to be shrunk by; `None`: no plan speaks of it."""

    role: Role | None = None
    is_gamma: bool = False
    coupled: float | None = None
    decoupled: float | None = None
    to_start: bool = False  # What weight decay leads to, where it acts.
    shrinks: bool | None = None  # By whatever means.
    unknown: bool = False
    was_frozen: bool = False  # When it was decided on; it is not, now.

    def text(self) -> str:
        """In the words of the audit's table."""
        if self.unknown:
            return "unknown to the plan"
        if self.shrinks is not None:
            return "shrinks" if self.shrinks else "does not shrink"
        parts = []
        if self.coupled is not None:
            parts.append(f"coupled {self.coupled:.4g}" if self.coupled else "no penalty")
        if self.decoupled is not None:
            way = " to its start" if self.to_start else ""
            parts.append(
                f"decoupled {self.decoupled:.4g}{way}" if self.decoupled else "not decayed"
            )
        return ", ".join(parts)

    def disagreements(self, effect: Effect) -> Iterator[str]:
        """Where the measured `effect` is not what was planned: sentences."""
        pull, decay = effect.pull, effect.decay
        if self.unknown:
            yield "it is a γ that the plan does not know; apply the guidelines again"
        if self.is_gamma and pull and decay:
            yield (
                f"counted twice: a penalty pulls with {pull:.4g}, and weight decay takes off "
                f"{decay:.4g}"
            )
        if self.shrinks is not None and self.shrinks != bool(pull or decay) and self._told(effect):
            how = f"coupled {pull:.4g}, decoupled {decay or 0:.4g}"
            yield (
                f"as {self.role} it should shrink by the guidelines, but nothing shrinks it"
                if self.shrinks
                else f"as {self.role} it should not shrink by the guidelines, but does ({how})"
            )
        if self.coupled is not None and not _close(pull, self.coupled):
            yield f"the penalty pulls with {pull:.4g}, but the plan says that {self._coupled()}"
        if self.decoupled is not None and decay is not None and not _close(decay, self.decoupled):
            says = f"it is {self.decoupled:.4g}" if self.decoupled else "it is not decayed"
            yield f"weight decay takes off {decay:.4g}, but the plan says that {says}"
        elif decay and self.decoupled and effect.to_start != self.to_start:
            ways = ["to 0", "to where it started"]
            yield (
                f"weight decay leads {ways[effect.to_start]}, but the plan says "
                f"{ways[self.to_start]}"
            )
        if effect.lost and (self.shrinks or self.coupled or self.decoupled):
            yield effect.lost

    def unseen(self, effect: Effect) -> Iterator[str]:
        """What was planned, but not measured: sentences."""
        if effect.decay is None and (self.decoupled is not None or not self._told(effect)):
            yield f"what weight decay takes off was not measured: {effect.why_not}"

    def _told(self, effect: Effect) -> bool:
        """Whether what was measured is enough to say whether it shrinks by whatever means."""
        return self.shrinks is None or effect.decay is not None or bool(effect.pull)

    def _coupled(self) -> str:
        if self.was_frozen:
            return (
                f"it is {self.coupled:.4g}: it was frozen when the guidelines were applied, and is "
                "trainable now; apply the guidelines again"
            )
        return f"it is {self.coupled:.4g}" if self.coupled else "there is none"


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=1e-9)


# Each plan, with its entries and the variable that each is about (`None`: there is none).
Plans = list[tuple[Any, list[tuple[Any, keras.Variable | None]]]]


def plans_of(model: keras.Model, plan: Any = None) -> Plans:
    """The plans given, else those that were applied, and the variables that they speak of."""
    if plan is None:
        applied = application.in_force(model)
        found = [(one, _with_variables(one, variables)) for one, variables in applied]
        return found + _factors(model)  # What acts now comes last.
    check_plan(plan)
    given = plan if isinstance(plan, (list, tuple)) else [plan]
    return [(one, _with_variables(one, application.variables_of(one, model))) for one in given]


def _with_variables(
    plan: Sequence[Any], variables: Mapping[str, keras.Variable]
) -> list[tuple[Any, keras.Variable | None]]:
    return [(entry, variables.get(entry.path)) for entry in plan]


def check_plan(plan: Any) -> None:
    """Raises `TypeError` unless `plan` is `None`, a plan, or a list of plans."""
    for one in plan if isinstance(plan, (list, tuple)) else [plan]:
        if plan is not None and not isinstance(one, (GammaPlan, DecayPlan)):
            raise TypeError(
                f"`plan` must be a GammaPlan, a DecayPlan, or a list. Received: {one!r}"
            )


class _Factor(NamedTuple):
    """A line of `_Factors`."""

    path: str
    factor: float
    to: Target
    role: Role | None = None
    kind: str = ""


class _Factors(tuple[_Factor, ...]):
    """An optimizer's own factors, in the shape of a `DecayPlan`."""


def _factors(model: keras.Model) -> Plans:
    """Of the optimizers of `keras_gamma.optimizers` that the model is compiled with."""
    optimizer = getattr(model, "optimizer", None)
    found: Plans = []
    for one in [] if optimizer is None else parts(optimizer):
        if has_factors(one) and one.decay and optimizer_records.of(one) is None:
            own = dict(shrinkage.shared_out(optimizer, model.trainable_variables))[one]
            ways = {False: Target.ZERO, True: Target.INITIAL}
            lines = [(_Factor(v.path, one.factor(v), ways[one.leads_to_start(v)]), v) for v in own]
            found.append((_Factors(line for line, _ in lines), list(lines)))
    return found


def by_plans(
    model: keras.Model, plans: Plans, effects: dict[int, Effect]
) -> tuple[dict[int, Wish], list[str]]:
    """`Wish` by the id of each variable that is spoken of, and general disagreements.

    Args:
        model: the `keras.Model`.
        plans: see `plans_of`.
        effects: the measured `Effect` by the id of each trainable variable: a plan for an
            optimizer names factors, of what the optimizer has.
    """
    wanted: dict[int, Wish] = collections.defaultdict(Wish)
    problems: list[str] = []
    for plan, entries in plans:
        for entry, variable in entries:
            if variable is None:
                problems += _missing(plan, entry, model)
            elif variable.trainable:  # What is frozen (by LoRA, say) need not shrink.
                key = id(variable)
                _add(wanted[key], plan, entry, effects[key].strength if key in effects else 0.0)
    for wish in wanted.values():
        # A plan for one means has something to say on the other: γ are not to be counted twice.
        if wish.is_gamma and wish.coupled is None and wish.decoupled:
            wish.coupled = 0.0
        if wish.is_gamma and wish.decoupled is None:
            wish.decoupled = 0.0
    located = places.locate(model)
    gammas = application.gammas(model, located)
    for variable in (at.variable for at in located if id(at.variable) in gammas):
        if variable.trainable and id(variable) not in wanted:
            wanted[id(variable)] = Wish(is_gamma=True, unknown=True)
    return dict(wanted), problems


def by_guidelines(model: keras.Model | Network, guidelines: Any, inputs: Any) -> dict[int, Wish]:
    """`Wish` for each trainable γ: whether it is to shrink, by whatever means."""
    guidelines = Guidelines.get(guidelines)
    wanted: dict[int, Wish] = {}
    roles = find_roles(model, inputs)
    scales = scales_of(roles, guidelines)
    for gamma in [*roles, *scales]:
        if gamma.variable.trainable:
            factor, _ = guidelines.strictest(gamma.calls, scale=gamma in scales)
            # A scale that is stored otherwise than as γ may be spared for that reason.
            shrinks = None if factor and gamma.neutral != 1.0 else factor > 0
            wanted[id(gamma.variable)] = Wish(gamma.role, True, shrinks=shrinks)
    return wanted


def _add(wish: Wish, plan: Any, entry: Any, strength: float) -> None:
    if isinstance(plan, GammaPlan):
        if entry.decision is Decision.NONE:
            return
        wish.role, wish.is_gamma, wish.coupled = entry.role, True, 2 * entry.strength
        wish.was_frozen = entry.reason.startswith("Frozen")
        return
    wish.role = wish.role or entry.role
    wish.is_gamma = wish.is_gamma or entry.kind in ("γ", "scale")
    wish.decoupled, wish.to_start = entry.factor * strength, entry.to is Target.INITIAL


def _missing(plan: Any, entry: Any, model: keras.Model) -> Iterator[str]:
    """A sentence on what a plan applies to, and what is not there."""
    if not isinstance(plan, GammaPlan) or entry.decision is Decision.APPLY:
        yield (
            f"{entry.path}: the plan speaks of it, but there is no such variable in model "
            f"{model.name!r}"
        )
