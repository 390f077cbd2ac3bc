"""Turns: a policy is asked, its proposals are submitted, and the decision is recorded; late answers if still valid."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace

from agenttune.agent.wakeups import Wakeups
from agenttune.control import AgentRecord, Control
from agenttune.errors import ModelUnavailable, RunEnded, UserError
from agenttune.policy.base import Decision, Draft, Policy
from agenttune.protocol.commands import Impact
from agenttune.protocol.events import POLICY_FAILED, Decided, Event, Shadowed
from agenttune.protocol.invalid_values import failure_words
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State

IN_FLIGHT = frozenset({State.PROPOSED, State.QUEUED})
TAKE_NOTHING_AWAY = frozenset({Impact.NONE, Impact.HOLD})
"""Impacts of commands after which an older answer is still valid."""
ERROR_CHARACTERS = 2000
RATIONALE_CHARACTERS = 4000
"""As much as a proposal takes."""
MOST_FAULTS, FAULT_CHARACTERS = 20, 500
"""Of one decision, in the log."""
PREMATURE = "the policy left before it could ask for anything"

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


@dataclass
class Turn:
    """A decision, and what is still to be done about it.

    Attributes:
        policy: Its name.
        woken_by: Why it was asked.
        based_on_step: Step of the observation.
        step: Step at which the answer came.
        reason: In the policy's words.
        unsent: Proposals that are still to be submitted.
        shadowed: What a policy in shadow would have proposed.
        must_tell: Recorded even if it is without effect and gives the same reason as the last one.
        faults, unusable: As in `Decision`.
        awaited_seq: Of the event that training waits for this; 0 if it does not.
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

    @classmethod
    def of(
        cls,
        decision: Decision,
        policy: str,
        author: Author,
        observation: Observation,
        step: int,
        awaited: Event | None = None,
        must_tell: bool = False,
    ) -> Turn:
        """The turn of a decision.

        Args:
            decision: The decision.
            policy: Name of the policy.
            author: Author of its proposals.
            observation: What the policy was asked with.
            step: Step at which the answer came.
            awaited: The event that training waits for this, if it does.
            must_tell: Recorded in any case.
        """
        return cls(
            policy=policy,
            woken_by=", ".join(observation.woken_by),
            based_on_step=observation.step,
            step=step,
            reason=decision.reason,
            unsent=proposals_of(decision.proposals, author, observation),
            shadowed=[
                Shadowed(command=draft.command, rationale=draft.rationale[:RATIONALE_CHARACTERS])
                for draft in decision.shadowed
            ],
            must_tell=must_tell or awaited is not None or bool(decision.calls),
            faults=decision.faults,
            unusable=decision.unusable,
            awaited_seq=0 if awaited is None else awaited.seq,
            ids=list(decision.submitted),
        )

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
        """Whether it is worth a record: the same reason for nothing every few steps would fill the log."""
        says = bool(self.ids or self.refused or self.shadowed) or "finding" in self.woken_by
        return says or self.must_tell or self.reason != said


def proposals_of(drafts: Sequence[Draft], author: Author, observation: Observation) -> list[Proposal]:
    """Drafts as proposals that rest on an observation."""
    step = observation.step
    return [
        Proposal(
            command=draft.command,
            author=author,
            rationale=draft.rationale[:RATIONALE_CHARACTERS],
            based_on_step=step,
            based_on_branch=observation.branch,
            valid_until_step=None if draft.valid_for_steps is None else step + draft.valid_for_steps,
            ask_always=draft.ask_always,
        )
        for draft in drafts
    ]


class Outbox:
    """Entries in the order of writing; what the server did not take stays for the next try."""

    def __init__(self, control: Control, run_id: str) -> None:
        self._control, self._run_id = control, run_id
        self._entries: list[tuple[AgentRecord, int | None]] = []

    def put(self, body: AgentRecord, step: int | None) -> None:
        self._entries.append((body, step))

    def send(self, body: AgentRecord, step: int | None) -> None:
        self.put(body, step)
        self.flush()

    def flush(self) -> None:
        """Write what is not yet written.

        Raises:
            ServerUnreachable: Some of it is not; call again.
        """
        while self._entries:
            self._write(*self._entries[0])
            self._entries.pop(0)

    def _write(self, body: AgentRecord, step: int | None) -> None:
        try:
            self._control.record(self._run_id, body, step)
        except UserError as error:
            if not isinstance(body, ModelCalled):
                raise
            # A transcript may be larger than the server takes; the call's cost must be in the log all the same.
            self._control.record(self._run_id, _without_texts(body, error.message), step)


def _without_texts(call: ModelCalled, reason: str) -> ModelCalled:
    details = {"texts_not_recorded": reason[:500]}
    return call.model_copy(update={"messages": [], "answer": None, "details": details})


class Turns:
    """Asks a policy for one decision at a time, and takes the answers that come later.

    Args:
        control: The door to the run.
        run_id: The run.
        outbox: Takes what is recorded.
        wakeups: Gets back the reasons that came while the policy was still thinking.
    """

    def __init__(self, control: Control, run_id: str, outbox: Outbox, wakeups: Wakeups) -> None:
        self._control, self._run_id, self._outbox, self._wakeups = control, run_id, outbox, wakeups
        self._turn: Turn | None = None
        self._said = ""
        self._missed: list[str] = []
        self.answers: list[LateAnswer] = []

    @property
    def thinking(self) -> list[LateAnswer]:
        """The answers that are waited for."""
        return [answer for answer in self.answers if not answer.dropped]

    def decide(self, policy: Policy, author: Author, observation: Observation, awaited: Event | None) -> None:
        """Ask the policy and carry out its decision."""
        decision = _ask(policy, observation)
        reasons, must_tell = observation.woken_by, awaited is not None
        if decision.later is not None:
            answer = LateAnswer(decision.later, observation, policy.name, author, awaited)
            self.answers.append(answer)
            decision = replace(decision, later=None)
            if not (decision.proposals or decision.shadowed or decision.calls):
                return  # it is told with the answer
            awaited = None  # this is not all of it; training waits for the rest
        elif self.thinking and not decision.proposals:
            self._missed += reasons  # for when it is done with what it was asked before
            if not must_tell and not any(reason.startswith("finding") for reason in reasons):
                return
        self.begin(decision, policy.name, author, observation, awaited)

    def begin(
        self, decision: Decision, policy: str, author: Author, observation: Observation, awaited: Event | None
    ) -> None:
        """Submit and record a decision about an observation."""
        self._turn = Turn.of(decision, policy, author, observation, observation.step, awaited)
        self._put_calls(decision, observation.step)
        self.finish()

    def take_answers(self) -> None:
        """Submit the proposals of late answers that are still valid."""
        for answer in [a for a in self.answers if a.later.done()]:
            now = self._control.observe(self._run_id)
            decision = answer.decision()
            drafts, words = still_valid(answer, decision, now)
            reason = "; ".join(filter(None, [decision.reason, words]))
            self.answers.remove(answer)
            self._wakeups.reasons, self._missed = [*self._wakeups.reasons, *self._missed], []
            self._put_calls(decision, now.step)
            self._turn = _turn_of(answer, replace(decision, proposals=drafts, reason=reason), now.step)
            self.finish()

    def finish(self) -> None:
        """Submit the proposals of a decision and record it; after an interruption the next call continues.

        Raises:
            ServerUnreachable: Call again; nothing is lost.
        """
        turn = self._turn
        if turn is None:
            return
        self._outbox.flush()
        for record in turn.submit(self._control, self._run_id):
            self._wakeups.submitted(record)
        self._turn = None
        if turn.is_worth_telling(self._said):
            self._said = "" if turn.ids else turn.reason
            self._outbox.send(turn.decided(), turn.step)

    def drop(self, reason: str) -> None:
        """Another policy takes over: answers that still come are not used."""
        self._said, self._missed = "", []
        for answer in self.answers:
            answer.dropped = reason
            self._wakeups.awaited, answer.awaited = self._wakeups.awaited or answer.awaited, None

    def finish_within(self, patience_s: float) -> None:
        """Record the open answers when the policy leaves: a model call costs money also if its answer is not used."""
        wait([answer.later for answer in self.answers], patience_s)
        for answer in self.answers:
            step = answer.asked.step
            decision = Decision(reason=f"no answer yet to what was asked at step {step}; its cost is not recorded")
            if answer.later.done():
                decision = answer.decision()
                words = [decision.reason, PREMATURE if decision.proposals else ""]
                decision = replace(decision, proposals=[], reason="; ".join(filter(None, words)))
            self._put_calls(decision, step)
            self._outbox.put(_turn_of(answer, decision, step).decided(), step)
        self.answers = []

    def _put_calls(self, decision: Decision, step: int) -> None:
        for call in decision.calls:
            self._outbox.put(call, step)


def _ask(policy: Policy, observation: Observation) -> Decision:
    try:
        return policy.decide(observation)
    except Exception as error:
        return failed(policy.name, observation.step, error)


def _turn_of(answer: LateAnswer, decision: Decision, step: int) -> Turn:
    is_dropped = bool(answer.dropped)
    return Turn.of(decision, answer.policy, answer.author, answer.asked, step, answer.awaited, is_dropped)
