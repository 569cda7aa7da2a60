"""Walks models of every family, and writes what came of it to docs/coverage.md.

    python benchmarks/walk_models.py                # whatever benchmarks/coverage.jsonl lacks
    python benchmarks/walk_models.py --only=hub     # one package
    python benchmarks/walk_models.py --every        # all models, not one of each family
    python benchmarks/walk_models.py --page         # the page alone, from the rows

Each model is walked in a process of its own, with a limit on time and memory, and gives one row,
written at once: a walk that was ended goes on where it was. A row is made again if it is deleted
from the file, or its package has another version. Needs keras-hub and keras-cv, and
`pip install "keras_gamma[zoo]"` for the rest; a package that is missing is left out, and the page
says so. Ends with 1 if a model could not be walked, or a role is refuted.
"""

import importlib.metadata
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

import psutil  # noqa: E402
from absl import app, flags  # noqa: E402
from coverage_page import line, page  # noqa: E402
from coverage_rows import PACKAGES, ROWS, Row, append, read  # noqa: E402

_ONLY = flags.DEFINE_list("only", None, f"Packages, of {', '.join(PACKAGES)}.")
_EVERY = flags.DEFINE_bool("every", False, "All models of a family, not one.")
_PAGE = flags.DEFINE_bool("page", False, "Write the page from the rows, and walk nothing.")
_ROWS = flags.DEFINE_string("rows", str(ROWS), "The rows.")
_SECONDS = flags.DEFINE_float(
    "seconds", 300, "A model may take so many CPU seconds, building included."
)
_GIB = flags.DEFINE_float("gib", 6, "A process may take so much memory, weights included.")
_KEEP = flags.DEFINE_string("keep", "", "A folder for the report of each model, as JSON.")
_MATCH = flags.DEFINE_string("match", "", "Only models whose name contains this.")

_STALLED = 90.0  # Seconds without any work.
PRELOADED = {
    "kecam": "zoo_kecam",
    "kimm": "kimm.models",
    "medicai": "medicai.models",
    "aeon": "aeon.networks",
}


def walk_package(package: str, every: bool, path: Path) -> None:
    """Walks all models of a package that the rows lack, one at a time."""
    import walk_one

    _, distribution = PACKAGES[package]
    try:
        version = importlib.metadata.version(distribution)
        names = [name for name, _ in walk_one.MODELS[package](every)]
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        print(f"{package} is left out: {error}", file=sys.stderr)
        return
    known = {row.model for row in read(path) if (row.package, row.version) == (package, version)}
    context = multiprocessing.get_context("forkserver")
    for name in names:
        if name in known or _MATCH.value not in name:
            continue
        arguments = (path, package, version, name, every, _KEEP.value)
        process = context.Process(target=walk_one.walk_into, args=arguments)
        process.start()
        why = _watch(process)
        if why:
            append(path, Row(package, version, name, unbuilt=why))
        print(line(next(r for r in read(path) if (r.package, r.model) == (package, name))))
        sys.stdout.flush()


def _watch(process: multiprocessing.process.BaseProcess) -> str:
    """Waits for a process, and ends it where it takes too much: then why."""
    why, busy, moved = "", 0.0, time.monotonic()
    while process.is_alive() and not why:
        process.join(0.5)
        try:
            state = psutil.Process(process.pid)
            used, times = state.memory_info().rss / 2**30, state.cpu_times()
        except psutil.Error:
            break
        if times.user + times.system > busy + 0.1:
            busy, moved = times.user + times.system, time.monotonic()
        if busy > _SECONDS.value:
            why = f"ended after {_SECONDS.value:.0f} CPU seconds"
        elif time.monotonic() > moved + _STALLED:
            why = "ended, for it did nothing any more"
        elif used > _GIB.value:
            why = f"ended at {_GIB.value:.0f} GiB"
    if why:
        process.kill()
    process.join()
    if not why and process.exitcode:
        why = f"the process ended with {process.exitcode}"
    return why


def main(argv: Sequence[str]) -> None:
    """Walks, prints, and writes the page."""
    del argv
    path = Path(_ROWS.value)
    if not _PAGE.value:
        packages = _ONLY.value or list(PACKAGES)
        preloaded = [PRELOADED[package] for package in packages if package in PRELOADED]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["walk_one", *preloaded])
        for package in packages:
            walk_package(package, _EVERY.value, path)
    rows = read(path)
    (ROOT / "docs" / "coverage.md").write_text(page(rows), encoding="utf-8")
    bad = [row for row in rows if row.error or row.refuted]
    for row in bad:
        print(f"{row.package} {row.model}: {row.error or row.refuted[0]}", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    app.run(main)
