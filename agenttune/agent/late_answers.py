"""Answers that come later, and whether they are still valid then."""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass

from agenttune.errors import ModelUnavailable
from agenttune.policy.base import Decision, Draft
from agenttune.protocol.commands import Impact
from agenttune.protocol.events import POLICY_FAILED, Event
from agenttune.protocol.invalid_values import failure_words
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, State

IN_FLIGHT = frozenset({State.PROPOSED, State.QUEUED})
TAKE_NOTHING_AWAY = frozenset({Impact.NONE, Impact.HOLD})
"""Impacts of commands after which an older answer is still valid."""
ERROR_CHARACTERS = 2000

log = logging.getLogger(__name__)


@dataclass
class LateAnswer:
    """An answer that is awaited or has come.

    Attributes:
        later: The answer.
        asked: The observation that the policy was asked with.
        policy: Who answers.
        author: In whose name.
        awaited: The event that training waits for it, if it does.
        dropped: Why it is no longer wanted; its cost is recorded all the same.
    """

    later: Future[Decision]
    asked: Observation
    policy: str
    author: Author
    awaited: Event | None = None
    dropped: str = ""

    def decision(self) -> Decision:
        """The answer, or the policy's failure as one; only after it has come."""
        error = self.later.exception()
        return self.later.result() if error is None else failed(self.policy, self.asked.step, error)

    def why_stale(self, now: Observation, own: Collection[str] = ()) -> str:
        """Why its proposals no longer fit the run; empty if they do.

        Args:
            now: The run as it stands.
            own: Ids of commands that belong to the answer: it rests on them.
        """
        if self.dropped:
            return self.dropped
        if now.branch != self.asked.branch:
            return f"the run has gone to branch {now.branch} since step {self.asked.step}"
        settled = {c.command_id for c in self.asked.commands if c.ack is not None} | set(own)
        newer = [c for c in now.commands if c.command_id not in settled and _changes_the_run(c)]
        if not newer:
            return ""
        command = newer[-1].proposal
        return f"{command.command.kind} by {command.author.name} came between"

    def expired(self, draft: Draft, now: Observation) -> bool:
        return draft.valid_for_steps is not None and now.step > self.asked.step + draft.valid_for_steps


def _changes_the_run(record: CommandRecord) -> bool:
    if record.proposal.command.impact in TAKE_NOTHING_AWAY:
        return False
    return record.state in IN_FLIGHT or (record.ack is not None and record.ack.outcome == "applied")


def still_valid(answer: LateAnswer, decision: Decision, now: Observation) -> tuple[list[Draft], str]:
    """The drafts of a late answer that are still valid, and why the others are not."""
    if not decision.proposals:
        return [], ""
    stale = answer.why_stale(now, decision.submitted)
    if stale:
        kinds = ", ".join(draft.command.kind for draft in decision.proposals)
        return [], f"{kinds} not asked for: {stale}"
    late = [draft for draft in decision.proposals if answer.expired(draft, now)]
    words = [
        f"{draft.command.kind} not asked for: valid until step {answer.asked.step + (draft.valid_for_steps or 0)}, "
        f"the answer came at step {now.step}"
        for draft in late
    ]
    return [draft for draft in decision.proposals if draft not in late], "; ".join(words)


def failed(policy: str, step: int, error: BaseException) -> Decision:
    """A policy's failure as a decision without proposals, with the failed model call if there is one."""
    log.error("policy %s failed at step %d", policy, step, exc_info=error)
    calls = error.calls if isinstance(error, ModelUnavailable) else []
    reason = f"{POLICY_FAILED}: {failure_words(error)}"[:ERROR_CHARACTERS]
    return Decision(reason=reason, calls=calls, faults=[reason], unusable=bool(calls))
