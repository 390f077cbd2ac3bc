"""Commands at a step boundary: taken from the queue in order, applied and acknowledged; and where training waits."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Literal

from agenttune.config import CheckpointSettings, ProbationSettings
from agenttune.errors import RanksApart, UserError
from agenttune.protocol.commands import DoEvaluate, Impact
from agenttune.protocol.events import NoteAdded, StatusChanged
from agenttune.protocol.proposals import Ack, CommandRecord
from agenttune.protocol.redefining import redefinition
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.commands.outcomes import (
    AwaitCapture,
    AwaitLearningRate,
    AwaitRestore,
    AwaitSave,
    Done,
    NotYet,
    Outcome,
    Waiting,
)
from agenttune.trainer.distributed.joining import Joining
from agenttune.trainer.distributed.pace import MOST_STEPS
from agenttune.trainer.execution.acks import AckWriter, LearningRateConfirmation
from agenttune.trainer.execution.all_ranks import AllRanks
from agenttune.trainer.execution.kept_states import KeptStates
from agenttune.trainer.execution.lockstep import Lockstep
from agenttune.trainer.execution.queue import CommandQueue
from agenttune.trainer.execution.restoring import Restoring
from agenttune.trainer.execution.saving import Saving
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.probation.own_commands import OwnCommands
from agenttune.trainer.probation.probation import Probation
from agenttune.trainer.probes.probe_runner import ProbeResult, ProbeRunner
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")

POLL_S = 0.02
"""How often a paused run looks for commands."""

BEST_NOT_KEPT = (
    "in a run of several processes the state of the best evaluation is kept where do_evaluate makes it, as all have to "
    "take part; this evaluation is recorded all the same; {advice}"
)
ASK_FOR_IT = "a command or a policy can ask for do_evaluate"
GIVE_EVALUATE = "give session(evaluate=...) for that"

Place = Literal["boundary", "saved", "between"]
"""Where in the loop commands are applied: at the end of a step, after a save of the loop's own, between two steps."""


class CommandExecutor:
    """Applies the commands of one run.

    In a run of several processes it works on rank 0 alone: at each place where it might, all ranks meet, and the others
    do what it says (`ranks`).

    `serve` at the end of a step, `between` when the loop is done with it. What only the loop can do, a save of its own
    or a return to a checkpoint, is asked of it; it reports back with `saved` and `restored`.

    Args:
        log: The run's log, for reading; None on ranks that only follow.
        run_state: The run.
        recorder: Writes the log.
        joining: The way to the other ranks; None in a run of one process.
        consult: As in `Options`.

    Attributes:
        ranks: All processes of the run.
    """

    def __init__(
        self,
        log: RunLog | None,
        run_state: RunState,
        recorder: Recorder,
        joining: Joining | None = None,
        consult: Callable[[], object] | None = None,
    ) -> None:
        self._run_state, self._recorder = run_state, recorder
        self.ranks = (
            SingleRank(run_state, self.restored, self)
            if joining is None
            else AllRanks(joining, run_state, self.restored, self, lambda: self._has_work_between)
        )
        self._is_single = self.ranks.is_single
        acks = self.acks = AckWriter(run_state, recorder)
        self.queue = CommandQueue(log, run_state, acks, recorder)
        self.learning_rates = LearningRateConfirmation(run_state, acks, recorder, self.ranks)
        self.saving = Saving(run_state, acks, recorder, self.ranks)
        self.restoring = Restoring(run_state, acks, recorder, self.learning_rates.accept, self._left, self.ranks)
        info = None if log is None else log.info()
        self.kept = None if info is None else _kept_states(info, run_state, recorder, self.ranks)
        self.probe = ProbeRunner(run_state, acks, recorder, self.saving, self.queue, info, self.ranks)
        self.lockstep = Lockstep.of(log, recorder.submit, consult)
        self.probation = _probation(log, run_state, recorder, self.saving) if log is not None else None
        acks.on_ack = self._acked
        self.applying: str | None = None
        """Id of the command that is being applied."""
        self._place: Place = "boundary"
        self.is_in_lockstep = self.lockstep is not None
        self._awaits_start = True
        self._said_end = self._has_said_best = False
        self.on_join: Callable[[], None] = lambda: None
        """Called on every rank once the processes have met."""
        self.on_meeting: Callable[[], None] = lambda: None
        """Called on every rank when all meet at the end of a step, before anything is judged."""
        self.on_end_elsewhere: Callable[[], None] = lambda: None
        """Called when another rank was found to have come to its end."""
        self._idle = threading.Event()

    def begin(self) -> None:
        """Training begins, with all processes or before they have met: apply what was asked for."""
        self._join()
        self.serve("boundary")

    def _join(self) -> bool:
        """On several ranks, once they have met: learn from rank 0 what all have to know; whether that was just now."""
        if not self.ranks.meet():
            return False
        self.on_join()
        self.is_in_lockstep = bool(self.ranks.tell("lockstep" if self.lockstep is not None else ""))
        note = self.ranks.begin()
        if note:
            self._recorder.record(NoteAdded(text=note, author="agenttune"))
        return True

    def opened(self) -> None:
        """What is kept of before the first step is known: on several ranks, all have to come for it."""
        if not self._is_single and self.ranks.has_met:
            wanted = self.ranks.tell("work" if self._has_work_between or self.is_in_lockstep else "")
            self.ranks.wants_between = bool(wanted)

    def note_evaluation(self) -> bool:
        """The loop was evaluated; returns whether its state, as it was evaluated, can still be kept.

        On several ranks all have to come for that, so each has to know of the evaluation.
        """
        if self._is_single or self.ranks.is_meeting:
            return True
        if not self._run_state.adapter.evaluates_everywhere:
            self._say_best_is_not_kept()
            return False
        self.ranks.wants_between = True
        return True

    def _say_best_is_not_kept(self) -> None:
        if self.kept is not None and not self._has_said_best:
            self._has_said_best = True
            can_ask = DoEvaluate.kind_name() in self._run_state.adapter.capabilities
            advice = ASK_FOR_IT if can_ask else GIVE_EVALUATE
            self._recorder.record(NoteAdded(text=BEST_NOT_KEPT.format(advice=advice), author="agenttune"))

    def _acked(self, record: CommandRecord, ack: Ack) -> None:
        if self.probation is not None:
            self.probation.acked(record, ack)
        redefined = redefinition(record, ack) if self.kept is not None else None
        if self.kept is not None and redefined is not None:
            self.kept.redefine(redefined)

    def _left(self, step: int) -> None:
        """The run goes on from an earlier step."""
        if self.probation is not None:
            self.probation.left(step)
        if self.kept is not None:
            self.kept.left(step)

    # -- what is open -----------------------------------------------------------------------------------------

    @property
    def _has_work(self) -> bool:
        """Whether anything is pending or the log has changed; nearly always neither, which is cheap to tell."""
        if self.learning_rates.waiting or self.saving.saves or self.queue.queue or self.acks.read_backs.checks:
            return True
        if self._has_work_between or (self.probation is not None and self.probation.is_check_due):
            return True
        # On several ranks it is asked at a step's start, about its end.
        if self.kept is not None and self._run_state.step + (not self._is_single) >= self.kept.next_step:
            return True
        if self._is_single or self.queue.monitor.is_unchanged():
            return not self.queue.monitor.is_unchanged()
        # Mostly an event of our own: to read the log costs less than to have all ranks meet for nothing.
        return bool(self.queue.fetch()) or self._is_held

    @property
    def has_work_between(self) -> bool:
        """Whether `between` has something to do: on every rank the same."""
        return self._has_work_between if self._is_single else self.ranks.wants_between

    @property
    def _has_work_between(self) -> bool:
        if self._run_state.paused or self._has_state_to_keep or self._is_decision_due or self._is_held:
            return True
        return self._keeps_state

    @property
    def is_decision_due(self) -> bool:
        """Whether training has to wait for the agent's decision once the loop is done with this step."""
        return self._is_decision_due if self._is_single else self.ranks.wants_between

    @property
    def keeps_state(self) -> bool:
        """Whether the run keeps a state by itself as soon as the loop is done with the step."""
        return self._keeps_state if self._is_single else self.ranks.wants_between

    @property
    def _is_decision_due(self) -> bool:
        if self.lockstep is None or self._run_state.trial is not None:
            return False
        return self.lockstep.is_due(self._run_state.step)

    @property
    def _keeps_state(self) -> bool:
        return self.kept is not None and self.kept.is_due and self._run_state.trial is None

    @property
    def _has_state_to_keep(self) -> bool:
        """Whether a checkpoint or a probe waits for the loop to be done with the step."""
        return bool(self.saving.captures) or self.probe.is_wanted

    @property
    def _is_busy(self) -> bool:
        """Whether the next command has to wait until a save or a return is done."""
        return self._has_state_to_keep or self.restoring.is_under_way or self.probe.is_trying

    @property
    def _is_held(self) -> bool:
        """Whether a request for approval wants training to wait."""
        return self.queue.is_held

    def fail_open(self, status: str) -> str:
        """Training has ended, or was begun again: acknowledge all that waits for a later step.

        Returns:
            Where the run stands, if that has to be said.
        """
        self.learning_rates.settle(f"the run is {status}")
        self.saving.fail_open(status)
        self.restoring.fail_open(status)
        self.ranks.put_back()
        where = self.probe.fail_open(status)
        if self.probation is not None:
            self.probation.finish(status)
        return where

    # -- a step -----------------------------------------------------------------------------------------------

    def before_update(self) -> None:
        """Just before the optimizer's update."""
        if self.learning_rates.waiting:
            self.learning_rates.before_update()
        if self.probe.is_trying:
            self.probe.before_update()
        if not self._is_single:
            self.ranks.before_update()
            if self._awaits_start and self.ranks.wants_between:
                self.between("between")
            self._awaits_start = False
        elif self.kept is not None and self.kept.is_start_due:
            self.keep_states()  # a loop that draws its batches itself shows itself here first

    def boundary(self, step: int) -> bool:
        """At the end of a step: confirm what was changed, then apply what was asked for.

        Returns:
            Whether nothing is open: until the log changes, the next steps need not ask.
        """
        if self.lockstep is not None:
            self.lockstep.reach(step, self.acks.max_steps)
        if not self._is_single:
            self._meet(step)
            return self.ranks.will_skip
        if self._has_work:
            self._confirm(step)
            self.serve("boundary")
            return False
        return self.lockstep is None and not self.restoring.is_under_way

    def _meet(self, step: int) -> None:
        """At the end of a step on several ranks: meet where rank 0 has said so at its start, and say so of the next."""
        if self.ranks.called() or self._join():
            self.on_meeting()
            with self.ranks.meeting("the end") as leads:
                if leads:
                    self._confirm(step)
                    self._serve("boundary")
        elif self.ranks.ended and not self._said_end:
            self._said_end = True
            self.on_end_elsewhere()
            text = f"{self.ranks.ended}; training goes on, and takes no more commands"
            self._recorder.record(NoteAdded(text=text, author="agenttune"))
        elif self.is_in_lockstep and not self.ranks.ended:
            self.ranks.wants_between = True
        self._call()

    def _call(self) -> None:
        """At a step's start on several ranks: rank 0 says whether all meet at its end."""
        if self._is_single or self.ranks.skip():
            return
        has_work = self.ranks.leads and self._has_work
        self.ranks.call(has_work, 1 if has_work else self._free_steps)

    @property
    def _free_steps(self) -> int:
        """On rank 0: for how many steps beyond the one that begins it has no work of its own, as far as it knows."""
        if not self.ranks.leads or self.is_in_lockstep or self._run_state.trial is not None:
            return 1
        if self.probation is not None and self.probation.monitored:
            return 1
        if self.kept is None or self.kept.next_step == math.inf:
            return MOST_STEPS
        return max(1, int(self.kept.next_step) - self._run_state.step - 1)

    def _confirm(self, step: int) -> None:
        """Check that earlier changes hold, and whether they have hurt."""
        if self.learning_rates.waiting and not self._run_state.adapter.update_was_skipped():
            self.learning_rates.confirm()
        if self.acks.read_backs.checks:
            self.acks.read_again(step)
        if self.probation is not None:
            self.probation.check(step)
        if self.kept is not None:
            self.kept.look(step)
        if self.saving.saves:  # the loop dropped the request, as save_strategy "best" does
            self.ranks.request_save()

    def serve(self, place: Place) -> None:
        """Apply what is queued; while paused, wait and go on applying."""
        with self.ranks.meeting(place) as leads:
            if leads:
                self._serve(place)
        self._call()

    def _serve(self, place: Place) -> None:
        self._place = place
        self.saving.take_captures()
        self.keep_states()
        self._apply_or_hold()
        self.keep_states()
        self._start_probe()

    def keep_states(self) -> None:
        """Keep what is due of the states that the run keeps by itself, if the loop is done with the step."""
        if self.kept is None or not self._keeps_state or self.restoring.is_under_way:
            return
        if self._run_state.adapter.is_settled():
            self.kept.take()

    def between(self, place: Place) -> None:
        """Serve when the loop is done with a step, then wait for the agent's decision about it, if that is due."""
        with self.ranks.meeting(place) as leads:
            if leads:
                self._between(place)
        self._call()

    def _between(self, place: Place) -> None:
        self._serve(place)
        if self.lockstep is not None and self._is_decision_due and not self._must_go_on:
            self._run_state.awaits_agent = True
            try:
                self._wait_for_agent(self.lockstep)
            finally:
                self._run_state.awaits_agent = False
        self._start_probe()

    # -- what the loop reports --------------------------------------------------------------------------------

    def saved(self, checkpoint: SavedCheckpoint | str) -> None:
        """The loop has saved a checkpoint, or has not, for the reason given; only rank 0 looks at the files."""
        with self.ranks.meeting("saved") as leads:
            if leads:
                self.saving.saved(checkpoint)
                if self._run_state.paused and not isinstance(checkpoint, str):
                    self._serve("saved")
        self._call()

    def restored(self) -> None:
        """The loop has restored the state that it was asked to."""
        with self.ranks.meeting("a return") as leads:
            if leads:
                self._restored()
        self._call()

    def _restored(self) -> None:
        if self.probe.is_trying:
            self._finish_probe(self.probe.restored())
            self._leave_trial()  # where a trial's first state could not be restored as it was
        else:
            self.restoring.restored()
        if not self.probe.is_trying:
            self._between("between")

    # -- applying ---------------------------------------------------------------------------------------------

    def _apply_queued(self) -> None:
        """Apply in order of acceptance; what comes after a save or a restore waits until that is done.

        One after the other: each passes the guardrails on what the one before it has left.
        """
        tried: set[str] = set()
        while found := self.queue.next(tried):
            if self._is_busy:
                return
            for record in found:
                tried.add(record.command_id)
                if why_not := self._too_late(record):
                    self.acks.refuse(record, why_not, outcome="expired")
                elif self._must_keep_state(record):
                    return
                else:
                    self._apply(record)

    def _too_late(self, record: CommandRecord) -> str:
        """Why a command has expired; empty if it has not."""
        step, until = self._run_state.step, record.proposal.valid_until_step
        if until is not None and step > until:
            return f"valid until step {until}, the run is at step {step}; not applied"
        # The trainer's own return comes before what others asked for earlier, and a person knows where the run stands.
        asked, back = record.proposal, self.restoring.newest
        if back is None or asked.author.principal != "agent":
            return ""
        is_of_before = asked.based_on_branch not in (None, self._run_state.checkpoints.branch)
        if record.submitted_seq < back.submitted_seq or (
            is_of_before and not asked.author.is_same(back.proposal.author)
        ):
            return f"asked for before the run went back to step {step}, of what it left behind; not applied"
        return ""

    def _must_keep_state(self, record: CommandRecord) -> bool:
        """Whether a checkpoint has to be saved before this command, so that it can be reverted; asks for that."""
        if self.probation is None or self._run_state.adapter.checkpoint_refusal():
            return False
        return self.probation.must_wait(record)

    def _apply(self, record: CommandRecord) -> None:
        self.keep_states()  # as an evaluation before it has found the state, not as this command makes it
        was_paused = self._run_state.paused
        self.applying = record.command_id
        try:
            outcome = self.ranks.apply(record)
        except UserError as error:
            self.acks.refuse(record, error.message)
            return
        except RanksApart as apart:
            self.acks.refuse(record, str(apart)[:REASON_CHARACTERS])
            raise
        except Exception as error:  # whatever it is, it is not worth the user's training
            logger.exception("%s %s failed", record.proposal.command.kind, record.command_id)
            self.acks.refuse(record, f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
            return
        finally:
            self.applying = None
        if self._run_state.paused and not was_paused:
            self.learning_rates.settle_standing()
        self._follow(record, outcome)

    def _follow(self, record: CommandRecord, outcome: Outcome) -> None:
        """Acknowledge a command that was applied, or begin what its ack waits for."""
        if isinstance(outcome, NotYet):
            return
        self.acks.taken.add(record.command_id)
        done = outcome.done if isinstance(outcome, AwaitLearningRate) else outcome
        if isinstance(done, Done):
            self.queue.note(record, done.changes)
        if isinstance(outcome, Done):
            knobs = self._recorder.knobs_read() if outcome.changes else None
            self.acks.done(record, outcome, knobs, self._run_state.step)
            return
        step = self._run_state.step
        if isinstance(outcome, AwaitLearningRate):
            self.learning_rates.accept(Waiting(record, step, outcome))
        elif isinstance(outcome, AwaitSave):
            self.saving.accept_save(Waiting(record, step, outcome), self._place == "saved")
        elif isinstance(outcome, AwaitCapture):
            self.saving.accept_capture(Waiting(record, step, outcome))
        elif isinstance(outcome, AwaitRestore):
            self.learning_rates.settle("the run goes back")
            self.restoring.accept(Waiting(record, step, outcome))
        else:
            self.learning_rates.settle("a probe goes back here")
            self.probe.accept(record)

    # -- where training waits -----------------------------------------------------------------------------------

    def _apply_or_hold(self) -> None:
        self._apply_queued()
        if self._stands:
            self._hold()

    def _hold(self) -> None:
        """Wait while training is paused or an approval request holds it; commands are applied meanwhile."""
        was_paused = self._run_state.paused
        if not was_paused:
            self._recorder.record(StatusChanged(status="paused", reason="a command waits for approval"))
        self.learning_rates.settle_standing()
        if why := self._run_state.standstill:
            self.probe.give_up_wanted(f"a probe trains, and {why}; ask again once it goes on")
        # Some work is the loop's: let it out for that; it comes back here in `saved` or `between`.
        while self._stands and not self._waits_for_loop:
            self._idle.wait(POLL_S)
            self.ranks.beat()
            self._apply_queued()
        if not was_paused and not self._run_state.paused:
            held = "the loop goes on for another command"
            reason = held if self._is_held else "no request for approval holds it any more"
            self._recorder.record(StatusChanged(status="running", reason=reason))

    @property
    def _stands(self) -> bool:
        """Whether training is to stand here; a stop resumes what is paused, and waits for no approval either."""
        if self._run_state.paused:
            return True
        return self._is_held and self._run_state.stop_reason is None and not self._is_stop_queued

    @property
    def _waits_for_loop(self) -> bool:
        if self.saving.captures or self.restoring.is_under_way:
            return True
        return bool(self.saving.saves) and self._place == "boundary" and self._run_state.adapter.can_end_here()

    def _wait_for_agent(self, lockstep: Lockstep) -> None:
        """Apply what is asked for until the agent has decided about this step; it may be asked a second time."""
        run_state = self._run_state
        while self._waits(lockstep, lockstep.begin(run_state.step, run_state.branch)):
            while self._waits(lockstep, lockstep.goes_on() and not self._is_stop_queued):
                lockstep.idle()
                self.ranks.beat()
                self._apply_or_hold()
                self.learning_rates.settle_standing()
                if self._must_go_on:
                    return
            self._apply_or_hold()  # what was decided
            if self._must_go_on:
                return

    def _waits(self, lockstep: Lockstep, waits: bool) -> bool:
        if not waits:
            lockstep.close()
        return waits

    @property
    def _must_go_on(self) -> bool:
        """Whether the loop has to go on: to end, to save, to restore, or because training is paused elsewhere."""
        return self._run_state.stop_reason is not None or self._run_state.paused or self._is_busy

    @property
    def _is_stop_queued(self) -> bool:
        """Whether a stop is queued that could not be applied here, as the loop can end only after its next step."""
        queued = (record for record in self.queue.queue if record.command_id not in self.acks.taken)
        return any(record.command.impact is Impact.END for record in queued)

    # -- trials of a probe: what the loop tells of them -------------------------------------------------------------

    def end_trial_step(self, step: int) -> None:
        """At the end of a step of a trial."""
        if not self._is_single:
            self.ranks.called()
        with self.ranks.meeting("a trial's step") as leads:
            if leads:
                self.probe.step(step)
                self._leave_trial()
        self._call()

    def fail(self, error: Exception) -> bool:
        """An error within a step; returns whether it belongs to a trial, which ends with this step.

        On several ranks it ends the training: the others are in the midst of the same step, and wait for this one.
        """
        return self._is_single and self.probe.fail(error)

    def lose(self, error: Exception) -> bool:
        """An error between two steps; returns whether it belongs to a trial, which ends at once."""
        if not self._is_single:
            return False
        is_trials = self.probe.fail(error)
        self._leave_trial()
        return is_trials

    def asked_to_end(self, why: str) -> None:
        """A callback wants training to end; that waits until the state before the trials is restored."""
        if not self._is_single:  # on whichever rank: the next meeting is told
            self.ranks.wish = why
            return
        self.probe.break_off(why)
        self._leave_trial()

    def _start_probe(self) -> None:
        self._finish_probe(self.probe.start())

    def _leave_trial(self) -> None:
        """Restore the state before the trial, if the trial is over."""
        if self.probe.leaves():
            self.ranks.leave_trial()

    def _finish_probe(self, result: ProbeResult | None) -> None:
        if result is not None:
            self._follow(*result)


def _kept_states(info: RunInfo, run_state: RunState, recorder: Recorder, ranks: SingleRank) -> KeptStates | None:
    """None where the user wants none."""
    settings = CheckpointSettings.model_validate(info.rules.get("checkpoints", {}))
    return KeptStates(settings, info, run_state, recorder, ranks) if settings.keep_states else None


def _probation(log: RunLog, run_state: RunState, recorder: Recorder, saving: Saving) -> Probation | None:
    """None where no change is monitored."""
    info = log.info()
    settings = ProbationSettings.model_validate(info.rules.get("probation", {}))
    if not settings.is_on:
        return None
    ask = OwnCommands(log, run_state, recorder).ask
    return Probation(settings, info, ask, recorder.settle, saving.release)
