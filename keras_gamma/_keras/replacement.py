"""Replacing what is not ours for a while, so that it is put back whatever happens."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

# Where, its name there, and a function from what is there to what stands in for it.
Patch: TypeAlias = tuple[Any, str, Callable[[Any], Any]]

_ABSENT = object()


def replace(stack: contextlib.ExitStack, patches: Iterable[Patch]) -> None:
    """Replaces attributes of modules and classes until `stack` is closed.

    Exactly what was there is put back: a name that a class inherited is deleted, not set.
    """
    for owner, name, make in patches:
        # What is put back is settled before anything is replaced; and it is put back twice, for
        # one of the two may be interrupted itself.
        found = vars(owner).get(name, _ABSENT)
        stack.callback(_put_back, owner, name, found)
        stack.callback(_put_back, owner, name, found)
        setattr(owner, name, make(getattr(owner, name)))


def _put_back(owner: Any, name: str, value: object) -> None:
    if value is not _ABSENT:
        setattr(owner, name, value)
    elif name in vars(owner):
        delattr(owner, name)
