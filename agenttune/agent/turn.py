"""One decision on its way into the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agenttune.control import Control
from agenttune.errors import RunEnded, UserError
from agenttune.policy.base import Decision, Draft
from agenttune.protocol.events import Decided, Shadowed
from agenttune.protocol.proposals import Author, CommandRecord, Proposal

RATIONALE_CHARACTERS = 4000
"""As much as a proposal takes."""
MOST_FAULTS, FAULT_CHARACTERS = 20, 500
"""Of one decision, in the log."""


@dataclass
class Turn:
    """What a policy decided, and what is still to be done about it.

    Attributes:
        policy: Its name.
        woken_by: Why it was asked.
        based_on_step: Of the observation it was asked with.
        step: At which its answer came.
        reason: In its words.
        unsent: Proposals that the gate has not seen.
        shadowed: What it would have asked for.
        must_tell: It is recorded even if it says the same nothing as before.
        faults, unusable: As of a decision.
        awaited_seq: Of the event that says that training waits for this, 0 if it does not.
    """

    policy: str
    woken_by: str
    based_on_step: int
    step: int
    reason: str
    unsent: list[Proposal]
    shadowed: list[Shadowed] = field(default_factory=list)
    must_tell: bool = False
    faults: list[str] = field(default_factory=list)
    unusable: bool = False
    awaited_seq: int = 0
    ids: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def submit(self, control: Control, run_id: str) -> list[CommandRecord]:
        """Send what is not yet sent; returns what the gate made of it.

        Raises:
            ServerUnreachable: Call again; the same ids again are the same commands.
        """
        records = []
        while self.unsent:
            proposal = self.unsent[0]
            try:
                records.append(control.submit(run_id, proposal))
                self.ids.append(proposal.command_id)
            except RunEnded as error:
                self.unsent.clear()
                self.refused.append(error.message)
                break
            except UserError as error:
                self.refused.append(f"{proposal.command.kind} refused: {error.message}")
            self.unsent.pop(0)
        return records

    def decided(self) -> Decided:
        return Decided(
            policy=self.policy,
            woken_by=self.woken_by,
            command_ids=self.ids,
            reason="; ".join(filter(None, [self.reason, *self.refused])),
            based_on_step=self.based_on_step,
            shadowed=self.shadowed,
            faults=[fault[:FAULT_CHARACTERS] for fault in self.faults[:MOST_FAULTS]],
            unusable=self.unusable,
            awaited_seq=self.awaited_seq,
        )

    def is_worth_telling(self, said: str) -> bool:
        """Whether this is news after `said`: the same nothing every few steps would fill the log."""
        says = bool(self.ids or self.refused or self.shadowed) or "finding" in self.woken_by
        return says or self.must_tell or self.reason != said


def proposals_of(drafts: Sequence[Draft], author: Author, step: int) -> list[Proposal]:
    """Drafts as proposals that rest on the observation of a step."""
    return [
        Proposal(
            command=draft.command,
            author=author,
            rationale=draft.rationale[:RATIONALE_CHARACTERS],
            based_on_step=step,
            valid_until_step=None if draft.valid_for_steps is None else step + draft.valid_for_steps,
        )
        for draft in drafts
    ]


def shadowed_of(decision: Decision) -> list[Shadowed]:
    return [
        Shadowed(command=draft.command, rationale=draft.rationale[:RATIONALE_CHARACTERS]) for draft in decision.shadowed
    ]
