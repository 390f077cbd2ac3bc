"""Watches each change of an agent for a while, and takes it back if it hurt.

It runs in the training process, at step boundaries: it needs no server and no agent, sees every loss, and its window
is counted in steps. A change that hurt is taken back by a command like any other, which goes through the gate and is
acknowledged; the log then says of the change that it was kept or reverted, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from agenttune.config import ProbationSettings
from agenttune.protocol.commands import CommandBase, Impact, LoadCheckpoint
from agenttune.protocol.events import RunInfo, Settled
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.proposals import Ack, CommandRecord, Proposal
from agenttune.protocol.redefining import Redefinition, redefinition
from agenttune.trainer.probation.inverse import inverse_of
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
from agenttune.trainer.probation.own_commands import AUTHOR, CheckpointsBefore
from agenttune.trainer.recording.step_meter import StepMetrics

NON_FINITE = 3
"""Losses in a row that are not finite, after which nothing is waited for: one may be an overflow (guess)."""
LOOK_STEPS, SELDOM_STEPS = 4, 32
"""Steps between two looks for such losses in the window of a change, and after it: a look may wait for a device."""


@dataclass(eq=False)
class Watched:
    """A change on probation.

    Attributes:
        record: The command, with its ack.
        step: At which it took effect.
        open: Measures that have not said anything yet.
        snapshot: The checkpoint of before it, if there is one.
        seen: What the other measures said.
        until: The last step that tells of it; later ones tell of something that came after it.
        revert_id: The command that takes it back, once that was asked for.
        reason: Why it is taken back.
        looked: Step of the last look at it.
    """

    record: CommandRecord
    step: int
    open: list[Monitor]
    snapshot: str | None = None
    seen: list[Assessment] = field(default_factory=list)
    until: int | None = None
    revert_id: str | None = None
    reason: str = ""
    looked: int = 0

    @property
    def is_young(self) -> bool:
        """Whether its own window is not over."""
        return any(isinstance(watch, (StepMonitor, NoMonitor)) and not watch.passed() for watch in self.open)

    @property
    def look_step(self) -> int:
        """Step of the next look at it."""
        if not self.open:
            return self.looked
        often = LOOK_STEPS if self.is_young else SELDOM_STEPS
        return min([self.looked + often, *(watch.next_step for watch in self.open)])


@dataclass
class Probation:
    """All changes of a run that are watched.

    Changes that overlap are a chain: what a run does after a change tells of the later ones too, so a change that is
    taken back takes those with it that were made on top of it. A later change is not held against an earlier one
    before its own window is over, and one that is taken back alone, or somebody's own change, ends what later steps
    tell of earlier ones.

    Args:
        settings: How long, and what counts as hurt.
        info: The run's goal.
        submit: Asks for a command; returns why the gate refuses it, empty if it does not.
        settle: Records how the probation of a command ended.
        release: Lets go of a snapshot that nobody needs any more.
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
    watched: list[Watched] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = CheckpointsBefore(self.settings.keep_in, self.submit)
        # A change's steps, as many before it, and as many again for how low the loss has been.
        self.loss_history = LossHistory(3 * max(self.settings.longest_steps, BEFORE_STEPS))
        self.add = self.loss_history.add
        metric = self.settings.metric or self.info.goal_metric
        same = is_goal(metric, self.info.goal_metric) or is_goal(self.info.goal_metric, metric)
        direction = self.settings.direction or (self.info.goal_direction if same else "minimize")
        self.evaluations = Evaluations(metric, direction == "maximize")

    @property
    def is_watching(self) -> bool:
        """Whether the next step may end the probation of a change."""
        if not self.watched:  # told cheaply: it is asked at every step
            return False
        next_step = self.loss_history.newest + 1
        return any(w.revert_id is None and w.look_step <= next_step for w in self.watched)

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of an evaluation."""
        self.evaluations.add(step, values)

    def must_wait(self, record: CommandRecord) -> bool:
        """Whether the state of before this command has to be kept first; asks for that once."""
        is_change = record.command.impact is Impact.CHANGE
        if self.settings.depth != "state" or record.proposal.author.principal != "agent" or not is_change:
            return False
        return not self.before.has(record.command_id)

    # -- watching -------------------------------------------------------------------------------------------------

    def acked(self, record: CommandRecord, ack: Ack) -> None:
        """Some command got its ack: a snapshot, a way back, or a change to watch from now on."""
        redefined = redefinition(record, ack)
        if redefined is not None:
            self._redefine(redefined)
        if self.before.asked_for(record.command_id):
            self.before.saved(record, ack)
        elif ack.outcome == "applied" and record.command.impact is Impact.RESTORE:
            self._went_back(record, ack)
        elif any(watched.revert_id == record.command_id for watched in self.watched):
            self._answered(record, ack)
        elif record.proposal.author.principal == "agent":
            self._begin(record, ack, redefined)
        elif ack.outcome == "applied" and ack.changes:
            self._spoil(ack.step)

    def _redefine(self, redefined: Redefinition) -> None:
        """The loss means something else from here on: what is judged by it is judged by what there is of it."""
        for watched in [w for w in self.watched if w.revert_id is None]:
            for watch in [w for w in watched.open if redefined.touches(w.metric)]:
                assessment = watch.look(redefined.step, self._until(watched, redefined.step), is_over=True)
                if assessment is not None and self._hear(watched, watch, assessment):
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
        watches = self._watches(ack.step, redefined)
        self.watched.append(Watched(record, ack.step, watches, snapshot or None, looked=ack.step))

    def _watches(self, step: int, redefined: Redefinition | None) -> list[Monitor]:
        """What a change is judged by; a metric that it gave another meaning cannot judge it."""
        watches: list[Monitor] = []
        metric = self.evaluations.metric
        if self.settings.evaluations and redefined is not None and redefined.touches(metric):
            watches.append(NoMonitor(metric, redefined.what, step, 0))
        elif self.settings.evaluations:
            watches.append(EvaluationMonitor(self.evaluations, self.settings, step))
        if self.settings.steps and redefined is not None:
            watches.append(NoMonitor(METRIC, redefined.what, step, self.settings.steps))
        elif self.settings.steps:
            watches.append(StepMonitor(self.loss_history, self.settings, step))
        return watches

    def _spoil(self, step: int, before: int | None = None) -> None:
        """Later steps tell of something else than the changes (before the one at `before`) that are watched."""
        for watched in self.watched:
            if watched.revert_id is None and (before is None or watched.step < before):
                watched.until = step if watched.until is None else min(step, watched.until)
                watched.looked = step - SELDOM_STEPS

    def look(self, step: int) -> None:
        """At a step boundary: decide on the changes whose time has come."""
        for watched in list(self.watched):
            if watched in self.watched and watched.revert_id is None and watched.look_step <= step:
                watched.looked = step
                self._look(watched, step)

    def _look(self, watched: Watched, step: int) -> None:
        tail = self.loss_history.until(step, NON_FINITE) if step - watched.step >= NON_FINITE else []
        is_broken = len(tail) == NON_FINITE and not any(map(math.isfinite, tail))
        if is_broken and watched.until is None:  # else somebody's own change may have broken it
            if watched is self.watched[-1]:
                self._revert(watched, Assessment("worse", f"the last {NON_FINITE} losses are not finite", METRIC))
            return
        until = self._until(watched, step)
        for watch in list(watched.open):
            assessment = watch.look(step, until, is_over=watched.until is not None)
            if assessment is not None and self._hear(watched, watch, assessment):
                return
        if not watched.open:
            self._end(watched, "kept", _together(watched.seen))

    def _hear(self, watched: Watched, watch: Monitor, assessment: Assessment) -> bool:
        """Take in what a watch has seen; whether the change is taken back for it."""
        if assessment.outcome == "worse" or (assessment.outcome == "in doubt" and self.settings.in_doubt != "keep"):
            self._revert(watched, assessment)
            return True
        watched.open.remove(watch)
        watched.seen.append(assessment)
        return False

    def _until(self, watched: Watched, step: int) -> int:
        """The last step that tells of a change: a later one in its own window is first judged by itself."""
        if watched.until is not None:
            return watched.until
        later = self.watched[self.watched.index(watched) + 1 :]
        young = min((w.step for w in later if w.is_young), default=step)
        return young if young - watched.step >= self.settings.steps else step

    # -- the way back ---------------------------------------------------------------------------------------------

    def _revert(self, watched: Watched, assessment: Assessment) -> None:
        """Take a change back, with those that were made on top of it."""
        watched.seen.append(assessment)
        is_doubt = assessment.outcome == "in doubt"
        reason = f"{assessment.said}, and in doubt it is taken back" if is_doubt else assessment.said
        if watched.snapshot is not None and not (is_doubt and self.settings.in_doubt == "put_back"):
            self._ask(watched, LoadCheckpoint(checkpoint_id=watched.snapshot), reason)
        else:
            self._put_back(watched, reason)

    def _put_back(self, watched: Watched, reason: str) -> None:
        """By its values, and the state stays as it is."""
        kind, step = watched.record.command.kind, watched.step
        for later in reversed(self.watched[self.watched.index(watched) + 1 :]):
            if later.revert_id is None:
                self._write_back(later, f"made on top of {kind} of step {step}, which is taken back")
        self._write_back(watched, reason)

    def _write_back(self, watched: Watched, reason: str) -> None:
        if watched.snapshot is not None:
            self.release(watched.snapshot)
            watched.snapshot = None
        command = inverse_of(watched.record)
        if command is None:
            self._end(watched, "kept", f"{reason}; but no command puts its values back")
        else:
            self._ask(watched, command, reason)

    def _ask(self, watched: Watched, command: CommandBase, reason: str) -> None:
        kind, step = watched.record.command.kind, watched.step
        rationale = f"takes back {kind} of step {step} ({watched.record.command_id}): {reason}"
        proposal = Proposal(command=command, author=AUTHOR, rationale=rationale[:4000], based_on_step=step)
        refusal = self.submit(proposal)
        if refusal:
            self._end(watched, "kept", f"{reason}; but taking it back is refused: {refusal}")
        else:
            watched.revert_id, watched.reason = proposal.command_id, reason

    def _answered(self, record: CommandRecord, ack: Ack) -> None:
        for watched in [w for w in self.watched if w.revert_id == record.command_id]:
            if ack.outcome == "applied":
                self._end(watched, "reverted", watched.reason, record.command_id)
                self._spoil(watched.step, before=watched.step)
            elif watched.snapshot is not None:
                watched.revert_id = None
                self._write_back(watched, f"{watched.reason}; the state of before {ack.outcome}: {ack.message}")
            else:
                self._end(watched, "kept", f"{watched.reason}; taking it back {ack.outcome}: {ack.message}")

    def _went_back(self, record: CommandRecord, ack: Ack) -> None:
        """The run stands at an earlier step: changes since then are no longer in force."""
        self.loss_history.cut(ack.step)
        self.evaluations.cut(ack.step)
        for checkpoint_id in self.before.drop():
            self.release(checkpoint_id)
        for watched in [w for w in self.watched if w.step >= ack.step]:
            own = watched.revert_id == record.command_id
            reason = watched.reason if own else "left behind with the steps that the run went back over"
            self._end(watched, "reverted", reason, record.command_id)

    def finish(self, status: str) -> None:
        """The run ends; what is still watched stays as it is."""
        for watched in list(self.watched):
            self._end(watched, "kept", f"the run is {status} before its probation was over")

    def _end(self, watched: Watched, outcome: Literal["kept", "reverted"], reason: str, by: str | None = None) -> None:
        self.watched.remove(watched)
        self.settle(watched.record.command_id, _settled(watched.seen, outcome, reason, by))
        if watched.snapshot is not None:
            self.release(watched.snapshot)


def _together(seen: list[Assessment]) -> str:
    """What all measures said, those that could judge first."""
    ordered = sorted(seen, key=lambda assessment: assessment.outcome == "not judged")
    return "; ".join(f"not judged: {s.said}" if s.outcome == "not judged" else s.said for s in ordered)


def _settled(seen: list[Assessment], outcome: Literal["kept", "reverted"], reason: str, by: str | None) -> Settled:
    """The event: with the figures of the measure that decided, or else of the first that could judge."""
    ranked = sorted(
        seen, key=lambda assessment: (assessment.outcome not in ("worse", "in doubt"), assessment.comparison is None)
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
