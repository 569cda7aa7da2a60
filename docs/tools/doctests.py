"""For the API reference: the examples of docstrings, which are doctests, as blocks of code."""

import re

import griffe


def fenced(text: str) -> str:
    """The text with each run of doctest lines, up to the next empty line, in a fence."""
    return re.sub(r"(?m)^>>> .*(?:\n(?!\s*$).*)*", lambda m: f"```pycon\n{m.group()}\n```", text)


class Doctests(griffe.Extension):
    """Fences the doctests of every object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
