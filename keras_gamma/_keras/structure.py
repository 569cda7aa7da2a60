"""Where a variable is in a model, and where Keras' archives put it.

* `Layer._trainable_variables`, `Layer._non_trainable_variables`: what a layer holds itself; no
  public list leaves out the layers inside, or tells a frozen weight from a moving mean.
* `saving_lib._walk_saveable` and the naming of containers in `saving_lib._save_container_state`:
  the place in an archive under which `model.save` writes what a layer or an optimizer holds, and
  under which it is read again. Names have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.utils import naming


def own_variables(layer: keras.Layer) -> list[tuple[keras.Variable, bool]]:
    """The variables that `layer` holds itself, and whether each is trained unless it is frozen."""
    trained = [(variable, True) for variable in layer._trainable_variables]
    return trained + [(variable, False) for variable in layer._non_trainable_variables]


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that `layer` owns directly. Inputs, which come and go with a config, left out."""
    return [child for child in layer._layers if not isinstance(child, keras.layers.InputLayer)]


def saveables(root: Any) -> Iterator[tuple[str, Any]]:
    """Pairs `(place in an archive, object)` for all that `root.save` would write, each once."""
    yield from _saveables(root, "", set())


def _saveables(saveable: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(saveable) in seen:
        return
    seen.add(id(saveable))
    yield place, saveable
    for name, child in saving_lib._walk_saveable(saveable):
        inner = f"{place}/{name}" if place else name
        if isinstance(child, KerasSaveable):
            yield from _saveables(child, inner, seen)
        elif isinstance(child, (list, dict, tuple)):
            yield from _in_container(child, inner, seen, set())


def _in_container(
    container: Any, place: str, seen: set[int], containers: set[int]
) -> Iterator[tuple[str, Any]]:
    if id(container) in containers:
        return
    containers.add(id(container))
    used: dict[str, int] = {}
    for item in list(container.values()) if isinstance(container, dict) else container:
        if isinstance(item, KerasSaveable):
            name = _unique(naming.to_snake_case(type(item).__name__), used)
            yield from _saveables(item, f"{place}/{name}", seen)
        elif isinstance(item, (list, dict, tuple)):
            name = _unique("container", used)
            yield from _in_container(item, f"{place}/{name}", seen, containers)


def _unique(name: str, used: dict[str, int]) -> str:
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name
