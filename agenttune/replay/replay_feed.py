"""A recording, written step by step into a fresh log as if it happened now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

from agenttune.config import GoalSettings
from agenttune.protocol.events import Evaluated, KnobsRead
from agenttune.protocol.proposals import CommandRecord, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.replay.recordings import Recording
from agenttune.store.run_log import RunLog

RUN_ID = "replayed"
AGAIN = Verdict(decision="approved", decided_by="replay", reason="so it was recorded")

Moment = tuple[int, Callable[[], object]]


class ReplayFeed:
    """Writes a recording into a new log.

    Args:
        recording: What happened.
        runs_dir: An empty folder.
        goal: What counts as good, where the recording does not say it.
    """

    def __init__(self, recording: Recording, runs_dir: Path, goal: GoalSettings) -> None:
        self.recording, self.step = recording, 0
        self.at_s = recording.rows[0].at_s if recording.rows else 0.0
        self._log = RunLog.create(runs_dir / RUN_ID, _card(recording, goal))
        self._log.append(*recording.about, step=0)
        self._moments = sorted(self._make_moments(), key=itemgetter(0))
        self._next_moment = self._next_row = 0

    def advance(self, step: int) -> None:
        """Write all that was there when the run stood at `step`, and nothing that was done because of it."""
        while self._next_moment < len(self._moments) and self._moments[self._next_moment][0] <= step:
            at_step, write = self._moments[self._next_moment]
            self._write_rows(at_step)
            write()
            self._next_moment += 1
        self._write_rows(step)
        self.step = step
        self._log.update_info(step=step)

    def close(self) -> None:
        self._log.close()

    def now_s(self) -> float:
        """The recording's time: that of its newest row."""
        return self.at_s

    def _write_rows(self, until_step: int) -> None:
        rows, first = self.recording.rows, self._next_row
        while self._next_row < len(rows) and rows[self._next_row].step <= until_step:
            self._next_row += 1
        if self._next_row > first:
            self._log.append_points(rows[first : self._next_row])
            self.at_s = rows[self._next_row - 1].at_s

    def _make_moments(self) -> Iterator[Moment]:
        for index, (step, knobs) in enumerate(self.recording.knobs):
            body = KnobsRead(knobs=knobs)
            # Values read after a change at a step were not yet those on which somebody decided at that step.
            yield (0 if index == 0 else step + 1), self._event(body, step)
        for evaluation in self.recording.evaluations:
            yield evaluation.step, self._event(Evaluated(metrics=evaluation.metrics), evaluation.step)
        for record in self.recording.commands:
            if record.ack is not None or (record.verdict and record.verdict.decision not in ("approved", "edited")):
                yield known_from(record), self._command(record)

    def _event(self, body: Evaluated | KnobsRead, step: int) -> Callable[[], object]:
        return lambda: self._log.append(body, step=step)

    def _command(self, record: CommandRecord) -> Callable[[], object]:
        def write() -> None:
            proposal, ack = record.proposal, record.ack
            self._log.submit(proposal, AGAIN if ack is not None else record.verdict or AGAIN)
            if ack is not None:
                self._log.acknowledge(proposal.command_id, ack.model_copy(update={"branch": "main"}))

        return write


def known_from(record: CommandRecord) -> int:
    """The first step at which a policy that looks finds a recorded command in the history."""
    asked = record.proposal.based_on_step if record.proposal.based_on_step is not None else record.submitted_step
    return max((asked or 0) + 1, record.ack_step)


def _card(recording: Recording, goal: GoalSettings) -> RunInfo:
    known = recording.goal_metric is not None
    return RunInfo(
        run_id=RUN_ID,
        name=RUN_ID,
        status="running",
        created_at_s=time.time(),
        max_steps=recording.max_steps,
        capabilities=recording.capabilities,
        # Not whether its training waited for decisions: here a policy is waited for in any case.
        rules={name: rules for name, rules in recording.rules.items() if name in ("gate", "budgets")},
        goal_metric=recording.goal_metric if known and recording.goal_metric else goal.metric,
        goal_direction=recording.goal_direction if known else goal.direction,
    )
