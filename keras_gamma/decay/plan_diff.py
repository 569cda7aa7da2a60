"""What differs between two plans, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def differences(plan: Iterable[Any], stored: Iterable[Any]) -> list[str]:
    """A sentence for each γ on which two plans differ; see `GammaPlan.diff`.

    Args:
        plan: iterable of `PlanEntry`, as things are now.
        stored: iterable of `PlanEntry`, as they were.
    """
    here, there = {e.path: e for e in plan}, {e.path: e for e in stored}
    lines = []
    for path in dict.fromkeys([*there, *here]):
        if path in here and path in there:
            changes = _changes(there[path], here[path])
            if changes:
                lines.append(f"{path}: {', '.join(changes)}")
            continue
        only, entry = ("here", here[path]) if path in here else ("in the stored plan", there[path])
        lines.append(
            f"{path}: only {only} ({entry.role or 'no γ'}, {entry.decision}, "
            f"l2 {entry.strength:.4g})"
        )
    return lines


def _changes(old: Any, new: Any) -> list[str]:
    changes = [
        f"{name} {before} -> {after}"
        for name, before, after in (
            ("role", old.role or "none", new.role or "none"),
            ("decision", old.decision, new.decision),
        )
        if before != after
    ]
    if not math.isclose(old.strength, new.strength, rel_tol=1e-9):
        changes.append(f"l2 {old.strength:.4g} -> {new.strength:.4g}")
    return changes
