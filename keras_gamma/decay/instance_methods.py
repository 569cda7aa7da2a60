"""Answering for a method of one instance: Keras asks a layer or an optimizer for what it saves."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any


class _Hook:
    """Answers for one method of an instance, with all that Keras reads off the class's own."""

    def __init__(self, owner: Any, name: str, layer: Any) -> None:
        self.owner, self.name = owner, name
        own = getattr(type(layer), name, None)
        if own is not None:  # `_is_default`, for one: Keras makes a config where a class has none.
            functools.update_wrapper(self, own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.owner, self.name)(*args, **kwargs)


def hook(target: Any, owner: Any, names: Iterable[str]) -> None:
    """Lets `owner` answer for the methods `names` of the instance `target`."""
    for name in names:
        setattr(target, name, _Hook(owner, name, target))


def unhook(target: Any, names: Iterable[str]) -> None:
    """Lets the class of `target` answer again."""
    for name in names:
        if isinstance(vars(target).get(name), _Hook):
            delattr(target, name)


def owner_of(target: Any, name: str) -> Any:
    """Who answers for a method of `target` in place of its class, or `None`."""
    answer = vars(target).get(name)
    return answer.owner if isinstance(answer, _Hook) else None
