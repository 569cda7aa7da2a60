"""`DecayGuard`: at the first step of `fit`, is what shrinks what was decided?"""

import warnings
from typing import Any, Literal

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.checks import auditing, intentions, traced
from keras_gamma.checks.answers import COULD_NOT_TELL, NO
from keras_gamma.checks.audit_report import Audit

_LINES = 12


class DecayGuard(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
    """Stops `fit` before its first step if what really shrinks is not what was decided.

    It asks what `keras_gamma.audit` asks: a copy of the optimizer takes a step on small stand-ins
    for the variables (one for all that Keras treats alike), in the dtype that is trained in.
    Nothing of the model is copied or changed: weights, the optimizer's state, the count of steps
    and random seeds stay as they are. It costs less than five steps of training, once in each
    `fit` (on JAX, which compiles what is asked, some tenths of a second), and again if the model is
    compiled anew in between. It works with every strategy, backend and optimizer; what it cannot
    look at (a `train_step` of the model's own, a step that JAX had compiled before the guard came)
    it names in a warning.

    Args:
        plan: what was decided: a `GammaPlan`, a `DecayPlan`, or a list of both. By default, what
            was applied to the model and to its optimizer.
        on_disagreement: `"raise"` a `RuntimeError`, or `"warn"` and train on.

    Attributes:
        audit: the `Audit` of the last check, or `None`.

    Raises:
        TypeError: if `plan` is not a plan.
        ValueError: for another `on_disagreement`.

    Example:

    >>> import keras, keras_gamma, numpy as np
    >>> x = keras.Input((4,))
    >>> y = keras.layers.LayerNormalization(name="ln")(x)
    >>> model = keras.Model(x, keras.layers.Dense(1, name="out")(y))
    >>> plan = keras_gamma.plan_weight_decay(model)
    >>> model.compile(keras.optimizers.AdamW(weight_decay=0.1), "mse")  # The plan is forgotten.
    >>> guard = keras_gamma.callbacks.DecayGuard(plan)
    >>> try:
    ...     history = model.fit(np.ones((2, 4)), np.ones((2, 1)), callbacks=[guard], verbose=0)
    ... except RuntimeError as error:
    ...     print(str(error).splitlines()[1])
    - ln/gamma: weight decay takes off 0.1, but the plan says that it is not decayed
    """

    def __init__(self, plan: Any = None, on_disagreement: Literal["raise", "warn"] = "raise"):
        super().__init__()
        if on_disagreement not in ("raise", "warn"):
            raise ValueError(
                f'`on_disagreement` must be "raise" or "warn". Received: {on_disagreement!r}'
            )
        intentions.check_plan(plan)
        self.audit: Audit | None = None
        self._plan = plan
        self._on_disagreement = on_disagreement
        self._checked: tuple[Any, Any] | None = None  # The step and the optimizer.
        self._has_run = True

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._trained = self.model

    def on_train_begin(self, logs: Any = None) -> None:
        self._checked = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Not `self.model`, which on JAX brings all weights back from the step: at each step anew.
        now = (getattr(self._trained, "train_function", None), self._trained.optimizer)
        if self._checked is None or any(
            a is not b for a, b in zip(now, self._checked, strict=True)
        ):
            self._checked = now
            self.audit = _look(self.model, self._plan)
            self._tell(self.audit, "before the first step")
            self._has_run = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._has_run:
            self._has_run = True
            known = [] if self.audit is None else self.audit.disagreements
            new = [one for one in traced.left_out(self.model) if one not in known]
            if new and self.audit is not None:
                self.audit = self.audit.including(new)
                self._tell(self.audit, "after the first step")

    def on_train_end(self, logs: Any = None) -> None:
        self._checked = None

    def _tell(self, found: Audit, when: str) -> None:
        if found.answer == NO:
            text = _text(
                f"what shrinks in model {self.model.name!r} is not what was decided:",
                found.disagreements,
            )
            if self._on_disagreement == "raise":
                raise RuntimeError(f"Stopped {when}, for {text}")
            warnings.warn(f"DecayGuard: {text}", stacklevel=2)
        elif found.answer == COULD_NOT_TELL:
            text = _text(
                f"could not tell whether model {self.model.name!r} shrinks as decided:",
                found.unseen,
            )
            warnings.warn(f"DecayGuard {text}", stacklevel=2)


def _text(head: str, sentences: list[str]) -> str:
    lines = [head, *(f"- {sentence}" for sentence in sentences[:_LINES])]
    if len(sentences) > _LINES:
        lines.append(f"- and {len(sentences) - _LINES} more; keras_gamma.audit(model) lists them")
    return "\n".join(lines)


def _look(model: keras.Model, plan: Any) -> Audit:
    """The audit, as of the step that is about to be taken."""
    measured = auditing.measure(model, thorough=False)
    plans = intentions.plans_of(model, plan)
    wanted, problems = intentions.by_plans(model, plans, measured) if plans else ({}, [])
    if _keras.traced_before(model) is False:
        # It will be traced now, by the settings that were just measured.
        traced.remember(model)
        step = traced.Step(problems=traced.left_out(model), unseen=traced.own_methods(model))
    else:
        step = traced.check_step(model)
    if not plans:
        step.unseen.append(
            "nothing was decided: no plan is known on this model or its optimizer. Apply the "
            "guidelines, or give DecayGuard the plan"
        )
    return auditing.report(model, measured, wanted, problems, step)
