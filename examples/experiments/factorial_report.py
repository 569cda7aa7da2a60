"""Redraws every table and figure of the factorial experiment from its raw rows.

    python examples/experiments/factorial_report.py

reads test, amendment, depth, transformers and usual.jsonl.gz in docs/experiments/rows, writes the
part of docs/evidence.md between the two marks, and the figures beside it. Rows of your own are
taken with `--rows=runs/factorial/test.jsonl` (and those of the other stages beside it), and
`--pack` puts them into the repository first. What is judged, and how, is
docs/experiments/preregistration.md.
"""

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# The repository's root, so that the script runs from anywhere, and before anything is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from absl import flags

from examples.core.cli import UsageError, run_main
from examples.experiments import (
    factorial_amendment_report,
    factorial_depth,
    factorial_map,
    factorial_pictures,
    factorial_plan,
    factorial_sections,
    factorial_transformers,
)
from examples.experiments import factorial_findings as findings
from examples.experiments.factorial_cells import (
    ALL,
    ALL_BUT_INTERIOR,
    GUIDELINES,
    NONE,
    ROLES,
    key_of,
)
from examples.experiments.factorial_statistics import Verdict
from examples.experiments.reports import markdown_table, tell
from examples.experiments.significance import estimate

FLAGS = flags.FLAGS
ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs" / "evidence.md"
ROWS = ROOT / "docs" / "experiments" / "rows" / "test.jsonl.gz"
AMENDED = ROWS.with_name("amendment.jsonl.gz")
DEPTHS = ROWS.with_name("depth.jsonl.gz")
TRANSFORMERS = ROWS.with_name("transformers.jsonl.gz")
USUAL = ROWS.with_name("usual.jsonl.gz")
PICTURES = ROOT / "docs" / "pictures"
BEGIN, END = "<!-- factorial: begin -->", "<!-- factorial: end -->"

if "rows" not in FLAGS:
    flags.DEFINE_string("rows", str(ROWS), "The raw rows: .jsonl or .jsonl.gz.")
    flags.DEFINE_bool("pack", False, "Puts the rows into the repository, compressed.")


def main(argv: Sequence[str]) -> None:
    """Writes the tables and figures."""
    del argv
    path = Path(FLAGS.rows)
    if not path.is_file():
        raise UsageError(f"--rows: there is no {path}; factorial.py makes it")
    rows = read(path)
    stages = ("amendment", "depth", "transformers", "usual")
    more, deep, others, usual = (read_beside(path, stage) for stage in stages)
    if FLAGS.pack:
        pack(rows, factorial_plan.test(), ROWS)
        pack(more, factorial_plan.amendment(), AMENDED)
        pack(deep, factorial_plan.depth(), DEPTHS)
        pack(others, factorial_plan.transformers(), TRANSFORMERS)
        pack(usual, factorial_plan.usual(), USUAL)
    before, rest = EVIDENCE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    EVIDENCE.write_text(
        f"{before}{BEGIN}\n{tables(rows, more, deep, others, usual)}\n{END}{after}",
        encoding="utf-8",
    )
    draw(rows, [*rows, *more])
    counts = ", ".join(str(len(found)) for found in (rows, more, deep, others, usual))
    print(f"{counts} rows; wrote {EVIDENCE} and two figures in {PICTURES}")


def draw(first: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Draws the two figures: effects from the first rows, the map from all."""
    designs = findings.by_cell(first)
    named = {findings.name_of(cell): design for cell, design in designs.items()}
    contrasts = factorial_sections.presets(list(map(str, ROLES)))
    factorial_pictures.effects(named, contrasts, PICTURES / "factorial_effects.png")
    factorial_pictures.maps(factorial_map.values(rows), "none", PICTURES / "factorial_map.png")


def read(path: Path) -> list[dict[str, Any]]:
    """Reads rows; a line that was cut off at the end is left out."""
    opened = gzip.open if path.suffix == ".gz" else open
    found = []
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                found.append(json.loads(line))
    return found


def read_beside(path: Path, stage: str) -> list[dict[str, Any]]:
    """The rows of another stage, from the file beside `path`; none if there is none."""
    other = path.with_name(path.name.replace("test", stage))
    return read(other) if other.is_file() else []


def pack(rows: Sequence[dict[str, Any]], jobs: Iterator[dict[str, Any]], path: Path) -> None:
    """Writes rows, compressed, in the order of the plan."""
    places = {key_of(job): number for number, job in enumerate(jobs)}
    ordered = sorted(rows, key=lambda row: places[key_of(row)])
    text = "".join(json.dumps(row) + "\n" for row in ordered)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def tables(
    rows: Sequence[dict[str, Any]],
    more: Sequence[dict[str, Any]],
    deep: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    usual: Sequence[dict[str, Any]],
) -> str:
    """The tables, as Markdown.

    Args:
        rows: of the first plan.
        more: of the amendment.
        deep: of the second amendment.
        others: of the third amendment.
        usual: of the fourth amendment.
    """
    designs = findings.by_cell(rows)
    families = findings.judge(rows)
    presets = {name: family for name, family in families.items() if name.startswith("A, ")}
    parts = [_cells(designs), _effects(designs)]
    parts += [_families("A, presets, in every cell", presets)] if presets else []
    parts += [_families(name, {"": f}) for name, f in families.items() if name not in presets]
    amended = factorial_amendment_report.tables(more, _families)
    return "\n\n".join(
        [
            *parts,
            _turn(rows),
            _failures(designs),
            _explored(designs),
            amended,
            factorial_depth.tables(deep),
            factorial_transformers.tables(
                others, factorial_transformers.BY_DOSE, "X, transformers with AdamW"
            ),
            factorial_transformers.tables(
                usual, factorial_transformers.AS_USUAL, "Y, transformers at a usual λ"
            ),
        ]
    )


def _cells(designs: findings.Designs) -> str:
    lines = []
    for place, design in designs.items():
        best, mean = findings.best_arm(design)
        lines.append(
            [
                findings.name_of(place),
                f"{place.rate:g}",
                str(len(design.seeds)),
                *(tell(estimate(design.arm(arm))) for arm in findings.PRESETS.values()),
                f"{mean:.1f} ({best})",
            ]
        )
    header = ["cell", "η", "seeds", *findings.PRESETS, "best of 16, by the same seeds"]
    return "Test accuracy, %:\n\n" + markdown_table(header, lines)


def _effects(designs: findings.Designs) -> str:
    lines = [
        [
            findings.name_of(place),
            *(tell(estimate(design.effect(role))) for role in design.switches),
            tell(estimate(design.difference(GUIDELINES, NONE))),
            tell(estimate(design.difference(ALL, NONE))),
        ]
        for place, design in designs.items()
    ]
    header = ["cell", *map(str, ROLES), "guidelines − none", "all − none"]
    return "Effects, points (not corrected):\n\n" + markdown_table(header, lines)


def _families(name: str, families: dict[str, list[Verdict]]) -> str:
    """One table; p-values are corrected within each family."""
    lines = [
        [
            cell.partition(": ")[2],
            verdict.hypothesis.text,
            tell(verdict.hypothesis.seen) if len(verdict.hypothesis.values) else "–",
            f"{verdict.p:.2g}",
            "–" if verdict.hypothesis.margin is None else f"{verdict.p_equivalence:.2g}",
            verdict.text,
        ]
        for cell, family in families.items()
        for verdict in family
    ]
    header = ["cell", "predicted", "seen (95 %)", "p", "p of equivalence", "verdict"]
    if not lines[0][0]:
        header, lines = header[1:], [line[1:] for line in lines]
    return f"**{name}**\n\n" + markdown_table(header, lines)


def _turn(rows: Sequence[dict[str, Any]]) -> str:
    found = findings.turn(rows)
    lines = [
        [str(depth), tell(found.ratios[depth]), tell(found.effects[depth])]
        for depth in found.effects
    ]
    header = ["depth", "log of branch/skip at “none”", "effect of residual_last, points"]
    title = f"**E, where the sign turns (dose 10)**: {found.text}"
    return f"{title}\n\n{markdown_table(header, lines)}"


def _explored(designs: findings.Designs) -> str:
    """What was not written down before: the arm that is the best in most cells."""
    lines = [
        [
            findings.name_of(place),
            tell(estimate(design.difference(ALL_BUT_INTERIOR, NONE))),
            tell(estimate(design.difference(ALL_BUT_INTERIOR, ALL))),
            tell(estimate(design.difference(ALL_BUT_INTERIOR, GUIDELINES))),
        ]
        for place, design in designs.items()
    ]
    header = ["cell", "all but interior − none", "… − all", "… − guidelines"]
    title = "Explored, not predicted (points, not corrected; the arm was chosen by these seeds):"
    return f"{title}\n\n{markdown_table(header, lines)}"


def _failures(designs: findings.Designs) -> str:
    """Runs that did not train, where there are any."""
    lines = []
    for place, design in designs.items():
        failed = design.values < findings.TRAINED
        if failed.any():
            for role in design.switches[:2]:
                axis = 1 + design.switches.index(role)
                on, off = (failed.take(bit, axis) for bit in (1, 0))
                lines.append(
                    [findings.name_of(place), role, f"{on.sum()} of {on.size}",
                     f"{off.sum()} of {off.size}"]
                )  # fmt: skip
    if not lines:
        return f"No run ended below {findings.TRAINED:g} %."
    header = ["cell", "role", "failed with decay", "failed without"]
    return f"Runs below {findings.TRAINED:g} %:\n\n" + markdown_table(header, lines)


if __name__ == "__main__":
    run_main(main)
