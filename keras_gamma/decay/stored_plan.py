"""`StoredPlan`: what the two kinds of plans have in common, as values and as files."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Iterable
from typing import Any, TypeVar

from keras_gamma.decay import plan_files
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.report.base import Report

Entry_co = TypeVar("Entry_co", covariant=True)
Plan = TypeVar("Plan", bound="StoredPlan[Any]")


class StoredPlan(Report[Entry_co]):
    """A report that can be compared, written to a file, and read back to an equal one.

    A subclass has `format`, `version` and `what`, and says by `_strength` and `_read` which
    strengths stand in its file beside guidelines and entries.

    Args:
        entries: iterable of dataclasses, each with a `path` that no other one has.
        guidelines: the `Guidelines` behind them.

    Raises:
        ValueError: if two entries have the same path.
    """

    version: int  # Of the format.
    what: str  # What errors call such a plan.

    def __init__(self, entries: Iterable[Any], guidelines: Guidelines) -> None:
        entries = tuple(entries)
        super().__init__(entries)
        self.guidelines = guidelines
        paths = [entry.path for entry in entries]
        plan_files.require_unique(f"A {self.what}", paths)

    @abc.abstractmethod
    def _strength(self) -> dict[str, Any]:
        """The strengths, by the names that they have in a file."""

    @classmethod
    @abc.abstractmethod
    def _read(cls: type[Plan], content: dict[str, Any], guidelines: Guidelines) -> Plan:
        """The plan of what `to_json` wrote; raises as reading the wrong thing does."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredPlan) or other.format != self.format:
            return NotImplemented
        mine, theirs = ((p._entries, p.guidelines, p._strength()) for p in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def _written(entry: Any) -> dict[str, Any]:
        """An entry as it stands in a file."""
        return dataclasses.asdict(entry)

    def to_json(self) -> str:
        """The plan as a JSON text that `from_json` reads back to an equal plan."""
        entries: tuple[Any, ...] = self._entries
        return plan_files.to_json(
            self.format,
            self.version,
            guidelines=dataclasses.asdict(self.guidelines),
            **self._strength(),
            entries=[self._written(entry) for entry in entries],
        )

    @classmethod
    @plan_files.in_one_line()
    def from_json(cls: type[Plan], text: str | bytes) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if `text` is not such a plan; the message says where.
        """
        content = plan_files.from_json(text, cls.format, cls.version, cls.what)
        try:
            return cls._read(content, Guidelines(**content["guidelines"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Malformed {cls.what}: {type(error).__name__}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json()` to the file `path`."""
        plan_files.save(path, self.to_json())

    @classmethod
    def load(cls: type[Plan], path: str | os.PathLike[str]) -> Plan:
        """Reads a plan that `save` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is not a plan.
        """
        text = plan_files.load(path, cls.what)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
