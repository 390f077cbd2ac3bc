"""The agent loop: wake, observe, detect, decide, submit, record.

It keeps nothing that a restart would need: findings, proposals and answers are in the observation. A `tick` that fails
half-way because the server is away is repeated: its decision is kept and sent under the same ids.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from agenttune.agent.lag import Lag
from agenttune.agent.turns import ERROR_CHARACTERS, Outbox, Turns
from agenttune.agent.wakeups import Wakeups, is_new
from agenttune.config import WakeSettings
from agenttune.control import Control
from agenttune.detectors import Detector, detect
from agenttune.errors import AgenttuneError, ServerUnreachable
from agenttune.policy.base import Decision, Policy
from agenttune.policy.load import LoadedPolicy
from agenttune.policy.wrappers.availability import check_can_act
from agenttune.protocol.events import (
    Decided,
    DecisionAwaited,
    Event,
    Found,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
)
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.process_liveness import started_s

OBSERVING_FRAC = 0.02
"""Largest part of the time that is spent on observing: after 10 ms of it the next comes 500 ms later (guess)."""
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
"""Waiting times while the server does not answer (guess)."""
SHUTDOWN_GRACE_S = 3.0
"""How long an answer is waited for when a policy leaves, so that its cost is recorded; the launcher allows 5 s."""

log = logging.getLogger(__name__)


class AgentLoop:
    """Puts a policy beside a run.

    Args:
        control: The door to the run, in this process or on a server.
        run_id: The run.
        policy: Decides.
        wake: When to observe and when to ask the policy. Whether training waits for it is a setting of the run.
        author_name: Name of the agent in the log; default: the policy's.
        details: Recorded with the policy when it is attached, such as the checksum of its file.
        clock_s: Monotonic time in seconds.
        load: Loads another policy by its name or path, when an operator asks for one.
        detectors: The user's own, beside the shipped ones.
        shutdown_grace_s: How long an answer is waited for when the policy leaves.
    """

    def __init__(
        self,
        control: Control,
        run_id: str,
        policy: Policy,
        wake: WakeSettings | None = None,
        author_name: str | None = None,
        details: dict[str, Any] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        load: Callable[[str], LoadedPolicy] | None = None,
        shutdown_grace_s: float = SHUTDOWN_GRACE_S,
        detectors: Sequence[Detector] = (),
    ) -> None:
        self.control, self.run_id, self.policy = control, run_id, policy
        self.wake = wake or WakeSettings()
        self._author_name = author_name
        self._details = details or {}
        self._clock_s, self._load, self._shutdown_grace_s = clock_s, load, shutdown_grace_s
        self._detectors, self._told_faults = tuple(detectors), set[str]()
        self._outbox = Outbox(control, run_id)
        self._wakeups = Wakeups(control, run_id, self.wake)
        self._turns = Turns(control, run_id, self._outbox, self._wakeups)
        self._attached = self._over = False
        self._observed_step, self._observe_again_s, self._observed_s = -1, 0.0, clock_s()
        self._decided_step = 0
        self._lag = Lag()

    @property
    def author(self) -> Author:
        return Author(principal="agent", name=self._author_name or self.policy.name)

    @property
    def thinking(self) -> list[concurrent.futures.Future[Decision]]:
        """Answers of the policy that are still to come."""
        return [answer.later for answer in self._turns.thinking]

    # -- the agent's life -------------------------------------------------------------------------------------

    def run(self, stop: threading.Event | None = None) -> None:
        """Tick until the run has ended, the policy is detached, or `stop` is set; waits for a server that is away."""
        stop = stop or threading.Event()
        while not stop.is_set() and self._patient_tick(stop):
            self._rest(stop)
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
        return bool(retrying(self.tick, self.wake.poll_s))

    def _rest(self, stop: threading.Event) -> None:
        if thinking := self.thinking:
            concurrent.futures.wait(thinking, self.wake.poll_s, concurrent.futures.FIRST_COMPLETED)
        else:
            stop.wait(self.wake.poll_s)

    def tick(self, patience_s: float = 0.0) -> bool:
        """One poll: observe if there is something new, record findings, decide if woken.

        Args:
            patience_s: How long to wait for something new where training waits for decisions, in seconds.

        Returns:
            Whether there is still something to do.

        Raises:
            ServerUnreachable: Do it again later; nothing is lost.
        """
        self._outbox.flush()
        if self._over:
            return False
        self._attach()
        self._turns.finish()
        self._turns.take_answers()
        info = self.control.info(self.run_id)
        if not info.is_live:
            self.detach(f"the run is {info.status}")
            return False
        in_lockstep = info.rules.get("wake", {}).get("mode") == "lockstep"
        must_ask = self._wakeups.poll(patience_s if in_lockstep and not self._turns.thinking else 0.0)
        if self._wakeups.request is not None and not self._switch_policy(self._wakeups.request, info.step):
            return False
        self._observe_if_due(info, in_lockstep, must_ask)
        return True

    def _observe_if_due(self, info: RunInfo, in_lockstep: bool, must_ask: bool) -> None:
        if not in_lockstep:
            if must_ask or self._is_due(info):
                self._observe()
        elif self._wakeups.awaited is not None and not self._turns.thinking:
            # Not while an earlier question is open: "still thinking" would be no decision about this step.
            self._observe(self._wakeups.awaited)
        elif self._is_stalled() and not self._turns.thinking:
            self._observe()

    def _attach(self) -> None:
        if not self._attached:
            self._wakeups.start()
            self._attached = True
            self._outbox.send(self._here(), None)

    def _here(self) -> PolicyAttached:
        """The policy and its process: training that waits for it can see whether the process is alive."""
        pid = os.getpid()
        return PolicyAttached(
            policy=self.policy.name,
            details=self._details,
            pid=pid,
            pid_started_s=started_s(pid),
            host=platform.node(),
        )

    def detach(self, reason: str) -> None:
        """Record that the policy is detached; does nothing if it is not attached."""
        if self._attached:
            self._attached, self._over = False, True
            self._turns.finish_within(self._shutdown_grace_s)
            self._outbox.send(PolicyDetached(policy=self.policy.name, reason=reason), None)

    def _switch_policy(self, request: PolicyRequested, step: int) -> bool:
        """Switch to the policy that an operator asked for; returns whether one is still attached."""
        self._wakeups.request = None
        if request.policy is None:
            self.detach(request.words)
            return False
        loaded = self._loaded(request.policy)
        if isinstance(loaded, LoadedPolicy):
            by = f" by {request.author}" if request.author else ""
            self._swap(loaded, f"{loaded.policy.name} was asked for{by}")
        else:
            reason = f"{self.policy.name} stays: {loaded}"
            self._outbox.send(Decided(policy=self.policy.name, woken_by=request.words, reason=reason), step)
        return True

    def _loaded(self, name: str) -> LoadedPolicy | str:
        if self._load is None:
            return "this agent has only the policy that it was started with"
        try:
            loaded = self._load(name)
            check_can_act(loaded.policy, name)
            return loaded
        except AgenttuneError as error:
            return str(error)[:ERROR_CHARACTERS]
        except Exception as error:  # a policy that cannot even be made is no reason to lose the one there is
            log.exception("policy %s cannot be loaded", name)
            return f"{type(error).__name__}: {error}"

    def _swap(self, loaded: LoadedPolicy, reason: str) -> None:
        self._turns.drop(reason)
        successor = loaded.policy.name
        self._outbox.put(PolicyDetached(policy=self.policy.name, reason=reason, successor=successor), None)
        self.policy, self._details = loaded.policy, dict(loaded.details)
        self._outbox.send(self._here(), None)

    # -- observing--------------------------------------------------------------------------------------------

    def _is_due(self, info: RunInfo) -> bool:
        if info.step != self._observed_step or self._wakeups.reasons or self._wakeups.must_observe:
            return self._clock_s() >= self._observe_again_s
        return self._is_stalled()

    def _is_stalled(self) -> bool:
        return self._clock_s() - self._observed_s > self.wake.stall_after_s

    def _observe(self, awaited: Event | None = None) -> None:
        began_s = self._clock_s()
        first = self._wakeups.take_first()
        observation = self.control.observe(self.run_id) if awaited is None or first is None else first
        self._observed_s = self._clock_s()
        self._observe_again_s = self._observed_s + (self._observed_s - began_s) / OBSERVING_FRAC
        self._observed_step = observation.step
        found = detect(observation, self.wake.stall_after_s, self._detectors)
        fresh = [f for f in found if is_new(f, observation)]
        self._tell_faults(observation.step)
        if awaited is None:
            self._tell_lag(observation.step)
        self._wakeups.note(observation, self.author)
        self._wakeups.reasons += [f"finding {f.kind}" for f in fresh if self.wake.on_finding]
        for finding in fresh:
            self._outbox.put(Found(finding=finding), observation.step)
        self._outbox.flush()
        observation = observation.model_copy(update={"findings": [*observation.findings, *fresh]})
        if awaited is not None or not self._must_wait(observation, any(f.severity == "critical" for f in fresh)):
            self._consider(observation, awaited)

    def _tell_faults(self, step: int) -> None:
        """Which detector of the user's own has stopped working: once, until it works again."""
        for detector in self._detectors:
            if not detector.fault:
                self._told_faults.discard(detector.name)
            elif detector.name not in self._told_faults:
                self._told_faults.add(detector.name)
                why, reason = f"detector {detector.name}", detector.fault
                self._outbox.put(Decided(policy=self.policy.name, woken_by=why, reason=reason, faults=[reason]), step)

    def _tell_lag(self, step: int) -> None:
        """That training is faster than the agent can look, where it is: in one line, once."""
        said = self._lag.note(step, self._observed_s, self.wake.pace(step))
        if said:
            self._outbox.put(Decided(policy=self.policy.name, woken_by="pace", reason=said, faults=[said]), step)

    def _must_wait(self, observation: Observation, is_critical: bool) -> bool:
        """Whether to ask later: an evaluation's result is about to come, or the run ends here.

        Reasons are kept until then. A critical finding waits for no evaluation.
        """
        end, evaluating = observation.max_steps, observation.evaluating_step
        if end is not None and observation.step >= end:
            return True
        known = any(evaluation.step == evaluating for evaluation in observation.evaluations)
        return evaluating is not None and observation.step <= evaluating and not known and not is_critical

    def _consider(self, observation: Observation, awaited: Event | None) -> None:
        """Ask the policy, if there is a reason and none of its own commands waits for the trainer."""
        self._decided_step = min(self._decided_step, observation.step)  # a checkpoint may have been restored
        is_time = observation.step - self._decided_step >= self.wake.pace(observation.step)
        # What waits for a person does not hold up the rules: it may wait long.
        in_flight = any(
            c.state is State.QUEUED and c.proposal.author.is_same(self.author) for c in observation.commands
        )
        if awaited is not None:
            self._wakeups.awaited = None
            if in_flight:
                waits = Decision(reason="its last command still waits for the trainer's answer")
                told = observation.model_copy(update={"woken_by": ["training waits"]})
                self._turns.begin(waits, self.policy.name, self.author, told, awaited)
                return
        if awaited is not None or (not in_flight and (self._wakeups.reasons or is_time)):
            self._decide(observation, awaited)

    def _decide(self, observation: Observation, awaited: Event | None) -> None:
        reasons = list(dict.fromkeys(self._wakeups.reasons))
        why = f"{self.wake.pace(observation.step)} steps"
        if awaited is not None and isinstance(awaited.body, DecisionAwaited):
            why = awaited.body.reason
        self._wakeups.reasons, self._decided_step = [], observation.step
        observation = observation.model_copy(update={"woken_by": reasons or [why]})
        self._turns.decide(self.policy, self.author, observation, awaited)
