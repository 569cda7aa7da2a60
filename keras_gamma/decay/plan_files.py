"""Reading and writing keras_gamma's JSON: one reader for plans and records, with limits.

A file may come from anywhere: it is refused by its size before it is read, and by its format and
version before anything in it is believed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from keras_gamma._version import __version__

MAX_BYTES = 64 * 2**20  # A plan of 10,000 variables has 3 MB.
_LONGEST = 800  # Characters of an error, or of a path.


def to_json(format: str, version: int, **content: Any) -> str:
    """`content` as a JSON text that says what it is, and which version of that."""
    head = {"format": format, "version": version, "keras_gamma": __version__}
    return json.dumps(head | content, indent=1, ensure_ascii=False)


def from_json(text: Any, format: str, version: int, what: str) -> dict[str, Any]:
    """Reads what `to_json` wrote.

    Args:
        text: string or bytes.
        format: string, the format that is expected.
        version: integer, the version that is read.
        what: string, what to call it in errors: `"keras_gamma plan"`.

    Returns:
        A dict.

    Raises:
        ValueError: if it is something else, in one line.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"Not a {what}: the JSON is nested too deeply.") from None
    except UnicodeDecodeError:
        raise ValueError(f"Not a {what}: this is no text.") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"Not a {what}: this is not JSON ({error}).") from None
    if not isinstance(content, dict) or content.get("format") != format:
        raise ValueError(f'Not a {what}: expected a JSON object with "format": "{format}".')
    if content.get("version") != version:
        raise ValueError(
            f"This {what} has format version {_short(content.get('version'))}; keras_gamma "
            f"{__version__} reads version {version}. Make it again, or install the keras_gamma "
            "that wrote it."
        )
    return content


def save(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to the file `path`."""
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def load(path: str | os.PathLike[str], what: str) -> str:
    """The text of the file `path`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is too large, or no text.
    """
    size = os.stat(path).st_size
    if size > MAX_BYTES:
        raise ValueError(f"Not a {what}: {str(path)!r} has {size} bytes (at most {MAX_BYTES}).")
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"Not a {what}: {str(path)!r} is not a text file.") from None


def fields_of(content: Any, cls: type, where: str) -> dict[str, Any]:
    """`content` as a dict with just the fields of the dataclass `cls`, and a path.

    Raises:
        ValueError: if it has others, or lacks some; `where` is the beginning of the message.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not an object: {_short(content)}")
    expected = {field.name for field in dataclasses.fields(cls)}
    if set(content) != expected:
        odd = _short(", ".join(sorted(set(content) ^ expected)))
        raise ValueError(f"{where} must have the keys {', '.join(sorted(expected))}; check: {odd}")
    for name in ("path", "place", "kind", "reason"):
        if not isinstance(content[name], str):
            raise ValueError(f"{where} has no {name}: {_short(content[name])}")
    for name in ("path", "place"):  # Errors name them.
        if len(content[name]) > _LONGEST or not content[name].isprintable():
            raise ValueError(f"{where} has an invalid {name}: {_short(content[name])}")
    return dict(content)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Errors of what is done here are one line, of some hundred characters at most."""
    try:
        yield
    except ValueError as error:
        text = " ".join(str(error).split())
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}…"
        if text == str(error):
            raise
        raise ValueError(text) from None


def require_unique(what: str, paths: Iterable[str]) -> None:
    """Raises `ValueError` if a path is there twice."""
    twice = [path for path, n in collections.Counter(paths).items() if n > 1]
    if twice:
        raise ValueError(f"{what} has one entry for each path. Twice: {', '.join(twice)}")


def _short(value: Any) -> str:
    """`repr`, cut: an error is one line, whatever the file holds."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
