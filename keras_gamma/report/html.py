"""A report as a fragment of HTML, for notebooks; and the style that pages share with it."""

import html
import re
from collections.abc import Mapping, Sequence

from keras_gamma.report.palette import COLORS

# Letters and lines take the colours of what is around them: notebooks and pages are light or dark.
STYLE = """
.keras-gamma { font: 13px/1.45 system-ui, sans-serif; }
.keras-gamma table { border-collapse: collapse; }
.keras-gamma th, .keras-gamma td { text-align: left; vertical-align: top; padding: 3px 10px 3px 0;
  border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent); background: none; }
.keras-gamma td.name { font-family: ui-monospace, monospace; }
.keras-gamma .word { white-space: nowrap; }
.keras-gamma .word.long { white-space: normal; overflow-wrap: anywhere; }
.keras-gamma i { display: inline-block; width: 10px; height: 10px; border-radius: 2px;
  margin-right: 5px; }
.keras-gamma .scroll { max-height: 30em; overflow: auto; }
"""


# What a telephone shows in one line, about. Only a longer word may break within.
LINE = 40


def name(text: str) -> str:
    """A name that may break behind `/`, `_`, `.` and `-` only, never within a word."""
    words = re.findall(r"[^/_.-]*[/_.-]?", text)
    return "<wbr>".join(
        f'<span class="word{" long" * (len(w) > LINE)}">{html.escape(w)}</span>' for w in words if w
    )


def prose(text: str) -> str:
    """A sentence, in which long names may break as names do."""
    return " ".join(name(w) if len(w) > LINE / 2 else html.escape(w) for w in text.split(" "))


def role(text: str) -> str:
    """A role behind a spot of its colour; any other text as it is."""
    color = COLORS.get(text)
    spot = f'<i style="background:{color}" aria-hidden="true"></i>' if color else ""
    return f'<span class="word">{spot}{html.escape(text)}</span>'


def rows(
    cells: Sequence[Sequence[str]], colored: Sequence[bool], hover: Sequence[str] = ()
) -> list[str]:
    """The rows of a table: names first, roles in their colours, a sentence on hover.

    Args:
        cells: for each row its texts.
        colored: for each column whether it holds roles.
        hover: for each row what is shown on hover; none by default.
    """
    found = []
    for i, (first, *rest) in enumerate(cells):
        title = f' title="{html.escape(hover[i])}"' if hover and hover[i] else ""
        found.append(
            f'<tr{title}><td class="name">{name(first)}</td>'
            + "".join(
                f"<td>{role(text) if is_role else html.escape(text)}</td>"
                for text, is_role in zip(rest, colored[1:], strict=True)
            )
            + "</tr>"
        )
    return found


def table(header: Sequence[str], body: Sequence[str]) -> str:
    """A table of a header and rows that are HTML already."""
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def fragment(summary: str, tables: Mapping[str, str]) -> str:
    """One table to look at, a sentence or more, and further tables to open.

    Args:
        summary: string, below the first table.
        tables: dict from titles to tables; the first is open.
    """
    (_, first), *rest = tables.items()
    closed = "".join(
        f'<details><summary>{html.escape(title)}</summary><div class="scroll">{content}</div>'
        "</details>"
        for title, content in rest
    )
    lines = "<br>".join(html.escape(line) for line in summary.split("\n"))
    return f'<div class="keras-gamma"><style>{STYLE}</style>{first}<p>{lines}</p>{closed}</div>'
