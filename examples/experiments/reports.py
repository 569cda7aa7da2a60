"""Results of an experiment as Markdown, and as one HTML page with its pictures inside."""

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.core.files import write_atomic
from examples.experiments.significance import Claim, Estimate, judge


class Report:
    """Collects headings, paragraphs, tables and pictures.

    Args:
        title: of the report.
    """

    def __init__(self, title: str):
        self._title = title
        self._markdown = [f"# {title}"]
        self._html = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Adds a heading."""
        self._markdown.append(f"## {text}")
        self._html.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Adds a paragraph."""
        self._markdown.append(text)
        self._html.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table."""
        self._markdown.append(markdown_table(header, rows))
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        self._html.append(f"<table><tr>{cells}</tr>{body}</table>")

    def claims(self, claims: Sequence[Claim]) -> None:
        """Adds the table of claims: predicted, seen, and whether it holds."""
        rows = [
            [
                claim.text,
                claim.predicted,
                f"{tell(claim.seen)}{claim.unit}",
                "–" if np.isnan(p) else f"{p:.2g}",
                verdict,
            ]
            for claim, p, verdict in judge(claims)
        ]
        header = ["claim", "predicted", "seen (95 % interval)", "p, corrected", "verdict"]
        self.table(header, rows)

    def picture(self, path: Path, caption: str) -> None:
        """Adds a PNG that lies beside the report."""
        self._markdown.append(f"![{caption}]({path.name})")
        data = base64.b64encode(path.read_bytes()).decode()
        text = html.escape(caption)
        self._html.append(f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
                          f"<figcaption>{text}</figcaption></figure>")  # fmt: skip

    def write(self, directory: Path) -> None:
        """Writes `report.md` and `report.html`."""
        write_atomic(directory / "report.md", ("\n\n".join(self._markdown) + "\n").encode())
        page = _PAGE.format(title=html.escape(self._title), body="\n".join(self._html))
        write_atomic(directory / "report.html", page.encode())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tell(found: Estimate) -> str:
    """A mean with its interval, as exactly as the interval warrants: `1.20 (0.80 to 1.60)`.

    Example:

    >>> from examples.experiments.reports import tell
    >>> from examples.experiments.significance import estimate
    >>> tell(estimate([98.9, 98.6, 99.2]))
    '98.90 (98.15 to 99.65)'
    """
    if found.count < 2:
        return f"{found.mean:.4g} (one value)"
    half = (found.high - found.low) / 2
    places = 6 if half == 0 else max(0, 1 - math.floor(math.log10(half)))
    if places > 6:
        return f"{found.mean:.2g} ({found.low:.2g} to {found.high:.2g})"
    # Adding 0 turns a rounded -0.0 into 0.0.
    numbers = (round(x, places) + 0.0 for x in (found.mean, found.low, found.high))
    mean, low, high = (f"{x:.{places}f}" for x in numbers)
    return f"{mean} ({low} to {high})"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 24px auto; padding: 0 16px;
}} table {{ border-collapse: collapse; margin: 12px 0; }} th, td {{ border-bottom: 1px solid #ddd;
padding: 4px 10px; text-align: left; vertical-align: top; }} img {{ max-width: 100%; }} figcaption
{{ color: #555; }} figure {{ margin: 16px 0; }} </style></head><body> {body} </body></html>
"""
