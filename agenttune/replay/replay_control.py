"""The door to a recorded run: it can be watched, and what is asked of it is written down and goes nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agenttune.control import LocalControl
from agenttune.policy.base import asked_at_step
from agenttune.protocol.events import ModuleInfo
from agenttune.protocol.observation import HISTORY, Observation
from agenttune.protocol.proposals import CommandRecord, Proposal, State, Verdict

LET_THROUGH = Verdict(decision="approved", decided_by="replay", reason="noted; a replay applies nothing")


class ReplayControl(LocalControl):
    """`LocalControl` over a recording's log, in which proposals are judged by the gate and then only noted.

    The policy finds them in its history as let through and without an ack, so that its limits and waiting times count
    them, and no detector takes the recorded curve for their effect.

    Args:
        runs_dir: The folder with the recording's log.
        clock: The recording's time, unix time in seconds.
        window_steps: A recorded command that is the same as a noted one, so many steps after it, stands for it.
    """

    def __init__(self, runs_dir: Path, clock: Callable[[], float], window_steps: int) -> None:
        super().__init__(runs_dir, clock=clock)
        self.noted: list[CommandRecord] = []
        self._window_steps = window_steps

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        known = next((r for r in self.noted if r.command_id == proposal.command_id), None)
        if known is not None:
            return known
        verdict = self.dry_run(run_id, proposal)
        refused = verdict.decision not in ("approved", "edited")
        record = CommandRecord(
            proposal=proposal,
            state=State(verdict.decision) if refused else State.KEPT,
            verdict=verdict if refused else LET_THROUGH,
            submitted_seq=self.log(run_id).last_seq(),
            submitted_step=self.info(run_id).step,
        )
        self.noted.append(record)
        return record

    def observe(self, run_id: str) -> Observation:
        observation = super().observe(run_id)
        if not self.noted:
            return observation
        real = observation.commands
        noted = [r for r in self.noted[-HISTORY:] if not any(self._stands_for(c, r) for c in real)]
        both = sorted([*real, *noted], key=asked_at_step)[-HISTORY:]
        return observation.model_copy(update={"commands": both})

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        """The layers as recorded at the start; there is no trainer that could measure norms."""
        return super().model(run_id, norms=False, layer=layer, wait_s=wait_s)

    def _stands_for(self, done: CommandRecord, noted: CommandRecord) -> bool:
        later = asked_at_step(done) - asked_at_step(noted)
        return done.proposal.command == noted.proposal.command and 0 <= later <= self._window_steps
