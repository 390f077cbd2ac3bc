"""Training that waits at a step boundary until the agent has decided about that very step."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable

from agenttune.config import WakeSettings
from agenttune.errors import StoreFault
from agenttune.events import Decided, DecisionAwaited, NoteAdded, PolicyAttached
from agenttune.proposals import State
from agenttune.store import LOG_NAME, RunLog
from agenttune.walwatch import WalWatch

logger = logging.getLogger("agenttune")

POLL_S = 0.005
"""How often a waiting run looks whether somebody wrote to its log, which costs microseconds."""
MISSES = 3
"""After so many steps in a row without a decision in time, training no longer waits (guess)."""
AUTHOR = "agenttune lockstep"

Write = Callable[[Callable[[RunLog], object]], None]
"""Hands a write to the background writer, after all that was handed over before."""


class Lockstep:
    """Knows at which boundaries to wait, and waits there.

    Args:
        log: The run's log, for reading.
        wake: Its settings.
        write: Writes to the log in the background, in order.
        clock_s: Monotonic time in seconds.
    """

    def __init__(
        self, log: RunLog, wake: WakeSettings, write: Write, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._wake, self._write, self._clock_s = log, wake, write, clock_s
        self._watch = WalWatch(log.folder / LOG_NAME)
        self._idle = threading.Event()
        self._why = ""
        self._misses = 0
        self._gave_up_seq: int | None = None

    @classmethod
    def of(cls, log: RunLog | None, write: Write) -> Lockstep | None:
        """None for a run that never waits."""
        if log is None:
            return None
        wake = WakeSettings.model_validate(log.info().rules.get("wake", {}))
        return cls(log, wake, write) if wake.mode == "lockstep" else None

    @property
    def is_due(self) -> bool:
        """Whether there is something to wait for at the next occasion."""
        return bool(self._why)

    def reach(self, step: int) -> None:
        """Training has completed a step."""
        if step % self._wake.every_steps == 0:
            self._why = f"{self._wake.every_steps} steps"

    def evaluated(self, step: int) -> None:
        """Training was evaluated after a step."""
        if self._wake.on_evaluation:
            self._why = f"evaluation at step {step}"

    def hold(self, step: int, branch: str) -> None:
        """Wait until the agent has decided about this step, an operator asks for something, or the limit is over."""
        why, self._why = self._why, ""
        try:
            self._hold(step, branch, why)
        except (StoreFault, sqlite3.Error) as fault:
            logger.warning("the log cannot be read (%s); training goes on without waiting for the agent", fault)

    def _hold(self, step: int, branch: str, why: str) -> None:
        if self._gave_up_seq is not None:
            if not self._log.events(self._gave_up_seq, 1, ("decided", "policy_attached")):
                return
            self._gave_up_seq, self._misses = None, 0
        until_s = self._clock_s() + self._wake.lockstep_limit_s
        seq = self._announce(DecisionAwaited(reason=why, limit_s=self._wake.lockstep_limit_s), step, branch)
        if seq is None:
            self._gave_up_seq = self._log.last_seq()
            logger.warning("the log cannot be written; training no longer waits for the agent, until it decides")
            return
        while not self._is_over(seq, step):
            if self._clock_s() >= until_s:
                self._miss(seq, step, branch)
                return
            self._idle.wait(POLL_S)

    def _announce(self, awaited: DecisionAwaited, step: int, branch: str) -> int | None:
        """Write that training waits, after everything else about this step; its `seq`, None if it took too long."""
        written = threading.Event()
        seqs: list[int] = []

        def write(log: RunLog) -> None:
            seqs.extend(log.append(awaited, step=step, branch=branch))
            written.set()

        self._write(write)
        written.wait(self._wake.lockstep_limit_s)
        return seqs[0] if seqs else None

    def _is_over(self, seq: int, step: int) -> bool:
        if not self._watch.may_have_changed():
            return False
        decided = [e.body for e in self._log.events(seq, kinds=["decided"]) if isinstance(e.body, Decided)]
        if any(body.based_on_step == step for body in decided):
            self._misses = 0
            return True
        return any(c.proposal.author.principal != "agent" for c in self._log.commands(State.QUEUED))

    def _miss(self, seq: int, step: int, branch: str) -> None:
        self._misses += 1
        limit = f"{self._wake.lockstep_limit_s:g} s"
        if not self._is_attended():
            self._gave_up_seq = seq
            self._note(f"no policy came within {limit}; training goes on until one is attached", step, branch)
        elif self._misses >= MISSES:
            self._gave_up_seq = seq
            text = f"no decision in time, {MISSES} times in a row; training no longer waits, until the agent decides"
            self._note(text, step, branch)
        elif self._misses == 1:
            self._note(f"no decision about step {step} within {limit}; training goes on", step, branch)

    def _is_attended(self) -> bool:
        newest = self._log.events(kinds=["policy_attached", "policy_detached"], limit=1, newest=True)
        return bool(newest) and isinstance(newest[0].body, PolicyAttached)

    def _note(self, text: str, step: int, branch: str) -> None:
        self._write(lambda log: log.append(NoteAdded(text=text, author=AUTHOR), step=step, branch=branch))
