"""What an approver is: decides on a command that a rule of `gate.approval` asks it about, or leaves it to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import ApprovalRequest, Proposal


@dataclass(frozen=True)
class ApprovalCase:
    """What an approver is asked about.

    Attributes:
        proposal: The command, who asks for it and why.
        request: The rule, the values it would change, and how long it waits.
        observation: The run as it stands.
    """

    proposal: Proposal
    request: ApprovalRequest
    observation: Observation


@dataclass(frozen=True)
class Opinion:
    """What an approver says.

    Attributes:
        verdict: `escalate` leaves it to the next approver of the rule; if there is none, it is rejected.
        why: Goes back to who asked.
        arguments: With `edit`: those of the command that are replaced.
        calls: Calls of language models that led here, for the log.
    """

    verdict: Literal["approve", "edit", "reject", "escalate"]
    why: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    calls: Sequence[ModelCalled] = ()


class Approver(ABC):
    """Decides on commands of agents when a rule of `gate.approval` asks it, after the guardrails."""

    @abstractmethod
    def decide(self, case: ApprovalCase) -> Opinion:
        """Its opinion; it may take until the request's time is up. An error is no yes: the next one is asked."""

    def approve(self, why: str = "") -> Opinion:
        return Opinion("approve", why)

    def reject(self, why: str) -> Opinion:
        return Opinion("reject", why)

    def escalate(self, why: str) -> Opinion:
        return Opinion("escalate", why)

    def edit(self, why: str, **arguments: Any) -> Opinion:
        """Approve the command with other values; the guardrails look at them once more."""
        return Opinion("edit", why, arguments)
