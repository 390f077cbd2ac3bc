"""Acks of commands: each gets one, and what it changed is read again some steps later.

That of a learning rate waits until the next update used it and the schedule's next step kept it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agenttune.gate import values_of
from agenttune.protocol.events import KnobsRead, ReadBack
from agenttune.protocol.proposals import Ack, CommandRecord, Record
from agenttune.trainer.commands.outcomes import AwaitLearningRate, Done, Expectation, Waiting
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.lr.schedules import Schedule
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
    """Values that will be read again; a newer change of a value replaces an older one's check in the same groups."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def expect(self, record: CommandRecord, step: int, expectations: list[Expectation]) -> None:
        for new in expectations:
            for check in self.checks:
                left = [old.without(new.groups) if old.is_of(new) else old for old in check.expectations]
                check.expectations = [old for old in left if old is not None]
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
        on_ack: Called with each ack.
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


# -- learning rates ----------------------------------------------------------------------------------------------


class LearningRateConfirmation:
    """Confirms rates, or fails them."""

    def __init__(self, run_state: RunState, acks: AckWriter, recorder: Recorder, ranks: SingleRank) -> None:
        self._run_state, self._ranks = run_state, ranks
        self._acks = acks
        self._recorder = recorder
        self.waiting: list[Waiting[AwaitLearningRate]] = []

    def accept(self, waiting: Waiting[AwaitLearningRate]) -> None:
        """A rate was set; while training stands still there is no step to wait for."""
        schedule = self._run_state.schedule()
        overridden = [w for w in self.waiting if w.outcome.groups & waiting.outcome.groups]
        self.waiting = [w for w in self.waiting if w not in overridden]
        for other in overridden:
            self._finish(other, _overridden(other.outcome, waiting))
        for other in self.waiting:  # untouched groups; a plan may have moved what comes next
            other.outcome.next = schedule.next_effective()
        self._acks.note_change()
        waiting.knobs = self._recorder.knobs_read()
        self.waiting.append(waiting)
        self.settle_standing()

    def before_update(self) -> None:
        """Just before the optimizer's update."""
        if self.waiting:
            schedule = self._run_state.schedule()
            for waiting in self.waiting:
                check_before_update(waiting, schedule)

    def confirm(self) -> None:
        """At the end of a step: did they hold?"""
        rates, self.waiting = self.waiting, []
        schedule = self._run_state.schedule()
        for waiting in rates:
            message = check_after_step(waiting, schedule)
            elsewhere = self._ranks.rate_problem(waiting.record.command_id)
            waiting.problem = waiting.problem or elsewhere
            if waiting.problem:
                self._fail(waiting)
            else:
                self._finish(waiting, message, confirmed_step=self._run_state.step)
        self._ranks.forget_rates()

    def settle(self, why: str) -> None:
        """Answer all without waiting any longer, for the reason given."""
        self._settle(self.waiting, why)

    def settle_standing(self) -> None:
        """Answer those that no step confirms for now, as training stands still.

        Where it waits for the agent, what the agent decides is confirmed by the step that follows. Not so the trials
        that it asked for: it decides by their answer, and training waits for that.
        """
        state = self._run_state
        why = state.standstill
        if why and (state.paused or state.is_held()):
            self._settle(self.waiting, why)
        elif why:
            self._settle([waiting for waiting in self.waiting if not _is_agents_last_word(waiting.record)], why)

    def _settle(self, rates: list[Waiting[AwaitLearningRate]], why: str) -> None:
        self.waiting = [waiting for waiting in self.waiting if waiting not in rates]
        for waiting in rates:
            self._finish(waiting, f"read back; {why} before another step could confirm it")
        if rates and not self.waiting:
            self._ranks.forget_rates()

    def _finish(self, waiting: Waiting[AwaitLearningRate], message: str, confirmed_step: int | None = None) -> None:
        done = waiting.outcome.done
        done.message = " ".join(filter(None, [done.message, message]))
        self._acks.done(waiting.record, done, waiting.knobs, waiting.step, confirmed_step)

    def _fail(self, waiting: Waiting[AwaitLearningRate]) -> None:
        waiting.outcome.undo()
        self._ranks.undo_rate(waiting.record.command_id)
        stands = waiting.outcome.stands
        others = "" if stands or len(waiting.outcome.done.changes) < 2 else "; what else it changed was put back"
        self._acks.refuse(waiting.record, stands + waiting.problem + others, (self._recorder.knobs_read(),))


def _overridden(outcome: AwaitLearningRate, newer: Waiting[AwaitLearningRate]) -> str:
    """What the ack of a change says of a newer one, by the parameter groups that it has left to it."""
    said = f"overridden by {newer.record.command_id} in the same step, before an update used it"
    left = outcome.groups - newer.outcome.groups
    if not left:
        return said
    return f"in group {_listed(outcome.groups - left)} {said}; in force in group {_listed(left)}, as read back"


def _listed(groups: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(groups)))


def _is_agents_last_word(record: CommandRecord) -> bool:
    """Whether an agent for which training waits need not know what came of it before training goes on."""
    return record.proposal.author.principal == "agent" and not record.command.tries()


def check_before_update(waiting: Waiting[AwaitLearningRate], schedule: Schedule) -> None:
    """Note it if the update about to happen uses another rate than the one that was set."""
    outcome = waiting.outcome
    if _moved(outcome, schedule):
        return
    expected = _expected(outcome, schedule)
    if expected is not None:
        waiting.problem = _difference(outcome, expected, schedule.effective(), "the next update used")


def check_after_step(waiting: Waiting[AwaitLearningRate], schedule: Schedule) -> str:
    """What the ack has to add; sets `waiting.problem` if the rate did not hold."""
    outcome = waiting.outcome
    found = schedule.effective()
    if _moved(outcome, schedule):
        return f"an evaluation has since moved the rate to {found[min(outcome.groups)]:g}, as {schedule.name} does"
    expected = _expected(outcome, schedule)
    if not waiting.problem and expected is not None:
        waiting.problem = _difference(outcome, expected, found, "after the schedule's next step the rate is")
    if expected is None:
        return f"{schedule.name} cannot be foretold; the rate held for one update"
    if schedule.counts and schedule.clock == outcome.clock:
        return f"the rate held for one update; {schedule.name} has not stepped since"
    return ""


def _expected(outcome: AwaitLearningRate, schedule: Schedule) -> list[float] | None:
    """The rates by what the schedule has counted since: a loop may step it before or after the boundary, or not yet."""
    if not schedule.counts:
        return outcome.next
    steps = schedule.clock - outcome.clock
    return outcome.now if steps == 0 else outcome.next if steps == 1 else None


def _moved(outcome: AwaitLearningRate, schedule: Schedule) -> bool:
    return schedule.kind is ScheduleKind.METRIC and schedule.clock != outcome.clock


def _difference(outcome: AwaitLearningRate, expected: list[float], found: list[float], what: str) -> str:
    wrong = [i for i in sorted(outcome.groups) if not same(found[i], expected[i])]
    if not wrong:
        return ""
    i = wrong[0]
    return f"{what} {found[i]:g} in group {i} instead of {expected[i]:g}: something else sets the rate"
