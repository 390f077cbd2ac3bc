"""A training process' side of a run: it owns the log there, applies commands, and answers for what it did."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from agenttune.config import CheckpointSettings, ProbationSettings
from agenttune.errors import AgenttuneError, StoreFault, UserError
from agenttune.events import (
    CheckpointDeleted,
    Evaluated,
    KnobsRead,
    KnobState,
    Logged,
    Point,
    RunStarted,
    RunStatus,
    Settled,
    StatusChanged,
)
from agenttune.gate import Gate, History, Moment
from agenttune.points import Row
from agenttune.proposals import Ack, ApprovalRequest, Change, CommandRecord, Proposal, Record, State, Verdict
from agenttune.store import LOG_NAME, RunLog
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.admission import Admission
from agenttune.trainer.apply import apply_command
from agenttune.trainer.checkpoint_files import write_manifest
from agenttune.trainer.checkpoints import FOLDER, Checkpoints, SavedCheckpoint
from agenttune.trainer.confirm import ReadBacks, check_after_step, check_before_update
from agenttune.trainer.datasets.record import read_dataset
from agenttune.trainer.exchange import Alone, Exchange
from agenttune.trainer.knobs import Knob, KnobRegistry, read_knobs
from agenttune.trainer.lockstep import Lockstep
from agenttune.trainer.meter import Held, Metrics
from agenttune.trainer.model_tree import model_read
from agenttune.trainer.outcomes import AwaitCapture, AwaitJump, AwaitRate, AwaitSave, Done, NotYet, Outcome, Waiting
from agenttune.trainer.probation import Probation
from agenttune.trainer.schedules import as_float
from agenttune.trainer.state import not_as_saved
from agenttune.trainer.steered import capture_steered, restore_steered
from agenttune.trainer.steering import Steering
from agenttune.trainer.writer import BackgroundWriter
from agenttune.walwatch import WalWatch

logger = logging.getLogger("agenttune")

POLL_S = 0.02
"""How often a paused run looks for commands."""
OWN_COMMAND_S = 1.0
"""How long training waits for a command of its own to be in the log; milliseconds unless the disk is full."""
REASON_CHARACTERS = 500
"""Longest reason kept of an error that ended a run."""

Place = Literal["boundary", "saved", "between"]


class Session:
    """Steers one run from inside its training process.

    Call order: `begin`, then for each step `before_update` and `boundary`, and `end` once. All calls come from the
    training thread; nothing but a pause ever makes it wait, unless the run is in lockstep with its agent.

    Args:
        log: The run's log, for reading; None on ranks that only follow.
        adapter: The training loop.
        registry: Knobs of the user.
        exchange: How ranks agree; one process by default.
        writer: Writes the log; by default a thread of its own.
    """

    def __init__(
        self,
        log: RunLog | None,
        adapter: Adapter,
        registry: KnobRegistry | None = None,
        exchange: Exchange | None = None,
        writer: BackgroundWriter | None = None,
    ) -> None:
        self._log = log
        self._writer = writer or (BackgroundWriter(log.folder) if log is not None else None)
        self._exchange = exchange or Alone()
        self.registry = registry or KnobRegistry()
        self.steering = Steering(adapter, self.registry)
        self._goal_metric = ""
        if log is not None:
            self._goal_metric = log.info().goal_metric
            self.steering.checkpoints = _checkpoints_of(log)
        self.status: RunStatus = "starting"
        self.lr = self.base_lr = float("nan")
        self._taken: set[str] = set()
        self._queue: list[CommandRecord] = []
        self._watch = WalWatch(log.folder / LOG_NAME) if log is not None else None
        self._log_fault = False
        self._lockstep = Lockstep.of(log, self._submit)
        self._probation = self._make_probation(log)
        self._admission = Admission(log) if log is not None else None
        self._rates: list[Waiting] = []
        self._saves: list[Waiting] = []
        self._captures: list[Waiting] = []
        self._jump: Waiting | None = None
        self._read_backs = ReadBacks()
        self._evaluating: str | None = None
        self._place: Place = "boundary"
        self._checkpoint: SavedCheckpoint | None = None
        self._max_steps: int | None = None
        self._idle = threading.Event()

    def _make_probation(self, log: RunLog | None) -> Probation | None:
        """None where no change is watched."""
        rules = log.info().rules if log is not None else {}
        settings = ProbationSettings.model_validate(rules.get("probation", {}))
        return Probation(settings, self._ask, self._settle, self._release) if settings.steps else None

    # -- the run's life ---------------------------------------------------------------------------------------

    def begin(self, step: int, details: Mapping[str, Any]) -> None:
        """Record that training starts, and apply what was asked for before its first step."""
        adapter = self.steering.adapter
        self.steering.step = step
        self.steering.learn_groups()
        self.status = "running"
        self._max_steps = adapter.max_steps()
        started = RunStarted(
            framework=adapter.framework,
            pid=os.getpid(),
            max_steps=self._max_steps,
            capabilities=list(adapter.capabilities),
            details=dict(details),
        )
        if self._max_steps is not None:
            self._update_info(max_steps=self._max_steps)
        self._record(started, StatusChanged(status="running"), self._knobs(), *self._read_whole())
        for found in self.steering.checkpoints.add_found(adapter.found_checkpoints()):
            self._record(found.saved_event(), step=found.step)
        self._serve("boundary")

    def end(self, status: RunStatus, reason: str = "") -> None:
        """Answer what is still open, record how the run ended, and close the log. Further calls do nothing."""
        if self._ended:
            return
        self.status = status
        self._settle_rates(f"read back; the run is {status} before another step could confirm it")
        self._fail_open(status)
        if self._probation is not None:
            self._probation.finish(status)
        self._record(StatusChanged(status=status, reason=reason[:REASON_CHARACTERS]))
        if self._writer is not None:
            self._writer.close()
        if self._log is not None:
            self._log.close()

    def _fail_open(self, status: str) -> None:
        for waiting in [*self._saves, *self._captures]:
            self._answer(waiting.record, "failed", message=f"the run is {status}, no checkpoint was saved")
        if self._jump is not None:
            self._answer(self._jump.record, "failed", message=f"the run is {status} before it could go back")
        self._saves, self._captures, self._jump = [], [], None

    @property
    def _ended(self) -> bool:
        return self.status not in ("starting", "running", "paused")

    @property
    def run_id(self) -> str | None:
        return self._log.folder.name if self._log is not None else None

    def register_knob(self, knob: Knob) -> None:
        """Offer a value of the user's for `set_knob`.

        Raises:
            UserError: It cannot be read, or is no number, truth value or text.
        """
        self.registry.register(knob)
        if self.status != "starting":
            self._record(self._knobs())

    # -- what the loop reports --------------------------------------------------------------------------------

    def before_update(self) -> None:
        """Just before the optimizer's update: which rate does it really use?"""
        adapter = self.steering.adapter
        lr = adapter.optimizer().param_groups[0]["lr"]
        self.lr = lr if type(lr) is float else as_float(lr)
        bases = getattr(adapter.scheduler(), "base_lrs", None)
        self.base_lr = as_float(bases[0]) if bases else self.lr
        if self._rates:
            schedule = self.steering.schedule()
            for waiting in self._rates:
                check_before_update(waiting, schedule)

    def boundary(self, step: int) -> None:
        """At the end of a step: confirm what was changed, then apply what was asked for; holds here while paused."""
        self.steering.step = step
        if self._lockstep is not None:
            self._lockstep.reach(step)
        if self._is_quiet():
            return
        if self._rates and not self.steering.adapter.update_was_skipped():
            self._confirm_rates()
        if self._read_backs.checks:
            for record, result in self._read_backs.due(step):
                self._record(result, command_id=record.command_id)
        if self._probation is not None:
            self._probation.look(step)
        if self._saves:  # the loop dropped the request, as save_strategy "best" does
            self.steering.adapter.request_save()
        self._serve("boundary")

    @property
    def waits_between(self) -> bool:
        """Whether `between` has something to do."""
        if self._lockstep is not None and self._lockstep.is_due and type(self._exchange) is Alone:
            return True  # of several ranks only the leader knows; they all meet at the next boundary
        return bool(self._captures) or self.steering.paused or self._is_held

    def between(self) -> None:
        """Between two steps, when the loop is done with the one and has not drawn data for the other."""
        self._serve("between")

    def _is_quiet(self) -> bool:
        """Whether nothing is open and nobody has written to the log: the case of nearly every step, told cheaply."""
        if self._rates or self._saves or self._queue or self._read_backs.checks or self.waits_between:
            return False
        if self._probation is not None and self._probation.is_watching:
            return False
        return type(self._exchange) is Alone and self._watch is not None and self._watch.is_unchanged()

    def add_point(self, point: Metrics) -> None:
        """A row of metrics, or what a step left behind; written in the background."""
        if self._writer is not None:
            self._writer.add_point(point)
        if self._probation is not None and isinstance(point, Held):
            self._probation.add(point)

    def logged(self, point: Point | Row) -> None:
        """A row of the loop's own log."""
        self.add_point(point)
        if self._writer is not None:
            step, branch = point.step, point.branch
            self._writer.submit(
                lambda log: log.append(Logged(metrics=point.values), step=step, branch=branch), urgent=False
            )

    def evaluated(self, point: Point | Row) -> None:
        """The metrics of an evaluation, by command or by the loop's own plan."""
        self.add_point(point)
        if self._goal_metric in point.values:
            self.steering.checkpoints.metric = float(point.values[self._goal_metric])
        self._record(Evaluated(metrics=point.values, command_id=self._evaluating), command_id=self._evaluating)
        if self._lockstep is not None:
            self._lockstep.evaluated(point.step)

    def checkpoint_saved(self, checkpoint: SavedCheckpoint | str) -> None:
        """The loop has saved a checkpoint, or has not, for the reason given; answers who asked for it."""
        saves, self._saves = self._saves, []
        if isinstance(checkpoint, str):
            for waiting in saves:
                self._answer(waiting.record, "failed", message=checkpoint)
            return
        self._checkpoint = checkpoint
        self._complete(checkpoint)
        for waiting in saves:
            self._answer_save(waiting, checkpoint)
        if not saves:
            self.steering.checkpoints.add(checkpoint)
            self._record(checkpoint.saved_event())
        if self.steering.paused:
            self._serve("saved")

    def _complete(self, checkpoint: SavedCheckpoint) -> None:
        """Add to the loop's own checkpoint what it does not hold, and note it."""
        checkpoints, adapter = self.steering.checkpoints, self.steering.adapter
        checkpoint.metric = checkpoints.metric
        gone = checkpoints.drop_vanished(but_for=checkpoint.path)
        if gone:
            self._record(*gone)
        if not adapter.checkpoint_refusal() and checkpoint.path is not None and self._log is not None:
            state = adapter.capture()
            state.steered = capture_steered(self.steering)
            write_manifest(Path(checkpoint.path), state, checkpoint.branch)

    # -- commands ---------------------------------------------------------------------------------------------

    def _serve(self, place: Place) -> None:
        """Apply what is queued; while paused, stay and go on serving."""
        self._place = place
        self._take_captures()
        if self._lockstep is not None and self._lockstep.is_due and self._may_wait:
            self._lockstep.hold(self.steering.step, self.branch)
        self._apply_queued()
        if self.steering.paused or self._is_held:
            self._hold()

    @property
    def _may_wait(self) -> bool:
        return self._place != "saved" and not self.steering.paused and self.steering.stop_reason is None

    def _hold(self) -> None:
        self.status = "paused"
        if not self.steering.paused:
            self._record(StatusChanged(status="paused", reason="a command waits for approval"))
        self._settle_rates("read back; training is paused before another step could confirm it")
        # Some work is the loop's: let it out for that; it comes back here in `checkpoint_saved` or `between`.
        was_paused = self.steering.paused
        while (self.steering.paused or self._is_held) and not self._waits_for_loop:
            self._idle.wait(POLL_S)
            self._apply_queued()
        self.status = "paused" if self.steering.paused else "running"
        if not was_paused and not self.steering.paused:
            self._record(StatusChanged(status="running", reason="decided"))

    @property
    def _waits_for_loop(self) -> bool:
        if self._captures or self._jump is not None:
            return True
        return bool(self._saves) and self._place == "boundary" and self.steering.adapter.can_end_here()

    def _apply_queued(self) -> None:
        """Apply in order of acceptance; what comes after a save or a return waits until that is done."""
        for record in self._exchange.share(self._fetch()):
            if self._captures or self._jump is not None:
                break
            if record.command_id not in self._taken:
                if self._probation is not None and self._must_keep_state(record, self._probation):
                    break
                self._apply(record)

    def _must_keep_state(self, record: CommandRecord, probation: Probation) -> bool:
        return not self.steering.adapter.checkpoint_refusal() and probation.must_wait(record)

    def _fetch(self) -> list[CommandRecord]:
        """Queued commands in order of acceptance; asks the log only if somebody wrote to it."""
        if self._log is None or self._watch is None:
            return []
        if not self._log_fault and not self._watch.may_have_changed():
            return self._queue
        try:
            self._queue = self._admitted(self._log.commands(State.QUEUED))
        except (StoreFault, sqlite3.Error) as fault:
            if not self._log_fault:
                logger.warning("commands cannot be read (%s); training goes on", fault)
            self._log_fault = True
            return []
        self._log_fault = False
        self._queue = [record for record in self._queue if record.command_id not in self._taken]
        # What the trainer itself asks for, the state of before a change or the way back, comes before the next change.
        self._queue.sort(key=lambda record: record.proposal.author.principal != "trainer")
        return self._queue

    def _admitted(self, records: list[CommandRecord]) -> list[CommandRecord]:
        """Those that the guardrails still let through; the others are answered."""
        if self._admission is None:
            return records
        self._admission.look_for_requests()
        left = []
        for record in records:
            if record.command_id in self._taken:
                continue
            refusal = self._admission.refusal(record, self.knobs, self.steering.step)
            if refusal:
                self._answer(record, "failed", message=refusal)
            else:
                left.append(record)
        return left

    @property
    def _is_held(self) -> bool:
        """Whether a request for approval wants training to wait; ranks that only follow know nothing of it."""
        return self._admission is not None and self._admission.is_held and type(self._exchange) is Alone

    def _apply(self, record: CommandRecord) -> None:
        step, until = self.steering.step, record.proposal.valid_until_step
        if until is not None and step > until:
            message = f"valid until step {until}, the run is at step {step}; not applied"
            self._answer(record, "expired", message=message)
            return
        was_paused = self.steering.paused
        self._evaluating = record.command_id
        try:
            outcome: Outcome = apply_command(self.steering, record)
        except UserError as error:
            self._answer(record, "failed", message=error.message)
            return
        except Exception as error:  # whatever it is, it is not worth the user's training
            logger.exception("%s %s failed", record.proposal.command.kind, record.command_id)
            self._answer(record, "failed", message=f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
            return
        finally:
            self._evaluating = None
        if self.steering.paused and not was_paused:
            self._settle_rates("read back; training is paused before another step could confirm it")
        self._accept(record, outcome)

    def _accept(self, record: CommandRecord, outcome: Outcome) -> None:
        if isinstance(outcome, NotYet):
            return
        waiting = None if isinstance(outcome, Done) else Waiting(record, self.steering.step, outcome)
        self._taken.add(record.command_id)
        if isinstance(outcome, Done):
            self._answer_done(record, outcome, self._knobs() if outcome.changes else None, self.steering.step)
        elif waiting is not None and isinstance(outcome, AwaitSave):
            self._accept_save(waiting)
        elif waiting is not None and isinstance(outcome, AwaitRate):
            self._accept_rate(waiting, outcome)
        elif waiting is not None and isinstance(outcome, AwaitCapture):
            self._captures.append(waiting)
            self._take_captures()
        elif waiting is not None and isinstance(outcome, AwaitJump):
            self._accept_jump(waiting, outcome)

    def _accept_save(self, waiting: Waiting) -> None:
        saved = self._checkpoint
        if self._place == "saved" and saved is not None and saved.step == self.steering.step and saved.is_current:
            self._answer_save(waiting, saved)
        else:
            self._saves.append(waiting)

    def _accept_rate(self, waiting: Waiting, outcome: AwaitRate) -> None:
        schedule = self.steering.schedule()
        overridden = [w for w in self._rates if _groups(w) & outcome.groups]
        self._rates = [w for w in self._rates if w not in overridden]
        for other in overridden:
            message = f"overridden by {waiting.record.command_id} in the same step, before an update used it"
            self._finish_rate(other, message)
        for other in self._rates:  # untouched groups; a plan may have moved what comes next
            if isinstance(other.outcome, AwaitRate):
                other.outcome.next = schedule.next_effective()
        self._note_change()
        waiting.knobs = self._knobs()
        if self.steering.paused:
            self._finish_rate(waiting, "read back; training is paused before another step could confirm it")
        else:
            self._rates.append(waiting)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _take_captures(self) -> None:
        """Keep the state for who asked, once the loop is done with this step."""
        if not self._captures or not self.steering.adapter.is_settled():
            return
        captures, self._captures = self._captures, []
        for waiting in captures:
            if isinstance(waiting.outcome, AwaitCapture):
                self._take_capture(waiting, waiting.outcome)

    def _take_capture(self, waiting: Waiting, outcome: AwaitCapture) -> None:
        try:
            saved, deleted = self._save_state(outcome)
        except AgenttuneError as error:
            self._answer(waiting.record, "failed", message=str(error))
        except Exception as error:  # the user's training is worth more than this checkpoint
            logger.exception("checkpoint not saved")
            self._answer(waiting.record, "failed", message=f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
        else:
            event = saved.saved_event(waiting.record.command_id)
            result = {"checkpoint_id": saved.checkpoint_id, "path": saved.path, "size_bytes": saved.size_bytes}
            ack = Ack(outcome="applied", step=self.steering.step, result=result, message=outcome.message)
            self._acknowledge(waiting.record, ack, (event, *deleted))
        if outcome.then is not None:
            outcome.then()

    def _save_state(self, outcome: AwaitCapture) -> tuple[SavedCheckpoint, list[CheckpointDeleted]]:
        checkpoints, adapter = self.steering.checkpoints, self.steering.adapter
        vanished = checkpoints.drop_vanished()
        state = adapter.capture()
        state.steered = capture_steered(self.steering)
        saved, deleted = checkpoints.save(state, adapter.write_model, outcome.keep_in, outcome.tag, outcome.pinned)
        return saved, [*vanished, *(event for _, event in deleted)]

    def _accept_jump(self, waiting: Waiting, outcome: AwaitJump) -> None:
        self._settle_rates("read back; the run goes back before another step could confirm it")
        self._jump = waiting
        try:
            self.steering.adapter.jump(outcome.state, self._arrived)
        except UserError as error:
            self._jump = None
            self._answer(waiting.record, "failed", message=error.message)

    def _arrived(self) -> None:
        """The loop stands where it was asked to; what is left to put back is ours."""
        waiting, self._jump = self._jump, None
        if waiting is None or not isinstance(waiting.outcome, AwaitJump):
            return
        checkpoint, steering = waiting.outcome.checkpoint, self.steering
        left_step, left_branch = steering.step, self.branch
        steering.step = waiting.outcome.state.step
        self._read_backs = ReadBacks()
        started = steering.checkpoints.start_branch(waiting.outcome.branch, checkpoint)
        changes, problem = self._put_steered(waiting.outcome)
        steering.schedule()
        self._note_change()
        events = (started, self._knobs(), *self._read_whole())
        if problem:
            self._answer(waiting.record, "failed", f"went back as branch {started.name}, but {problem}", events)
        else:
            result = {
                "branch": started.name,
                "parent": started.parent,
                "checkpoint_id": checkpoint.checkpoint_id,
                "from_step": left_step,
                "from_branch": left_branch,
            }
            message = steering.adapter.jump_note(waiting.outcome.state)
            ack = Ack(outcome="applied", step=steering.step, changes=changes, result=result, message=message)
            self._acknowledge(waiting.record, ack, events)
        self._serve("between")

    def _put_steered(self, outcome: AwaitJump) -> tuple[list[Change], str]:
        """Read back what the loop has put back, then put back what is ours; and what did not go as it should."""
        adapter = self.steering.adapter
        try:
            wrong = not_as_saved(adapter.model(), adapter.optimizer(), outcome.state)
            if wrong:
                return [], f"these do not stand as saved: {', '.join(wrong)}"[:REASON_CHARACTERS]
            return restore_steered(self.steering, outcome.state.steered, outcome.dataset), ""
        except Exception as error:  # training stands in the midst of the return; it must not end with it
            logger.exception("not all went back with %s", outcome.checkpoint.checkpoint_id)
            return [], f"not all went back: {type(error).__name__}: {error}"[:REASON_CHARACTERS]

    @property
    def branch(self) -> str:
        """The branch that training is on."""
        return self.steering.checkpoints.branch

    # -- answers ----------------------------------------------------------------------------------------------

    def _confirm_rates(self) -> None:
        rates, self._rates = self._rates, []
        schedule = self.steering.schedule()
        for waiting in rates:
            message = check_after_step(waiting, schedule)
            if waiting.problem:
                self._fail_rate(waiting)
            else:
                self._finish_rate(waiting, message, confirmed_step=self.steering.step)

    def _settle_rates(self, message: str) -> None:
        rates, self._rates = self._rates, []
        for waiting in rates:
            self._finish_rate(waiting, message)

    def _finish_rate(self, waiting: Waiting, message: str, confirmed_step: int | None = None) -> None:
        if isinstance(waiting.outcome, AwaitRate):
            done = waiting.outcome.done
            done.message = " ".join(filter(None, [done.message, message]))
            self._answer_done(waiting.record, done, waiting.knobs, waiting.step, confirmed_step)

    def _fail_rate(self, waiting: Waiting) -> None:
        if not isinstance(waiting.outcome, AwaitRate):
            return
        waiting.outcome.undo()
        others = "" if len(waiting.outcome.done.changes) < 2 else "; what else it changed was put back"
        self._answer(waiting.record, "failed", message=waiting.problem + others, events=(self._knobs(),))

    def _answer_done(
        self,
        record: CommandRecord,
        done: Done,
        knobs: KnobsRead | None,
        step: int,
        confirmed_step: int | None = None,
    ) -> None:
        self._read_backs.expect(record, step, done.expectations)
        events = (*done.events, *([knobs] if knobs is not None else []))
        ack = Ack(
            outcome="applied",
            step=step,
            changes=done.changes,
            result=done.result,
            confirmed_step=confirmed_step,
            message=done.message,
        )
        self._acknowledge(record, ack, events)
        if done.changes:
            self._note_change()

    def _note_change(self) -> None:
        """A checkpoint of this step, if there is one, no longer holds the values in force."""
        if self._checkpoint is not None:
            self._checkpoint.is_current = False
        end = self.steering.adapter.max_steps()
        if end != self._max_steps:
            self._max_steps = end
            self._update_info(max_steps=end)

    def _answer_save(self, waiting: Waiting, saved: SavedCheckpoint) -> None:
        outcome = waiting.outcome
        saved = saved.named(outcome.tag if isinstance(outcome, AwaitSave) else None)
        self.steering.checkpoints.add(saved)
        message = outcome.message if isinstance(outcome, AwaitSave) else ""
        event = saved.saved_event(waiting.record.command_id)
        result = {"checkpoint_id": saved.checkpoint_id, "path": saved.path}
        self._acknowledge(
            waiting.record, Ack(outcome="applied", step=saved.step, result=result, message=message), (event,)
        )

    def _answer(
        self,
        record: CommandRecord,
        outcome: Literal["failed", "expired"],
        message: str,
        events: tuple[Record, ...] = (),
    ) -> None:
        self._acknowledge(record, Ack(outcome=outcome, step=self.steering.step, message=message), events)

    def _acknowledge(self, record: CommandRecord, ack: Ack, events: tuple[Record, ...]) -> None:
        self._taken.add(record.command_id)
        ack = ack.model_copy(update={"branch": self.branch})
        self._submit(lambda log: log.acknowledge(record.command_id, ack, *events))
        if self._probation is not None:
            self._probation.acked(record, ack)

    # -- probation --------------------------------------------------------------------------------------------

    def _ask(self, proposal: Proposal) -> str:
        """Ask for a command of our own, through the gate; returns why it is refused."""
        if self._log is None:
            raise AssertionError("only the process that records the run asks for commands")
        info = self._log.info().model_copy(update={"knobs": self.knobs(), "step": self.steering.step})
        verdict = Gate.of(info).judge(proposal, Moment(info, time.time()), History())
        written = threading.Event()

        def write(log: RunLog) -> None:
            log.submit(proposal, verdict)
            written.set()

        self._submit(write)
        # Otherwise training would be some steps further, more on a busy machine, before it sees its own command.
        written.wait(OWN_COMMAND_S)
        return "" if isinstance(verdict, Verdict) and verdict.decision == "approved" else _reason(verdict)

    def _settle(self, command_id: str, settled: Settled) -> None:
        step, branch = self.steering.step, self.branch
        self._submit(lambda log: log.settle(command_id, settled, step, branch))

    def _release(self, checkpoint_id: str) -> None:
        gone = self.steering.checkpoints.release(checkpoint_id, "the probation that it was kept for is over")
        if gone is not None:
            self._record(gone)

    # -- the log ----------------------------------------------------------------------------------------------

    def _knobs(self) -> KnobsRead:
        return KnobsRead(knobs=self.knobs())

    def knobs(self) -> list[KnobState]:
        """Every live-tunable value, as read now."""
        return read_knobs(self.steering.adapter, self.registry)

    def _read_whole(self) -> list[Record]:
        """The model's layers and the training dataset, as they are now."""
        adapter, found = self.steering.adapter, list[Record]()
        try:
            found.append(model_read(adapter, self.registry.layers))
            dataset = adapter.train_dataset()
            if dataset is not None:
                found.append(read_dataset(dataset))
        except Exception:  # the user's model and dataset can be anything; training is worth more than their picture
            logger.exception("the model or the dataset cannot be read for the log")
        return found

    def _record(self, *bodies: Record, command_id: str | None = None, step: int | None = None) -> None:
        at, branch = self.steering.step if step is None else step, self.branch
        self._submit(lambda log: log.append(*bodies, step=at, branch=branch, command_id=command_id))

    def _update_info(self, **fields: object) -> None:
        self._submit(lambda log: log.update_info(**fields))

    def _submit(self, job: Callable[[RunLog], object]) -> None:
        if self._writer is not None:
            self._writer.submit(job)


def _checkpoints_of(log: RunLog) -> Checkpoints:
    info = log.info()
    settings = CheckpointSettings.model_validate(info.rules.get("checkpoints", {}))
    return Checkpoints(log.folder / FOLDER, settings, info.goal_direction == "minimize")


def _reason(ruling: Verdict | ApprovalRequest) -> str:
    return ruling.reason if isinstance(ruling, Verdict) else f"it would wait for {', '.join(ruling.approvers)}"


def _groups(waiting: Waiting) -> frozenset[int]:
    return waiting.outcome.groups if isinstance(waiting.outcome, AwaitRate) else frozenset()
