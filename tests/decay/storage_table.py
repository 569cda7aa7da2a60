"""Makes the table of docs/storage.md again, by taking each road with each kind of decision.

    python -m tests.decay.storage_table        # about two minutes; KERAS_BACKEND says on what

Prints the rows that differ from those that are there, and writes them.
"""

import pathlib
import re
import sys
import tempfile

from tests.decay import storage_roads as roads
from tests.decay import test_kept

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "storage.md"
ROW = re.compile(r"^\| ([^|\n]+) \|.*\| `(\w+)` \|$", re.MULTILINE)


def cells(road):
    """What comes of each kind of decision on one road: kept, told, or lost."""
    for kind in test_kept.KINDS:
        inner = roads.base()
        model = roads.with_head(inner)
        test_kept.decided(kind, inner, model)
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield test_kept.outcome(kind, model, getattr(roads, road), pathlib.Path(folder))
            except AssertionError:
                yield "lost"


def main():
    text = PAGE.read_text(encoding="utf-8")

    def row(found):
        label, road = found.groups()
        made = f"| {label} | {' | '.join(cells(road))} | `{road}` |"
        if made != found.group():
            print(made)
        return made

    made = ROW.sub(row, text)
    print(f"{len(ROW.findall(text))} rows, {'changed' if made != text else 'as they were'}")
    PAGE.write_text(made, encoding="utf-8")
    return made != text


if __name__ == "__main__":
    sys.exit(main())
