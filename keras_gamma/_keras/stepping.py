"""Models with a training step: which there are, what they hold, and how Keras asks their layers.

Private names used here, and why there is no public way:

* `Layer._get_call_context`, `Layer._get_own_losses`: what Keras asks of every layer in a forward
  pass, and where a model's losses are gathered, whatever model holds the layer (`ASKED_IN_A_STEP`).
* `CallContext.entry_layer`: the layer whose call began the pass.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import keras

from keras_gamma._keras.layers import flatten_layers

ASKED_IN_A_STEP = ("_get_call_context", "_get_own_losses")


def outermost(context: Any) -> Any:
    """The layer whose call began a forward pass, by the context that Keras hands through it.

    `None` in what torch compiles, which was run before.
    """
    if is_compiled_by_torch():
        return None
    return getattr(context, "entry_layer", None)


def optimizers_of(holder: Any) -> list[keras.optimizers.Optimizer]:
    """The optimizers that a model, or an optimizer, has as attributes: what it is compiled with."""
    found: dict[int, keras.optimizers.Optimizer] = {}
    for name, value in vars(holder).items():
        if isinstance(value, keras.optimizers.Optimizer):
            found[id(value)] = value
        elif isinstance(value, (list, tuple, dict)) and not name.startswith("_"):
            values = value.values() if isinstance(value, dict) else value
            found.update((id(v), v) for v in values if isinstance(v, keras.optimizers.Optimizer))
    return list(found.values())


def is_compiled_by_torch() -> bool:
    """Whether torch compiles the code that is running, and runs it in a way of its own."""
    if keras.backend.backend() != "torch":
        return False
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
