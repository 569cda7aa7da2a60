"""Symbolic tensors: making them, and finding them in what a call takes and returns."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import tree


def symbol(shape: Sequence[int | None], dtype: str) -> keras.KerasTensor:
    """A new symbolic tensor."""
    # Networks have few shapes: looking at each again would take longer than a copy.
    pattern = _pattern(tuple(shape), dtype)
    new = object.__new__(keras.KerasTensor)
    vars(new).update(vars(pattern))
    return new


@functools.lru_cache(1024)
def _pattern(shape: tuple[int | None, ...], dtype: str) -> keras.KerasTensor:
    """A symbolic tensor that is never given out, so that nobody writes on it."""
    # Keras takes as long to make up a name as for all the rest.
    return keras.KerasTensor(shape, dtype=dtype, name="traced")


def symbols_in(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors of a structure, in order."""
    # The two cases that are most frequent: a tensor, and `((tensor,), {})`.
    if isinstance(structure, keras.KerasTensor):
        return [structure]
    if type(structure) is tuple and len(structure) == 2 and type(structure[1]) is dict:
        args, kwargs = structure
        if (
            not kwargs
            and type(args) is tuple
            and len(args) == 1
            and isinstance(args[0], keras.KerasTensor)
        ):
            return [args[0]]
    return [t for t in tree.flatten(structure) if isinstance(t, keras.KerasTensor)]


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """`structure` with `function` of each leaf; the fields of a dataclass are leaves, too."""

    def leaf(value: Any) -> Any:
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return function(value)
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                new = mapped(function, getattr(value, field.name))
                object.__setattr__(copied, field.name, new)  # It may be frozen.
        return copied

    return tree.map_structure(leaf, structure)


def symbols_returned(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors of what a call returned; those in the fields of dataclasses, too."""
    found: list[keras.KerasTensor] = []
    for value in tree.flatten(structure):
        if isinstance(value, keras.KerasTensor):
            found.append(value)
        elif dataclasses.is_dataclass(value):
            fields = (getattr(value, field.name, None) for field in dataclasses.fields(value))
            found += symbols_returned(list(fields))
    return found


def known(numbers: Iterable[int | None]) -> list[int]:
    """The numbers without `None`s."""
    return [n for n in numbers if n is not None]


def are_two_alike(args: tuple[Any, ...]) -> bool:
    """Whether a layer is called on a pair of tensors of one shape and dtype."""
    if len(args) != 1 or not isinstance(args[0], (list, tuple)) or len(args[0]) != 2:
        return False
    a, b = args[0]
    both = isinstance(a, keras.KerasTensor) and isinstance(b, keras.KerasTensor)
    return both and a.shape == b.shape and a.dtype == b.dtype
