"""What running a model says on the role of a γ, and on one that is claimed. Pure.

Roles are named by their strings here: nothing of the analysis is imported.
"""

from collections.abc import Iterable
from typing import NamedTuple

from keras_gamma._enums import StrEnum
from keras_gamma.checks.sums import Sums, Tensor
from keras_gamma.checks.sweep import Event, Finding, Mode, Sweep


class Agreement(StrEnum):
    """Whether running the model agrees with a role that is claimed."""

    AGREE = "agree"
    DISAGREE = "disagree"
    NOT_TESTABLE = "not testable"


class Measured(NamedTuple):
    """What running shows.

    Args:
        role: string, a role's name, or `None` if it cannot be told.
        text: string, one sentence that says why.
        closed: bool, whether γ acts through a part that only runs as a whole.
    """

    role: str | None
    text: str
    closed: bool = False


# Of several paths, and several calls, the one that forbids more counts.
_WEIGHT = ("trunk", "other", "shortcut", "residual_last", "temperature", "closed", "hidden",
           "interior", "constant", "weighed")  # fmt: skip
_ROLES: dict[str, str | None] = {
    "temperature": "other", "weighed": "other", "closed": None, "hidden": None, "constant": None,
}  # fmt: skip
_CALLS = ("other", "trunk", "shortcut", "residual_last", "interior")


def compare(claimed: str, measured: Measured) -> tuple[Agreement, str]:
    """Whether a claim holds.

    `trunk` and `other` cannot be told from each other by what they do to the function: both move
    it, and neither is carried by a skip of the γ's own block.

    Args:
        claimed: a role, or its name.
        measured: a `Measured`.

    Returns:
        An `Agreement`, and the evidence.
    """
    if measured.role is None:
        return Agreement.NOT_TESTABLE, measured.text
    if measured.role == claimed:
        return Agreement.AGREE, measured.text
    if {measured.role, str(claimed)} == {"trunk", "other"}:
        text = f"{measured.text} Running does not tell {claimed} from {measured.role}."
        return Agreement.NOT_TESTABLE, text
    if measured.closed and claimed == "other":
        text = f"{measured.text} Measured, not read: {measured.role}."
        return Agreement.NOT_TESTABLE, text
    return Agreement.DISAGREE, measured.text


def combine(calls: Iterable[Measured]) -> Measured:
    """The calls of one γ, as one."""
    found = list(calls)
    if not found:
        return Measured(None, "Its layer was not seen in a call that could be run.")
    for one in found:
        if one.role is None:
            return one
    decisive = min(found, key=lambda one: _CALLS.index(one.role or "other"))
    if len(found) == 1:
        return decisive
    return decisive._replace(text=f"{len(found)} calls; decisive: {decisive.text}")


def measure(sweep: Sweep, sums: Sums, place: int) -> Measured:
    """What one call of a normalization, or one product with a learned scale, shows."""
    norm = sweep.calls[place]
    if norm is None:
        return Measured(None, "Its layer was not seen in a call that could be run.")
    tensor = sweep.tensors[norm]
    if not tensor.varies:
        return Measured(None, f"{tensor.label!r} is constant: nothing can be told behind it.")
    if not tensor.is_live:
        return Measured("other", "No output is computed from it.")
    found: dict[str, str] = {}
    closed = any(finding.state.closed for finding in sweep.findings[place])
    for finding in sweep.findings[place]:
        if sweep.tensors[finding.tensor].is_live:
            name, text = _read(sweep, sums, norm, place, finding)
            found.setdefault(name, text)
    if "interior" in found:
        main = _sum_on_the_main_stream(sweep, sums, norm, place)
        if main is not None:
            found["trunk"] = f"It scales all of the sum {main.label!r}, which nothing goes around."
    for name in _WEIGHT:
        if name in found:
            return Measured(_ROLES.get(name, name), found[name], closed)
    return Measured(None, "Nothing behind it changes: it cannot be told.")


def _read(sweep: Sweep, sums: Sums, norm: int, place: int, finding: Finding) -> tuple[str, str]:
    """What one finding says."""
    label = repr(sweep.tensors[finding.tensor].label)
    weighs = finding.state.mode in (Mode.WEIGHS, Mode.SOFTMAX)
    match finding.event:
        case Event.OUTPUT if finding.state.mode is Mode.WEIGHS:
            return "temperature", f"The output {label} moves, but only by how it is weighed."
        case Event.OUTPUT:
            return "trunk", f"The output {label} moves."
        case Event.CLOSED:
            return "closed", f"{label} runs as a whole: what it does cannot be told."
        case Event.HIDDEN:
            name = "hidden" if sweep.tensors[finding.tensor].varies else "constant"
            return name, f"These inputs let nothing of it through {label}: it cannot be told."
        case Event.WEIGHED:
            return "temperature", f"At {label} it only weighs what is added."
        case Event.ABSORBED if weighs:
            return "weighed", f"It only weighs what {label} normalizes."
        case Event.ABSORBED:
            how = "exactly" if finding.state.exact else "approximately"
            return "interior", f"γ, β ×4 ends at {label}, {how}: what follows does not move."
    return _read_sum(sweep, sums, norm, place, finding)


def _read_sum(sweep: Sweep, sums: Sums, norm: int, place: int, finding: Finding) -> tuple[str, str]:
    """What a sum says to which something else is added."""
    number = finding.tensor
    if number not in sums.found:  # Its values do not follow the inputs: zeros, say.
        label = repr(sweep.tensors[number].label)
        return "constant", f"These inputs let nothing of it through {label}: it cannot be told."
    if sums.is_sum_of_logits(number):
        label = repr(sweep.tensors[number].label)
        ends = "weighed" if sums.is_absorbed_behind(number) else "temperature"
        return ends, f"It scales the logits {label} of a gate, or a softmax."
    if not sums.found[number].is_residual:
        number = sums.final(number)
    one = sums.found[number]
    label = repr(sweep.tensors[number].label)
    if one.fork is None:
        if sums.may_be_residual(number, norm):
            return "closed", f"At {label} terms of several origins are added: it cannot be told."
        return "other", f"At {label} something of another origin is added."
    fork = repr(sweep.tensors[one.fork].label)
    inside = sums.is_before(one.fork, norm)
    if one.skip is None:
        where = f"from {fork}" if inside else "from behind it"
        return "other", f"At {label} something is added {where}, and nothing there is a skip."
    if not inside:
        return "trunk", f"It scales a part of {label}; γ, β ×0 leaves nothing of {fork} there."
    carried = sweep.states[one.skip].get(place)
    if carried is not None and carried.mode >= Mode.BOUNDED:
        return "shortcut", f"γ, β ×0 leaves at {label} what is not linear in {fork}."
    return "residual_last", f"It scales a part of {label}; γ, β ×0 leaves the skip from {fork}."


def _sum_on_the_main_stream(sweep: Sweep, sums: Sums, norm: int, place: int) -> Tensor | None:
    """A residual sum that scales as a whole, and lies in no branch: a post-norm block's."""
    for number in sweep.passed[place]:
        one = sums.found.get(number)
        if one is None or one.skip is None or one.fork is None or sums.spreads(number):
            continue
        behind = one.fork == norm or sums.is_before(norm, one.fork)
        follows = place in sweep.states[number]
        if behind and follows and not sums.encloses(norm, number):
            return sweep.tensors[number]
    return None
