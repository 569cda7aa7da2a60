"""Which γ decays, and how strongly: roles and guidelines in, entries of a plan out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.plan_entry import Decision, PlanEntry


def decide(
    roles: Any, guidelines: Guidelines, l2: float, places: Mapping[int, str] | None = None
) -> tuple[PlanEntry, ...]:
    """The plan for a `RoleReport`. Pure: nothing is set.

    Args:
        roles: a `RoleReport` (or anything alike: entries, and `notes`).
        guidelines: a `Guidelines`.
        l2: float, Keras' convention, before the factors.
        places: dict from the `id` of each variable to its place (see `keras_gamma.decay.places`).

    Returns:
        A tuple of `PlanEntry`.
    """
    entries = []
    scales = scales_of(roles, guidelines)
    decided_on = {id(note) for note in scales}
    for gamma in [*roles, *scales]:
        is_scale = id(gamma) in decided_on
        # The call that decides also names the role: a shared layer is never shown under one
        # whose factor it did not get.
        factor, call = guidelines.strictest(gamma.calls, scale=is_scale)
        strength = factor * l2
        role, reason = gamma.role, gamma.reason
        if call.role is not gamma.role:
            role = call.role
            reason = f"Its layer is called {len(gamma.calls)} times; strictest: {call.reason}"
        if strength and gamma.neutral is None:
            strength = 0.0
            reason += " How its scale is stored is not known: register_normalization tells."
        elif strength and gamma.neutral == 0.0:
            reason += " The layer multiplies by γ = 1 + variable; the penalty is on 1 + variable."
        if strength and is_scale:
            reason += EFFECT_ON_SCALE
        if strength and not gamma.variable.trainable:
            reason = f"Frozen (trainable=False): no penalty until it is unfrozen. {reason}"
        decision = Decision.APPLY if strength > 0 else Decision.WITHHOLD
        place = (places or {}).get(id(gamma.variable), "")
        entries.append(
            PlanEntry(
                gamma.path, gamma.kind, role, decision, strength, reason, gamma.neutral, place
            )
        )
    for note in roles.notes:
        if id(note) in decided_on:
            continue
        entries.append(PlanEntry(note.path, note.kind, None, Decision.NONE, 0.0, note.reason))
    return tuple(entries)


# LayerScale may start at 1e-5, and weight normalization's g at a length: none starts at 0 or 1.
EFFECT_ON_SCALE = (
    " Decay pulls it to 0, not to where it started: what it scales is weakened as a branch by γ."
)


def scales_of(roles: Any, guidelines: Guidelines) -> list[Any]:
    """The notes on other learned scales that the guidelines treat as γ; none by default.

    Args:
        roles: a `RoleReport`, or anything alike.
        guidelines: a `Guidelines`.
    """
    if not guidelines.scales:
        return []
    return [note for note in roles.notes if note.role is not None and note.variable is not None]
