"""Which calls are going on: who trains, exports or saves the model that a layer is asked for.

Private names used here, and why there is no public way:

* The names of `fit`, `train_on_batch` and `train_step` on the stack: a layer does not know who
  trains it, nor an optimizer what.
* The name `ExportArchive` at the end of a class's: what `keras.export.ExportArchive()` returns is
  no instance of it.
* The argument `model` of `keras.saving.save_model`: a layer does not know what is saved with it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import keras

from keras_gamma._keras.stepping import is_compiled_by_torch, optimizers_of

_STEPS = ("train_step", "fit", "train_on_batch")
_EXPORTS = ("add_endpoint", "write_out")  # TensorFlow traces in the second.
_SAVE_MODEL = inspect.unwrap(keras.saving.save_model).__code__
# `keras.saving.save_weights` is what the method calls; older versions may lack it.
_SAVE_WEIGHTS = {
    inspect.unwrap(function).__code__
    for function in (keras.Model.save_weights, getattr(keras.saving, "save_weights", None))
    if function is not None
}


class Asker(NamedTuple):
    """Who runs a forward pass.

    Args:
        trainer: the model with an optimizer whose training is running, the innermost one.
        archive: the `keras.export.ExportArchive` that traces it.
        exporter: the model whose `export` made that archive, if none was made by hand.
    """

    trainer: keras.Model | None = None
    archive: Any = None
    exporter: keras.Model | None = None


def _stack() -> Iterator[FrameType]:
    """The calls that are going on, inner ones first; none where the stack is not to be seen."""
    if is_compiled_by_torch():
        return  # What is compiled was run before.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def asked_by() -> Asker:
    """Who runs the forward pass that is going on, if it is known."""
    archive = None
    for frame in _stack():
        name = frame.f_code.co_name
        if name.endswith(_STEPS):
            found = frame.f_locals.get("self")
            if isinstance(found, keras.Model) and optimizers_of(found):
                return Asker(trainer=found)
        elif name in _EXPORTS:
            found = frame.f_locals.get("self")
            archive = found if type(found).__name__.endswith("ExportArchive") else archive
        elif name == "export" and isinstance(frame.f_locals.get("self"), keras.Model):
            return Asker(archive=archive, exporter=frame.f_locals["self"])
    return Asker(archive=archive)


def models_asking() -> Iterator[keras.Model]:
    """The models of which a method is running, inner ones first."""
    seen: set[int] = set()
    for frame in _stack():
        if "self" in frame.f_code.co_varnames:
            found = frame.f_locals.get("self")
            if isinstance(found, keras.Model) and id(found) not in seen:
                seen.add(id(found))
                yield found


def running_step(model: keras.Model) -> Hashable | None:
    """The run (or the trace) of `model.train_step` that is going on in this thread, or `None`.

    Returns:
        What stays the same for as long as it runs. In another run it is something else, unless it
        was called from the same place with nothing counted there.
    """
    step: FrameType | None = None
    for called in _stack():
        if called.f_code.co_name.endswith("train_step") and called.f_locals.get("self") is model:
            step = called  # The outermost: it may call others of that name, one after another.
    if step is None:
        return None
    # Functions around it wait: neither where they are nor what they count changes.
    around: list[Hashable] = [id(step)]
    frame: FrameType | None = step.f_back
    while frame is not None and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        own = set(frame.f_code.co_varnames) - set(frame.f_code.co_cellvars)
        counts = tuple(v for n, v in frame.f_locals.items() if n in own and type(v) is int)
        around.append((id(frame), frame.f_lasti, counts))
        if frame.f_code.co_name == "fit":
            break
        frame = frame.f_back
    return tuple(around)


def model_being_saved() -> keras.Model | None:
    """The model that is being written to an archive, or `None`."""
    for frame in _stack():
        if frame.f_code is _SAVE_MODEL:
            found = frame.f_locals.get("model")
            return found if isinstance(found, keras.Model) else None
    return None


def only_weights_are_saved() -> bool:
    """Whether a file of weights is being written, and not for a backup of the same run."""
    is_saving = any(frame.f_code in _SAVE_WEIGHTS for frame in _stack())
    return is_saving and not is_running(keras.callbacks.BackupAndRestore)


def is_running(kind: type) -> bool:
    """Whether a method of an object of class `kind` is running."""
    return any(isinstance(frame.f_locals.get("self"), kind) for frame in _stack())
