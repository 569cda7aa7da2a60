"""What an audit found: entries, three answers, a table."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from keras_gamma.checks.answers import COULD_NOT_TELL, NO, YES, Answer, answer
from keras_gamma.report.base import Report
from keras_gamma.report.columns import Column, number
from keras_gamma.roles.classification import Role


@dataclasses.dataclass(frozen=True)
class AuditEntry:
    """What shrinks one trainable variable, and what was planned for it.

    Args:
        path: string, the variable's path.
        role: a `Role` where it is a γ of a plan, else `None`.
        coupled: float, the gradient of the penalties on w where γ = 1: for L2 that is
            `weight_decay` in torch's units, 2·l2 in Keras'.
        decoupled: float, the share of w that the optimizer takes off at each step, divided by the
            learning rate: Keras' `weight_decay` times the variable's factor. `None` if it could
            not be measured.
        planned: string, what was planned; empty if no plan speaks of this variable.
        problems: tuple of strings, each one disagreement; empty if all is as planned.
        unseen: tuple of strings: what was planned, but could not be looked at.
    """

    path: str
    role: Role | None
    coupled: float
    decoupled: float | None
    planned: str
    problems: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    @property
    def answer(self) -> Answer:
        """Whether this variable shrinks as planned: "yes", "no" or "could not tell"."""
        return answer(self.problems, self.unseen)


def _share(value: float | None) -> str:
    return "?" if value is None else number(value)


_VERDICTS = {YES: "agrees", NO: "DISAGREES", COULD_NOT_TELL: "could not tell"}


def _verdict(entry: AuditEntry) -> str:
    spoken_of = entry.planned or entry.answer != YES
    return _VERDICTS[entry.answer] if spoken_of else ""


class Audit(Report[AuditEntry]):
    """What really shrinks in a model: a sequence of `AuditEntry`. Printed, it is a table.

    Args:
        entries: iterable of `AuditEntry`, one for each trainable variable.
        problems: iterable of strings: disagreements that belong to no single variable.
        unseen: iterable of strings: what could not be looked at.
        notes: iterable of strings: what else is good to know.
    """

    format = "keras_gamma.audit"
    columns = (
        Column("path", "variable"),
        Column("role", colored=True),
        Column("coupled", text=number),
        Column("decoupled", text=_share),
        Column("planned"),
        Column("verdict", of=_verdict),
    )

    def __init__(
        self,
        entries: Iterable[AuditEntry],
        problems: Iterable[str] = (),
        unseen: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(entries)
        self._problems = tuple(problems)
        self._unseen = tuple(unseen)
        self.notes = tuple(notes)

    def including(self, problems: Iterable[str]) -> Audit:
        """The same with further disagreements that belong to no single variable.

        Args:
            problems: iterable of strings.

        Returns:
            An `Audit`.
        """
        return Audit(self, [*self._problems, *problems], self._unseen, self.notes)

    @property
    def disagreements(self) -> list[str]:
        """Every disagreement between the plan and the measurement: a list of sentences."""
        named = [f"{entry.path}: {problem}" for entry in self for problem in entry.problems]
        return named + list(self._problems)

    @property
    def unseen(self) -> list[str]:
        """Everything that could not be looked at: a list of sentences, one for each reason."""
        paths: dict[str, list[str]] = collections.defaultdict(list)
        for entry in self:
            for reason in entry.unseen:
                paths[reason].append(entry.path)
        named = [f"{_listed(found)}: {reason}" for reason, found in paths.items()]
        return named + list(self._unseen)

    @property
    def answer(self) -> Answer:
        """Whether all is as planned: "yes", "no" or "could not tell"."""
        return answer(self.disagreements, self.unseen)

    @property
    def ok(self) -> bool:
        """Whether the answer is "yes": everything was looked at, and all is as planned."""
        return self.answer == YES

    def summary(self) -> str:
        """The answer, the counts, every disagreement, what was not seen; without the table."""
        coupled = sum(entry.coupled != 0 for entry in self)
        decoupled = sum(bool(entry.decoupled) for entry in self)
        neither = sum(not entry.coupled and not entry.decoupled for entry in self)
        found, unseen = self.disagreements, self.unseen
        head = {
            YES: "No disagreement.",
            NO: f"{len(found)} disagreements:",
            COULD_NOT_TELL: "No disagreement in what was seen, but not all could be seen:",
        }
        lines = [
            f"{len(self)} trainable variables: {coupled} shrink by a penalty in the loss, "
            f"{decoupled} by the optimizer's weight decay, {neither} by neither. "
            f"{head[self.answer]}"
        ]
        lines += [f"- {sentence}" for sentence in found]
        lines += [f"Could not tell: {sentence}" for sentence in unseen]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)

    def facts(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "answer": self.answer,
            "disagreements": self.disagreements,
            "unseen": self.unseen,
            "notes": self.notes,
        }


def _listed(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
