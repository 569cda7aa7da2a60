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

# From Keras 3.15 on a list within a list is looked into; before, what it holds is found elsewhere.
# (By what the function calls: Keras 3.12.4 has its arguments, and does not look.)
_LOOKS_INTO_NESTED = "_save_container_state" in saving_lib._save_container_state.__code__.co_names


def own_variables(layer: keras.Layer) -> list[tuple[keras.Variable, bool]]:
    """The variables that `layer` holds itself, and whether each is trained unless it is frozen."""
    trained = [(variable, True) for variable in layer._trainable_variables]
    return trained + [(variable, False) for variable in layer._non_trainable_variables]


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that `layer` owns directly. Inputs, which come and go with a config, left out."""
    return [child for child in layer._layers if not isinstance(child, keras.layers.InputLayer)]


def saveables(root: Any) -> Iterator[tuple[str, Any]]:
    """Pairs `(place in an archive, object)` for all that `root.save` would write, each once."""
    yield from _Walk(_LOOKS_INTO_NESTED).saveables(root, "")


def places(root: Any) -> dict[str, Any]:
    """Place in an archive -> object, for archives that any version of Keras has written.

    Versions differ in where they come upon an object first. A place leads to one object in all.
    """
    found = dict(_Walk(not _LOOKS_INTO_NESTED).saveables(root, ""))
    return {**found, **dict(saveables(root))}


class _Walk:
    """One walk through all that an archive holds.

    Args:
        nested: bool, whether lists within lists are looked into.
    """

    def __init__(self, nested: bool) -> None:
        self._nested = nested
        self._seen: set[int] = set()

    def saveables(self, saveable: Any, place: str) -> Iterator[tuple[str, Any]]:
        """Pairs of place and object, for what was not seen yet."""
        if id(saveable) in self._seen:
            return
        self._seen.add(id(saveable))
        yield place, saveable
        for name, child in saving_lib._walk_saveable(saveable):
            inner = f"{place}/{name}" if place else name
            if isinstance(child, KerasSaveable):
                yield from self.saveables(child, inner)
            elif isinstance(child, (list, dict, tuple)):
                yield from self._in_container(child, inner, set())

    def _in_container(
        self, container: Any, place: str, containers: set[int]
    ) -> Iterator[tuple[str, Any]]:
        if id(container) in containers:
            return
        containers.add(id(container))
        used: dict[str, int] = {}
        for item in list(container.values()) if isinstance(container, dict) else container:
            if isinstance(item, KerasSaveable):
                name = _unique(naming.to_snake_case(type(item).__name__), used)
                yield from self.saveables(item, f"{place}/{name}")
            elif self._nested and isinstance(item, (list, dict, tuple)):
                name = _unique("container", used)
                yield from self._in_container(item, f"{place}/{name}", containers)


def _unique(name: str, used: dict[str, int]) -> str:
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name
