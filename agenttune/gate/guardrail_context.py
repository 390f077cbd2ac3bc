"""What guardrails look at, and how they refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.protocol.events import RunInfo
from agenttune.protocol.proposals import CommandRecord, Proposal, Verdict


@dataclass(frozen=True)
class World:
    """What a guardrail may look at.

    Attributes:
        info: The run as it stands.
        history: The newest commands of agents that the trainer took or will take, oldest first.
        count_taken: Counts them all.
        settings: The run's limits.
        budgets: The run's budgets.
        probation: How changes are watched.
        refused: The newest commands of agents that were refused, oldest first.
        waiting: Those that wait for a decision.
        extra_steps: Training steps that probes have taken so far.
        queued: What the trainer will apply before, whoever asked for it.
    """

    info: RunInfo
    history: Sequence[CommandRecord]
    count_taken: Callable[[], int]
    settings: GateSettings
    budgets: BudgetSettings
    probation: ProbationSettings = field(default_factory=ProbationSettings)
    refused: Sequence[CommandRecord] = ()
    waiting: Sequence[CommandRecord] = ()
    extra_steps: int = 0
    queued: Sequence[CommandRecord] = ()

    @cached_property
    def recent(self) -> list[CommandRecord]:
        """Commands of `history` within `gate.window.steps`, oldest first."""
        now, steps = self.info.step, self.settings.window.steps
        return [record for record in self.history if 0 <= now - step_of(record) < steps]


Guardrail = Callable[[Proposal, World], Verdict | None]


def step_of(record: CommandRecord) -> int:
    """The step at which a command was applied, or asked for."""
    return record.ack.step if record.ack else record.submitted_step or 0


def refused(guardrail: str, reason: str, nearest: dict[str, Any] | None = None) -> Verdict:
    """A guardrail's no."""
    return Verdict(decision="rejected", decided_by=f"guardrail:{guardrail}", reason=reason, nearest_allowed=nearest)
