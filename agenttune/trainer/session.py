"""A training process' side of a run: it serves commands at step boundaries, and tells the log what the loop does."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agenttune.config import CheckpointSettings, ProbationSettings
from agenttune.errors import UserError
from agenttune.gate import guards_nothing
from agenttune.protocol.commands import Impact
from agenttune.protocol.events import (
    DatasetRead,
    Evaluated,
    Found,
    KnobsRead,
    NoteAdded,
    Point,
    RunStarted,
    RunStatus,
    Settled,
    StatusChanged,
    rate_name,
)
from agenttune.protocol.proposals import CommandRecord, Record
from agenttune.store.metric_table import Row
from agenttune.store.run_log import RunLog
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.checkpoints.branch_folders import arrange
from agenttune.trainer.checkpoints.catalog import FOLDER, Checkpoints, SavedCheckpoint
from agenttune.trainer.checkpoints.output_marker import claim, release
from agenttune.trainer.commands.apply import apply_command
from agenttune.trainer.commands.outcomes import (
    AwaitCapture,
    AwaitProbe,
    AwaitRate,
    AwaitRestore,
    AwaitSave,
    Done,
    NotYet,
    Outcome,
    Waiting,
)
from agenttune.trainer.distributed.command_broadcast import CommandBroadcast, SingleProcess
from agenttune.trainer.execution.acks import Answers
from agenttune.trainer.execution.lockstep import Lockstep
from agenttune.trainer.execution.lockstep_wait import Awaiting
from agenttune.trainer.execution.queue import Intake
from agenttune.trainer.execution.rate_confirmation import RateConfirmation
from agenttune.trainer.execution.read_back import ReadBacks
from agenttune.trainer.execution.restoring import Restoring
from agenttune.trainer.execution.saving import REASON_CHARACTERS, Saving
from agenttune.trainer.knobs import Knob, KnobRegistry
from agenttune.trainer.lr.schedules import RateReader
from agenttune.trainer.probation.own_commands import OwnCommands
from agenttune.trainer.probation.probation import Probation
from agenttune.trainer.probes.runner import Probing
from agenttune.trainer.recording.background_writer import BackgroundWriter
from agenttune.trainer.recording.goal_check import GoalCheck
from agenttune.trainer.recording.logged_rows import is_lasting
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.recording.step_meter import Held, Metrics, RawRow
from agenttune.trainer.run_state import RunState

logger = logging.getLogger("agenttune")

POLL_S = 0.02
"""How often a paused run looks for commands."""
ALARMING = ("loss", "grad_norm")
"""Of a loop's own log: in lockstep the agent is asked at once when one of them is not finite."""

Place = Literal["boundary", "saved", "between"]


class Session:
    """Steers one run from inside its training process.

    Call order: `begin`, then for each step `before_update` and `boundary`, and `end` once. All calls come from the
    training thread; nothing but a pause ever makes it wait, unless the run is in lockstep with its agent.

    Args:
        log: The run's log, for reading; None on ranks that only follow.
        adapter: The training loop.
        registry: Knobs of the user.
        command_broadcast: How ranks agree; one process by default.
        writer: Writes the log; by default a thread of its own.
    """

    def __init__(
        self,
        log: RunLog | None,
        adapter: Adapter,
        registry: KnobRegistry | None = None,
        command_broadcast: CommandBroadcast | None = None,
        writer: BackgroundWriter | None = None,
    ) -> None:
        self._log = log
        self._broadcast = command_broadcast or SingleProcess()
        self._is_alone = type(self._broadcast) is SingleProcess
        self.is_calm = False
        """Whether the last boundary has found nothing open, and nothing has been applied since then: nearly always."""
        self.registry = registry or KnobRegistry()
        self.run_state = RunState(adapter, self.registry)
        self._goal = GoalCheck("" if log is None else log.info().goal_metric)
        if log is not None:
            self.run_state.checkpoints = _checkpoints_of(log)
        self.status: RunStatus = "starting"
        self.lr = self.base_lr = float("nan")
        self.other_rates: dict[str, float] = {}
        self._rate_reader = RateReader()
        writer = writer or (BackgroundWriter(log.folder) if log is not None else None)
        recorder = Recorder(self.run_state, writer)
        answers = Answers(self.run_state, recorder)
        self._recorder, self._answers = recorder, answers
        self._intake = Intake(log, self.run_state, answers, recorder)
        if writer is not None:
            writer.own = self._intake.own
        self._rates = RateConfirmation(self.run_state, answers, recorder)
        self._saving = Saving(self.run_state, answers, recorder)
        self._restoring = Restoring(self.run_state, answers, recorder, self.between)
        self._probing = Probing(
            self.run_state,
            answers,
            recorder,
            self._saving,
            self._intake,
            self._accept,
            self.between,
        )
        self._awaiting = Awaiting(
            Lockstep.of(log, recorder.submit),
            self._broadcast,
            self.run_state,
            recorder.submit,
            self._serve_or_hold,
            self._must_go_on,
            self._is_stop_queued,
        )
        self._probation = self._make_probation(log)
        self._evaluating: str | None = None
        if log is not None:
            self._probing.aim(log.info())
        self._place: Place = "boundary"
        self._idle = threading.Event()
        self._output: Path | None = None

    def _make_probation(self, log: RunLog | None) -> Probation | None:
        """None where no change is watched."""
        if log is None:
            return None
        info = log.info()
        settings = ProbationSettings.model_validate(info.rules.get("probation", {}))
        if not settings.is_on:
            return None
        ask = OwnCommands(log, self.run_state, self._recorder).ask
        probation = Probation(settings, info, ask, self._settle, self._release)
        self._answers.on_ack = probation.acked
        return probation

    # -- the run's life ---------------------------------------------------------------------------------------

    def begin(self, step: int, details: Mapping[str, Any]) -> None:
        """Record that training starts, and apply what was asked for before its first step."""
        adapter, recorder = self.run_state.adapter, self._recorder
        self.run_state.step = step
        self.run_state.learn_groups()
        self._awaiting.learn()
        self.status = "running"
        max_steps = self._answers.max_steps = adapter.max_steps()
        started = RunStarted(
            framework=adapter.framework,
            pid=os.getpid(),
            max_steps=max_steps,
            capabilities=list(adapter.capabilities),
            details=dict(details),
        )
        if max_steps is not None:
            recorder.update_info(max_steps=max_steps)
        knobs, whole = recorder.knobs_read(), recorder.whole_read()
        recorder.record(started, StatusChanged(status="running"), knobs, *whole)
        self._warn_of_limits(knobs, whole)
        self._note_found()
        self._claim_output()
        self._serve("boundary")

    def _note_found(self) -> None:
        """Tell what lies where the loop saves: each for the catalog, and how many for people."""
        adapter, recorder = self.run_state.adapter, self._recorder
        found = self.run_state.checkpoints.add_found(adapter.found_checkpoints(), adapter.resumed_from())
        for checkpoint in found:
            recorder.record(checkpoint.saved_event(), step=checkpoint.step)
        before = [checkpoint for checkpoint in found if checkpoint.is_before]
        if before:
            one = len(before) == 1
            where = ", ".join(sorted({str(Path(checkpoint.path or "").parent) for checkpoint in before}))
            text = f"{len(before)} checkpoint{'s' * (not one)} of before this run lie{'s' * one} in {where}"
            recorder.record(NoteAdded(text=text, author="agenttune"))

    def _claim_output(self) -> None:
        """Two runs that save in one folder write over each other's checkpoints."""
        folder = self.run_state.adapter.loop_folder()
        if folder is None or self.run_id is None:
            return
        self._output = folder.path
        other = claim(folder.path, self.run_id)
        if other is not None:
            text = (
                f"run {other.run_id} (process {other.pid}) trains now and saves in {folder.path} too: each writes over "
                "the other's checkpoints; give one of them an output_dir of its own"
            )
            logger.warning(text)
            self._recorder.record(NoteAdded(text=text, author="agenttune"))

    def _warn_of_limits(self, knobs: KnobsRead, whole: Sequence[Record]) -> None:
        """A limit that protects nothing is worse than none: it is trusted."""
        if self._log is None:
            return
        dataset = next((body for body in whole if isinstance(body, DatasetRead)), None)
        for sentence in guards_nothing(self._log.info(), knobs.knobs, dataset):
            logger.warning(sentence)
            self._recorder.record(NoteAdded(text=sentence, author="agenttune"))

    def begin_again(self, step: int, reason: str) -> None:
        """The loop has left what it trained and begins again, with a smaller batch after it ran out of memory.

        What follows is a branch of its own, unless nothing was trained before; whoever waits is answered.

        Args:
            step: At which it begins.
            reason: Why.
        """
        run_state, recorder = self.run_state, self._recorder
        was = "begun again"
        self._rates.settle("read back; the run was begun again before another step could confirm it")
        self._saving.fail_open(was)
        self._restoring.fail_open(was)
        self._probing.fail_open(was)
        if self._probation is not None:
            self._probation.finish(was)
            self._probation.loss_history.cut(step)
        left = run_state.step
        run_state.step = step
        self._answers.read_backs = ReadBacks()
        self._answers.max_steps = run_state.adapter.max_steps()
        bodies: list[Record] = [NoteAdded(text=self._begun_again(left, step, reason), author="agenttune")]
        if left > step:
            checkpoints = run_state.checkpoints
            bodies.append(checkpoints.start_branch_anew(checkpoints.branch_name(None), step))
            folder = run_state.adapter.loop_folder()
            bodies += arrange(folder, checkpoints).moved if folder is not None else []
        run_state.learn_groups()
        self._answers.note_change()
        recorder.update_info(max_steps=self._answers.max_steps)
        recorder.record(*bodies, recorder.knobs_read(), *recorder.whole_read())
        self._serve("boundary")

    def _begun_again(self, left: int, step: int, reason: str) -> str:
        what = f"the loop began again at step {step}: {reason}; it keeps the weights as they stand"
        return f"{what}; steps {step + 1} to {left} of {self.branch} are left behind" if left > step else what

    def end(self, status: RunStatus, reason: str = "") -> None:
        """Answer what is still open, record how the run ended, and close the log. Further calls do nothing."""
        if self._ended:
            return
        self.status = status
        self._check_goal(None)
        self._rates.settle(f"read back; the run is {status} before another step could confirm it")
        self._saving.fail_open(status)
        self._restoring.fail_open(status)
        where = self._probing.fail_open(status)
        if self._probation is not None:
            self._probation.finish(status)
        reason = "; ".join(filter(None, [reason[: REASON_CHARACTERS // 2] if where else reason, where]))
        self._recorder.record(StatusChanged(status=status, reason=reason[:REASON_CHARACTERS]))
        self._recorder.close()
        if self._output is not None and self.run_id is not None:
            release(self._output, self.run_id)
        if self._log is not None:
            self._log.close()

    @property
    def _ended(self) -> bool:
        return self.status not in ("starting", "running", "paused")

    @property
    def run_id(self) -> str | None:
        return self._log.folder.name if self._log is not None else None

    @property
    def branch(self) -> str:
        """The branch that training is on."""
        return self.run_state.branch

    def register_knob(self, knob: Knob) -> None:
        """Offer a value of the user's for `set_knob`.

        Raises:
            UserError: It cannot be read, or is no number, truth value or text.
        """
        self.registry.register(knob)
        if self.status != "starting":
            self._recorder.record(self._recorder.knobs_read())

    def data_opened(self) -> None:
        """The loop has only now told what data it draws from."""
        if self.status != "starting" and not self._ended:
            self._recorder.record(self._recorder.knobs_read(), *self._recorder.whole_read())

    # -- what the loop reports --------------------------------------------------------------------------------

    def before_update(self) -> None:
        """Just before the optimizer's update: which rate does it really use?"""
        adapter = self.run_state.adapter
        rates, bases = self._rate_reader.read(adapter.optimizer(), adapter.scheduler())
        self.lr, self.base_lr = rates[0], bases[0]
        count = len(rates)
        is_one = count == 1 or (rates.count(rates[0]) == count and bases.count(bases[0]) == count)
        self.other_rates = {} if is_one else _others(rates, bases)
        if self.is_calm:
            return
        if self._rates.waiting:
            self._rates.before_update()
        if self._probing.is_trying:
            self._probing.before_update()

    @property
    def is_trying(self) -> bool:
        """Whether the steps that are taken now are taken back."""
        return self._probing.is_trying

    def fail_trial(self, error: Exception) -> bool:
        """An error of the loop's own; whether it belongs to a trial, which ends with this step and is taken back."""
        return self._probing.fail(error)

    def boundary(self, step: int) -> None:
        """At the end of a step: confirm what was changed, then apply what was asked for; holds here while paused."""
        if self.is_calm:  # a few look-ups instead of all those below, between two steps some 20 us
            probation = self._probation
            is_idle = probation is None or not probation.watched or not probation.is_watching
            if is_idle and self._intake.is_unchanged():
                self.run_state.step = step
                return
            self.is_calm = False
        if self._probing.is_trying:
            self._probing.step(step)
            return
        self.run_state.step = step
        self._check_goal(step)
        self._awaiting.reach(step, self._answers.max_steps)
        if self._is_quiet():
            self.is_calm = not (self._awaiting.is_on or self._restoring.is_under_way)
            return
        if self._rates.waiting and not self.run_state.adapter.update_was_skipped():
            self._rates.confirm()
        if self._answers.read_backs.checks:
            self._answers.look_again(step)
        if self._probation is not None:
            self._probation.look(step)
        if self._saving.saves:  # the loop dropped the request, as save_strategy "best" does
            self.run_state.adapter.request_save()
        self._serve("boundary")

    @property
    def waits_between(self) -> bool:
        """Whether `between` has something to do."""
        if self.is_calm:
            return False
        if self.run_state.paused or self._saving.captures or self._awaiting.is_due or self._probing.is_wanted:
            return True
        return self._is_held

    @property
    def waits_for_decision(self) -> bool:
        """Whether training is to stand still for the agent once the loop is done with this step."""
        return self._awaiting.is_due

    @property
    def is_in_lockstep(self) -> bool:
        """Whether this run ever waits for its agent."""
        return self._awaiting.is_on

    def between(self, place: Place = "between") -> None:
        """Between two steps, when the loop is done with the one: its log, evaluation and save are made.

        Args:
            place: `boundary` where the loop could still save and end after this very step.
        """
        self._serve(place)
        self._awaiting.stand()
        self._probing.start()

    def _is_quiet(self) -> bool:
        """Whether nothing is open and nobody has written to the log: the case of nearly every step, told cheaply."""
        if self._rates.waiting or self._saving.saves or self._intake.queue or self._answers.read_backs.checks:
            return False
        if self.waits_between or (self._probation is not None and self._probation.is_watching):
            return False
        return self._is_alone and self._intake.is_unchanged()

    @property
    def _has_work_between(self) -> bool:
        return bool(self._saving.captures) or self._probing.is_wanted

    def add_point(self, point: Metrics) -> None:
        """A row of metrics, or what a step left behind; written in the background."""
        self._recorder.add_point(point)
        if not self.is_calm and self._probing.is_trying:
            if isinstance(point, Held):
                self._probing.add(point)
            return
        if self._probation is not None and isinstance(point, Held):
            self._probation.add(point)

    def logged(self, row: RawRow) -> None:
        """A row of the loop's own log: an event too, written with the steps' rows."""
        if self.is_calm and is_lasting(row.row):
            self._recorder.add_point(row)
            return
        point = row.read()
        if self._probing.is_trying:
            self.add_point(point._replace(texts=None))
            return
        self.add_point(point)
        if self._awaiting.is_on:
            step = point.step
            told = [point.values[name] for name in ALARMING if name in point.values]
            self._awaiting.logged(step, all(map(math.isfinite, told)))

    def evaluation_follows(self) -> None:
        """The loop is going to evaluate after this step; who is asked before it is over would not know its result."""
        if not self._probing.is_trying:
            step = self.run_state.step
            self._recorder.submit(lambda log: log.update_info(evaluating_step=step), urgent=False)

    def evaluated(self, point: Point | Row, texts: Mapping[str, str] | None = None) -> None:
        """The metrics of an evaluation, by command or by the loop's own plan, and what of them is no number."""
        self.add_point(point)
        self.is_calm = False  # the goal may be missing among them
        if self._probing.is_trying:
            return
        value = self._goal.evaluated(point.step, point.values)
        if value is not None:
            self.run_state.checkpoints.metric = value
        body = Evaluated(metrics=point.values, texts=dict(texts or {}), command_id=self._evaluating)
        self._recorder.record(body, command_id=self._evaluating)
        if self._probation is not None:
            self._probation.evaluated(point.step, point.values)
        self._awaiting.evaluated(point.step)

    def _check_goal(self, step: int | None) -> None:
        found = self._goal.finding(step)
        if found is not None:
            logger.warning(found.summary)
            self._recorder.record(Found(finding=found), step=found.step)

    def checkpoint_saved(self, checkpoint: SavedCheckpoint | str) -> None:
        """The loop has saved a checkpoint, or has not, for the reason given; answers who asked for it."""
        self._saving.saved(checkpoint)
        if self.run_state.paused and not isinstance(checkpoint, str):
            self._serve("saved")

    # -- commands ---------------------------------------------------------------------------------------------

    def _serve(self, place: Place) -> None:
        """Apply what is queued; while paused, stay and go on serving."""
        self._place = place
        self._saving.take_captures()
        self._serve_or_hold()
        self._probing.start()

    def _serve_or_hold(self) -> None:
        self._apply_queued()
        if self.run_state.paused or self._is_held:
            self._hold()

    def _must_go_on(self) -> bool:
        """Whether something is asked for that only the loop can do, so that nobody may stand still here."""
        return self.run_state.stop_reason is not None or self.run_state.paused or self._is_busy

    def _is_stop_queued(self) -> bool:
        """Whether somebody wants training to end, where the loop cannot end before its next step."""
        queued = (record for record in self._intake.queue if record.command_id not in self._answers.taken)
        return any(record.command.impact is Impact.END for record in queued)

    @property
    def _is_held(self) -> bool:
        """Whether a request for approval wants training to wait; of several ranks only the leader would."""
        return self._is_alone and self._intake.is_held

    def _hold(self) -> None:
        self.status = "paused"
        if not self.run_state.paused:
            self._recorder.record(StatusChanged(status="paused", reason="a command waits for approval"))
        self._rates.settle("read back; training is paused before another step could confirm it")
        # Some work is the loop's: let it out for that; it comes back here in `checkpoint_saved` or `between`.
        was_paused = self.run_state.paused
        while (self.run_state.paused or self._is_held) and not self._waits_for_loop:
            self._idle.wait(POLL_S)
            self._apply_queued()
        self.status = "paused" if self.run_state.paused else "running"
        if not was_paused and not self.run_state.paused:
            self._recorder.record(StatusChanged(status="running", reason="decided"))

    @property
    def _waits_for_loop(self) -> bool:
        if self._saving.captures or self._restoring.is_under_way:
            return True
        return bool(self._saving.saves) and self._place == "boundary" and self.run_state.adapter.can_end_here()

    @property
    def _is_busy(self) -> bool:
        """Whether what comes after a save or a return has to wait until that is done."""
        return self._has_work_between or self._restoring.is_under_way or self._probing.is_trying

    def _apply_queued(self) -> None:
        """Apply in order of acceptance; what comes after a save or a return waits until that is done.

        One after the other: each passes the guardrails on what the one before it has left.
        """
        self.is_calm = False
        tried: set[str] = set()
        while shared := self._broadcast.share(self._intake.next(tried)):
            if self._is_busy:
                return
            for record in shared:
                tried.add(record.command_id)
                if why_not := self._too_late(record):
                    self._answers.refuse(record, why_not, outcome="expired")
                    continue
                if self._probation is not None and self._must_keep_state(record, self._probation):
                    return
                self._apply(record)

    def _too_late(self, record: CommandRecord) -> str:
        """Why a command was meant for what is no longer there; empty if it was not."""
        step, until = self.run_state.step, record.proposal.valid_until_step
        if until is not None and step > until:
            return f"valid until step {until}, the run is at step {step}; not applied"
        # The trainer's own return comes before what others asked for earlier, and a person knows where the run stands.
        is_agents = record.proposal.author.principal == "agent"
        if is_agents and record.submitted_seq < self._restoring.newest_seq:
            return f"asked for before the run went back to step {step}, of what it left behind; not applied"
        return ""

    def _must_keep_state(self, record: CommandRecord, probation: Probation) -> bool:
        return not self.run_state.adapter.checkpoint_refusal() and probation.must_wait(record)

    def _apply(self, record: CommandRecord) -> None:
        was_paused = self.run_state.paused
        self._evaluating = record.command_id
        try:
            outcome: Outcome = apply_command(self.run_state, record)
        except UserError as error:
            self._answers.refuse(record, error.message)
            return
        except Exception as error:  # whatever it is, it is not worth the user's training
            logger.exception("%s %s failed", record.proposal.command.kind, record.command_id)
            self._answers.refuse(record, f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
            return
        finally:
            self._evaluating = None
        if self.run_state.paused and not was_paused:
            self._rates.settle("read back; training is paused before another step could confirm it")
        self._accept(record, outcome)

    def _accept(self, record: CommandRecord, outcome: Outcome) -> None:
        if isinstance(outcome, NotYet):
            return
        self._answers.taken.add(record.command_id)
        done = outcome.done if isinstance(outcome, AwaitRate) else outcome
        if isinstance(done, Done):
            self._intake.note(record, done.changes)
        if isinstance(outcome, Done):
            knobs = self._recorder.knobs_read() if outcome.changes else None
            self._answers.done(record, outcome, knobs, self.run_state.step)
            return
        if isinstance(outcome, AwaitProbe):
            self._rates.settle("read back; a probe goes back here before another step could confirm it")
            self._probing.accept(record)
            return
        waiting = Waiting(record, self.run_state.step, outcome)
        if isinstance(outcome, AwaitSave):
            self._saving.accept_save(waiting, self._place == "saved")
        elif isinstance(outcome, AwaitRate):
            self._rates.accept(waiting, outcome)
        elif isinstance(outcome, AwaitCapture):
            self._saving.accept_capture(waiting)
        elif isinstance(outcome, AwaitRestore):
            self._rates.settle("read back; the run goes back before another step could confirm it")
            self._restoring.accept(waiting, outcome)

    # -- probation --------------------------------------------------------------------------------------------

    def _settle(self, command_id: str, settled: Settled) -> None:
        step, branch = self.run_state.step, self.branch
        self._recorder.submit(lambda log: log.settle(command_id, settled, step, branch))

    def _release(self, checkpoint_id: str) -> None:
        self._saving.release(checkpoint_id, "the probation that it was kept for is over")


def _others(rates: list[float], bases: list[float]) -> dict[str, float]:
    """The rates of parameter groups that differ from the first one's, as a row of metrics names them."""
    found = {}
    for name, values in (("lr", rates), ("base_lr", bases)):
        for group, value in enumerate(values):
            if value != values[0]:
                found[rate_name(name, group)] = value
    return found


def _checkpoints_of(log: RunLog) -> Checkpoints:
    info = log.info()
    settings = CheckpointSettings.model_validate(info.rules.get("checkpoints", {}))
    return Checkpoints(log.folder / FOLDER, settings, info.goal_direction == "minimize")
