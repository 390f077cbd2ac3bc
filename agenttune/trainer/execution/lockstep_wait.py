"""Standing still until the agent has decided, while whatever else is asked for is served."""

from __future__ import annotations

from collections.abc import Callable

from agenttune.config import WakeSettings
from agenttune.trainer.distributed.command_broadcast import CommandBroadcast
from agenttune.trainer.execution.lockstep import Lockstep, Write
from agenttune.trainer.run_state import RunState


class Awaiting:
    """Where training stands for the agent's sake; on every rank alike.

    Args:
        lockstep: When and how long, as the leading rank knows it; None there for a run that never waits.
        command_broadcast: How ranks agree.
        run_state: The run.
        write: Writes to the log.
        serve: Applies what is queued, and stays while training is paused.
        must_leave: Whether something waits for the loop to go on: a save of its own, a return, a probe, the end.
        is_ending: Whether a stop is queued that cannot be obeyed here.
    """

    def __init__(
        self,
        lockstep: Lockstep | None,
        command_broadcast: CommandBroadcast,
        run_state: RunState,
        write: Write,
        serve: Callable[[], None],
        must_leave: Callable[[], bool],
        is_ending: Callable[[], bool],
    ) -> None:
        self._lockstep, self._broadcast, self._run_state, self._write = lockstep, command_broadcast, run_state, write
        self._serve, self._must_leave, self._is_ending = serve, must_leave, is_ending

    def learn(self) -> None:
        """On ranks that only follow: take over from the leader whether there are waits, and when."""
        told = self._broadcast.tell("" if self._lockstep is None else self._lockstep.wake.model_dump_json())
        if told and self._lockstep is None:
            self._lockstep = Lockstep(WakeSettings.model_validate_json(told), None, self._write)

    @property
    def is_on(self) -> bool:
        """Whether this run ever waits."""
        return self._lockstep is not None

    def reach(self, step: int, max_steps: int | None) -> None:
        """Training has completed a step."""
        if self._lockstep is not None:
            self._lockstep.reach(step, max_steps)

    def evaluated(self, step: int) -> None:
        """Training was evaluated after a step."""
        if self._lockstep is not None:
            self._lockstep.evaluated(step)

    def logged(self, step: int, is_finite: bool) -> None:
        """The loop has logged a loss or a gradient norm."""
        if self._lockstep is not None:
            self._lockstep.logged(step, is_finite)

    @property
    def is_due(self) -> bool:
        """Whether training is to stand still as soon as the loop is done with this step."""
        if self._lockstep is None:
            return False
        return self._run_state.trial is None and self._lockstep.is_due(self._run_state.step)

    def stand(self) -> None:
        """Wait for the decision about this step, if that is due; after a return to the loop, go on waiting."""
        lockstep = self._lockstep
        if lockstep is None or not self.is_due or self._must_leave():
            return
        self._run_state.awaits_agent = True
        try:
            self._stand(lockstep)
        finally:
            self._run_state.awaits_agent = False

    def _stand(self, lockstep: Lockstep) -> None:
        while self._agreed(lockstep, lockstep.begin(self._run_state.step, self._run_state.branch)):
            while self._agreed(lockstep, lockstep.goes_on() and not self._is_ending()):
                lockstep.idle()
                self._serve()
                if self._must_leave():
                    return
            self._serve()  # what was decided
            if self._must_leave():
                return

    def _agreed(self, lockstep: Lockstep, waits: bool) -> bool:
        waits = self._broadcast.agree(waits)
        if not waits:
            lockstep.close()
        return waits
