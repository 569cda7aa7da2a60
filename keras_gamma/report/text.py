"""Tables for a terminal, printed with rich as `model.summary()` does. No decisions are made here.

Cells are rich's `Text`, which is taken literally: a layer may be called `:smile:` or `[bold]`.
"""

import io
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table

_NARROW = 60  # Columns that a folded table needs, if names have places to break at.
_PROSE = 36  # Letters that a column of sentences gets at least.


def full(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Every row, and no name broken: for reading up, and for programs that search.

    Args:
        header: sequence of column titles.
        rows: sequence of rows, each as long as `header`.
        caption: string, below the table.

    Returns:
        A string without a newline at the end, as wide as the terminal (or 120 columns), or wider
        where names are long. Only the last column wraps.
    """
    # Imported here: a table is a rare event, and `import keras_gamma` should stay fast.
    import rich.box
    import rich.table
    import rich.text

    grid = rich.table.Table(box=rich.box.SQUARE, pad_edge=True)
    *short, last = header
    for title in short:
        grid.add_column(title, overflow="fold", no_wrap=True)
    grid.add_column(last, overflow="fold")
    for row in rows:
        grid.add_row(*(rich.text.Text(cell) for cell in row))
    taken = sum(max(len(row[i]) for row in [header, *rows]) + 3 for i in range(len(short)))
    return f"{_render(grid, max(terminal_width(), taken + _PROSE + 4))}\n{caption}"


def folded(header: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[str]) -> str:
    """A table for looking at, never wider than the terminal, or than 60 columns if that is less.

    Args:
        header: sequence of column titles; the first column has the names.
        rows: sequence of rows, each as long as `header`.
        below: sentences to print below the table.

    Returns:
        A string without a newline at the end. Names that are too long break at `/` and `_`.
    """
    import rich.box
    import rich.table
    import rich.text

    width = max(terminal_width(), _NARROW)
    lines = []
    if rows:
        grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        taken = 0
        for i, title in enumerate(header):
            grid.add_column(title, overflow="fold", no_wrap=i > 0)
            taken += max(len(row[i]) for row in [header, *rows]) + 3 if i else 0
        for name, *cells in rows:
            pieces = "\n".join(broken(name, max(width - taken, 20)))
            grid.add_row(*(rich.text.Text(cell) for cell in (pieces, *cells)))
        lines += [_render(grid, width), ""]
    for sentence in below:
        for line in sentence.split("\n"):
            lines.append(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def broken(name: str, width: int) -> list[str]:
    """The lines of a name that may break behind `/`, and, if that is not enough, behind `_`."""
    lines = [""]
    for word in re.findall(r"[^/]*/?", name):
        parts = [word] if len(word) <= width else re.findall(r"[^_]*_?", word)
        for part in parts:
            if lines[-1] and len(lines[-1]) + len(part) > width:
                lines.append("")
            lines[-1] += part
    return lines


def terminal_width() -> int:
    return shutil.get_terminal_size(fallback=(120, 24)).columns


def _render(grid: "rich.table.Table", width: int) -> str:
    import rich.console

    stream = io.StringIO()
    console = rich.console.Console(
        file=stream, width=width, highlight=False, markup=False, emoji=False, color_system=None
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))
