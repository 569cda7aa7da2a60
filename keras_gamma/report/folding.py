"""Rows that differ in the numbers of their names only, folded into one. Pure.

`block[1-3]_bn/gamma` stands for exactly three rows: a name is folded only if every combination of
its numbers is there. A number that counts along (`block[1-3]/bn_[5-7]`, three rows) is written as
the range that it runs through.
"""

import dataclasses
import itertools
import re
from collections.abc import Hashable, Iterable, Sequence

_MOST_ORDERS = 4  # Numbers in a name of which every order of folding is tried.
_MOST_PARTS = 4  # Parts of a set of numbers that are written out.

Point = tuple[str, ...]  # The numbers of one name.
Box = tuple[frozenset[str], ...]  # For each number of a name, the values that it takes.


@dataclasses.dataclass(frozen=True)
class Fold:
    """Rows that are shown as one.

    Args:
        name: string, such as `block[1-3]_bn/gamma`.
        rows: tuple of integers: their numbers, in order.
    """

    name: str
    rows: tuple[int, ...]


def fold(names: Sequence[str], keys: Sequence[Hashable]) -> list[Fold]:
    """Folds rows whose keys are equal and whose names differ in numbers only.

    Args:
        names: the name of each row.
        keys: for each row, what must be equal.

    Returns:
        A list of `Fold`, in the order of their first rows. Each row is in exactly one.

    Example:

    >>> from keras_gamma.report.folding import fold
    >>> names = ["bn1/gamma", "bn2/gamma", "bn3/gamma", "stem/gamma"]
    >>> [(one.name, len(one.rows)) for one in fold(names, keys=[0, 0, 0, 0])]
    [('bn[1-3]/gamma', 3), ('stem/gamma', 1)]
    """
    alike: dict[tuple[Hashable, tuple[str, ...]], dict[Point, list[int]]] = {}
    for row, (name, key) in enumerate(zip(names, keys, strict=True)):
        # Odd places are the numbers; the rest is the skeleton.
        words = re.split(r"(\d+)", name)
        same = alike.setdefault((key, tuple(words[::2])), {})
        same.setdefault(tuple(words[1::2]), []).append(row)
    folds = []
    for (_, skeleton), rows in alike.items():
        kept = _telling_places(list(rows))
        points = {tuple(point[i] for i in kept): point for point in rows}
        for box in _boxes(list(points)):
            members = [points[numbers] for numbers in itertools.product(*box)]
            values = [frozenset(column) for column in zip(*members, strict=True)]
            found = sorted(row for point in members for row in rows[point])
            folds.append(Fold(_name(skeleton, values), tuple(found)))
    return sorted(folds, key=lambda one: one.rows[0])


def _telling_places(points: list[Point]) -> list[int]:
    """The places that tell the points apart, without those that only count along with them."""
    kept = list(range(len(points[0])))
    for place in reversed(kept.copy()):
        rest = [i for i in kept if i != place]
        counts_along = len({point[place] for point in points}) == len(points) > 1
        if counts_along and len({tuple(point[i] for i in rest) for point in points}) == len(points):
            kept = rest
    return kept


def _boxes(points: list[Point]) -> list[Box]:
    """Few boxes that hold exactly the given points, each of them once."""
    places = range(len(points[0]))
    varied = sorted(places, key=lambda i: -len({point[i] for point in points}))
    orders: Iterable[Sequence[int]] = [varied]
    if len(varied) <= _MOST_ORDERS:
        orders = itertools.permutations(varied)
    return min((_merge(points, order) for order in orders), key=len)


def _merge(points: list[Point], order: Sequence[int]) -> list[Box]:
    """Merges boxes that differ in one place, place by place."""
    boxes: list[Box] = [tuple(frozenset([number]) for number in point) for point in points]
    for place in order:
        merged: dict[Box, frozenset[str]] = {}
        for box in boxes:
            rest = (*box[:place], *box[place + 1 :])
            merged[rest] = merged.get(rest, frozenset()) | box[place]
        boxes = [(*rest[:place], values, *rest[place:]) for rest, values in merged.items()]
    return boxes


def _name(skeleton: Sequence[str], places: Sequence[frozenset[str]]) -> str:
    parts = [skeleton[0]]
    for values, text in zip(places, skeleton[1:], strict=True):
        parts += [_numbers(values), text]
    return "".join(parts)


def _numbers(values: frozenset[str]) -> str:
    """`7`, `[1-3]`, `[1-3,5]`, or, of many parts, the first and the last."""
    if len(values) == 1:
        return next(iter(values))
    ordered = sorted(values, key=lambda text: (int(text), text))
    runs: list[list[str]] = []
    for text in ordered:
        if runs and text == str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][-1])):
            runs[-1].append(text)
        else:
            runs.append([text])
    parts = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    if len(parts) > _MOST_PARTS:
        parts = [*parts[:2], "…", parts[-1]]
    return f"[{','.join(parts)}]"


def kind_of(sentence: str) -> str:
    """A sentence without what is special to one row: quoted names, and numbers."""
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", re.sub(r"'[^']*'", "'…'", sentence))
