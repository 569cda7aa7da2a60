"""Telling variables apart by their place in a model; names are a check that can be explained.

A place counts layers and variables from the top: `2.0:1` is variable 1 of layer 0 of layer 2. It
is the same after cloning, saving and loading, in whatever process; names need not be: Keras drops
the name of a Sequential from the paths in it (`s/bn/gamma` becomes `bn/gamma`) and counts automatic
names anew (`block_1/bn_2` becomes `block/bn`), and two variables may have the same path.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import keras

from keras_gamma._keras import structure


class Placed(Protocol):
    """Something that says which variable it is about."""

    @property
    def path(self) -> str: ...

    @property
    def place(self) -> str: ...


Present = TypeVar("Present", bound=Placed)


@dataclasses.dataclass(frozen=True, eq=False)
class Located:
    """A variable, the layer that holds it, and where that is.

    Args:
        variable: the `keras.Variable`.
        layer: the layer that holds the variable itself.
        path: string, the variable's path; a second variable of that path gets `#2`.
        place: string, see above.
        trained: bool. Whether it is trained, now or when it is unfrozen (a moving mean never is).
    """

    variable: keras.Variable
    layer: keras.Layer
    path: str
    place: str
    trained: bool


def locate(model: keras.Layer) -> list[Located]:
    """Every variable that some layer of `model` holds, outer layers first."""
    found: list[Located] = []
    numbers: collections.Counter[str] = collections.Counter()
    seen: set[int] = set()
    for place, layer in _layers(model, "", set()):
        for index, (variable, trained) in enumerate(structure.own_variables(layer)):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            numbers[variable.path] += 1
            path = numbered(variable.path, numbers[variable.path])
            found.append(Located(variable, layer, path, f"{place}:{index}", trained))
    return found


def numbered(path: str, number: int) -> str:
    """The path of the variable that is the `number`th of that path."""
    return path if number == 1 else f"{path}#{number}"


def unique_paths(variables: Iterable[keras.Variable]) -> list[str]:
    """The paths of `variables`, a second one of the same path with `#2`."""
    numbers: collections.Counter[str] = collections.Counter()
    paths = []
    for variable in variables:
        numbers[variable.path] += 1
        paths.append(numbered(variable.path, numbers[variable.path]))
    return paths


def _layers(layer: keras.Layer, place: str, seen: set[int]) -> Iterator[tuple[str, keras.Layer]]:
    todo = [(place, layer)]
    while todo:
        place, layer = todo.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield place, layer
        inner = enumerate(structure.children(layer))
        below = [(f"{place}.{i}" if place else str(i), child) for i, child in inner]
        todo.extend(reversed(below))


def match(
    wanted: Sequence[Placed], present: Sequence[Present]
) -> tuple[dict[str, Present], list[str]]:
    """Pairs what was written down with what a model has now.

    By path, if every path names one variable on both sides, and they are the same paths. Else by
    place, and then each pair of paths must be one that Keras itself makes by rebuilding a model.

    Args:
        wanted: what to find: objects with a unique `path`, and a `place`.
        present: what to find it among.

    Returns:
        A tuple `(found, problems)`: a dict from each wanted path to what is present, and, if that
        is not a one-to-one correspondence, sentences that say why.

    Example:

    >>> from collections import namedtuple
    >>> from keras_gamma.decay.places import match
    >>> P = namedtuple("P", "path place")
    >>> match([P("s/bn/gamma", "1:0")], [P("bn/gamma", "1:0")])
    ({'s/bn/gamma': P(path='bn/gamma', place='1:0')}, [])
    >>> match([P("s/bn/gamma", "1:0")], [P("bn/gamma", "0:0")])[1]
    ['missing in the model: s/bn/gamma', 'new in the model: bn/gamma']
    """
    by_path = {item.path: item for item in present}
    paths = [item.path for item in wanted]
    if set(paths) == set(by_path) and not any("#" in path for path in paths):
        return {path: by_path[path] for path in paths}, []
    by_place = {item.place: item for item in present}
    found: dict[str, Present] = {}
    missing, odd = [], []
    for item in wanted:
        there = by_place.pop(item.place, None)
        if there is None:
            missing.append(item.path)
        elif not is_renamed(item.path, there.path):
            odd.append(f"{there.path} is where {item.path} was")
        else:
            found[item.path] = there
    named = {item.path for item in by_place.values()}
    problems = [f"missing in the model: {', '.join(missing)}"] if missing else []
    problems += [f"new in the model: {', '.join(sorted(named))}"] if named else []
    problems += [f"in another order, or another model: {', '.join(odd)}"] if odd else []
    return found, problems


def written_for(
    written: Sequence[str], variables: Iterable[keras.Variable]
) -> tuple[list[str], list[str]]:
    """What was written down for each of `variables`, which are some or all of those it was for.

    By path, if each is among them. Else in the same order, and each pair of paths must be one that
    Keras itself makes; what is left out was frozen.

    Args:
        written: unique paths, in the order of the model.
        variables: the variables of an optimizer, say.

    Returns:
        A tuple: the written path for each variable, and the paths of those that have none (the
        first list is empty then).
    """
    names = unique_paths(variables)
    known = set(written)
    missing = [name for name in names if name not in known]
    if not missing:
        return names, []
    found, rest = [], iter(written)
    for name in names:
        one = next((path for path in rest if is_renamed(path, name)), None)
        if one is None:
            return [], missing
        found.append(one)
    return found, []


def is_renamed(before: str, after: str) -> bool:
    """Whether Keras may have made the path `after` of `before` by rebuilding the same model.

    Example:

    >>> from keras_gamma.decay.places import is_renamed
    >>> is_renamed("block_1/layer_normalization_2/gamma", "block/layer_normalization_1/gamma")
    True
    >>> is_renamed("encoder/gamma", "decoder/gamma")
    False
    """
    one, other = _without_numbers(before), _without_numbers(after)
    short, long = sorted((one, other), key=len)
    return long[len(long) - len(short) :] == short


def _without_numbers(path: str) -> list[str]:
    """The parts of a path, without the numbers that Keras appends to automatic names."""
    parts = path.partition("#")[0].split("/")
    return [re.sub(r"_\d+$", "", part) for part in parts]
