"""How often `find_roles` agrees with a person who read the models' sources.

    python benchmarks/read_by_hand.py

`read_by_hand.jsonl` holds γ drawn at random from the models that benchmarks/walk_models.py walks,
at most three of a model, and the role of each by docs/roles.md, written down from the package's
source before the library's answer was looked at. Nothing there is changed afterwards. The models
are built again; one whose package is missing is named, and not counted.
"""

import collections
import gc
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import walk_one  # noqa: E402
from absl import app, flags  # noqa: E402
from scipy import stats  # noqa: E402

import keras_gamma  # noqa: E402

FILE = ROOT / "benchmarks" / "read_by_hand.jsonl"
_REPORTS = flags.DEFINE_string(
    "reports", "", "A folder of reports, as walk_models.py --keep leaves it: builds only the rest."
)


def main(argv: Sequence[str]) -> None:
    """Compares, and prints the disagreements and the share."""
    del argv
    warnings.simplefilter("ignore")
    lines = FILE.read_text(encoding="utf-8").splitlines()
    drawn: dict[tuple[str, str], list[dict[str, str]]] = collections.defaultdict(list)
    for entry in map(json.loads, lines):
        drawn[entry["package"], entry["model"]].append(entry)
    agree = total = 0
    for (package, model), entries in drawn.items():
        try:
            roles = roles_of(package, model)
        except Exception as error:
            print(f"not counted: {package} {model}: {type(error).__name__}", file=sys.stderr)
            continue
        for entry in entries:
            found = roles.get(entry["path"], "missing")
            total += 1
            agree += found == entry["role"]
            if found != entry["role"]:
                print(f"| {model} | {entry['path']} | {entry['role']} | {found} | {entry['why']} |")
    interval = stats.binomtest(agree, total).proportion_ci(0.95, "exact")
    print(
        f"{agree} of {total} agree ({interval.low:.1%}–{interval.high:.1%}, Clopper–Pearson 95 %)"
    )


def roles_of(package: str, model: str) -> dict[str, str]:
    """Path -> role, as the library finds them."""
    kept = Path(_REPORTS.value) / f"{package}:{model.replace('/', '_')}.json"
    if _REPORTS.value and kept.exists():
        report: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return {entry["path"]: entry["role"] for entry in report["entries"]}
    keras.backend.clear_session()
    gc.collect()
    found = keras_gamma.find_roles(walk_one.build(package, model, every=False)())
    return {entry.path: str(entry.role) for entry in found}


if __name__ == "__main__":
    app.run(main)
