"""A fixed plan: commands at steps, without a model. `agenttune distill` writes such files.

Nothing is kept between decisions: each command carries its entry's mark in the rationale, so that the history in the
observation tells which entries are done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from agenttune.config import PolicyFile, Settings
from agenttune.errors import UserError
from agenttune.policy.base import Decision, Draft, asked_at_step, by_agents
from agenttune.policy.rules import kind_of
from agenttune.policy.tried import mark
from agenttune.protocol.commands import BY_KIND, CommandBase, parse_command
from agenttune.protocol.observation import Observation
from agenttune.protocol.plan_entries import PlanEntry
from agenttune.protocol.proposals import CommandRecord

DEFAULT_TOLERANCE_STEPS = 50
"""More than the 20 steps between two observations, and than the steps of a fast run in one poll of 0.5 s (guess)."""
RATIONALE_CHARACTERS = 4000
AS_PLANNED = "as planned"
"""The reason of an entry that gives none."""


class EntrySettings(Settings):
    """One command of a schedule."""

    at_step: int = Field(ge=0)
    """Completed optimizer steps at which it takes effect."""
    do: dict[str, Any]
    """`command:` its kind, and the command's arguments."""
    because: str = Field("", max_length=RATIONALE_CHARACTERS)
    """Why."""

    @field_validator("do")
    @classmethod
    def _is_a_command(cls, do: dict[str, Any]) -> dict[str, Any]:
        kind = kind_of(do)
        if why := BY_KIND[kind].not_in_a_schedule:
            raise ValueError(f"{kind} cannot stand in a schedule: {why}")
        try:
            command_of(do)
        except UserError as error:
            raise ValueError(error.message) from None
        return do


class ScheduleFile(PolicyFile):
    """`type: schedule`: commands at steps, settled beforehand."""

    type: Literal["schedule"] = "schedule"
    """Kind of policy."""
    tolerance_steps: int = Field(DEFAULT_TOLERANCE_STEPS, ge=0)
    """An entry that cannot be applied within so many steps after its own is dropped."""
    entries: list[EntrySettings]
    """Commands; those of one step are given in the order of the file."""


def command_of(do: dict[str, Any]) -> CommandBase:
    """The command of an entry.

    Raises:
        UserError: It is refused.
    """
    return parse_command({"kind": do["command"], **{name: value for name, value in do.items() if name != "command"}})


@dataclass(frozen=True)
class _Entry:
    mark: str
    settings: EntrySettings


class SchedulePolicy:
    """Proposes each command of a schedule at its step, or says that it was too late."""

    def __init__(self, name: str, file: ScheduleFile) -> None:
        self.name = name
        self._tolerance_steps = file.tolerance_steps
        self._entries = _marked(file.entries)

    @property
    def plan(self) -> list[PlanEntry]:
        """The entries, for the log: a report tells which of them were not carried out."""
        return [
            PlanEntry(
                mark=entry.mark,
                at_step=entry.settings.at_step,
                tolerance_steps=self._tolerance_steps,
                command=entry.settings.do,
            )
            for entry in self._entries
        ]

    def decide(self, observation: Observation) -> Decision:
        left = self._entries[self._done(observation) :]
        due = [entry for entry in left if entry.settings.at_step <= observation.step]
        late = [e for e in due if e.settings.at_step + self._tolerance_steps < observation.step]
        drafts = [self._draft(entry, observation.step) for entry in due if entry not in late]
        return Decision(drafts, self._reason(drafts, late, left[len(due) :]))

    def _done(self, observation: Observation) -> int:
        """How many entries are done or dropped: all up to the newest that was proposed on the present branch.

        An observation has only the newest commands, so earlier entries may be missing from it.
        """
        told = [c.proposal.rationale for c in by_agents(observation) if _counts(c, observation)]
        done = (i for i, entry in enumerate(self._entries, 1) if any(t.startswith(entry.mark) for t in told))
        return max(done, default=0)

    def _draft(self, entry: _Entry, step: int) -> Draft:
        rationale = (entry.mark + (entry.settings.because or AS_PLANNED))[:RATIONALE_CHARACTERS]
        valid_for_steps = entry.settings.at_step + self._tolerance_steps - step
        return Draft(command_of(entry.settings.do), rationale, valid_for_steps)

    def _reason(self, drafts: Sequence[Draft], late: Sequence[_Entry], ahead: Sequence[_Entry]) -> str:
        parts = [draft.rationale for draft in drafts]
        if late:
            steps = ", ".join(f"{e.settings.do['command']} at step {e.settings.at_step}" for e in late)
            parts.append(f"dropped, more than {self._tolerance_steps} steps late: {steps}")
        if not drafts:
            parts.append(f"next at step {ahead[0].settings.at_step}" if ahead else "the schedule is at its end")
        return "; ".join(parts)


def _marked(entries: Sequence[EntrySettings]) -> tuple[_Entry, ...]:
    """The entries in order of their steps, each with its mark."""
    seen: Counter[int] = Counter()
    marked = []
    for entry in sorted(entries, key=lambda entry: entry.at_step):
        seen[entry.at_step] += 1
        number = "" if seen[entry.at_step] == 1 else f"_{seen[entry.at_step]}"
        marked.append(_Entry(mark(f"at_{entry.at_step}{number}"), entry))
    return tuple(marked)


def _counts(record: CommandRecord, observation: Observation) -> bool:
    """Whether a command belongs to the present branch, and not to steps that a restore left behind."""
    if record.ack is not None:
        return observation.lineage.has(record.ack.branch, record.ack.step)
    return asked_at_step(record) <= observation.step
