"""Acks of commands: each gets one, and what it changed is read again some steps later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agenttune.gate import values_of
from agenttune.protocol.events import KnobsRead, ReadBack
from agenttune.protocol.proposals import Ack, CommandRecord, Record
from agenttune.trainer.commands.outcomes import Done, Expectation
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState

READ_BACK_STEPS = 5
"""Steps after which a change is read again (guess: past any warm-up of caches, before a policy's next decision)."""


@dataclass
class Check:
    """One command's values, to be read again at `due_step`."""

    due_step: int
    record: CommandRecord
    expectations: list[Expectation]


class ReadBacks:
    """Values that will be read again; a newer change of the same value replaces an older one's check."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def expect(self, record: CommandRecord, step: int, expectations: list[Expectation]) -> None:
        for new in expectations:
            for check in self.checks:
                check.expectations = [
                    old for old in check.expectations if old.name != new.name or not old.groups & new.groups
                ]
        if expectations:
            self.checks.append(Check(step + READ_BACK_STEPS, record, list(expectations)))

    def due(self, step: int) -> list[tuple[CommandRecord, ReadBack]]:
        """Read what is due; a check with nothing left to compare is dropped."""
        due = [check for check in self.checks if check.due_step <= step]
        self.checks = [check for check in self.checks if check.due_step > step]
        compared = [(check.record, _compare(check.expectations)) for check in due]
        return [(record, result) for record, result in compared if result is not None]


def _compare(expectations: list[Expectation]) -> ReadBack | None:
    expected, found = {}, {}
    for expectation in expectations:
        values = expectation.read()
        if values is not None:
            expected[expectation.name] = expectation.expected
            found[expectation.name] = values
    if not expected:
        return None
    return ReadBack(held=all(same(found[name], expected[name]) for name in expected), expected=expected, found=found)


class AckWriter:
    """Writes acks.

    Args:
        run_state: The run.
        recorder: Writes the log.

    Attributes:
        taken: Ids of the commands that were applied or answered; none is taken twice.
        read_backs: Changes that will be read again.
        on_ack: Also told of each ack.
        max_steps: The step at which training ends, as the log has it.
    """

    def __init__(self, run_state: RunState, recorder: Recorder) -> None:
        self._run_state = run_state
        self._recorder = recorder
        self.taken: set[str] = set()
        self.read_backs = ReadBacks()
        self.on_ack: Callable[[CommandRecord, Ack], None] | None = None
        self.max_steps: int | None = None

    def done(
        self,
        record: CommandRecord,
        done: Done,
        knobs: KnobsRead | None,
        step: int,
        confirmed_step: int | None = None,
    ) -> None:
        """It was applied at `step`, and read back."""
        self.read_backs.expect(record, step, done.expectations)
        events = (*done.events, *([knobs] if knobs is not None else []))
        ack = Ack(
            outcome="applied",
            step=step,
            changes=done.changes,
            result=done.result,
            confirmed_step=confirmed_step,
            message=done.message,
        )
        self.acknowledge(record, ack, events)
        if done.changes:
            self.note_change()

    def refuse(
        self,
        record: CommandRecord,
        message: str,
        events: tuple[Record, ...] = (),
        outcome: Literal["failed", "expired"] = "failed",
    ) -> None:
        """It was not applied, for the reason given."""
        self.acknowledge(record, Ack(outcome=outcome, step=self._run_state.step, message=message), events)

    def acknowledge(self, record: CommandRecord, ack: Ack, events: tuple[Record, ...]) -> None:
        """Write an ack, with events that belong to it."""
        self.taken.add(record.command_id)
        ack = as_asked(record, ack).model_copy(update={"branch": self._run_state.branch})
        self._recorder.submit(lambda log: log.acknowledge(record.command_id, ack, *events))
        if self.on_ack is not None:
            self.on_ack(record, ack)

    def note_change(self) -> None:
        """Other values are in force: a checkpoint of this step, if there is one, does not hold them."""
        self._run_state.changes += 1
        newest = self._run_state.checkpoints.newest_of_loop
        if newest is not None:
            newest.is_current = False
        end = self._run_state.adapter.max_steps()
        if end != self.max_steps:
            self.max_steps = end
            self._recorder.update_info(max_steps=end)

    def read_again(self, step: int) -> None:
        """Read back what is due."""
        for record, result in self.read_backs.due(step):
            self._recorder.record(result, command_id=record.command_id)


def as_asked(record: CommandRecord, ack: Ack) -> Ack:
    """An ack whose changes say what was asked for, where a limit or a person made another value of it."""
    if record.verdict is None or record.verdict.edited is None:
        return ack
    asked = values_of(record.proposal.command)
    changes = [
        change.model_copy(update={"requested": asked[change.name]}) if change.name in asked else change
        for change in ack.changes
    ]
    return ack.model_copy(update={"changes": changes})
