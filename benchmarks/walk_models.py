"""Walks models of every family, and writes what came of it to docs/coverage.md.

    python benchmarks/walk_models.py                # whatever benchmarks/coverage.jsonl lacks
    python benchmarks/walk_models.py --only=hub     # one package
    python benchmarks/walk_models.py --every        # all models, not one of each family
    python benchmarks/walk_models.py --page         # the page alone, from the rows

Each model gives one row, written at once: a walk that was ended goes on where it was. A row is made
again if it is deleted from the file, or its package has another version. Needs keras-hub and
keras-cv, and `pip install "keras_gamma[zoo]"` for the rest; a package that is missing is left out,
and the page says so. Ends with 1 if a model could not be walked, or a role is refuted.
"""

import collections
import dataclasses
import gc
import importlib.metadata
import json
import re
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import zoo  # noqa: E402
import zoo_third_party as third  # noqa: E402
from absl import app, flags  # noqa: E402

import keras_gamma  # noqa: E402
from keras_gamma import Role  # noqa: E402
from keras_gamma.checks.claims import Agreement, Measured, compare  # noqa: E402

# Name -> (what it is called, its distribution, its models).
PACKAGES: dict[str, tuple[str, str, Any]] = {
    "applications": ("keras.applications", "keras", lambda every: zoo.applications()),
    "hub": ("keras-hub", "keras-hub", lambda every: zoo.hub()),
    "cv": ("keras-cv", "keras-cv", lambda every: zoo.cv()),
    "kimm": ("kimm", "kimm", third.kimm),
    "medicai": ("medicai", "medicai", third.medicai),
    "unet": ("keras-unet-collection", "keras-unet-collection", third.unet_collection),
    "bayesflow": ("bayesflow", "bayesflow", third.bayesflow),
    "tcn": ("keras-tcn", "keras-tcn", third.tcn),
    "vit": ("vit-keras", "vit-keras", third.vit_keras),
}
_ONLY = flags.DEFINE_list("only", None, f"Packages, of {', '.join(PACKAGES)}.")
_EVERY = flags.DEFINE_bool("every", False, "All models of a family, not one.")
_PAGE = flags.DEFINE_bool("page", False, "Write the page from the rows, and walk nothing.")
_ROWS = flags.DEFINE_string("rows", str(ROOT / "benchmarks" / "coverage.jsonl"), "The rows.")

APPLY = {Role.RESIDUAL_LAST, Role.INTERIOR}


@dataclasses.dataclass(frozen=True)
class Row:
    """One model: what the walk found, or the error.

    Args:
        package: string, a key of `PACKAGES`.
        version: string, its version.
        model: string.
        counts: dict from role to the number of γ.
        closed: integer, γ at closed parts.
        agree: integer, γ whose role running confirms.
        refuted: list of path, role, measured role and evidence.
        untold: dict from the kind of reason to the number of γ that could not be told.
        other: dict from the kind of reason to the number of γ that are `other`.
        power: dict from "true role>claimed role" to how many were refuted, and how many there are.
        seconds: float, of `find_roles`.
        verifying: float, seconds of `verify`.
        error: string.
    """

    package: str
    version: str
    model: str
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    closed: int = 0
    agree: int = 0
    refuted: list[list[str]] = dataclasses.field(default_factory=list)
    untold: dict[str, int] = dataclasses.field(default_factory=dict)
    other: dict[str, int] = dataclasses.field(default_factory=dict)
    power: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    verifying: float = 0.0
    error: str = ""


def walk(package: str, version: str, name: str, build: Any) -> Row:
    """Walks one model."""
    if build is None:
        return Row(package, version, name, error="no recipe in benchmarks/zoo.py")
    try:
        keras.utils.set_random_seed(0)
        model = build()
        start = time.perf_counter()
        roles = keras_gamma.find_roles(model)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        found = keras_gamma.verify(model, roles)
        verifying = time.perf_counter() - start
    except Exception as error:
        text = " ".join(str(error).split())
        return Row(package, version, name, error=f"{type(error).__name__}: {text[:160]}")
    untold = [e for e in found if e.agreement is Agreement.NOT_TESTABLE]
    return Row(
        package,
        version,
        name,
        {str(role): n for role, n in roles.counts().items()},
        sum("closed" in g.reason or "cannot see into" in g.reason for g in roles),
        found.counts()[Agreement.AGREE],
        [
            [e.path, str(e.role), str(e.measured), e.evidence]
            for e in found
            if e.agreement is Agreement.DISAGREE
        ],
        dict(collections.Counter(_general(e.evidence) for e in untold)),
        dict(collections.Counter(_general(g.reason) for g in roles if g.role is Role.OTHER)),
        _power(found),
        round(seconds, 3),
        round(verifying, 2),
    )


def _power(found: keras_gamma.checks.Verification) -> dict[str, list[int]]:
    """Each γ with each role in turn: how many claims are refuted, of how many."""
    power: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for entry in found:
        for claimed in Role:
            verdict, _ = compare(claimed, Measured(entry.measured, entry.evidence))
            if claimed is entry.role:
                verdict = entry.agreement
            cell = power[f"{entry.role}>{claimed}"]
            cell[0] += verdict is Agreement.DISAGREE
            cell[1] += 1
    return dict(power)


def _general(reason: str) -> str:
    """A reason without the names of layers, which are quoted."""
    return re.sub(r"'[^']*'|\d+", "…", reason)


def read(path: Path) -> list[Row]:
    """The rows of earlier walks; of two for one model the later."""
    rows: dict[tuple[str, str], Row] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = Row(**json.loads(line))
            rows[row.package, row.model] = row
    return list(rows.values())


def walk_package(package: str, every: bool, path: Path) -> None:
    """Walks all models of a package that the rows lack, one at a time."""
    _, distribution, models = PACKAGES[package]
    try:
        version = importlib.metadata.version(distribution)
        recipes = list(models(every))
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        print(f"{package} is left out: {error}", file=sys.stderr)
        return
    known = {row.model for row in read(path) if (row.package, row.version) == (package, version)}
    for name, build in recipes:
        if name in known:
            continue
        row = walk(package, version, name, build)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
        print(line(row), flush=True)
        keras.backend.clear_session()
        gc.collect()


def line(row: Row) -> str:
    """One row of the table."""
    if row.error:
        return f"| {row.model} | **{row.error}** |" + " |" * 10
    counts = " | ".join(str(row.counts[role] or "–") for role in Role)
    total, untold = sum(row.counts.values()), sum(row.untold.values())
    opened = f"{row.closed} γ" if row.closed else "–"
    return (
        f"| {row.model} | {counts} | {total} | {opened} | {len(row.refuted) or '–'} | "
        f"{untold or '–'} | {row.seconds:.2f} | {row.verifying:.1f} |"
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

    across = [f"{a}>{b}" for a in Role for b in Role if (a in APPLY) != (b in APPLY)]
    lines = [
        "| role found | " + " | ".join(f"claimed {role}" for role in Role) + " |",
        "| --- |" + " --- |" * len(Role),
    ]
    lines += [f"| {a} | " + " | ".join(share([f"{a}>{b}"]) for b in Role) + " |" for a in Role]
    return [
        *lines,
        "",
        f"- Wrong claims between apply and withhold that are refuted: {share(across)}.",
        f"- Claims of the role found that are refuted: {share([f'{a}>{a}' for a in Role])}.",
    ]


TEXT = """# Coverage

Every model of keras.applications; a small one of every family of backbones in
keras-hub and keras-cv; and one of each family that third-party packages export. Weights are at
random. Made by `python benchmarks/walk_models.py` from the rows in `benchmarks/coverage.jsonl`; the
figures are of {versions}.

Counted are γ per role. *closed*: γ in, or in front of, layers that could not be opened. *refuted*:
γ for which running the model (`keras_gamma.verify`) shows another role. *not testable*: γ for which
running tells nothing, see below. Seconds are those of a machine of two cores that did other work,
too."""

LIMITS = """## What running cannot tell

`verify` runs every step of a model on its own values, on scaled ones and on noise, and so finds out
what it adds, multiplies, concatenates, absorbs. It reads no join, fork or skip of `find_roles`.
But:

- `trunk` and `other` move the function alike: one is never refuted in favour of the other. Both are
  withheld by default.
- A layer that only runs as a whole is tested as a whole. If it scales exactly with what comes in,
  or not at all, γ in front of it is judged; if not, it is "not testable". γ inside are not tested.
- γ in parts that no input of the model reaches have no effect that differs between two examples.
- That a concatenation, a bounded activation (ReLU6, tanh), and an activation that is homogeneous
  for large values only (GELU, SiLU) pass a scale on, is the definition of the roles, and no
  measurement.
- The fork of a sum is reachability in the trace: if the trace misses an edge, so does the referee.
- The power below is counted with the roles that were found as the true ones: a mistake that reading
  and running share does not show in it. `tests/checks/test_verification.py` has roles by hand."""


def page(rows: list[Row]) -> str:
    """The document."""
    versions = {PACKAGES[row.package][1]: row.version for row in rows}
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    parts = [TEXT.format(versions=named)]
    for package, (title, *_) in PACKAGES.items():
        own = sorted((row for row in rows if row.package == package), key=lambda row: row.model)
        if own:
            parts += ["", f"## {title}", "", HEAD, *map(line, own)]
    refuted = [(row, *entry) for row in rows for entry in row.refuted]
    if refuted:
        parts += ["", "## Disagreements", "", "| model | γ | read | run | evidence |"]
        parts += ["| --- | --- | --- | --- | --- |"]
        parts += [f"| {row.model} | {' | '.join(entry)} |" for row, *entry in refuted]
    parts += ["", "## Power", "", *power_table(rows), "", LIMITS]
    for title, attribute in (("Why not testable", "untold"), ("Why `other`", "other")):
        parts += ["", f"## {title}", "", "| reason (… is a name) | γ |", "| --- | --- |"]
        parts += [f"| {reason} | {n} |" for reason, n in _sum(rows, attribute).items()]
    return "\n".join(parts) + "\n"


def main(argv: Sequence[str]) -> None:
    """Walks, prints, and writes the page."""
    del argv
    warnings.simplefilter("ignore")
    path = Path(_ROWS.value)
    if not _PAGE.value:
        for package in _ONLY.value or PACKAGES:
            walk_package(package, _EVERY.value, path)
    rows = read(path)
    (ROOT / "docs" / "coverage.md").write_text(page(rows), encoding="utf-8")
    for row in rows:
        if row.error or row.refuted:
            print(f"{row.package} {row.model}: {row.error or row.refuted[0]}", file=sys.stderr)
    sys.exit(1 if any(row.error or row.refuted for row in rows) else 0)


if __name__ == "__main__":
    app.run(main)
