"""Which model takes the training step that is running, and which models hold a layer.

Private names used here, and why there is no public way:

* `Layer._get_call_context`, `Layer._get_own_losses`: what Keras asks of every layer in a forward
  pass, and where a model's losses are gathered, whatever model holds the layer (`ASKED_IN_A_STEP`).
* `CallContext.entry_layer`: the layer whose call began the pass.
* The names of `fit`, `train_on_batch` and `train_step` on the stack: a layer does not know who
  trains it, nor an optimizer what.
* The name `ExportArchive` at the end of a class's: what `keras.export.ExportArchive()` returns is
  no instance of it.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Hashable, Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import keras

from keras_gamma._keras.layers import flatten_layers

ASKED_IN_A_STEP = ("_get_call_context", "_get_own_losses")
_STEPS = ("train_step", "fit", "train_on_batch")
_EXPORTS = ("add_endpoint", "write_out")  # TensorFlow traces in the second.


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
    if keras.backend.backend() == "torch" and _is_compiled_by_torch():
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


def outermost(context: Any) -> Any:
    """The layer whose call began a forward pass, by the context that Keras hands through it.

    `None` in what torch compiles, which was run before.
    """
    if keras.backend.backend() == "torch" and _is_compiled_by_torch():
        return None
    return getattr(context, "entry_layer", None)


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


def optimizers_of(holder: Any) -> list[keras.optimizers.Optimizer]:
    """The optimizers that a model, or an optimizer, has as attributes: what it is compiled with."""
    found: dict[int, keras.optimizers.Optimizer] = {}
    for name, value in vars(holder).items():
        if isinstance(value, (list, tuple, dict)) and not name.startswith("_"):
            values = list(value.values()) if isinstance(value, dict) else list(value)
        else:
            values = [value]
        found.update((id(v), v) for v in values if isinstance(v, keras.optimizers.Optimizer))
    return list(found.values())


def _is_compiled_by_torch() -> bool:
    import torch

    return bool(torch.compiler.is_compiling())


def models_around(layers: Iterable[keras.Layer]) -> list[keras.Model]:
    """The living models with a training step that hold one of `layers`.

    Layers do not know by what they are held, so that all models that there are have to be asked.
    """
    wanted = {id(layer) for layer in layers}
    return [
        model
        for model in living_models()
        if any(id(layer) in wanted for layer in flatten_layers(model))
    ]


def living_models() -> list[keras.Model]:
    """All models that there are and have a training step."""
    kinds: set[type] = set()
    todo = [keras.Model]
    while todo:
        kind = todo.pop()
        if kind not in kinds:
            kinds.add(kind)
            todo += kind.__subclasses__()
    # Every object refers to its class. (What refers to one is not asked anything.)
    return [
        model
        for model in gc.get_referrers(*kinds)
        if type(model) in kinds
        if getattr(model, "train_function", None) is not None
        or getattr(model, "test_function", None) is not None
    ]
