"""The page docs/coverage.md, from the rows."""

import collections
import re
from collections.abc import Iterable

from coverage_rows import PACKAGES, ROOT, Row

ROLES = ("residual_last", "shortcut", "interior", "trunk", "other")
APPLY = ("residual_last", "interior")


def line(row: Row) -> str:
    """One row of the table."""
    if row.error or row.unbuilt:
        return f"| {row.model} | **{row.error or 'not built: ' + row.unbuilt}** |" + " |" * 10
    counts = " | ".join(str(row.counts[role] or "–") for role in ROLES)
    total, untold = sum(row.counts.values()), sum(row.untold.values())
    finding, verifying = row.cpu or (row.seconds, row.verifying)
    opened = f"{row.closed} γ" if row.closed else "–"
    return (
        f"| {row.model} | {counts} | {total} | {opened} | {len(row.refuted) or '–'} | "
        f"{untold or '–'} | {finding:.2f} | {verifying:.1f} |"
    )


HEAD = (
    "| model | residual_last | shortcut | interior | trunk | other | γ | closed | refuted | "
    "not testable | find_roles, s | verify, s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def _sum(rows: Iterable[Row], attribute: str) -> dict[str, int]:
    total: collections.Counter[str] = collections.Counter()
    for row in rows:
        total.update(getattr(row, attribute))
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def power_table(rows: list[Row]) -> list[str]:
    """How many claims are refuted: a line per role, a column per claim; and the two sums."""
    cells: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for row in rows:
        for key, (refuted, total) in row.power.items():
            cells[key][0] += refuted
            cells[key][1] += total

    def share(keys: Iterable[str]) -> str:
        refuted = sum(cells[key][0] for key in keys)
        total = sum(cells[key][1] for key in keys)
        return f"{refuted} of {total} ({refuted / max(total, 1):.1%})"

    across = [f"{a}>{b}" for a in ROLES for b in ROLES if (a in APPLY) != (b in APPLY)]
    lines = [
        "| role found | " + " | ".join(f"claimed {role}" for role in ROLES) + " |",
        "| --- |" + " --- |" * len(ROLES),
    ]
    lines += [f"| {a} | " + " | ".join(share([f"{a}>{b}"]) for b in ROLES) + " |" for a in ROLES]
    return [
        *lines,
        "",
        f"- Wrong claims between apply and withhold that are refuted: {share(across)}.",
        "- γ that are not testable count: nothing that is claimed of them is refuted.",
        f"- Claims of the role found that are refuted: {share([f'{a}>{a}' for a in ROLES])}.",
    ]


TEXT = """# Coverage

Every model of keras.applications; a small one of every family of backbones in
keras-hub and keras-cv; and one of each family that third-party packages export. Weights are at
random. Made by `python benchmarks/walk_models.py` from the rows in `benchmarks/coverage.jsonl`; the
figures are of {versions}.

{total}

Counted are γ per role. *closed*: γ in, or in front of, layers that could not be opened. *refuted*:
γ for which running the model (`keras_gamma.verify`) shows another role. *not testable*: γ for which
running tells nothing, see below. Seconds are the processor's, of both cores together, on a machine
that did much other work."""

LIMITS = """## What running cannot tell

`verify` runs every step of a model on its own values, on scaled ones and on noise, and so finds out
what it adds, multiplies, concatenates, absorbs. It reads no join, fork or skip of `find_roles`.
But:

- `trunk` and `other` move the function alike: one is never refuted in favour of the other. Both are
  withheld by default.
- Code that only runs as a whole is tested as a whole, from one layer that it calls to the next. If
  it scales exactly with what comes in, or not at all, or adds to it, γ in front of it is judged; if
  not, it is "not testable".
- A mask that leaves nothing, or a query of a single key, hides what lies behind it: such inputs let
  nothing through, and the verdict is "not testable".
- γ in parts that no input of the model reaches have no effect that differs between two examples.
- That a concatenation, a bounded activation (ReLU6, tanh), and an activation that is homogeneous
  for large values only (GELU, SiLU) pass a scale on, is the definition of the roles, and no
  measurement.
- The fork of a sum is reachability in the trace: if the trace misses an edge, so does the referee.
- The power below is counted with the roles that were found as the true ones: a mistake that reading
  and running share does not show in it. `tests/checks/test_verification.py` has roles by hand."""


NOT_BUILT = """Models that their packages could not build on the Keras above at this size, or not
within the limits on time and memory: nothing is said of them."""


def page(rows: list[Row]) -> str:
    """The document."""
    versions = {PACKAGES[row.package][1]: row.version for row in rows}
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    walked = [row for row in rows if not row.unbuilt]
    total = (
        f"{len(walked)} models of {len({row.package for row in walked})} packages, "
        f"{sum(sum(row.counts.values()) for row in walked)} γ: "
        f"{sum(bool(row.error) for row in walked)} exceptions, "
        f"{sum(row.closed > 0 for row in walked)} models with a closed part, "
        f"{sum(len(row.refuted) for row in walked)} γ refuted, "
        f"{sum(sum(row.untold.values()) for row in walked)} not testable."
    )
    parts = [TEXT.format(versions=named, total=total)]
    for package, (title, _) in PACKAGES.items():
        own = [row for row in rows if row.package == package and not row.unbuilt]
        own.sort(key=lambda row: row.model)
        if own:
            parts += ["", f"## {title}", "", HEAD, *map(line, own)]
    unbuilt = [row for row in rows if row.unbuilt]
    if unbuilt:
        parts += ["", "## Not built", "", NOT_BUILT, "", "| package | model | why |"]
        parts += ["| --- | --- | --- |"]
        parts += [
            f"| {PACKAGES[row.package][0]} | {row.model} | {_plain(row.unbuilt)} |"
            for row in sorted(unbuilt, key=lambda row: (row.package, row.model))
        ]
    refuted = [(row, *entry) for row in rows for entry in row.refuted]
    if refuted:
        parts += ["", "## Disagreements", "", "| model | γ | read | run | evidence |"]
        parts += ["| --- | --- | --- | --- | --- |"]
        parts += [f"| {row.model} | {' | '.join(entry)} |" for row, *entry in refuted]
    parts += ["", "## Power", "", *power_table(rows), "", LIMITS]
    parts += ["", (ROOT / "benchmarks" / "read_by_hand.md").read_text(encoding="utf-8").strip()]
    for title, attribute in (("Why not testable", "untold"), ("Why `other`", "other")):
        parts += ["", f"## {title}", "", "| reason (… is a name) | γ |", "| --- | --- |"]
        parts += [f"| {_plain(reason, 200)} | {n} |" for reason, n in _sum(rows, attribute).items()]
    return "\n".join(parts) + "\n"


def _plain(text: str, length: int = 110) -> str:
    """An error as a cell of a table."""
    return re.sub(r"\x1b?\[(\d+|…)?m|[|*\x1b\r\n]", "", text)[:length]
