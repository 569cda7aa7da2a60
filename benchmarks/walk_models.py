"""Walks a model of every family, and writes the table docs/coverage.md.

    python benchmarks/walk_models.py                # about five minutes on two CPU cores
    python benchmarks/walk_models.py --only=hub     # one package, to the screen

Needs keras-cv and keras-hub. Ends with 1 if a family has no recipe, cannot be walked, or is refuted
by running it.
"""

import collections
import dataclasses
import gc
import importlib.metadata
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import zoo  # noqa: E402
from absl import app, flags  # noqa: E402

import keras_gamma  # noqa: E402
from keras_gamma import Role  # noqa: E402

_ONLY = flags.DEFINE_enum(
    "only", None, ["applications", "hub", "cv"], "Walk one package; print, and write nothing."
)
_VERIFY = flags.DEFINE_bool("verify", True, "Run the models, too, except keras.applications'.")

PACKAGES = {
    "applications": ("keras.applications", zoo.applications),
    "hub": ("keras-hub", zoo.hub),
    "cv": ("keras-cv", zoo.cv),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One family: what the walk found, or the error."""

    name: str
    counts: dict[Role, int] = dataclasses.field(default_factory=dict)
    closed: int = 0
    seconds: float = 0.0
    other: tuple[str, ...] = ()
    verified: str = ""
    error: str = ""


def walk(name, build, verify) -> Row:
    """Walks one family."""
    if build is None:
        return Row(name, error="no recipe in benchmarks/zoo.py")
    try:
        keras.utils.set_random_seed(0)
        model = build()
        start = time.perf_counter()
        roles = keras_gamma.find_roles(model)
        seconds = time.perf_counter() - start
        agreement = keras_gamma.verify(model).counts() if verify else None
    except Exception as error:
        text = " ".join(str(error).split())
        return Row(name, error=f"{type(error).__name__}: {text[:160]}")
    closed = sum("closed" in g.reason or "cannot see into" in g.reason for g in roles)
    other = tuple(g.reason for g in roles if g.role is Role.OTHER)
    verified, refuted = "", ""
    if agreement:
        agree, disagree, untested = agreement.values()
        verified = f"{agree}" + (f", {untested} not testable" if untested else "")
        refuted = f"{disagree} roles are refuted by running it" if disagree else ""
    return Row(name, roles.counts(), closed, seconds, other, verified, refuted)


def rows_of(package, verify) -> list[Row]:
    """Walks all families of a package, one at a time."""
    rows = []
    for name, build in PACKAGES[package][1]():
        rows.append(walk(name, build, verify and package != "applications"))
        print(line(rows[-1]), flush=True)
        keras.backend.clear_session()
        gc.collect()
    return rows


def line(row: Row) -> str:
    """One row of the table."""
    if row.error:
        return f"| {row.name} | **{row.error}** | | | | | | | |"
    counts = " | ".join(str(row.counts[role] or "–") for role in Role)
    opened = f"{row.closed} γ at closed parts" if row.closed else "fully"
    return f"| {row.name} | {counts} | {opened} | {row.verified or '–'} | {row.seconds:.2f} |"


def reasons(rows: list[Row]) -> list[str]:
    """The distinct reasons for `other`, without the names of layers, and who has them."""
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in rows:
        for reason in row.other:
            found[_general(reason)][row.name] += 1
    return [
        f"| {reason} | {', '.join(f'{name} {n}' for name, n in families.items())} |"
        for reason, families in sorted(found.items())
    ]


def _general(reason):
    """A reason without the name of the layer, which is quoted first."""
    return re.sub(r" '[^']*'", " …", reason, count=1)


HEAD = (
    "| model | residual_last | shortcut | interior | trunk | other | opened | verified | s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def page(tables: dict[str, list[Row]]) -> str:
    """The document."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("keras", "tensorflow", "keras-hub", "keras-cv")
    )
    parts = [
        "# Coverage",
        "",
        "Every model of keras.applications at full size, and a small one of every family of",
        "backbones in keras-hub and keras-cv, with weights at random. Made by",
        f"`python benchmarks/walk_models.py`; the figures are of {versions}.",
        "",
        "Counted are γ per role. *opened*: whether every layer could be opened. *verified*: for",
        "how many γ running the model (`keras_gamma.verify`) agrees; *not testable* are γ that the",
        "walker makes no claim about, or that sit where nothing can be told. *s*: seconds of",
        "`find_roles`.",
    ]
    for package, rows in tables.items():
        parts += ["", f"## {PACKAGES[package][0]}", "", HEAD, *map(line, rows)]
    parts += [
        "",
        "## Why `other`",
        "",
        "| reason (… is the name of a layer) | γ |",
        "| --- | --- |",
        *reasons([row for rows in tables.values() for row in rows]),
    ]
    return "\n".join(parts) + "\n"


def main(argv: Sequence[str]) -> None:
    """Walks, prints, and writes the page."""
    del argv
    warnings.simplefilter("ignore")
    packages = [_ONLY.value] if _ONLY.value else list(PACKAGES)
    tables = {package: rows_of(package, _VERIFY.value) for package in packages}
    if not _ONLY.value:
        (ROOT / "docs" / "coverage.md").write_text(page(tables), encoding="utf-8")
    errors = [row for rows in tables.values() for row in rows if row.error]
    for row in errors:
        print(f"error: {row.name}: {row.error}", file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    app.run(main)
