"""`DecayPlan`: what weight decay is to do to every variable, decided once, as data."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras

from keras_gamma.decay import doses, plan_files, targets
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.stored_plan import StoredPlan
from keras_gamma.decay.targets import Target
from keras_gamma.decay.units import check_strength
from keras_gamma.report.columns import Column
from keras_gamma.roles.classification import Role

if TYPE_CHECKING:
    from keras_gamma.decay.decoupled import AppliedDecayPlan


@dataclasses.dataclass(frozen=True)
class DecayEntry:
    """Whether, and how strongly, weight decay acts on one trainable variable.

    Args:
        path: string, the variable's path; a second variable of that path gets `#2`.
        kind: string: `"γ"`, `"scale"` (another learned scale), `"β"`, `"bias"`, `"1-d"` or
            `"weight"`.
        role: a `Role` for γ and scales, else `None`.
        factor: float ≥ 0 that multiplies the optimizer's `weight_decay`; 0.0 excludes.
        reason: string, one plain sentence.
        place: string, where the variable is in the structure of the model (`"2.0:1"`: variable 1 of
            layer 0 of layer 2).
        to: `"zero"` or `"initial"`: where decay leads it.
    """

    path: str
    kind: str
    role: Role | None
    factor: float
    reason: str
    place: str = ""
    to: Target = Target.ZERO

    @property
    def decayed(self) -> bool:
        """Whether weight decay acts on it at all."""
        return self.factor > 0


def _verdict(factor: float) -> str:
    if not factor:
        return "not decayed"
    return "decayed" if factor == 1 else f"decayed ×{factor:g}"


class DecayPlan(StoredPlan[DecayEntry]):
    """What weight decay does to every trainable variable of a model. Printed, it is a table.

    A value: it can be stored, compared, given to an optimizer of `keras_gamma.optimizers`, and put
    onto an optimizer. Variables that are frozen now have an entry, too: they will be treated by it
    when they are unfrozen.

    Args:
        entries: iterable of `DecayEntry`, one for each variable that is trained unless frozen.
        guidelines: the `Guidelines` behind the decisions on γ.
        weight_decay: float, `None` if the optimizer has none, or `"?"` if no optimizer is known.

    Raises:
        ValueError: if two entries have the same path.
    """

    format = "keras_gamma.decay_plan"
    version = 1
    what = "decay plan"
    columns = (
        Column("path", "variable"),
        Column("kind"),
        Column("role", colored=True),
        Column("factor", "decision", _verdict),
        Column("reason", prose=True),
    )

    def __init__(
        self,
        entries: Iterable[DecayEntry],
        guidelines: Guidelines,
        weight_decay: float | str | None = "?",
    ) -> None:
        super().__init__(entries, guidelines)
        self.weight_decay = weight_decay
        self._made_for: weakref.ref[keras.Model] | None = None

    @property
    def made_for(self) -> keras.Model | None:
        """The model that the plan was made for here, if it is alive; no part of the value."""
        return None if self._made_for is None else self._made_for()

    @made_for.setter
    def made_for(self, model: keras.Model) -> None:
        self._made_for = weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made_for": None}

    def factors(self) -> dict[str, float]:
        """Path -> factor, for the optimizers of `keras_gamma.optimizers`."""
        return {entry.path: entry.factor for entry in self}

    def targets(self) -> dict[str, Target]:
        """Path -> where decay leads it, for the optimizers of `keras_gamma.optimizers`."""
        return {entry.path: entry.to for entry in self}

    # Storing --------------------------------------------------------------------------------

    def _strength(self) -> dict[str, Any]:
        return {"weight_decay": self.weight_decay}

    @staticmethod
    def _written(entry: Any) -> dict[str, Any]:
        content = dataclasses.asdict(entry)
        if entry.to is Target.ZERO:  # As before there was a choice: older versions read it.
            del content["to"]
        return content

    @classmethod
    def _read(cls, content: dict[str, Any], guidelines: Guidelines) -> DecayPlan:
        strength = content["weight_decay"]
        if strength not in (None, "?"):
            strength = check_strength("weight_decay", strength)
        entries = (read_entry(n, e, cls.what) for n, e in enumerate(content["entries"]))
        return DecayPlan(entries, guidelines, strength)

    # Applying -------------------------------------------------------------------------------

    def apply(self, optimizer: Any, model: keras.Model) -> AppliedDecayPlan:
        """Puts this plan onto an optimizer: for a model that was rebuilt or reloaded.

        Variables are found as by `GammaPlan.apply`.

        Args:
            optimizer: as for `exclude_from_weight_decay`.
            model: a `keras.Model` with the variables that the plan names.

        Returns:
            The plan that was read back from the optimizer, which can be taken back with `remove()`.

        Raises:
            ValueError: if the plan does not name every trainable variable of `model`, and for
                what `exclude_from_weight_decay` refuses. Nothing is changed then.
        """
        from keras_gamma.decay import decoupled  # It knows plans; a plan needs no optimizer.

        return decoupled.apply(self, optimizer, model)

    def remove(self) -> None:
        """Takes back what this plan excluded.

        Raises:
            ValueError: if the plan was not put onto an optimizer in this process.
        """
        raise ValueError(
            "This plan has not been put onto an optimizer here, so there is nothing to take back: "
            "call remove() on what exclude_from_weight_decay or plan.apply returned."
        )

    # Reading --------------------------------------------------------------------------------

    def summary(self, learning_rate: doses.Rates | None = None, steps: int | None = None) -> str:
        """The counts, the strength, and the guidelines.

        With a learning rate, also what decay alone would leave of the γ of each role at the end of
        a run (`units.dose`).

        Args:
            learning_rate: float, schedule, or the learning rates of all steps.
            steps: integer: updates of the run. Not for a list of learning rates.

        Returns:
            A string.

        Raises:
            ValueError: for a learning rate where the plan knows no `weight_decay`, for steps
                without a learning rate, and as `units.dose`.
        """
        if steps is not None and learning_rate is None:
            raise ValueError(f"`steps` needs a `learning_rate`. Received: steps={steps!r}")
        decayed = sum(e.decayed for e in self)
        counts = f"{len(self)} trainable variables: {decayed} decayed, {len(self) - decayed} not."
        if self.weight_decay is None:
            return f"{counts} The optimizer's weight_decay is None: NOTHING decays."
        if not isinstance(self.weight_decay, str):
            counts += (
                f" weight_decay = {self.weight_decay:g} "
                "(w ← w − learning_rate · weight_decay · w, before each step)."
            )
        if back := sum(e.decayed and e.to is Target.INITIAL for e in self):
            counts += (
                f" {back} of the decayed are led back to their start, w₀ (w ← w − learning_rate · "
                "weight_decay · (w − w₀)), not to 0."
            )
        told = f"{counts} Guidelines: {self.guidelines}"
        if learning_rate is None:
            return told
        if isinstance(self.weight_decay, str):
            raise ValueError(
                "This plan knows no weight_decay, so what decay leaves cannot be told. Call "
                "summary of what exclude_from_weight_decay(optimizer, model) returns."
            )
        gammas = [entry for entry in self if entry.role and entry.to is Target.ZERO]
        strengths = [(str(entry.role), self.weight_decay * entry.factor) for entry in gammas]
        return f"{told}\n{doses.tell(strengths, learning_rate, steps) or 'No γ decays to 0.'}"


def read_entry(number: int, content: Any, what: str) -> DecayEntry:
    """The `number`th entry of a plan, from what `dataclasses.asdict` made of it.

    Raises:
        ValueError: if it is none.
    """
    where = f"Malformed {what}: entry {number}"
    if isinstance(content, dict):
        content = {"to": Target.ZERO, **content}
    content = plan_files.fields_of(content, DecayEntry, where)
    try:
        content["to"] = targets.check(content["to"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        content["role"] = None if content["role"] is None else Role(content["role"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Roles are: {', '.join(Role)}.") from None
    content["factor"] = check_strength(f"factor of {content['path']}", content["factor"])
    return DecayEntry(**content)
