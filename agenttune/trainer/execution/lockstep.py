"""Training that waits at a step boundary until the agent has decided about that very step.

When a wait is due is known to every rank alike; the leading one announces it in the log and sees how it ends.
"""

from __future__ import annotations

import logging
import platform
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agenttune.config import WakeSettings
from agenttune.errors import StoreFault
from agenttune.protocol.events import Decided, DecisionAwaited, NoteAdded, PolicyAttached, PolicyDetached
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.store.wal_monitor import WalMonitor

logger = logging.getLogger("agenttune")

POLL_S = 0.005
"""How often a waiting run looks whether somebody wrote to its log, which costs microseconds."""
MISSES = 3
"""After so many steps in a row without a decision in time, training no longer waits (guess)."""
MOST_QUESTIONS = 2
"""Questions about one step: a second one if an evaluation was asked for after the first, so that it is not lost."""
ANNOUNCE_S = 10.0
"""So long at least it may take to write that training waits, however short the wait may be: milliseconds but on a busy
machine, which a log that cannot be written must not be taken for (guess)."""
ALIVE_EVERY_S = 1.0
"""How often a waiting run looks whether the agent's process still lives."""
RESTART_S = 10.0
"""How long an agent whose process has gone is waited for: the launcher starts it again in a second or two (guess)."""
AUTHOR = "agenttune lockstep"

Write = Callable[[Callable[[RunLog], object]], None]
"""Hands a write to the background writer, after all that was handed over before it."""


class Due(NamedTuple):
    """A question that is to be asked once the step is complete."""

    step: int
    reason: str


@dataclass
class LockstepWait:
    """A decision that training waits for.

    Attributes:
        step: Training stands there.
        branch: On this branch.
        seq: Of the event that says so.
        left_s: How much longer the answer is waited for; pauses and the work of commands do not count.
        alive_due_s: When to look at the agent's process again.
        gone_since_s: Since when it has been gone.
    """

    step: int
    branch: str
    seq: int
    left_s: float
    alive_due_s: float = 0.0
    gone_since_s: float | None = None


class Lockstep:
    """Decides at which boundaries training waits for the agent, and when a wait is over.

    Args:
        wake: The run's settings.
        log: The run's log, for reading; None on ranks that only follow.
        write: Writes to the log in the background, in order.
        clock_s: Monotonic time in seconds.
        consult: As in `Options`.
    """

    def __init__(
        self,
        wake: WakeSettings,
        log: RunLog | None,
        write: Write,
        clock_s: Callable[[], float] = time.monotonic,
        consult: Callable[[], object] | None = None,
    ) -> None:
        self.wake, self._consult = wake, consult
        self._log, self._write, self._clock_s = log, write, clock_s
        self._monitor = WalMonitor(None if log is None else log.folder / LOG_NAME)
        self._idle = threading.Event()
        self._due: Due | None = None
        self._open: LockstepWait | None = None
        self._asked_step, self._questions = -1, 0
        self._is_alarmed = False
        self._misses = 0
        self._gave_up_seq: int | None = None

    @classmethod
    def of(cls, log: RunLog | None, write: Write, consult: Callable[[], object] | None = None) -> Lockstep | None:
        """None for a run that never waits."""
        if log is None:
            return None
        wake = WakeSettings.model_validate(log.info().rules.get("wake", {}))
        return cls(wake, log, write, consult=consult) if wake.mode == "lockstep" else None

    # -- when -------------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether there is something to wait for, once this step is complete."""
        return any(asked is not None and asked.step == step for asked in (self._due, self._open))

    def reach(self, step: int, max_steps: int | None) -> None:
        """Training has completed a step; at the last one there is nothing left to decide."""
        if self.wake.is_time(step) and (max_steps is None or step < max_steps):
            self._due = Due(step, f"{self.wake.pace(step)} steps")

    def evaluated(self, step: int) -> None:
        """Training was evaluated after a step."""
        if self.wake.on_evaluation and self._may_ask(step):
            self._due = Due(step, f"evaluation at step {step}")

    def logged(self, step: int, is_finite: bool) -> None:
        """The loop has logged a loss or a gradient norm; the first that is not finite is asked about at once."""
        if not is_finite and not self._is_alarmed and self.wake.on_finding and not self.is_due(step):
            self._due = Due(step, f"a loss or gradient norm of step {step} is not finite")
        self._is_alarmed = not is_finite

    def _may_ask(self, step: int) -> bool:
        return step != self._asked_step or self._questions < MOST_QUESTIONS

    # -- how long ---------------------------------------------------------------------------------------------

    def begin(self, step: int, branch: str) -> bool:
        """Ask, if that is due and was not done; returns whether training is to wait."""
        if self._open is not None and (self._open.step, self._open.branch) == (step, branch):
            return True
        due, self._due, self._open = self._due, None, None
        if due is None or due.step != step:  # the run has gone back since
            return False
        self._questions = self._questions + 1 if step == self._asked_step else 1
        self._asked_step = step
        try:
            self._open = self._ask(due, branch)
        except (StoreFault, sqlite3.Error) as fault:
            self._say_fault(fault)
        return self._open is not None

    def _ask(self, due: Due, branch: str) -> LockstepWait | None:
        if self._log is None or not self._waits_again(self._log):
            return None
        if (gone := self._who_left(self._log)) is not None:
            self._give_up(self._log.last_seq(), _left(gone), due.step, branch)
            return None
        seq = self._announce(DecisionAwaited(reason=due.reason, limit_s=self.wake.lockstep_limit_s), due.step, branch)
        if seq is None:
            self._gave_up_seq = self._log.last_seq()
            logger.warning("the log cannot be written; training no longer waits for the agent, until it decides")
            return None
        return LockstepWait(due.step, branch, seq, self.wake.lockstep_limit_s)

    def _waits_again(self, log: RunLog) -> bool:
        """Whether the agent has shown itself since training ceased to wait for it, if it has."""
        if self._gave_up_seq is None:
            return True
        if not log.events(self._gave_up_seq, 1, ("decided", "policy_attached")):
            return False
        self._gave_up_seq, self._misses = None, 0
        return True

    def _announce(self, awaited: DecisionAwaited, step: int, branch: str) -> int | None:
        """Write that training waits, after everything else about this step; its `seq`, None if it took too long."""
        written = threading.Event()
        seqs: list[int] = []

        def write(log: RunLog) -> None:
            seqs.extend(log.append(awaited, step=step, branch=branch))
            written.set()

        self._write(write)
        written.wait(max(self.wake.lockstep_limit_s, ANNOUNCE_S))
        return seqs[0] if seqs else None

    def goes_on(self) -> bool:
        """Whether the wait is not over: no decision about this step yet, and still time for one."""
        wait = self._open
        if wait is None or self._log is None:
            return False
        try:
            is_over = self._is_over(wait, self._log)
        except (StoreFault, sqlite3.Error) as fault:
            self._say_fault(fault)
            is_over = True
        if is_over:
            self._open = None
        return not is_over

    def idle(self) -> None:
        """Wait for a moment, or let the agent in this process work."""
        began_s = self._clock_s()
        if self._consult is None:
            self._idle.wait(POLL_S)
        else:
            self._consult()
        if self._open is not None:
            self._open.left_s -= self._clock_s() - began_s

    def close(self) -> None:
        """Wait no longer for what was asked."""
        self._open = None

    def _is_over(self, wait: LockstepWait, log: RunLog) -> bool:
        if self._monitor.may_have_changed():
            events = log.events(wait.seq, kinds=["decided"])
            if any(isinstance(event.body, Decided) and _ends(event.body, wait) for event in events):
                self._misses = 0
                return True
            if (gone := self._who_left(log)) is not None:
                self._give_up(wait.seq, _left(gone), wait.step, wait.branch)
                return True
        if wait.left_s <= 0:
            self._miss(wait, log)
            return True
        return self._is_dead(wait, log)

    # -- an agent that does not come --------------------------------------------------------------------------

    def _newest(self, log: RunLog) -> PolicyAttached | PolicyDetached | None:
        newest = log.events(kinds=["policy_attached", "policy_detached"], limit=1, newest=True)
        body = newest[0].body if newest else None
        return body if isinstance(body, (PolicyAttached, PolicyDetached)) else None

    def _who_left(self, log: RunLog) -> PolicyDetached | None:
        """The policy that has left with none to follow it."""
        newest = self._newest(log)
        return newest if isinstance(newest, PolicyDetached) and newest.successor is None else None

    def _is_dead(self, wait: LockstepWait, log: RunLog) -> bool:
        """Whether the agent's process has been gone too long to come again."""
        now_s = self._clock_s()
        if now_s < wait.alive_due_s:
            return False
        wait.alive_due_s = now_s + ALIVE_EVERY_S
        agent = self._newest(log)
        here = isinstance(agent, PolicyAttached) and agent.pid is not None and agent.host == platform.node()
        if not (here and isinstance(agent, PolicyAttached)) or is_alive(agent.pid or 0, agent.pid_started_s):
            wait.gone_since_s = None
            return False
        wait.gone_since_s = now_s if wait.gone_since_s is None else wait.gone_since_s
        if now_s - wait.gone_since_s < RESTART_S:
            return False
        text = f"the process of policy {agent.policy} ({agent.pid}) is gone"
        self._give_up(wait.seq, f"{text}; training goes on until one is attached", wait.step, wait.branch)
        return True

    def _miss(self, wait: LockstepWait, log: RunLog) -> None:
        self._misses += 1
        limit = f"{self.wake.lockstep_limit_s:g} s"
        if not isinstance(self._newest(log), PolicyAttached):
            text = f"no policy came within {limit}; training goes on until one is attached"
            self._give_up(wait.seq, text, wait.step, wait.branch)
        elif self._misses >= MISSES:
            text = f"no decision in time, {MISSES} times in a row; training no longer waits, until the agent decides"
            self._give_up(wait.seq, text, wait.step, wait.branch)
        elif self._misses == 1:
            self._note(f"no decision about step {wait.step} within {limit}; training goes on", wait.step, wait.branch)

    def _give_up(self, seq: int, text: str, step: int, branch: str) -> None:
        self._gave_up_seq = seq
        self._note(text, step, branch)

    def _note(self, text: str, step: int, branch: str) -> None:
        self._write(lambda log: log.append(NoteAdded(text=text, author=AUTHOR), step=step, branch=branch))

    def _say_fault(self, fault: Exception) -> None:
        logger.warning("the log cannot be read (%s); training goes on without waiting for the agent", fault)


def _ends(decided: Decided, wait: LockstepWait) -> bool:
    """Whether this is the decision that training waits for."""
    if decided.awaited_seq is None:  # by a client that does not know of waits
        return decided.based_on_step == wait.step
    return decided.awaited_seq == wait.seq


def _left(gone: PolicyDetached) -> str:
    why = f" ({gone.reason})" if gone.reason else ""
    return f"policy {gone.policy} has left{why}; training goes on until one is attached"
