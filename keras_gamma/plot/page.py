"""A picture of roles as one HTML page, with nothing from outside."""

import dataclasses
import html
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence

from keras_gamma.report import html as cells
from keras_gamma.report.columns import NOTHING, Column
from keras_gamma.report.palette import COLORS, DARK


@dataclasses.dataclass(frozen=True)
class GammaRow:
    """One γ in the table of a page.

    Args:
        path: string, the variable's path.
        kind: string, `"batch"`, `"layer"`, ...
        role: string, a role.
        reason: string, one plain sentence.
        decision: string, what a plan says, or `None` without a plan.
        strength: string, how strongly, or `None` without a plan.
        nodes: tuple of integers, the numbers of its boxes in the picture.
    """

    path: str
    kind: str
    role: str
    reason: str
    decision: str | None = None
    strength: str | None = None
    nodes: tuple[int, ...] = ()


COLUMNS = (
    Column("path", "γ"),
    Column("kind"),
    Column("role", colored=True),
    Column("decision"),
    Column("strength"),
    Column("reason", "why", prose=True),
)


def make_page(
    title: str,
    svg: bytes,
    rows: Sequence[GammaRow],
    nodes: Mapping[int, Mapping[str, str]],
) -> str:
    """Puts a picture and its table on one page.

    Args:
        title: string.
        svg: bytes, the picture; each box is a group with the id `node<number>`.
        rows: sequence of `GammaRow`.
        nodes: dict from node number to a dict of what to show on hover: label, kind, and for a γ
            role and reason.

    Returns:
        The page: a string. It is searched, sorted and filtered by a script of its own, follows the
        reader's choice of light or dark, and prints as picture and table.
    """
    picture = re.sub(rb"^.*?(?=<svg)", b"", svg, flags=re.DOTALL).decode("utf-8")
    # For ears, the picture is its table.
    picture = picture.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    shown = [c for c in COLUMNS if any(c.value(row) is not None for row in rows)] or list(COLUMNS)
    data = json.dumps({"nodes": nodes}, ensure_ascii=False).replace("<", "\\u003c")
    return _TEMPLATE.format(
        title=html.escape(title),
        picture=picture,
        filters="".join(_filter(role, rows) for role in COLORS),
        head="".join(_head(column) for column in shown),
        body="".join(_row(row, shown) for row in rows),
        count=len(rows),
        data=data,
        style=_file("page.css") + cells.STYLE + _dark(),
        script=_file("page.js"),
    )


def _file(name: str) -> str:
    return importlib.resources.files("keras_gamma.plot").joinpath(name).read_text("utf-8")


def _filter(role: str, rows: Sequence[GammaRow]) -> str:
    count = sum(row.role == role for row in rows)
    return (
        f'<label><input type="checkbox" value="{role}" checked> {cells.role(role)} '
        f"<b>{count}</b></label>"
    )


def _head(column: Column) -> str:
    return (
        f'<th scope="col" role="columnheader" class="{column.name}">'
        f'<button type="button">{html.escape(column.head)}</button></th>'
    )


def _row(row: GammaRow, columns: Sequence[Column]) -> str:
    first, *rest = columns
    found = [
        f'<th scope="row" role="rowheader" class="{first.name}">'
        f'<button type="button">{cells.name(first.cell(row))}</button></th>'
    ]
    for column in rest:
        text = column.cell(row)
        content = cells.role(text) if column.colored else cells.prose(text or NOTHING)
        found.append(f'<td role="cell" class="{column.name}">{content}</td>')
    numbers = " ".join(map(str, row.nodes))
    return (
        f'<tr role="row" data-role="{html.escape(row.role)}" data-nodes="{numbers}">'
        f"{''.join(found)}</tr>"
    )


def _dark() -> str:
    """The colours of the picture on dark ground: matplotlib writes them into each shape."""
    rules = "".join(
        f'#picture svg [style*="{what}: {light.lower()}"] {{ {what}: {dark} !important; }}\n'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme: dark) {{\n{rules}}}\n"


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body class="keras-gamma">
<header>
<h1>{title}</h1>
<fieldset id="filters"><legend class="unseen">Roles to show</legend>{filters}</fieldset>
</header>
<main>
<section id="picture" tabindex="0" aria-label="Picture of the network; the table says the same">
{picture}
</section>
<section id="list" tabindex="0" aria-label="Table of all γ">
<p id="tools"><label>Search <input id="search" type="search" placeholder="name or reason"></label>
<span id="count" role="status">{count} γ</span></p>
<table role="table">
<caption class="unseen">Every γ, its role, and why. A name shows its box in the picture; a title
sorts.</caption>
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
<tbody role="rowgroup">{body}</tbody>
</table>
</section>
</main>
<div id="tip" aria-hidden="true" hidden></div>
<script id="data" type="application/json">{data}</script>
<script>
{script}</script>
</body>
</html>
"""
