"""`PlanEntry`: what is done to one γ, and how it is read from a file."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_gamma._enums import StrEnum
from keras_gamma.decay import plan_files
from keras_gamma.decay.units import check_strength
from keras_gamma.roles.classification import Role


class Decision(StrEnum):
    """`apply`: L2 acts on it; `withhold`: it does not; `none`: there is no γ to decide on."""

    APPLY = "apply"
    WITHHOLD = "withhold"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class PlanEntry:
    """What is done to one γ.

    Args:
        path: string, the variable's path (the layer's, where there is no γ).
        kind: string, `"batch"`, `"layer"`, ...
        role: a `Role`, or `None` where there is no γ.
        decision: a `Decision`.
        strength: float, the `l2` of the penalty `l2 · Σγ²`; 0.0 if nothing is applied.
        reason: string, one plain sentence, or two.
        neutral: 1.0, or 0.0 where the layer stores γ − 1, or `None` where it is not known.
        place: string, where the variable is in the structure of the model (`"2.0:1"`: variable 1 of
            layer 0 of layer 2); empty where there is no γ.
    """

    path: str
    kind: str
    role: Role | None
    decision: Decision
    strength: float
    reason: str
    neutral: float | None = 1.0
    place: str = ""


def read_entry(number: int, content: Any, what: str) -> PlanEntry:
    """The `number`th entry of a plan, from what `dataclasses.asdict` made of it.

    Raises:
        ValueError: if it is none.
    """
    where = f"Malformed {what}: entry {number}"
    content = plan_files.fields_of(content, PlanEntry, where)
    where = f"{where} ({content['path']!r})"
    try:
        content["role"] = None if content["role"] is None else Role(content["role"])
        content["decision"] = Decision(content["decision"])
    except ValueError as error:
        raise ValueError(
            f"{where}: {error}. Roles are: {', '.join(Role)}; decisions: {', '.join(Decision)}."
        ) from None
    if content["role"] is None and content["decision"] is not Decision.NONE:
        raise ValueError(f"{where} is decided on without a role.")
    content["strength"] = check_strength(f"strength of {content['path']}", content["strength"])
    if content["neutral"] not in (0, 1, None):
        raise ValueError(f"{where} has an invalid neutral value: {content['neutral']!r}")
    applies = content["decision"] is Decision.APPLY
    if applies and content["neutral"] is None:
        raise ValueError(f"{where} applies a penalty to an unknown scale.")
    if applies != (content["strength"] > 0):
        raise ValueError(
            f"{where} has decision {content['decision']} but strength {content['strength']}."
        )
    return PlanEntry(**content)
