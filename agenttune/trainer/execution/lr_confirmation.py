"""Changes of the learning rate: the ack waits until the next update used it and the schedule's next step kept it."""

from __future__ import annotations

from agenttune.trainer.commands.outcomes import AwaitLearningRate, Waiting
from agenttune.trainer.execution.acks import AckWriter
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.lr.schedules import Schedule
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState


class LearningRateConfirmation:
    """Confirms rates, or fails them."""

    def __init__(self, run_state: RunState, acks: AckWriter, recorder: Recorder) -> None:
        self._run_state = run_state
        self._acks = acks
        self._recorder = recorder
        self.waiting: list[Waiting[AwaitLearningRate]] = []

    def accept(self, waiting: Waiting[AwaitLearningRate]) -> None:
        """A rate was set; while paused there is no step to wait for."""
        schedule = self._run_state.schedule()
        overridden = [w for w in self.waiting if w.outcome.groups & waiting.outcome.groups]
        self.waiting = [w for w in self.waiting if w not in overridden]
        for other in overridden:
            message = f"overridden by {waiting.record.command_id} in the same step, before an update used it"
            self._finish(other, message)
        for other in self.waiting:  # untouched groups; a plan may have moved what comes next
            other.outcome.next = schedule.next_effective()
        self._acks.note_change()
        waiting.knobs = self._recorder.knobs_read()
        if self._run_state.paused:
            self._finish(waiting, "read back; training is paused before another step could confirm it")
        elif self._run_state.awaits_agent and waiting.record.proposal.author.principal != "agent":
            # The agent may think for a minute; what it decides itself is confirmed by the step that follows.
            self._finish(waiting, "read back; training waits for the agent before another step could confirm it")
        else:
            self.waiting.append(waiting)

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
            if waiting.problem:
                self._fail(waiting)
            else:
                self._finish(waiting, message, confirmed_step=self._run_state.step)

    def settle(self, message: str) -> None:
        """Answer all without waiting any longer."""
        rates, self.waiting = self.waiting, []
        for waiting in rates:
            self._finish(waiting, message)

    def settle_trials(self, message: str) -> None:
        """The same for what trials have adopted: whoever decides by them waits for the answer, and training for him."""
        tried = [waiting for waiting in self.waiting if waiting.record.command.tries()]
        self.waiting = [waiting for waiting in self.waiting if waiting not in tried]
        for waiting in tried:
            self._finish(waiting, message)

    def _finish(self, waiting: Waiting[AwaitLearningRate], message: str, confirmed_step: int | None = None) -> None:
        done = waiting.outcome.done
        done.message = " ".join(filter(None, [done.message, message]))
        self._acks.done(waiting.record, done, waiting.knobs, waiting.step, confirmed_step)

    def _fail(self, waiting: Waiting[AwaitLearningRate]) -> None:
        waiting.outcome.undo()
        stands = waiting.outcome.stands
        others = "" if stands or len(waiting.outcome.done.changes) < 2 else "; what else it changed was put back"
        self._acks.refuse(waiting.record, stands + waiting.problem + others, (self._recorder.knobs_read(),))


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
