"""A picture of roles as one HTML page, with nothing from outside."""

import html
import json
import re

from keras_gamma.report.palette import COLORS


def make_page(title, svg, rows, nodes):
    """Puts a picture and its table side by side.

    Args:
        title: string.
        svg: bytes, the picture; each box is a group with the id `node<number>`.
        rows: list of dicts, one per γ: path, kind, role, decision (or `None`), reason, and
            nodes, the numbers of its boxes.
        nodes: dict from node number to a dict of what to show on hover: label, kind, and for a γ
            role and reason.

    Returns:
        The page: a string.
    """
    picture = re.sub(rb"^.*?(?=<svg)", b"", svg, flags=re.DOTALL).decode("utf-8")
    roles = [str(role) for role in COLORS]
    boxes = "".join(
        f'<label><input type="checkbox" value="{role}" checked> '
        f'<i style="background:{COLORS[role]}"></i>{role} '
        f"<b>{sum(row['role'] == role for row in rows)}</b></label>"
        for role in COLORS
    )
    with_decisions = any(row["decision"] for row in rows)
    head = "".join(
        f"<th>{name}</th>"
        for name in ("γ", "role", *(("decision",) if with_decisions else ()), "why")
    )
    body = "".join(
        f'<tr data-role="{row["role"]}" data-nodes="{" ".join(map(str, row["nodes"]))}">'
        f"<td>{html.escape(row['path'])}</td>"
        f'<td><i style="background:{COLORS[row["role"]]}"></i>{row["role"]}</td>'
        + (f"<td>{html.escape(row['decision'] or '–')}</td>" if with_decisions else "")
        + f"<td>{html.escape(row['reason'])}</td></tr>"
        for row in rows
    )
    data = json.dumps({"nodes": nodes, "roles": roles}, ensure_ascii=False).replace("<", "\\u003c")
    return _TEMPLATE.format(
        title=html.escape(title), picture=picture, boxes=boxes, head=head, body=body, data=data,
        style=_STYLE, script=_SCRIPT,
    )  # fmt: skip


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><div id="filters">{boxes}</div></header>
<main>
<section id="picture">{picture}</section>
<section id="list"><input id="search" type="search" placeholder="filter by name or reason">
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>
</main>
<div id="tip" hidden></div>
<script id="data" type="application/json">{data}</script>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; font: 13px/1.4 system-ui, sans-serif; color: #222; height: 100vh;
  display: flex; flex-direction: column; }
header { padding: 8px 16px; border-bottom: 1px solid #ddd; display: flex; gap: 24px;
  align-items: baseline; flex-wrap: wrap; }
h1 { font-size: 16px; margin: 0; }
#filters label { margin-right: 14px; white-space: nowrap; cursor: pointer; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 4px; }
main { flex: 1; display: flex; min-height: 0; }
#picture { flex: 3; overflow: auto; padding: 8px; }
#list { flex: 2; overflow: auto; border-left: 1px solid #ddd; padding: 8px; }
#search { width: 100%; padding: 4px 8px; margin-bottom: 8px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 3px 6px; border-bottom: 1px solid #eee; }
th { position: sticky; top: -8px; background: white; }
td:first-child { font-family: ui-monospace, monospace; word-break: break-all; }
tbody tr { cursor: pointer; }
tr.lit, tbody tr:hover { background: #fff3c4; }
svg .faded { opacity: 0.1; }
svg .lit path, svg .lit use { stroke: #000 !important; stroke-width: 3 !important; }
svg g[id^="node"], svg g[id^="text"] { cursor: pointer; }
#tip { position: fixed; max-width: 380px; background: #222; color: white; padding: 6px 10px;
  border-radius: 4px; pointer-events: none; z-index: 9; }
"""

_SCRIPT = """
"use strict";
const {nodes} = JSON.parse(document.getElementById("data").textContent);
const rows = [...document.querySelectorAll("tbody tr")];
const tip = document.getElementById("tip");
const search = document.getElementById("search");
const parts = n => ["node", "text"].map(k => document.getElementById(k + n)).filter(Boolean);
const rowOf = {};
for (const row of rows)
  for (const n of row.dataset.nodes.split(" ").filter(Boolean)) rowOf[n] = row;

function light(n, on) {
  const group = document.getElementById("node" + n);
  if (group) group.classList.toggle("lit", on);
  if (rowOf[n]) rowOf[n].classList.toggle("lit", on);
}

for (const [n, about] of Object.entries(nodes)) {
  for (const part of parts(n)) {
    part.addEventListener("mouseenter", () => {
      light(n, true);
      tip.replaceChildren();
      const name = document.createElement("b");
      name.textContent = about.label;
      tip.append(name, document.createElement("br"),
        about.role ? about.role + ": " + about.reason : about.kind);
      tip.hidden = false;
    });
    part.addEventListener("mousemove", e => {
      tip.style.left = Math.min(e.clientX + 14, innerWidth - 400) + "px";
      tip.style.top = Math.min(e.clientY + 14, innerHeight - 90) + "px";
    });
    part.addEventListener("mouseleave", () => { light(n, false); tip.hidden = true; });
    part.addEventListener("click", () => {
      if (rowOf[n]) rowOf[n].scrollIntoView({block: "center"});
    });
  }
}

for (const row of rows) {
  const mine = row.dataset.nodes.split(" ").filter(Boolean);
  row.addEventListener("mouseenter", () => mine.forEach(n => light(n, true)));
  row.addEventListener("mouseleave", () => mine.forEach(n => light(n, false)));
  row.addEventListener("click", () => {
    const first = mine.length && document.getElementById("node" + mine[0]);
    if (first) first.scrollIntoView({block: "center", inline: "center"});
  });
}

function filter() {
  const shown = new Set([...document.querySelectorAll("#filters input:checked")].map(b => b.value));
  const words = search.value.toLowerCase();
  for (const row of rows)
    row.hidden = !shown.has(row.dataset.role) || !row.textContent.toLowerCase().includes(words);
  for (const [n, about] of Object.entries(nodes))
    for (const part of parts(n))
      part.classList.toggle("faded", Boolean(about.role) && !shown.has(about.role));
}
document.getElementById("filters").addEventListener("change", filter);
search.addEventListener("input", filter);
"""
