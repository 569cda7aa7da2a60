"""What one walk of a model leaves: a row, and the file of all rows."""

import dataclasses
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "benchmarks" / "coverage.jsonl"

# Name -> (what it is called, its distribution).
PACKAGES: dict[str, tuple[str, str]] = {
    "applications": ("keras.applications", "keras"),
    "hub": ("keras-hub", "keras-hub"),
    "cv": ("keras-cv", "keras-cv"),
    "kecam": ("keras-cv-attention-models", "keras-cv-attention-models"),
    "kimm": ("kimm", "kimm"),
    "medicai": ("medicai", "medicai"),
    "volumes": ("classification-models-3D", "classification-models-3D"),
    "segment": ("segmentation-models-3D", "segmentation-models-3D"),
    "unet": ("keras-unet-collection", "keras-unet-collection"),
    "bayesflow": ("bayesflow", "bayesflow"),
    "aeon": ("aeon", "aeon"),
    "kgcnn": ("kgcnn", "kgcnn"),
    "tcn": ("keras-tcn", "keras-tcn"),
    "vit": ("vit-keras", "vit-keras"),
}


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
        notes: list of strings, what `find_roles` says beside the table.
        seconds: float, of `find_roles`, by the clock.
        verifying: float, seconds of `verify`, by the clock.
        cpu: list of two floats, seconds of all cores of `find_roles` and of `verify`.
        error: string, of `find_roles` or `verify`.
        unbuilt: string, why the package could not build it; no fault of ours.
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
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    verifying: float = 0.0
    cpu: list[float] = dataclasses.field(default_factory=list)
    error: str = ""
    unbuilt: str = ""


def read(path: Path) -> list[Row]:
    """The rows of earlier walks; of two for one model the later."""
    rows: dict[tuple[str, str], Row] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = Row(**json.loads(line))
            rows[row.package, row.model] = row
    return list(rows.values())


def append(path: Path, row: Row) -> None:
    """Adds one row to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
