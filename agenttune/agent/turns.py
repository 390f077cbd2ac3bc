"""A policy's decisions: asked for, waited for, submitted and recorded."""

from __future__ import annotations

import concurrent.futures
from dataclasses import replace

from agenttune.agent.late_answers import Answer, failed, still_valid
from agenttune.agent.outbox import Outbox
from agenttune.agent.turn import Turn, proposals_of, shadowed_of
from agenttune.agent.wakeups import Wakes
from agenttune.control import Control
from agenttune.policy.base import Decision, Policy
from agenttune.protocol.events import Event
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author

PREMATURE = "the policy left before it could ask for anything"


class Turns:
    """Asks a policy, at most one decision at a time, and follows up on answers that come later.

    Args:
        control: The door to the run.
        run_id: The run.
        outbox: Takes what is recorded.
        wakes: Gets back why a policy was woken while it was still thinking.
    """

    def __init__(self, control: Control, run_id: str, outbox: Outbox, wakes: Wakes) -> None:
        self._control, self._run_id, self._outbox, self._wakes = control, run_id, outbox, wakes
        self._turn: Turn | None = None
        self._said = ""
        self._missed: list[str] = []
        self.answers: list[Answer] = []

    @property
    def thinking(self) -> list[Answer]:
        """The answers that are waited for."""
        return [answer for answer in self.answers if not answer.dropped]

    def decide(self, policy: Policy, author: Author, observation: Observation, awaited: Event | None) -> None:
        """Ask the policy, and do as it decides; what it was woken by is in the observation."""
        decision = _ask(policy, observation)
        reasons, must_tell = observation.woken_by, awaited is not None
        if decision.later is not None:
            answer = Answer(decision.later, observation, ", ".join(reasons), policy.name, author, awaited)
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
        step = observation.step
        self._turn = Turn(
            policy=policy,
            woken_by=", ".join(observation.woken_by),
            based_on_step=step,
            step=step,
            reason=decision.reason,
            unsent=proposals_of(decision.proposals, author, step),
            shadowed=shadowed_of(decision),
            must_tell=awaited is not None or bool(decision.calls),
            faults=decision.faults,
            unusable=decision.unusable,
            awaited_seq=0 if awaited is None else awaited.seq,
        )
        self._put_calls(decision, step)
        self.finish()

    def take_answers(self) -> None:
        """Ask for what late answers want, as far as it still fits the run."""
        for answer in [a for a in self.answers if a.later.done()]:
            now = self._control.observe(self._run_id)
            decision = answer.decision()
            drafts, words = still_valid(answer, decision, now)
            reason = "; ".join(filter(None, [decision.reason, words]))
            self.answers.remove(answer)
            self._wakes.reasons, self._missed = [*self._wakes.reasons, *self._missed], []
            self._put_calls(decision, now.step)
            self._turn = _turn_of(answer, replace(decision, proposals=drafts, reason=reason), now.step)
            self.finish()

    def finish(self) -> None:
        """Submit what a decision asks for and record it; what was cut short goes on at the next call.

        Raises:
            ServerUnreachable: Call again; nothing is lost.
        """
        turn = self._turn
        if turn is None:
            return
        self._outbox.flush()
        for record in turn.submit(self._control, self._run_id):
            self._wakes.submitted(record)
        self._turn = None
        if turn.is_worth_telling(self._said):
            self._said = "" if turn.ids else turn.reason
            self._outbox.send(turn.decided(), turn.step)

    def drop(self, reason: str) -> None:
        """Another policy takes over: nobody wants the answers to come any more."""
        self._said, self._missed = "", []
        for answer in self.answers:
            answer.dropped = reason
            self._wakes.awaited, answer.awaited = self._wakes.awaited or answer.awaited, None

    def finish_within(self, patience_s: float) -> None:
        """What was asked of a language model costs money, also if nobody waits for the answer any more."""
        concurrent.futures.wait([answer.later for answer in self.answers], patience_s)
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


def _turn_of(answer: Answer, decision: Decision, step: int) -> Turn:
    return Turn(
        policy=answer.policy,
        woken_by=answer.woken_by,
        based_on_step=answer.asked.step,
        step=step,
        reason=decision.reason,
        unsent=proposals_of(decision.proposals, answer.author, answer.asked.step),
        shadowed=shadowed_of(decision),
        must_tell=answer.awaited is not None or bool(decision.calls) or bool(answer.dropped),
        faults=decision.faults,
        unusable=decision.unusable,
        awaited_seq=0 if answer.awaited is None else answer.awaited.seq,
    )
