"""The agent loop: wake, observe, detect, decide, submit, record.

Nothing in it is needed after a restart: what was found, asked and answered is in the observation. A `tick` that fails
half-way because the server is away is simply done again: what it had decided is kept and sent under the same ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from agenttune.config import WakeSettings
from agenttune.detectors import detect
from agenttune.errors import RunEnded, ServerUnreachable, UserError
from agenttune.events import Decided, Event, Found, PolicyAttached, PolicyDetached, RunInfo
from agenttune.findings import Finding
from agenttune.observation import Observation
from agenttune.policy.base import Decision, Draft, Policy
from agenttune.proposals import Author, CommandRecord, Proposal, State
from agenttune.trend import last_change_step

LOOK_FRAC = 0.02
"""Largest part of the time that is spent on observing: a look of 10 ms is followed by 500 ms without one (guess)."""
REARM_STEPS = 200
"""A finding that stays true without any change is reported again after so many steps, then after doubling times."""
EFFECT_STEPS = 30
"""Steps after a change before a finding that is true again counts as new: the change had its chance (tuned)."""
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
"""Waiting times while the server does not answer (guess)."""
PAGE = 1000
IN_FLIGHT = frozenset({State.PROPOSED, State.QUEUED})

log = logging.getLogger(__name__)


class AgentControl(Protocol):
    """The part of `control.Control` that an agent uses."""

    def info(self, run_id: str) -> RunInfo: ...

    def observe(self, run_id: str) -> Observation: ...

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]: ...

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord: ...

    def record(
        self, run_id: str, body: Found | Decided | PolicyAttached | PolicyDetached, step: int | None = None
    ) -> int: ...


@dataclass
class _Turn:
    """One decision on its way into the log."""

    woken_by: str
    step: int
    reason: str
    unsent: list[Proposal]
    ids: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class AgentLoop:
    """Puts a policy beside a run.

    Args:
        control: The door to the run, in this process or on a server.
        run_id: The run.
        policy: Decides.
        wake: When to look and when to ask the policy.
        author_name: Name of the agent in the log; default: the policy's.
        details: Recorded with the policy when it is attached, such as the checksum of its file.
        clock_s: Monotonic time in seconds.
    """

    def __init__(
        self,
        control: AgentControl,
        run_id: str,
        policy: Policy,
        wake: WakeSettings | None = None,
        author_name: str | None = None,
        details: dict[str, Any] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.control, self.run_id, self.policy = control, run_id, policy
        self.wake = wake or WakeSettings()
        self.author = Author(principal="agent", name=author_name or policy.name)
        self._details = details or {}
        self._clock_s = clock_s
        self._outbox: list[tuple[Found | Decided | PolicyAttached | PolicyDetached, int | None]] = []
        self._attached = False
        self._cursor: int | None = None
        self._looked_step, self._look_again_s, self._looked_s = -1, 0.0, clock_s()
        self._decided_step, self._said = 0, ""
        self._reasons: list[str] = []
        self._turn: _Turn | None = None

    def run(self, stop: threading.Event | None = None) -> None:
        """Tick until the run has ended or `stop` is set; a server that is away is waited for."""
        stop = stop or threading.Event()
        while not stop.is_set() and self._patient_tick(stop):
            stop.wait(self.wake.poll_s)
        try:
            self.detach("the agent was stopped")
        except ServerUnreachable:
            log.warning("the control server does not answer; the end of policy %s is not recorded", self.policy.name)

    def _patient_tick(self, stop: threading.Event) -> bool:
        retrying = Retrying(
            retry=retry_if_exception_type(ServerUnreachable),
            wait=wait_exponential(multiplier=RETRY_FIRST_S, max=RETRY_MAX_S),
            stop=stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=lambda state: log.warning("the control server does not answer; trying again"),
            retry_error_callback=lambda state: False,
        )
        return bool(retrying(self.tick))

    def tick(self) -> bool:
        """One poll: look if there is something new, record findings, decide if woken.

        Returns:
            Whether the run is still live.

        Raises:
            ServerUnreachable: Do it again later; nothing is lost.
        """
        self._attach()
        self._flush()
        self._finish_turn()
        info = self.control.info(self.run_id)
        if not info.is_live:
            self.detach(f"the run is {info.status}")
            return False
        if self._has_news() or self._is_due(info):
            self._look()
        return True

    def _attach(self) -> None:
        if not self._attached:
            self._attached = True
            self._send(PolicyAttached(policy=self.policy.name, details=self._details), None)

    def detach(self, reason: str) -> None:
        """Record that the policy no longer watches; does nothing if it does not."""
        if self._attached:
            self._attached = False
            self._send(PolicyDetached(policy=self.policy.name, reason=reason), None)

    def _send(self, body: Found | Decided | PolicyAttached | PolicyDetached, step: int | None) -> None:
        self._outbox.append((body, step))
        self._flush()

    def _flush(self) -> None:
        """Write what is not yet written; what the server did not take stays for the next tick."""
        while self._outbox:
            self.control.record(self.run_id, *self._outbox[0])
            self._outbox.pop(0)

    def _has_news(self) -> bool:
        """Whether there was an evaluation since the last poll."""
        if self._cursor is None:
            self._cursor = self.control.observe(self.run_id).last_seq
        events = self.control.events(self.run_id, self._cursor, PAGE, kinds=("evaluated",))
        self._cursor = max([self._cursor, *(event.seq for event in events)])
        if self.wake.on_evaluation:
            self._reasons += [f"evaluation at step {event.step}" for event in events]
        return bool(events) and self.wake.on_evaluation

    def _is_due(self, info: RunInfo) -> bool:
        now_s = self._clock_s()
        if info.step != self._looked_step or self._reasons:
            return now_s >= self._look_again_s
        return now_s - self._looked_s > self.wake.stall_after_s

    def _look(self) -> None:
        began_s = self._clock_s()
        observation = self.control.observe(self.run_id)
        self._looked_s = self._clock_s()
        self._look_again_s = self._looked_s + (self._looked_s - began_s) / LOOK_FRAC
        self._looked_step = observation.step
        fresh = [f for f in detect(observation, self.wake.stall_after_s) if is_new(f, observation)]
        self._reasons += [f"finding {f.kind}" for f in fresh if self.wake.on_finding]
        self._outbox += [(Found(finding=finding), observation.step) for finding in fresh]
        self._flush()
        self._decided_step = min(self._decided_step, observation.step)  # the run may have gone back
        is_time = observation.step - self._decided_step >= self.wake.every_steps
        if (self._reasons or is_time) and not self._in_flight(observation):
            reasons = self._reasons or [f"{self.wake.every_steps} steps"]
            known = [*observation.findings, *fresh]
            self._decide(observation.model_copy(update={"findings": known}), ", ".join(dict.fromkeys(reasons)))

    def _in_flight(self, observation: Observation) -> bool:
        return any(c.state in IN_FLIGHT and c.proposal.author == self.author for c in observation.commands)

    def _decide(self, observation: Observation, woken_by: str) -> None:
        decision = self._ask(observation)
        proposals = [self._proposal(draft, observation) for draft in decision.proposals]
        self._turn = _Turn(woken_by, observation.step, decision.reason, proposals)
        self._reasons, self._decided_step = [], observation.step
        self._finish_turn()

    def _finish_turn(self) -> None:
        """Submit what a decision asks for and record it; what was cut short goes on at the next tick."""
        turn = self._turn
        if turn is None:
            return
        while turn.unsent:
            proposal = turn.unsent[0]
            try:
                # The same id again is the same command, so that a lost answer does not double it.
                turn.ids.append(self.control.submit(self.run_id, proposal).command_id)
            except RunEnded as error:
                turn.unsent.clear()
                turn.refused.append(error.message)
                break
            except UserError as error:
                turn.refused.append(f"{proposal.command.kind} refused: {error.message}")
            turn.unsent.pop(0)
        self._turn = None
        self._tell(turn)

    def _tell(self, turn: _Turn) -> None:
        reason = "; ".join([turn.reason, *turn.refused])
        # A policy that says the same nothing every few steps would fill the log with it.
        if turn.ids or turn.refused or reason != self._said or "finding" in turn.woken_by:
            self._said = "" if turn.ids else reason
            body = Decided(policy=self.policy.name, woken_by=turn.woken_by, command_ids=turn.ids, reason=reason)
            self._send(body, turn.step)

    def _ask(self, observation: Observation) -> Decision:
        try:
            return self.policy.decide(observation)
        except Exception as error:
            log.exception("policy %s failed at step %d", self.policy.name, observation.step)
            return Decision(reason=f"the policy failed: {type(error).__name__}: {error}"[:2000])

    def _proposal(self, draft: Draft, observation: Observation) -> Proposal:
        valid = None if draft.valid_for_steps is None else observation.step + draft.valid_for_steps
        return Proposal(
            command=draft.command,
            author=self.author,
            rationale=draft.rationale[:4000],
            based_on_step=observation.step,
            valid_until_step=valid,
        )


def is_new(finding: Finding, observation: Observation) -> bool:
    """Whether a finding says more than the last recorded one of its kind."""
    known = [f for f in observation.findings if f.kind == finding.kind]
    if not known:
        return True
    last, changed = known[-1], last_change_step(observation)
    if changed >= last.step:
        return finding.step >= changed + EFFECT_STEPS
    if finding.severity == "critical" != last.severity:
        return True
    return finding.step - last.step >= max(REARM_STEPS, last.step - changed)
