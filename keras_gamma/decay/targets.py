"""Where decay leads a variable: to 0, or back to where it started (L2-SP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_gamma._enums import StrEnum


class Target(StrEnum):
    """`zero`: w ← w − η·λ·w. `initial`: w ← w − η·λ·(w − w₀), w₀ where training began."""

    ZERO = "zero"
    INITIAL = "initial"


LED_BACK = " Decay leads it back to its start, not to 0."


def check(value: Any) -> Target:
    """`value` as a `Target`.

    Raises:
        ValueError: if it is none.
    """
    try:
        return Target(value)
    except ValueError:
        raise ValueError(
            f"`decay_to` must be one of {', '.join(Target)}. Received: {value!r}"
        ) from None


def of(decay_to: Any, decay: Any) -> Target | dict[str, Target]:
    """What an optimizer was told: one target for all, or that of each path.

    Args:
        decay_to: a `Target`, its name, a dict from path to these, or `None`: what the plan says, or
            zero.
        decay: a `DecayPlan`, a dict from path to factor, or `None`.

    Raises:
        ValueError: for anything else, or paths that are not those of `decay`.
    """
    planned: Mapping[str, Target] | None = decay.targets() if hasattr(decay, "targets") else None
    if decay_to is None:
        found = {} if planned is None else dict(planned)
        return found if Target.INITIAL in found.values() else Target.ZERO
    if planned is not None:
        raise ValueError(
            "A plan says itself where decay leads: pass `decay_to` to plan_weight_decay, not "
            f"beside `decay=plan`. Received: decay_to={decay_to!r}"
        )
    if not isinstance(decay_to, Mapping):
        return check(decay_to)
    targets = {path: check(target) for path, target in decay_to.items()}
    if not isinstance(decay, Mapping) or decay.keys() != targets.keys():
        raise ValueError(
            "A dict `decay_to` names the same paths as the dict `decay`. Received: "
            f"decay={decay!r}, decay_to={decay_to!r}"
        )
    return targets
