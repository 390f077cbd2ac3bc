"""The entries of a plan as the log holds them, and which of them were not carried out in a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agenttune.protocol.proposals import CommandRecord, Record
from agenttune.protocol.run_info import RunInfo

DETAIL = "plan"
"""Under which name an attached policy records its plan."""


class PlanEntry(Record):
    """One command of a plan.

    Attributes:
        mark: How the rationale of the command begins that an agent gives for it.
        at_step: Completed optimizer steps at which it takes effect.
        tolerance_steps: How many steps later it is dropped.
        command: Its kind as `command`, and its arguments.
    """

    mark: str
    at_step: int
    tolerance_steps: int
    command: dict[str, Any]

    @property
    def words(self) -> str:
        """Such as `update_optimizer lr 0.05`."""
        given = ", ".join(f"{name} {value}" for name, value in self.command.items() if name != "command")
        return f"{self.command['command']} {given}".strip()


_ENTRIES = TypeAdapter(list[PlanEntry])


def plan_in(details: dict[str, Any]) -> list[PlanEntry]:
    """The plan that an attached policy has recorded; none in logs that somebody else wrote."""
    try:
        return _ENTRIES.validate_python(details.get(DETAIL, []))
    except ValidationError:
        return []


def not_carried_out(plan: Iterable[PlanEntry], commands: Sequence[CommandRecord], info: RunInfo) -> Iterator[str]:
    """A line for each entry that no agent has asked for and that none will.

    What was asked for and refused, expired or failed is told among the commands.
    """
    asked = [record.proposal.rationale for record in commands if record.proposal.author.principal == "agent"]
    for entry in plan:
        if any(rationale.startswith(entry.mark) for rationale in asked):
            continue
        if why := _why(entry, info):
            yield f"step {entry.at_step}: {entry.words}: {why}"


def _why(entry: PlanEntry, info: RunInfo) -> str:
    """Why an entry that nobody asked for never will be; empty while it may."""
    if entry.at_step + entry.tolerance_steps < info.step:
        return f"dropped, the run was more than {entry.tolerance_steps} steps further (tolerance_steps)"
    return "" if info.is_live else f"the run ended at step {info.step} before its turn"
