"""`Report`: a sequence of findings that shows itself."""

import abc
import collections
import enum
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from keras_gamma.report import folding, html, text
from keras_gamma.report.columns import NOTHING, Column

if TYPE_CHECKING:
    import pandas

Entry_co = TypeVar("Entry_co", covariant=True)
Kind = TypeVar("Kind", bound=enum.Enum)

_MOST_ROWS = 40  # Of a folded table, and
_MOST_REASONS = 12  # of what is said below it: it is to fit a screen.


class Report(Sequence[Entry_co], abc.ABC):
    """A sequence of entries that shows itself: printed, in a notebook, as JSON or a data frame.

    Printed, rows that differ in the numbers of their names only are folded
    (`block[1-3]_bn/gamma ×3`), and each kind of reason is given once; `table()` shows every row.

    A subclass names its columns, the first of them the name of a row, and writes its `summary`.

    Args:
        entries: iterable of entries.
    """

    format: str  # The name of the JSON that `to_json` writes.
    columns: tuple[Column, ...]

    def __init__(self, entries: Iterable[Entry_co]) -> None:
        self._entries = tuple(entries)

    @overload
    def __getitem__(self, index: int) -> Entry_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry_co]: ...
    def __getitem__(self, index: int | slice) -> Entry_co | Sequence[Entry_co]:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    @abc.abstractmethod
    def summary(self) -> str:
        """What there is to say without the table: a line, or a few."""

    def rows(self) -> Sequence[Any]:
        """What the table has a row for: the entries, and in some reports more."""
        return self._entries

    def facts(self) -> dict[str, object]:
        """What `to_json` writes beside the rows."""
        return {}

    def table(self) -> str:
        """Every row, as text."""
        header = [column.head for column in self.columns]
        return text.full(header, self._cells(self.columns), self.summary())

    def to_json(self) -> str:
        """Format, facts and every row as a JSON text, for records and programs."""
        rows = [{c.name: c.value(row) for c in self.columns} for row in self.rows()]
        content = {"format": self.format, **self.facts(), "entries": rows}
        return json.dumps(content, indent=1, ensure_ascii=False)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Every row as a `pandas.DataFrame`, with a column for each of the table's.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "to_dataframe needs pandas, which is not installed: pip install pandas. Without "
                "it, to_json() has the same rows."
            ) from None
        rows = self.rows()
        return pandas.DataFrame({c.name: [c.value(row) for row in rows] for c in self.columns})

    def __str__(self) -> str:
        short = [column for column in self.columns if not column.prose]
        header, rows, folds = self._folded(short)
        below = []
        if len(rows) > _MOST_ROWS:
            below.append(f"… and {len(rows) - _MOST_ROWS} more lines: table() shows every row.")
        below += self._reasons(folds)
        below += self.summary().split("\n")
        return text.folded(header, rows[:_MOST_ROWS], below)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary().splitlines()[0]}>"

    def _repr_html_(self) -> str:
        short = [column for column in self.columns if not column.prose]
        header, rows, folds = self._folded(short)
        shown = self.rows()
        hover = [" ".join(self._prose(shown[one.rows[0]])) for one in folds]
        colored = [title in {c.head for c in short if c.colored} for title in header]
        tables = {"": html.table(header, html.rows(rows, colored, hover))}
        if len(shown) > len(rows) or len(short) < len(self.columns):
            full = html.rows(self._cells(self.columns), [c.colored for c in self.columns])
            heads = [column.head for column in self.columns]
            tables[f"Every row ({len(shown)})"] = html.table(heads, full)
        return html.fragment(self.summary(), tables)

    def _counts(self, kinds: type[Kind], attribute: str) -> dict[Kind, int]:
        """How many entries have each of an enum's values: a dict, zeros included."""
        found = collections.Counter(getattr(entry, attribute) for entry in self)
        return {kind: found[kind] for kind in kinds}

    def _cells(self, columns: Sequence[Column]) -> list[list[str]]:
        return [[column.cell(row) for column in columns] for row in self.rows()]

    def _prose(self, row: object) -> list[str]:
        cells = [column.cell(row) for column in self.columns if column.prose]
        return [cell for cell in cells if cell != NOTHING]

    def _folded(
        self, columns: Sequence[Column]
    ) -> tuple[list[str], list[list[str]], list[folding.Fold]]:
        """Header and rows of the folded table, and what is behind each of its rows."""
        cells = self._cells(columns)
        folds = folding.fold([row[0] for row in cells], [tuple(row[1:]) for row in cells])
        header = [column.head for column in columns]
        rows = [[one.name, *cells[one.rows[0]][1:]] for one in folds]
        if any(len(one.rows) > 1 for one in folds):
            header.insert(1, "")
            for row, one in zip(rows, folds, strict=True):
                row.insert(1, f"×{len(one.rows)}")
        return header, rows, folds

    def _label(self) -> Column:
        """The column that a reason is headed by: the role, or what else is said of a row."""
        colored = [column for column in self.columns if column.colored]
        short = [column for column in self.columns[1:] if not column.prose]
        return next(iter([*colored, *short, self.columns[0]]))

    def _reasons(self, folds: Sequence[folding.Fold]) -> list[str]:
        """One sentence for each kind of reason, headed by the role that it is for."""
        shown = self.rows()
        head = self._label()
        kinds: dict[tuple[str, str], list[str]] = {}
        names: dict[tuple[str, str], str] = {}
        for one in folds:
            for i in one.rows:
                for sentence in self._prose(shown[i]):
                    key = head.cell(shown[i]), folding.kind_of(sentence)
                    kinds.setdefault(key, []).append(sentence)
                    names.setdefault(key, one.name)
        lines = []
        for (role, kind), sentences in kinds.items():
            title = names[role, kind] if role == NOTHING else role
            others = len(sentences) - sentences.count(sentences[0])
            more = f" ({others} more alike.)" if others else ""
            lines.append(f"{title}: {sentences[0]}{more}")
        if len(lines) > _MOST_REASONS:
            rest = len(lines) - _MOST_REASONS
            lines[_MOST_REASONS:] = [f"… and {rest} more kinds of reason: table() shows all."]
        return lines
