"""`GammaPlan`: what is to be done to every γ, decided once, as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras

from keras_gamma.decay import doses, plan_diff
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.plan_entry import Decision, PlanEntry, read_entry
from keras_gamma.decay.stored_plan import StoredPlan
from keras_gamma.decay.units import check_strength
from keras_gamma.report.columns import Column, number
from keras_gamma.roles.classification import Role

if TYPE_CHECKING:
    from keras_gamma.decay.application import AppliedPlan


class GammaPlan(StoredPlan[PlanEntry]):
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
    version = 2
    what = "keras_gamma plan"
    columns = (
        Column("path", "γ"),
        Column("kind"),
        Column("role", colored=True),
        Column("decision"),
        Column("strength", "l2", number),
        Column("reason", prose=True),
    )

    def __init__(self, entries: Iterable[PlanEntry], guidelines: Guidelines, l2: float) -> None:
        super().__init__(entries, guidelines)
        self.l2 = l2

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

    def _strength(self) -> dict[str, Any]:
        return {"l2": self.l2}

    @classmethod
    def _read(cls, content: dict[str, Any], guidelines: Guidelines) -> GammaPlan:
        l2 = check_strength("l2", content["l2"])
        entries = (read_entry(n, e, cls.what) for n, e in enumerate(content["entries"]))
        return GammaPlan(entries, guidelines, l2)

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
