"""Monitors each change of an agent for a while, and reverts it if it hurt.

It runs in the training process, at step boundaries: it needs no server and no agent, sees every loss, and counts its
window in steps. A change that hurt is reverted by a command like any other, which passes the gate and gets an ack; the
log then says whether the change was kept or reverted, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from agenttune.config import ProbationSettings
from agenttune.protocol.commands import CommandBase, Impact, LoadCheckpoint
from agenttune.protocol.events import Settled
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.proposals import Ack, CommandRecord, Proposal
from agenttune.protocol.redefining import Redefinition, redefinition
from agenttune.protocol.run_info import RunInfo
from agenttune.trainer.probation.loss_history import LossHistory
from agenttune.trainer.probation.measures import (
    BEFORE_STEPS,
    METRIC,
    Assessment,
    EvaluationMonitor,
    Evaluations,
    Monitor,
    NoMonitor,
    StepMonitor,
)
from agenttune.trainer.probation.own_commands import AUTHOR, FOR_AGENT, CheckpointsBefore, inverse_of
from agenttune.trainer.recording.background_writer import StepMetrics

NON_FINITE = 3
"""After so many losses in a row that are not finite the change is reverted at once; one may be an overflow (guess)."""
CHECK_STEPS, LATE_CHECK_STEPS = 4, 32
"""Steps between two checks for such losses, within a change's window and after it; a check may wait for a device."""


@dataclass(eq=False)
class MonitoredChange:
    """A change on probation.

    Attributes:
        record: The command, with its ack.
        step: At which it took effect.
        open: Monitors that have not decided yet.
        snapshot: Id of the checkpoint saved before it, if there is one.
        seen: Assessments of the monitors that have decided.
        until: The last step whose loss shows the effect of this change alone; None while there is no later change.
        revert_id: The command that reverts it, once that was asked for.
        reason: Why it is reverted.
        checked_step: Step of the last check.
    """

    record: CommandRecord
    step: int
    open: list[Monitor]
    snapshot: str | None = None
    seen: list[Assessment] = field(default_factory=list)
    until: int | None = None
    revert_id: str | None = None
    reason: str = ""
    checked_step: int = 0

    @property
    def is_young(self) -> bool:
        """Whether its own window is still open."""
        return any(isinstance(monitor, (StepMonitor, NoMonitor)) and not monitor.passed() for monitor in self.open)

    @property
    def next_check_step(self) -> int:
        """Step of the next check."""
        if not self.open:
            return self.checked_step
        often = CHECK_STEPS if self.is_young else LATE_CHECK_STEPS
        return min([self.checked_step + often, *(monitor.next_step for monitor in self.open)])


@dataclass
class Probation:
    """All changes of a run that are on probation.

    The losses after a change also show the effect of later ones. So reverting a change also reverts those made on top
    of it; a later change in its own window is judged first; and once a later change was reverted alone, or a person
    changed something, the steps after that no longer count for the earlier ones.

    Args:
        settings: How long changes are monitored, and what counts as harm.
        info: The run's goal.
        submit: Asks for a command; returns why the gate refuses it, empty if it does not.
        settle: Records how the probation of a command ended.
        release: Deletes a checkpoint that is no longer needed.
    """

    settings: ProbationSettings
    info: RunInfo
    submit: Callable[[Proposal], str]
    settle: Callable[[str, Settled], None]
    release: Callable[[str], None]
    loss_history: LossHistory = field(init=False)
    evaluations: Evaluations = field(init=False)
    before: CheckpointsBefore = field(init=False)
    add: Callable[[StepMetrics], None] = field(init=False)
    """Takes the numbers of a step."""
    monitored: list[MonitoredChange] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = CheckpointsBefore(self.settings.keep_in, self.submit)
        # The steps after a change, as many before it, and as many again to know the lowest loss so far.
        self.loss_history = LossHistory(3 * max(self.settings.longest_steps, BEFORE_STEPS))
        self.add = self.loss_history.add
        metric = self.settings.metric or self.info.goal_metric
        same = is_goal(metric, self.info.goal_metric) or is_goal(self.info.goal_metric, metric)
        direction = self.settings.direction or (self.info.goal_direction if same else "minimize")
        self.evaluations = Evaluations(metric, direction == "maximize")

    @property
    def is_check_due(self) -> bool:
        """Whether a change is to be checked at the next step."""
        if not self.monitored:  # told cheaply: it is asked at every step
            return False
        next_step = self.loss_history.newest + 1
        return any(w.revert_id is None and w.next_check_step <= next_step for w in self.monitored)

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of an evaluation."""
        self.evaluations.add(step, values)

    def must_wait(self, record: CommandRecord) -> bool:
        """Whether a checkpoint has to be saved before this command; asks for it, once."""
        is_change = record.command.impact is Impact.CHANGE
        if self.settings.depth != "state" or record.proposal.author.principal != "agent" or not is_change:
            return False
        return not self.before.has(record.command_id)

    # -- monitoring -------------------------------------------------------------------------------------------------

    def acked(self, record: CommandRecord, ack: Ack) -> None:
        """A command got its ack: it saved a checkpoint, reverted a change, or is a change to monitor from now on."""
        redefined = redefinition(record, ack)
        if redefined is not None:
            self._redefine(redefined)
        if self.before.asked_for(record.command_id):
            self.before.saved(record, ack)
        elif ack.outcome == "applied" and record.goes_back(ack):
            self._restored(record, ack)
        elif any(change.revert_id == record.command_id for change in self.monitored):
            self._answered(record, ack)
        elif record.proposal.author.principal == "agent" or record.proposal.author.name == FOR_AGENT:
            self._begin(record, ack, redefined)
        elif ack.outcome == "applied" and ack.changes:
            self._spoil(ack.step)

    def _redefine(self, redefined: Redefinition) -> None:
        """The loss has another definition from here on: what is judged by it is judged now, by the steps so far."""
        for change in [w for w in self.monitored if w.revert_id is None]:
            for monitor in [w for w in change.open if redefined.touches(w.metric)]:
                assessment = monitor.assess(redefined.step, self._until(change, redefined.step), is_over=True)
                if assessment is not None and self._take_in(change, monitor, assessment):
                    break
        self.loss_history.redefine(redefined.step)
        if redefined.touches(self.evaluations.metric):
            self.evaluations.redefine(redefined.step)

    def _begin(self, record: CommandRecord, ack: Ack, redefined: Redefinition | None) -> None:
        snapshot = self.before.take(record.command_id)
        if ack.outcome != "applied" or not ack.changes:
            if snapshot:
                self.release(snapshot)
            return
        record = record.model_copy(update={"ack": ack})
        monitors = self._monitors(ack.step, redefined)
        self.monitored.append(MonitoredChange(record, ack.step, monitors, snapshot or None, checked_step=ack.step))

    def _monitors(self, step: int, redefined: Redefinition | None) -> list[Monitor]:
        """What a change is judged by; not by a metric that the change itself has redefined."""
        monitors: list[Monitor] = []
        metric = self.evaluations.metric
        if self.settings.evaluations and redefined is not None and redefined.touches(metric):
            monitors.append(NoMonitor(metric, redefined.what, step, 0))
        elif self.settings.evaluations:
            jumped = self.loss_history.jumped(step, BEFORE_STEPS)
            monitors.append(EvaluationMonitor(self.evaluations, self.settings, step, jumped))
        if self.settings.steps and redefined is not None:
            monitors.append(NoMonitor(METRIC, redefined.what, step, self.settings.steps))
        elif self.settings.steps:
            monitors.append(StepMonitor(self.loss_history, self.settings, step))
        return monitors

    def _spoil(self, step: int, before: int | None = None) -> None:
        """The steps after `step` no longer count for changes made so far (or only for those before step `before`)."""
        for change in self.monitored:
            if change.revert_id is None and (before is None or change.step < before):
                change.until = step if change.until is None else min(step, change.until)
                change.checked_step = step - LATE_CHECK_STEPS

    def check(self, step: int) -> None:
        """At a step boundary: decide on the changes whose check is due."""
        for change in list(self.monitored):
            if change in self.monitored and change.revert_id is None and change.next_check_step <= step:
                change.checked_step = step
                self._check(change, step)

    def _check(self, change: MonitoredChange, step: int) -> None:
        tail = self.loss_history.until(step, NON_FINITE) if step - change.step >= NON_FINITE else []
        is_broken = len(tail) == NON_FINITE and not any(map(math.isfinite, tail))
        if is_broken and change.until is None:  # else somebody's own change may have broken it
            if change is self.monitored[-1]:
                self._revert(change, Assessment("worse", f"the last {NON_FINITE} losses are not finite", METRIC))
            return
        until = self._until(change, step)
        for monitor in list(change.open):
            assessment = monitor.assess(step, until, is_over=change.until is not None)
            if assessment is not None and self._take_in(change, monitor, assessment):
                return
        if not change.open:
            self._end(change, "kept", _together(change.seen))

    def _take_in(self, change: MonitoredChange, monitor: Monitor, assessment: Assessment) -> bool:
        """Note what a monitor found; returns whether the change is reverted for it."""
        if assessment.outcome == "worse" or (assessment.outcome == "inconclusive" and self.settings.in_doubt != "keep"):
            self._revert(change, assessment)
            return True
        change.open.remove(monitor)
        change.seen.append(assessment)
        return False

    def _until(self, change: MonitoredChange, step: int) -> int:
        """The last step whose loss counts for a change: a later change in its own window is judged first."""
        if change.until is not None:
            return change.until
        later = self.monitored[self.monitored.index(change) + 1 :]
        young = min((w.step for w in later if w.is_young), default=step)
        return young if young - change.step >= self.settings.steps else step

    # -- reverting ---------------------------------------------------------------------------------------------

    def _revert(self, change: MonitoredChange, assessment: Assessment) -> None:
        """Revert a change, with those that were made on top of it."""
        change.seen.append(assessment)
        is_inconclusive = assessment.outcome == "inconclusive"
        reason = f"{assessment.said}, and in doubt it is taken back" if is_inconclusive else assessment.said
        if change.snapshot is not None and not (is_inconclusive and self.settings.in_doubt == "put_back"):
            self._ask(change, LoadCheckpoint(checkpoint_id=change.snapshot), reason)
        else:
            self._restore_values(change, reason)

    def _restore_values(self, change: MonitoredChange, reason: str) -> None:
        """Set the old values again; weights and optimizer state stay as they are."""
        kind, step = change.record.command.kind, change.step
        for later in reversed(self.monitored[self.monitored.index(change) + 1 :]):
            if later.revert_id is None:
                self._restore_value(later, f"made on top of {kind} of step {step}, which is taken back")
        self._restore_value(change, reason)

    def _restore_value(self, change: MonitoredChange, reason: str) -> None:
        if change.snapshot is not None:
            self.release(change.snapshot)
            change.snapshot = None
        command = inverse_of(change.record)
        if command is None:
            self._end(change, "kept", f"{reason}; but no command puts its values back")
        else:
            self._ask(change, command, reason)

    def _ask(self, change: MonitoredChange, command: CommandBase, reason: str) -> None:
        kind, step = change.record.command.kind, change.step
        rationale = f"takes back {kind} of step {step} ({change.record.command_id}): {reason}"
        proposal = Proposal(command=command, author=AUTHOR, rationale=rationale[:4000], based_on_step=step)
        refusal = self.submit(proposal)
        if refusal:
            self._end(change, "kept", f"{reason}; but taking it back is refused: {refusal}")
        else:
            change.revert_id, change.reason = proposal.command_id, reason

    def _answered(self, record: CommandRecord, ack: Ack) -> None:
        for change in [w for w in self.monitored if w.revert_id == record.command_id]:
            if ack.outcome == "applied":
                self._end(change, "reverted", change.reason, record.command_id)
                self._spoil(change.step, before=change.step)
            elif change.snapshot is not None:
                change.revert_id = None
                self._restore_value(change, f"{change.reason}; the state of before {ack.outcome}: {ack.message}")
            else:
                self._end(change, "kept", f"{change.reason}; taking it back {ack.outcome}: {ack.message}")

    def _restored(self, record: CommandRecord, ack: Ack) -> None:
        """The run was restored to an earlier step: changes since then are no longer in force."""
        for checkpoint_id in self.before.drop():
            self.release(checkpoint_id)
        for change in [w for w in self.monitored if w.step >= ack.step]:
            own = change.revert_id == record.command_id
            reason = change.reason if own else "left behind with the steps that the run went back over"
            self._end(change, "reverted", reason, record.command_id)

    def left(self, step: int) -> None:
        """The run goes on from an earlier step; the ack of the command that it was restored by may come later."""
        self.loss_history.cut(step)
        self.evaluations.cut(step)

    def finish(self, status: str) -> None:
        """The run ends; changes still on probation are kept."""
        for change in list(self.monitored):
            self._end(change, "kept", f"the run is {status} before its probation was over")

    def _end(
        self, change: MonitoredChange, outcome: Literal["kept", "reverted"], reason: str, by: str | None = None
    ) -> None:
        self.monitored.remove(change)
        self.settle(change.record.command_id, _settled(change.seen, outcome, reason, by))
        if change.snapshot is not None:
            self.release(change.snapshot)


def _together(seen: list[Assessment]) -> str:
    """All assessments in words, those that could judge first."""
    ordered = sorted(seen, key=lambda assessment: assessment.outcome == "not judged")
    return "; ".join(f"not judged: {s.said}" if s.outcome == "not judged" else s.said for s in ordered)


def _settled(seen: list[Assessment], outcome: Literal["kept", "reverted"], reason: str, by: str | None) -> Settled:
    """The event, with the figures of the monitor that decided, or else of the first that could judge."""
    ranked = sorted(
        seen,
        key=lambda assessment: (assessment.outcome not in ("worse", "inconclusive"), assessment.comparison is None),
    )
    assessment = ranked[0] if ranked else None
    found, sign = (assessment.comparison, assessment.sign) if assessment is not None else (None, 1)
    return Settled(
        outcome=outcome,
        reason=reason[:1000],
        metric=assessment.metric if assessment is not None else "",
        forecast=sign * found.forecast if found else None,
        found=sign * found.found if found else None,
        noise=found.noise if found else None,
        points=found.points[1] if found else None,
        reverted_by=by,
    )
