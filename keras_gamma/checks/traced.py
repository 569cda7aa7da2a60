"""The training step itself: is it Keras' own, and is it what would be traced now?"""

import dataclasses
import json
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import layer_records, shrinkage, step_check

# What Keras' own step is made of. Who replaces one of these may leave the penalties out.
_METHODS = ("train_step", "compute_loss", "compute_loss_and_updates", "stateless_compute_loss",
            "losses")  # fmt: skip
_MARK = "_keras_gamma_settings"


@dataclasses.dataclass
class Step:
    """What is known of the step that `fit` will run.

    Args:
        stale: ids of variables that it treats by old settings.
        problems: list of sentences, on disagreements of no single variable.
        unseen: list of sentences, on what could not be looked at.
    """

    stale: set[int] = dataclasses.field(default_factory=set)
    problems: list[str] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)


def check_step(model: keras.Model) -> Step:
    """Compares the step that was traced, if one was, with one that is traced now."""
    step = Step(problems=left_out(model), unseen=own_methods(model))
    if is_known(model):
        return step
    steps = _keras.traced_steps(model)
    if steps is None:
        step.unseen.append(
            "the training step is compiled already, and this backend does not show it: what was "
            "set since (by other means than keras_gamma, which drops it) waits for model.compile."
        )
        return step
    variables = model.trainable_variables
    for old, new in steps:
        changed = {place for place in new.uses if old.uses.get(place) != new.uses[place]}
        step.stale |= {id(variables[place]) for place in changed}
        if not changed and new.constants - old.constants:
            step.problems.append(
                "the training step that fit has traced holds other constants than one traced now "
                "would: a strength was changed since. Call model.compile again"
            )
    step.problems = list(dict.fromkeys(step.problems))
    return step


def left_out(model: keras.Model) -> list[str]:
    """A sentence, if the training step was seen to leave out penalties that were decided on."""
    paths = [variable.path for variable in layer_records.left_out(model)]
    return [step_check.left_out(model, paths)] if paths else []


def own_methods(model: keras.Model) -> list[str]:
    """Sentences on the parts of the step that are the model's own, so that all is open."""
    return [
        f"{type(model).__name__}.{method} is its own; does it add model.losses, and step with the "
        "model's optimizer?"
        for method in _METHODS
        if hasattr(keras.Model, method)
        and (
            method in vars(model)
            or getattr(type(model), method) is not getattr(keras.Model, method)
        )
    ]


def settings(model: keras.Model) -> str:
    """Everything that decides what shrinks in a step that is traced now, as a text."""
    optimizer = getattr(model, "optimizer", None)
    content: list[Any] = [
        (v.path, _config(v.regularizer) if v.regularizer is not None else None)
        for v in model.trainable_variables
    ]
    if optimizer is not None:
        for part, variables in shrinkage.shared_out(optimizer, model.trainable_variables):
            content.append((id(part), shrinkage.strengths(part), getattr(part, "decay", None)))
            content.append(getattr(part, "decay_to", None))
            content += [_keras.is_decayed(part, v) for v in variables]
    return json.dumps(content, default=repr)


def _config(regularizer: Any) -> Any:
    get = getattr(regularizer, "get_config", None)
    return [type(regularizer).__name__, repr(regularizer) if get is None else get()]


def remember(model: keras.Model) -> None:
    """Notes, on the step that is about to be traced, by which settings it will be."""
    function = getattr(model, "train_function", None)
    if function is not None:
        setattr(function, _MARK, settings(model))


def is_known(model: keras.Model) -> bool:
    """Whether the step was traced by the settings of now, and that was seen (`remember`)."""
    mark = getattr(getattr(model, "train_function", None), _MARK, None)
    return mark is not None and mark == settings(model)
