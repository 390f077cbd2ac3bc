"""A training process' side of a run: it serves commands at step boundaries, and tells the log what the loop does."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch.optim import Optimizer

from agenttune.config import CheckpointSettings
from agenttune.errors import NotSupported
from agenttune.protocol.commands import StopTraining
from agenttune.protocol.events import AttemptEnded, Evaluated, Found, KnobsRead, NoteAdded, RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Author, Proposal, Record
from agenttune.protocol.run_info import RunInfo, RunStatus
from agenttune.protocol.text import clean
from agenttune.store.job import job_of
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.checkpoints.branch_folders import arrange
from agenttune.trainer.checkpoints.checkpoint_catalog import FOLDER, CheckpointCatalog, SavedCheckpoint
from agenttune.trainer.distributed.applied_again import again, in_force
from agenttune.trainer.distributed.attempts import settle_open, take_up
from agenttune.trainer.distributed.joining import Joining
from agenttune.trainer.distributed.preemption import Preemption
from agenttune.trainer.distributed.ranks import Ranks
from agenttune.trainer.execution.acks import ReadBacks
from agenttune.trainer.execution.executor import CommandExecutor, Place
from agenttune.trainer.execution.kept_states import KeptStates
from agenttune.trainer.knobs import Knob, KnobRegistry
from agenttune.trainer.layers.weight_sampler import WeightSampler
from agenttune.trainer.lr.lr_reader import LearningRateReader
from agenttune.trainer.opening import (
    claim_output,
    record_found_checkpoints,
    release,
    warn_of_limits,
    warn_of_lost_values,
)
from agenttune.trainer.probation.loss_history import losses_until
from agenttune.trainer.probation.own_commands import OwnCommands
from agenttune.trainer.recording.background_writer import BackgroundWriter, Metrics, RawRow, StepMetrics
from agenttune.trainer.recording.logged_rows import GoalCheck, is_lasting
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")
T = TypeVar("T")

PREEMPTED = Author(principal="trainer", name="preemption")

NOTE_CHARACTERS = 2000

ALARMING = ("loss", "grad_norm")
"""Of a loop's own log: in lockstep the agent is asked at once when one of them is not finite."""


class Session:
    """One run, seen from inside its training process.

    Call order: `begin`, then for each step `before_update` and `boundary`, and `end` once. All calls come from the
    training thread; nothing but a pause ever makes it wait, unless the run is in lockstep with its agent.

    Args:
        log: The run's log, for reading; None on ranks that only follow.
        adapter: The training loop.
        registry: Knobs of the user.
        joining: The way to the other ranks of a run of several processes.
        writer: Writes the log; by default a thread of its own.
        consult: As in `Options`.

    Attributes:
        is_quiet: Whether the last boundary found nothing open, and nothing came up since then: nearly always.
        learning_rates: Those of the last update.
    """

    def __init__(
        self,
        log: RunLog | None,
        adapter: Adapter,
        registry: KnobRegistry | None = None,
        joining: Joining | None = None,
        writer: BackgroundWriter | None = None,
        consult: Callable[[], object] | None = None,
    ) -> None:
        self._log = log
        self.is_quiet = False
        self.status: RunStatus = "starting"
        self.registry = registry or KnobRegistry()
        self.run_state = RunState(adapter, self.registry)
        if log is not None:
            self.run_state.checkpoints = _checkpoints_of(log)
            writer = writer or BackgroundWriter(log.folder)
        self.learning_rates = LearningRateReader()
        self._recorder, self._writer = Recorder(self.run_state, writer), writer
        self._goal = GoalCheck("" if log is None else log.info().goal_metric)
        self._executor = CommandExecutor(log, self.run_state, self._recorder, joining, consult)
        # Looked up at every step, so without a detour.
        self._probe, self._probation, self._kept = self._executor.probe, self._executor.probation, self._executor.kept
        self._add_losses = [keeper.add for keeper in (self._probation, self._kept) if keeper is not None]
        self._is_log_unchanged = self._executor.queue.monitor.is_unchanged
        if writer is not None:
            writer.own = self._executor.queue.own
        self._sampler = WeightSampler(adapter) if writer is not None else None
        self._output: Path | None = None
        self.run_id: str | None = None if log is None else log.folder.name
        """The run's id, on every rank once the processes have met."""
        self._ranks: Ranks | None = None
        self._preemption: Preemption | None = None
        self._executor.on_join, self._executor.on_meeting = self._learn_run, self._average_now
        self._executor.on_end_elsewhere = self._average_no_more

    def _learn_run(self) -> None:
        """Once the processes have met: ranks that only follow take over from the leader which run this is."""
        tell = self._executor.ranks.tell
        self.run_id = tell(self.run_id or "") or None
        self.run_state.checkpoints.branches.current = tell(self.branch)
        group, joins_unevenly = self._executor.ranks.process_group, self.run_state.adapter.joins_unevenly
        self._ranks = Ranks(tell, self._recorder.record, group, joins_unevenly)
        with contextlib.suppress(NotSupported):  # a loop that was not given its model
            self._ranks.follow(self.run_state.adapter.model())

    @property
    def branch(self) -> str:
        """The branch that training is on."""
        return self.run_state.branch

    @property
    def _ended(self) -> bool:
        return self.status not in ("starting", "running")

    # -- the run's life ---------------------------------------------------------------------------------------

    def begin(self, step: int, details: Mapping[str, Any]) -> None:
        """Record that training starts, and apply what was asked for before its first step."""
        run_state, adapter, recorder = self.run_state, self.run_state.adapter, self._recorder
        run_state.step = step
        run_state.learn_groups()
        info = None if self._log is None else self._log.info()
        bodies = self._take_up(info, step)
        self.status = "running"
        max_steps = self._executor.acks.max_steps = adapter.max_steps()
        started = RunStarted(
            framework=adapter.framework,
            pid=(info.pid if info is not None else None) or os.getpid(),
            max_steps=max_steps,
            capabilities=list(adapter.capabilities),
            details=dict(details),
        )
        if max_steps is not None:
            recorder.update_info(max_steps=max_steps)
        recorder.look_at_weights(info.facts if info is not None and info.attempt > 1 else None)
        knobs, whole = recorder.knobs_read(), recorder.whole_read()
        recorder.record(*bodies, started, StatusChanged(status="running"), knobs, *whole)
        if self._log is not None:
            warn_of_limits(self._log.info(), knobs, whole, recorder)
        record_found_checkpoints(run_state, recorder)
        folder = adapter.loop_folder()
        if folder is not None and self._log is not None and self.run_id is not None:
            self._output = folder.path
            claim_output(folder.path, self.run_id, recorder)
        if info is not None and info.attempt > 1:
            self._apply_again(info, knobs, step)
        elif self._log is not None:
            warn_of_lost_values(run_state, self._log.folder, knobs, recorder)
        self._executor.begin()
        self._preemption = Preemption(None if self._log is None else self._ask_to_stop)
        if self._sampler is not None:
            try:
                self._sampler.note_zeros()
            except Exception:
                self._look_no_more()
        if self._kept is not None:
            self._kept.begin(step)
        self._executor.opened()

    def _take_up(self, info: RunInfo | None, step: int) -> list[Record]:
        """In a run that goes on as its next attempt: its branches and checkpoints."""
        if info is None or self._log is None or info.attempt == 1:
            return []
        return take_up(self._log, info, self.run_state, step)

    def _apply_again(self, info: RunInfo, knobs: KnobsRead, step: int) -> None:
        """Ask for the values again that were in force when the attempt before ended."""
        log, recorder, branch = self._log, self._recorder, self.branch
        if log is None:
            return
        if self._probation is not None:
            recorder.submit(lambda log: settle_open(log, info.attempt, step, branch))
            self._probation.loss_history.seed(losses_until(log, info.branch, step, self._probation.loss_history.size))
        own, before = OwnCommands(log, self.run_state, recorder), info.attempt - 1
        lost, left = in_force(log, info, knobs.knobs, step)
        for record, command in lost:
            if refusal := own.ask(again(record, command, info.attempt)):
                left.append(f"{command.kind} ({record.command_id}): {refusal}")
        if left:
            text = f"of attempt {before}, not applied again: {'; '.join(left)}"
            recorder.record(NoteAdded(text=clean(text, NOTE_CHARACTERS), author="agenttune"))

    def _ask_to_stop(self) -> None:
        if self._log is not None:
            with contextlib.closing(RunLog.open(self._log.folder)) as log:
                proposal = Proposal(command=StopTraining(save=True), author=PREEMPTED, rationale="SIGTERM from Slurm")
                OwnCommands(log, self.run_state, self._recorder).ask(proposal)

    def begin_again(self, step: int, reason: str) -> None:
        """The loop has dropped its progress and begins again, with a smaller batch after it ran out of memory.

        What follows is a branch of its own, unless nothing was trained before; commands that wait are answered.

        Args:
            step: At which it begins.
            reason: Why.
        """
        run_state, recorder, acks = self.run_state, self._recorder, self._executor.acks
        self.is_quiet = False
        self._executor.fail_open("begun again")
        if self._probation is not None:
            self._probation.loss_history.cut(step)
        left = run_state.step
        run_state.step = step
        acks.read_backs = ReadBacks()
        acks.max_steps = run_state.adapter.max_steps()
        bodies: list[Record] = [NoteAdded(text=self._begun_again(left, step, reason), author="agenttune")]
        if left > step:
            checkpoints = run_state.checkpoints
            branches = checkpoints.branches
            bodies.append(branches.start(branches.new_name(), branches.current, step))
            folder = run_state.adapter.loop_folder()
            bodies += arrange(folder, checkpoints).moved if folder is not None else []
        if self._kept is not None:
            self._kept.left(step)
        run_state.learn_groups()
        acks.note_change()
        recorder.update_info(max_steps=acks.max_steps)
        recorder.record(*bodies, recorder.knobs_read(), *recorder.whole_read())
        self._executor.serve("boundary")

    def _begun_again(self, left: int, step: int, reason: str) -> str:
        what = f"the loop began again at step {step}: {reason}; it keeps the weights as they stand"
        return f"{what}; steps {step + 1} to {left} of {self.branch} are left behind" if left > step else what

    def end(self, status: RunStatus, reason: str = "") -> None:
        """Answer what is still open, record how the run ended, and close the log. Further calls do nothing."""
        if self._ended:
            return
        if self._preemption is not None:
            self._preemption.leave()
            if self._preemption.came and status == "stopped":
                status, reason = "interrupted", f"SIGTERM from Slurm: {reason}; a requeued job goes on from here"
        self.status = status
        self._check_goal(None)
        where = self._executor.fail_open(status)
        if self._kept is not None and status in ("finished", "stopped"):
            self._end_kept_states(self._kept)
        reason = "; ".join(filter(None, [reason[: REASON_CHARACTERS // 2] if where else reason, where]))
        if self._ranks is not None:  # the last losses, over what `close` closes
            self._write(self._ranks.close(is_whole=status in ("finished", "stopped")))
        self._executor.ranks.close(reason if status == "failed" else "")
        self._record_end(status, reason[:REASON_CHARACTERS])
        self._recorder.close()
        if self._output is not None and self._log is not None and self.run_id is not None:
            release(self._output, self.run_id)
        if self._log is not None:
            self._log.close()

    def _record_end(self, status: RunStatus, reason: str) -> None:
        job = None if self._log is None else job_of()
        attempt = 1 if self._log is None else self._log.info().attempt
        left = 0 if job is None else job.left_after(attempt)
        if job is None or status != "failed" or not left:
            self._recorder.record(StatusChanged(status=status, reason=reason))
            return
        body = AttemptEnded(attempt=attempt, reason=reason, by=job.by, restarts_left=left)
        self._recorder.record(body)
        why = f"attempt {attempt} failed; {job.by} starts it again"
        self._recorder.update_info(status="starting", status_reason=why, paused_by=None)

    def _end_kept_states(self, kept: KeptStates) -> None:
        try:
            kept.end()
        except Exception:  # the run is to be closed all the same
            logger.exception("the states that were kept to go back to could not be settled")

    # -- steps ------------------------------------------------------------------------------------------------

    def before_update(self, optimizer: Optimizer, scheduler: object | None) -> None:
        """Just before the optimizer's update: which learning rate does it really use?"""
        run_state, sampler = self.run_state, self._sampler
        if sampler is not None and sampler.stretch != run_state.changes and run_state.trial is None:
            self._look_at_weights(sampler, lambda: sampler.begin(run_state.step, run_state.changes))
        self.learning_rates.read(optimizer, scheduler)
        if not self.is_quiet:
            self._executor.before_update()

    def boundary(self, step: int) -> None:
        """At the end of a step: confirm what was changed, then apply what was asked for; holds here while paused."""
        if self.is_quiet:  # a few look-ups instead of all those below, between two steps some 20 us
            probation, kept = self._probation, self._kept
            if self._ranks is not None:  # rank 0 has said for how many steps there is nothing to hear
                self.is_quiet = self._executor.ranks.skip()
            elif (kept is not None and step >= kept.next_step) or (
                probation is not None and probation.monitored and probation.is_check_due
            ):
                self.is_quiet = False
            else:
                self.is_quiet = self._is_log_unchanged()
            if self.is_quiet:
                self.run_state.step = step
                return
        if self._probe.is_trying:
            self._executor.end_trial_step(step)
            return
        self.run_state.step = step
        self._check_goal(step)
        self.is_quiet = self._executor.boundary(step)

    def between(self, place: Place = "between") -> None:
        """Between two steps, when the loop is done with the one: its log, evaluation and save are made.

        Args:
            place: `boundary` where the loop could still save and end after this very step.
        """
        self.is_quiet = False
        self._executor.between(place)

    @property
    def waits_between(self) -> bool:
        """Whether `between` has something to do."""
        return not self.is_quiet and self._executor.has_work_between

    @property
    def keeps_state(self) -> bool:
        """Whether the run keeps a state by itself as soon as the loop is done with the step."""
        return self._executor.keeps_state

    def keep_states(self) -> None:
        """Keep it now: the loop is done with the step."""
        self._executor.keep_states()

    @property
    def waits_for_decision(self) -> bool:
        """Whether training has to wait for the agent's decision once the loop is done with this step."""
        return self._executor.is_decision_due

    @property
    def is_in_lockstep(self) -> bool:
        """Whether this run ever waits for its agent."""
        return self._executor.is_in_lockstep

    @property
    def is_trying(self) -> bool:
        """Whether the present steps are a trial's, and will be undone."""
        return self._probe.is_trying

    def fail_trial(self, error: Exception) -> bool:
        """An error of the loop's own; returns whether it belongs to a trial, which then ends with this step."""
        return self._executor.fail(error)

    def reason(self, error: BaseException) -> str:
        """Why training ended, where that is what became of another rank; empty where nothing is known of that."""
        return self._executor.ranks.reason(error)

    # -- what the loop reports --------------------------------------------------------------------------------

    def add_step(self, point: StepMetrics) -> None:
        """What a step left behind; written in the background."""
        given, sampler, writer = point, self._sampler, self._writer
        if sampler is not None and (point.step >= sampler.due_step or sampler.stretch != self.run_state.changes):
            given = self._with_weights(point, sampler)
        if self._ranks is not None:
            point = self._share(given, self._ranks)
        elif writer is not None:
            writer.queue.append(given)
            if len(writer.queue) > writer.capacity_rows:
                writer.trim()
        if not self.is_quiet and self._probe.is_trying:
            self._probe.add(point)
            return
        for add in self._add_losses:
            add(point)

    def _share(self, point: StepMetrics, ranks: Ranks) -> StepMetrics:
        """With the losses of all ranks; its row is written when they are known."""
        # In lockstep the agent decides by this very step.
        at_once = self._probe.is_trying or self._executor.is_in_lockstep
        if self._writer is None:
            ranks.give(point, at_once)
            return point
        point = ranks.share(point, at_once)
        self._write(ranks.ready(point))
        return point

    def _add_row(self, row: Point | MetricRow) -> None:
        self._write([row] if self._ranks is None else self._ranks.ready(row))

    def _average_now(self) -> None:
        """What is judged, and read while training waits, are everybody's losses of every step so far."""
        if self._ranks is not None:
            self._write(self._ranks.average_now())

    def _average_no_more(self) -> None:
        if self._ranks is not None:
            self._ranks.average_no_more()

    def _write(self, rows: Sequence[Metrics]) -> None:
        if self._writer is not None:
            for row in rows:
                self._writer.add_point(row)

    def _with_weights(self, point: StepMetrics, sampler: WeightSampler) -> StepMetrics:
        """With a look at the weights; none in a trial, whose steps are undone."""
        run_state = self.run_state
        if run_state.trial is not None:
            return point
        sample = self._look_at_weights(sampler, lambda: sampler.look(point.step, run_state.changes))
        return point if sample is None else point._replace(weights=sample)

    def _look_at_weights(self, sampler: WeightSampler, look: Callable[[], T]) -> T | None:
        told = sampler.skipped
        try:
            found = look()
        except Exception:
            self._look_no_more()
            return None
        if sampler.skipped != told:
            text = f"how weights move is not looked at in {sampler.skipped}"
            self._recorder.record(NoteAdded(text=text, author="agenttune"), step=self.run_state.step)
        return found

    def _look_no_more(self) -> None:
        """The user's model can be anything; training is worth more than what is told of it."""
        logger.exception("the weights cannot be looked at, and are not from here on")
        self._sampler = None

    def logged(self, row: RawRow) -> None:
        """A row of the loop's own log: an event too, written with the steps' rows."""
        writer = self._writer
        if self.is_quiet and writer is not None and self._ranks is None and is_lasting(row.row):
            writer.queue.append(row)  # which each step trims
            return
        point = row.read()
        if self._probe.is_trying:
            self._add_row(point._replace(texts=None))
            return
        self._add_row(point)
        if self._executor.lockstep is not None:
            told = [point.values[name] for name in ALARMING if name in point.values]
            self._executor.lockstep.logged(point.step, all(map(math.isfinite, told)))

    def evaluation_follows(self) -> None:
        """The loop is going to evaluate after this step; the log says so, as a decision should wait for the result."""
        if not self._probe.is_trying:
            step = self.run_state.step
            self._recorder.submit(lambda log: log.update_info(evaluating_step=step), urgent=False)

    def evaluated(self, point: Point | MetricRow, texts: Mapping[str, str] | None = None) -> None:
        """The metrics of an evaluation, by command or by the loop's own plan; `texts` are those without a number."""
        self._add_row(point)
        self.is_quiet = False  # the goal may be missing among them
        if self._probe.is_trying:
            return
        value = self._goal.evaluated(point.step, point.values)
        can_keep = self._executor.note_evaluation()
        if value is not None:
            self.run_state.checkpoints.metric = value
            if self._kept is not None and can_keep:
                self._kept.evaluated(value)
        command_id = self._executor.applying
        body = Evaluated(metrics=point.values, texts=dict(texts or {}), command_id=command_id)
        self._recorder.record(body, command_id=command_id)
        if self._probation is not None:
            self._probation.evaluated(point.step, point.values)
        if self._executor.lockstep is not None:
            self._executor.lockstep.evaluated(point.step)

    def _check_goal(self, step: int | None) -> None:
        found = self._goal.finding(step)
        if found is not None:
            logger.warning(found.summary)
            self._recorder.record(Found(finding=found), step=found.step)

    def checkpoint_saved(self, checkpoint: SavedCheckpoint | str) -> None:
        """The loop has saved a checkpoint, or has not, for the reason given; answers who asked for it."""
        self.is_quiet = False
        self._executor.saved(checkpoint)

    def register_knob(self, knob: Knob) -> None:
        """Offer a value of the user's for `set_knob`.

        Raises:
            UserError: It cannot be read, or is no number, truth value or text.
        """
        self.registry.register(knob)
        if self.status != "starting":
            self._recorder.record(self._recorder.knobs_read())

    def add_note(self, text: str) -> None:
        """Leave a note of ours in the run's log, at this step."""
        if not self._ended:
            self._recorder.record(NoteAdded(text=text, author="agenttune"), step=self.run_state.step)

    def data_opened(self) -> None:
        """The training data is known only now."""
        if self.status != "starting" and not self._ended:
            self._recorder.record(self._recorder.knobs_read(), *self._recorder.whole_read())


def _checkpoints_of(log: RunLog) -> CheckpointCatalog:
    info = log.info()
    settings = CheckpointSettings.model_validate(info.rules.get("checkpoints", {}))
    return CheckpointCatalog(log.folder / FOLDER, settings, info.goal_direction == "minimize")
