"""`GammaPlan`: what is to be done to every γ, decided once, as data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import keras

from keras_gamma._enums import StrEnum
from keras_gamma.decay import doses, plan_diff, plan_files
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.units import check_strength
from keras_gamma.report.base import Report
from keras_gamma.report.columns import Column, number
from keras_gamma.roles.classification import Role

if TYPE_CHECKING:
    from keras_gamma.decay.application import AppliedPlan

_WHAT = "keras_gamma plan"
_VERSION = 2


class Decision(StrEnum):
    """`apply`: L2 acts on it; `withhold`: it does not; `none`: there is no γ to decide on."""

    APPLY = "apply"
    WITHHOLD = "withhold"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class PlanEntry:
    """What is done to one γ.

    Args:
        path: string, the variable's path (the layer's, where there is no γ).
        kind: string, `"batch"`, `"layer"`, ...
        role: a `Role`, or `None` where there is no γ.
        decision: a `Decision`.
        strength: float, the `l2` of the penalty `l2 · Σγ²`; 0.0 if nothing is applied.
        reason: string, one plain sentence, or two.
        neutral: 1.0, or 0.0 where the layer stores γ − 1, or `None` where it is not known.
        place: string, where the variable is in the structure of the model (`"2.0:1"`: variable 1 of
            layer 0 of layer 2); empty where there is no γ.
    """

    path: str
    kind: str
    role: Role | None
    decision: Decision
    strength: float
    reason: str
    neutral: float | None = 1.0
    place: str = ""


def decide(
    roles: Any, guidelines: Guidelines, l2: float, places: Mapping[int, str] | None = None
) -> tuple[PlanEntry, ...]:
    """The plan for a `RoleReport`. Pure: nothing is set.

    Args:
        roles: a `RoleReport` (or anything alike: entries, and `notes`).
        guidelines: a `Guidelines`.
        l2: float, Keras' convention, before the factors.
        places: dict from the `id` of each variable to its place (see `keras_gamma.decay.places`).

    Returns:
        A tuple of `PlanEntry`.
    """
    entries = []
    scales = scales_of(roles, guidelines)
    for gamma in [*roles, *scales]:
        is_scale = gamma in scales
        # The call that decides also names the role: a shared layer is never shown under one
        # whose factor it did not get.
        factor, call = guidelines.strictest(gamma.calls, scale=is_scale)
        strength = factor * l2
        role, reason = gamma.role, gamma.reason
        if call.role is not gamma.role:
            role = call.role
            reason = f"Its layer is called {len(gamma.calls)} times; strictest: {call.reason}"
        if strength and gamma.neutral is None:
            strength = 0.0
            reason += " How its scale is stored is not known: register_normalization tells."
        elif strength and gamma.neutral == 0.0:
            reason += " The layer multiplies by γ = 1 + variable; the penalty is on 1 + variable."
        if strength and is_scale:
            reason += EFFECT_ON_SCALE
        if strength and not gamma.variable.trainable:
            reason = f"Frozen (trainable=False): no penalty until it is unfrozen. {reason}"
        decision = Decision.APPLY if strength > 0 else Decision.WITHHOLD
        place = (places or {}).get(id(gamma.variable), "")
        entries.append(
            PlanEntry(
                gamma.path, gamma.kind, role, decision, strength, reason, gamma.neutral, place
            )
        )
    for note in roles.notes:
        if note in scales:
            continue
        entries.append(PlanEntry(note.path, note.kind, None, Decision.NONE, 0.0, note.reason))
    return tuple(entries)


# LayerScale may start at 1e-5, and weight normalization's g at a length: none starts at 0 or 1.
EFFECT_ON_SCALE = (
    " Decay pulls it to 0, not to where it started: what it scales is weakened as a branch by γ."
)


def scales_of(roles: Any, guidelines: Guidelines) -> list[Any]:
    """The notes on other learned scales that the guidelines treat as γ; none by default.

    Args:
        roles: a `RoleReport`, or anything alike.
        guidelines: a `Guidelines`.
    """
    if not guidelines.scales:
        return []
    return [note for note in roles.notes if note.role is not None and note.variable is not None]


class GammaPlan(Report[PlanEntry]):
    """What keras_gamma does to every γ of a model: a sequence of `PlanEntry`.

    A value: printed, it is a table; it can be stored, compared, and put onto a rebuilt or
    reloaded model. What comes back from that, and from `apply_guidelines`, is an equal plan which
    knows its model, so that it can be taken back: `remove()`.

    Args:
        entries: iterable of `PlanEntry`.
        guidelines: the `Guidelines` it came from.
        l2: float, the strength before the factors, in Keras' convention.

    Raises:
        ValueError: if two entries have the same path.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.LayerNormalization(name="ln")(x))
    >>> plan = keras_gamma.apply_guidelines(model, weight_decay=1e-4, guidelines="all")
    >>> [(entry.path, entry.strength) for entry in plan]
    [('ln/gamma', 5e-05)]
    >>> model.get_layer("ln").gamma_regularizer.l2
    5e-05
    >>> plan.remove()
    >>> model.get_layer("ln").gamma_regularizer is None
    True
    """

    format = "keras_gamma.plan"
    columns = (
        Column("path", "γ"),
        Column("kind"),
        Column("role", colored=True),
        Column("decision"),
        Column("strength", "l2", number),
        Column("reason", prose=True),
    )

    def __init__(self, entries: Iterable[PlanEntry], guidelines: Guidelines, l2: float) -> None:
        super().__init__(entries)
        self.guidelines = guidelines
        self.l2 = l2
        plan_files.require_unique("A plan", (e.path for e in self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GammaPlan):
            return NotImplemented
        mine, theirs = ((plan._entries, plan.guidelines, plan.l2) for plan in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    # Reading --------------------------------------------------------------------------------

    def counts(self) -> dict[Decision, int]:
        """How many entries have each decision: a dict with every `Decision`."""
        return self._counts(Decision, "decision")

    def summary(
        self,
        learning_rate: doses.Rates | None = None,
        steps: int | None = None,
        momentum: float | None = None,
    ) -> str:
        """The counts, the strength in both units, and the guidelines.

        With a learning rate, also what decay alone would leave of the γ of each role at the end of
        a run with `keras.optimizers.SGD`, whose momentum L2 passes through (`units.dose`). Under
        Adam and its kin no such number is known: L2 is divided by √v there.

        Args:
            learning_rate: float, schedule, or the learning rates of all steps.
            steps: integer: updates of the run. Not for a list of learning rates.
            momentum: float in [0, 1): of SGD. To be given with `learning_rate`.

        Returns:
            A string.

        Raises:
            ValueError: for a learning rate without a momentum, or the other way about, and as
                `units.dose`.

        Example:

        >>> import keras, keras_gamma
        >>> x = keras.Input((4,))
        >>> model = keras.Model(x, keras.layers.LayerNormalization(name="ln")(x))
        >>> plan = keras_gamma.apply_guidelines(model, weight_decay=1e-4, guidelines="all")
        >>> schedule = keras.optimizers.schedules.CosineDecay(0.1, 60_000)
        >>> plan.summary(schedule, 60_000, momentum=0.9).splitlines()[-1]
        'Over 60,000 steps decay alone would leave 5% of trunk γ (dose 3).'
        """
        if (learning_rate is None) != (momentum is None) or (steps and learning_rate is None):
            raise ValueError(
                "L2 passes through the momentum of SGD, so `learning_rate` and `momentum` (0 if "
                "there is none) are given together, and `steps` with them. Received: "
                f"learning_rate={learning_rate!r}, steps={steps!r}, momentum={momentum!r}"
            )
        if not len(self):
            return "No normalization layer in this model: there is no γ, and nothing was done."
        counts = self.counts()
        total = counts[Decision.APPLY] + counts[Decision.WITHHOLD]
        roles = ", ".join(f"{r} {n}" for r in Role if (n := sum(e.role is r for e in self)))
        told = (
            f"{total} γ: apply {counts[Decision.APPLY]}, withhold {counts[Decision.WITHHOLD]} "
            f"({roles or 'none'}). l2 = {self.l2:.4g} (penalty l2·Σγ²; "
            f"weight_decay = {2 * self.l2:.4g} in torch's units). Guidelines: {self.guidelines}"
        )
        if learning_rate is None or momentum is None:
            return told
        strengths = [(str(entry.role), 2 * entry.strength) for entry in self if entry.role]
        dose = doses.tell(strengths, learning_rate, steps, momentum)
        return f"{told}\n{dose or 'No γ decays.'}"

    def diff(self, stored: GammaPlan) -> list[str]:
        """What differs from a stored plan: for a golden file under version control.

        Compared are path, role, decision and strength (of the reasons, which are prose, nothing).

        Args:
            stored: a `GammaPlan`.

        Returns:
            A list of sentences, one for each γ that differs; empty if none does.

        Example:

        >>> import keras, keras_gamma
        >>> x = keras.Input((4,))
        >>> model = keras.Model(x, keras.layers.LayerNormalization(name="ln")(x))
        >>> stored = keras_gamma.apply_guidelines(model, l2=0.5)
        >>> keras_gamma.apply_guidelines(model, l2=0.5, guidelines="all").diff(stored)
        ['ln/gamma: decision withhold -> apply, l2 0 -> 0.5']
        """
        return plan_diff.differences(self, stored)

    # Storing --------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The plan as a JSON text that `from_json` reads back to an equal plan."""
        return plan_files.to_json(
            self.format,
            _VERSION,
            guidelines=dataclasses.asdict(self.guidelines),
            l2=self.l2,
            entries=[dataclasses.asdict(entry) for entry in self],
        )

    @classmethod
    @plan_files.in_one_line()
    def from_json(cls, text: str | bytes) -> GammaPlan:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if `text` is not such a plan; the message says where.
        """
        content = plan_files.from_json(text, cls.format, _VERSION, _WHAT)
        try:
            guidelines = Guidelines(**content["guidelines"])
            l2 = check_strength("l2", content["l2"])
            entries = [read_entry(number, e) for number, e in enumerate(content["entries"])]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Malformed {_WHAT}: {type(error).__name__}: {error}") from None
        return GammaPlan(entries, guidelines, l2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json()` to the file `path`."""
        plan_files.save(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GammaPlan:
        """Reads a plan that `save` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is not a plan.
        """
        text = plan_files.load(path, _WHAT)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    # Applying -------------------------------------------------------------------------------

    def apply(self, model: keras.Model, overwrite: bool = False) -> AppliedPlan:
        """Puts this plan onto `model`: for a model that was rebuilt or reloaded.

        Variables are found by their paths, or, where a rebuilt model has other paths, by their
        places in its structure; then paths may differ only as Keras itself changes them.
        Regularizers that are there already and equal to the plan's are taken for the plan's own. If
        anything does not fit, nothing is changed.

        Args:
            model: a built `keras.Model`.
            overwrite: bool. Whether to replace regularizers that somebody else set.

        Returns:
            An equal plan, which can be taken back with `remove()`.

        Raises:
            TypeError: if `model` is not a Keras model.
            ValueError: if `model` lacks a γ of the plan or has one that the plan does not know
                (both are listed), or if a γ has another regularizer.
        """
        from keras_gamma.decay import application  # It knows plans; a plan needs no model.

        return application.apply(self, model, overwrite)

    def remove(self) -> None:
        """Takes back exactly what this plan set; earlier regularizers are put back.

        What was changed since, by another plan or by hand, is left as it is.

        Raises:
            ValueError: if the plan was not applied to a model in this process.
        """
        raise ValueError(
            "This plan has not been applied to a model here, so there is nothing to take back. "
            "For a reloaded model: applied = plan.apply(model), then applied.remove()."
        )


def read_entry(number: int, content: Any) -> PlanEntry:
    """The `number`th entry of a plan, from what `dataclasses.asdict` made of it.

    Raises:
        ValueError: if it is none.
    """
    where = f"Malformed {_WHAT}: entry {number}"
    content = plan_files.fields_of(content, PlanEntry, where)
    where = f"{where} ({content['path']!r})"
    try:
        content["role"] = None if content["role"] is None else Role(content["role"])
        content["decision"] = Decision(content["decision"])
    except ValueError as error:
        raise ValueError(
            f"{where}: {error}. Roles are: {', '.join(Role)}; decisions: {', '.join(Decision)}."
        ) from None
    if content["role"] is None and content["decision"] is not Decision.NONE:
        raise ValueError(f"{where} is decided on without a role.")
    content["strength"] = check_strength(f"strength of {content['path']}", content["strength"])
    if content["neutral"] not in (0, 1, None):
        raise ValueError(f"{where} has an invalid neutral value: {content['neutral']!r}")
    applies = content["decision"] is Decision.APPLY
    if applies and content["neutral"] is None:
        raise ValueError(f"{where} applies a penalty to an unknown scale.")
    if applies != (content["strength"] > 0):
        raise ValueError(
            f"{where} has decision {content['decision']} but strength {content['strength']}."
        )
    return PlanEntry(**content)
