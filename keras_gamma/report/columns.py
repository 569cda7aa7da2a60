"""What a table shows of a row. A new column of a report is one line where the report stands."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

NOTHING = "–"


def plain(value: object) -> str:
    """A value as a cell shows it."""
    return NOTHING if value is None or value == "" else str(value)


def number(value: float | None) -> str:
    """A strength or another number: four digits, and a dash for none or zero."""
    return f"{value:.4g}" if value else NOTHING


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a report.

    Args:
        name: string, its name in data frames and in JSON, and the attribute of a row that it shows.
        title: string, its head in a table; `name` by default.
        text: function from the value to the text of a cell.
        of: function from a row to the value, where that is no attribute.
        colored: bool, whether the values are roles, shown in their colours.
        prose: bool, whether the values are sentences: a folded table has one for each kind.
    """

    name: str
    title: str = ""
    text: Callable[[Any], str] = plain
    of: Callable[[Any], object] | None = None
    colored: bool = False
    prose: bool = False

    @property
    def head(self) -> str:
        return self.title or self.name

    def value(self, row: object) -> object:
        """The value of a row; `None` where it has none. Enum values become their strings."""
        value = self.of(row) if self.of is not None else getattr(row, self.name, None)
        return value.value if isinstance(value, enum.Enum) else value

    def cell(self, row: object) -> str:
        """The text of a row."""
        return self.text(self.value(row))
