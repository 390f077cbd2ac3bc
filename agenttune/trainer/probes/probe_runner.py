"""A probe: some steps with each candidate, each time from the same state; then the best candidate is applied.

While a trial goes on, training is on a branch of the trial's own, commands wait, and nothing but that branch's rows
is recorded. A person's `pause_training` or `stop_training` ends it; the state is restored first.
"""

from __future__ import annotations

import logging
import time

from agenttune.errors import AgenttuneError, RanksApart, UserError
from agenttune.protocol.commands import Probe
from agenttune.protocol.events import Probed, TrialStarted
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.redefining import touches
from agenttune.protocol.run_info import RunInfo
from agenttune.trainer.captured_values import restore_own_values
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.commands.load_checkpoint import find_there
from agenttune.trainer.commands.outcomes import (
    AwaitCapture,
    AwaitLearningRate,
    AwaitRestore,
    Done,
    NotYet,
    Outcome,
    Waiting,
)
from agenttune.trainer.execution.acks import AckWriter, check_after_step, check_before_update
from agenttune.trainer.execution.queue import CommandQueue
from agenttune.trainer.execution.saving import Saving
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.probes.choice import choose
from agenttune.trainer.probes.trials import Attempt, RunningProbe, attempts_of, result_of
from agenttune.trainer.recording.background_writer import StepMetrics
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")

ProbeResult = tuple[CommandRecord, Outcome]
"""A probe and what came of applying its best candidate, to be answered as for any other command."""


class ProbeRunner:
    """One probe at a time.

    Args:
        run_state: The run.
        acks: Answers who asked.
        recorder: Writes the log.
        saving: Keeps the state.
        intake: Tells whether a person wants training to pause or stop.
        info: The run's goal; None on ranks that only follow.
        ranks: All processes of the run.
    """

    def __init__(
        self,
        run_state: RunState,
        acks: AckWriter,
        recorder: Recorder,
        saving: Saving,
        intake: CommandQueue,
        info: RunInfo | None,
        ranks: SingleRank,
    ) -> None:
        self._run_state, self._acks, self._recorder, self._ranks = run_state, acks, recorder, ranks
        self._saving, self._intake = saving, intake
        self._goal_metric = "" if info is None else info.goal_metric
        self._prefers_low = info is None or info.goal_direction == "minimize"
        self._wanted: CommandRecord | None = None
        self._running: RunningProbe | None = None
        self._count = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a probe waits for the loop to be done with the step."""
        return self._wanted is not None

    @property
    def is_trying(self) -> bool:
        """Whether the present steps are a trial's, and will be undone."""
        return self._running is not None or self._run_state.trial is not None

    def accept(self, record: CommandRecord) -> None:
        """Begin as soon as the loop is done with this step."""
        self._wanted = record

    def fail_open(self, status: str) -> str:
        """The run ends in the middle of a probe: nothing is adopted, but its cost is recorded.

        Returns:
            Where the run stands, if that has to be said.
        """
        record, self._wanted = self._wanted, None
        if record is not None:
            self._acks.refuse(record, f"the run is {status} before anything was tried")
        probe = self._running
        if probe is None:
            return ""
        said = f"in the middle of trial {probe.attempt.branch}; {self._restore_in_place(probe)}"
        logger.warning("training ended %s", said)
        probe.fault = f"the run is {status} {said}"[:REASON_CHARACTERS]
        self._end(probe)
        return said

    def _restore_in_place(self, probe: RunningProbe) -> str:
        """Restore the model before the trials, in case it is saved after an error; returns in words which one it is."""
        step = probe.state.step
        try:
            self._run_state.adapter.restore_in_place(probe.state)
            problem = restore_own_values(self._run_state, probe.state, None)[1]
        except Exception as error:  # training has ended by another error, which must not be hidden
            logger.exception("the state of step %d could not be put back", step)
            problem = f"{type(error).__name__}: {error}"
        if problem:
            return f"the model in memory is the trial's, not that of step {step} ({problem})"
        return f"model and optimizer were put back to step {step}"

    def give_up_wanted(self, why: str) -> None:
        """Training stands still: a probe that has not begun is refused, as all other commands would wait for it."""
        record, self._wanted = self._wanted, None
        if record is not None:
            self._acks.refuse(record, why)

    # -- the trials ---------------------------------------------------------------------------------------------

    def start(self) -> ProbeResult | None:
        """Take the snapshot and begin with the first trial, if a probe is wanted and the loop is done with this step.

        Returns:
            The result, if no candidate could even begin.
        """
        record, adapter = self._wanted, self._run_state.adapter
        if record is None or self._run_state.paused or self._saving.saves or not adapter.is_settled():
            return None
        self._wanted = None
        if not isinstance(record.command, Probe):  # for the type checker: only a probe is ever wanted
            return None
        refusal = adapter.trial_refusal() or self._incomparable(record.command)
        if refusal:
            self._acks.refuse(record, f"probe: {refusal}")
            return None
        try:
            parent, from_step = self._origin(record, record.command)
            saved = self._keep(record)
            state = self._ranks.begin_trials(saved)
        except RanksApart:
            raise
        except AgenttuneError as error:
            self._acks.refuse(record, f"nothing can be tried: {error}")
            return None
        self._count += 1
        attempts = attempts_of(record.command, self._count)
        self._running = RunningProbe(record, record.command, saved, state, attempts, parent, from_step)
        return self._try(self._running)

    def _origin(self, record: CommandRecord, command: Probe) -> tuple[str, int]:
        """The branch and step that the trials begin at.

        Raises:
            UserError: There is no such checkpoint.
        """
        if command.going_back is None:
            return self._run_state.checkpoints.branch, self._run_state.step
        checkpoint = find_there(self._run_state, record, command.going_back).checkpoint
        return checkpoint.branch, checkpoint.step

    def _incomparable(self, command: Probe) -> str:
        """Why the trials cannot be compared: a candidate changes what the compared loss means; empty if none does."""
        by_loss = command.metric == "loss" or (command.confirm_steps is not None and command.confirm == "loss")
        metric = "step_loss" if by_loss else self._goal_metric
        for number, candidate in enumerate(command.candidates):
            knobs = [asked.name for asked in candidate.asked() if asked.owner == "script"]
            redefined = next((self._run_state.registry.redefines(name) for name in knobs), None)
            if redefined is None or not touches(redefined, metric):
                continue
            said = f"candidate {number} (from 0), {candidate.kind}, gives {metric} another meaning"
            if by_loss and not touches(redefined, self._goal_metric):
                return f"{said}, so that trials cannot be compared by it; ask with metric 'goal' ({self._goal_metric})"
            return f"{said}, so that trials cannot be compared by it"
        return ""

    def _keep(self, record: CommandRecord) -> SavedCheckpoint:
        tag = f"before-{record.command_id}"[:64].replace(":", "-")
        try:
            saved, deleted = self._saving.keep_state(AwaitCapture("memory", tag))
        except UserError:  # it does not fit
            saved, deleted = self._saving.keep_state(AwaitCapture("disk", tag))
        self._recorder.record(saved.saved_event(record.command_id), *deleted, command_id=record.command_id)
        return saved

    def _try(self, probe: RunningProbe) -> ProbeResult | None:
        """Begin with the trial at hand; those that cannot begin are over at once."""
        while probe.at < len(probe.attempts):
            attempt = probe.attempt
            attempt.begin()
            self._ranks.enter_trial(attempt.branch)
            started = TrialStarted(
                name=attempt.branch, parent=probe.parent, from_step=probe.from_step, command=attempt.command
            )
            self._recorder.record(started, command_id=probe.record.command_id)
            self._apply(probe, attempt)
            if not attempt.problem:
                self._go_there(
                    attempt
                )  # the last thing here: a loop that restores at once goes on with the trial in it
            if not attempt.problem:
                return None
            attempt.end()
            probe.at += 1
        return self._after_the_last(probe)

    def _after_the_last(self, probe: RunningProbe) -> ProbeResult | None:
        """All trials are over: what won is tried for longer, if that was asked for, else it is adopted."""
        if probe.wants_confirmation and not probe.fault:
            best, _ = self._choose(probe)
            if best is not None:
                probe.confirm(best)
                return self._try(probe)
        return self._end(probe)

    def _apply(self, probe: RunningProbe, attempt: Attempt) -> None:
        command = attempt.command or probe.command.going_back
        if command is None:
            return
        try:
            outcome = self._ranks.apply(probe.record, command)
        except UserError as error:
            attempt.problem = error.message
        except RanksApart:
            raise
        except Exception as error:  # a defect of this candidate, not of the others
            logger.exception("a candidate of %s failed", probe.record.command_id)
            attempt.problem = f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]
        else:
            if isinstance(outcome, AwaitLearningRate):
                attempt.learning_rate = Waiting(probe.record, self._run_state.step, outcome)
                attempt.changes = outcome.done.changes
            elif isinstance(outcome, AwaitRestore):
                attempt.arriving = outcome
                if outcome.dataset is not None:
                    attempt.problem = "the dataset was built anew since; load_checkpoint can go back to that of then"
            elif not isinstance(outcome, Done):
                attempt.problem = "it cannot be applied at this step"

    def _go_there(self, attempt: Attempt) -> None:
        """Ask the loop to restore the state that the trial begins from, if it is another one than that of now."""
        if attempt.arriving is None:
            return
        try:
            self._ranks.restore(attempt.arriving)
        except UserError as error:
            attempt.arriving, attempt.problem = None, error.message

    def _arrived(self, probe: RunningProbe, outcome: AwaitRestore) -> None:
        """The loop has restored that state: restore what it does not know of, and change what is tried."""
        attempt = probe.attempt
        attempt.arriving = None
        restored = self._ranks.finish_restore(outcome)
        changed = restored.changed
        attempt.problem = restored.problem or changed.problem
        if changed.rate is not None:
            waiting = Waiting(probe.record, self._run_state.step, changed.rate)
            attempt.learning_rate, attempt.changes = waiting, changed.rate.done.changes
            attempt.rate_as_saved = changed.rate_as_saved

    def add(self, held: StepMetrics) -> None:
        """What a step of a trial left behind."""
        if self._running is not None:
            self._running.attempt.add(held)

    def before_update(self) -> None:
        """Just before the optimizer's update."""
        if self._running is not None and self._running.attempt.learning_rate is not None:
            check_before_update(self._running.attempt.learning_rate, self._run_state.schedule())

    def step(self, step: int) -> None:
        """At the end of a step of a trial."""
        probe = self._running
        if probe is None or probe.is_leaving:
            return
        self._run_state.step = step
        attempt = probe.attempt
        attempt.steps += 1
        self._check_learning_rate(attempt)
        if not attempt.problem:
            attempt.check()
        wish = self._ranks.end_wish()
        if wish:
            self.break_off(wish)
        probe.fault = probe.fault or self._interrupted()
        if not (attempt.problem or probe.fault) and attempt.steps >= attempt.wanted_steps:
            self._measure(attempt)

    def _check_learning_rate(self, attempt: Attempt) -> None:
        if attempt.learning_rate is not None and not self._run_state.adapter.update_was_skipped():
            check_after_step(attempt.learning_rate, self._run_state.schedule())
            elsewhere = self._ranks.rate_problem(attempt.learning_rate.record.command_id)
            self._ranks.forget_rates()
            problem = attempt.learning_rate.problem or elsewhere
            attempt.problem, attempt.learning_rate = attempt.problem or problem, None

    def _interrupted(self) -> str:
        record = self._intake.interruption()
        return f"interrupted by {record.command.kind} of {record.proposal.author.name}" if record is not None else ""

    def _measure(self, attempt: Attempt) -> None:
        if attempt.metric == "loss":
            attempt.measure_loss()
            return
        try:
            metrics = self._ranks.evaluate()
        except RanksApart:
            raise
        except Exception as error:  # the user's evaluation can be anything
            attempt.problem = f"not evaluated: {error}"[:REASON_CHARACTERS]
            return
        attempt.value = value_of(self._goal_metric, metrics)
        if attempt.value is None:
            attempt.problem = f"the evaluation has no {self._goal_metric}"

    def fail(self, error: Exception) -> bool:
        """An error within a step; returns whether it belongs to a trial, which ends with this step."""
        if self._running is None:
            return False
        attempt = self._running.attempt
        attempt.problem = attempt.problem or f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]
        logger.warning("an error in trial %s, which is lost; training goes on", attempt.branch, exc_info=error)
        return True

    def break_off(self, why: str) -> None:
        """Training is to end; that waits until the state before the trials is restored."""
        if self._running is not None:
            self._running.fault, self._running.ends_run = self._running.fault or why, True

    # -- going back ---------------------------------------------------------------------------------------------

    def leaves(self) -> bool:
        """Whether the present trial is over and the loop was not asked to restore the state before it yet."""
        probe = self._running
        if probe is None or probe.is_leaving or probe.attempt.arriving is not None:
            return False
        if not (probe.attempt.is_over or probe.fault):
            return False
        probe.attempt.end()
        probe.is_leaving = True
        return True

    def restored(self) -> ProbeResult | None:
        """A state is restored: that of before the trial, so begin the next one, or return the result; or its first."""
        probe = self._running
        if probe is None:
            return None
        if probe.attempt.arriving is not None:
            self._arrived(probe, probe.attempt.arriving)
            return None
        probe.is_leaving = False
        problem = self._ranks.finish_leaving()
        if problem:
            probe.fault = f"the run could not be put back as it was: {problem}"
        probe.at += 1
        return self._end(probe) if probe.fault else self._try(probe)

    def _end(self, probe: RunningProbe) -> ProbeResult | None:
        """All trials are over, or it was interrupted."""
        self._running = None
        self._ranks.end_trials()
        best, reason = (None, probe.fault) if probe.fault else self._choose(probe)
        probed = Probed(
            trials=[attempt.outcome() for attempt in probe.attempts],
            adopted=None if best is None else probe.attempts.index(best),
            metric=self._metric(probe),
            extra_steps=probe.extra_steps,
            extra_s=time.monotonic() - probe.began_s,
            reason=reason[:REASON_CHARACTERS],
        )
        self._recorder.record(probed, self._recorder.knobs_read(), command_id=probe.record.command_id)
        self._saving.release(probe.saved.checkpoint_id, "probe")
        if probe.ends_run:
            self._ranks.request_stop()
        if probe.fault:
            self._acks.refuse(probe.record, f"{probe.fault}; nothing was adopted")
            return None
        return self._adopt(probe, best, probed)

    def _choose(self, probe: RunningProbe) -> tuple[Attempt | None, str]:
        prefers_low = probe.compared[0].metric == "loss" or self._prefers_low
        return choose(probe.compared, probe.command, prefers_low)

    def _metric(self, probe: RunningProbe) -> str:
        return "training loss" if probe.compared[0].metric == "loss" else self._goal_metric

    def _adopt(self, probe: RunningProbe, best: Attempt | None, probed: Probed) -> ProbeResult | None:
        """Apply the best candidate as a command of its own would be, or nothing; either way the ack has the figures."""
        result = result_of(probed)
        if best is None or best.command is None:
            return probe.record, Done(f"nothing was adopted: {probed.reason}", result=result)
        try:
            outcome = self._ranks.apply(probe.record, best.command)
        except UserError as error:
            self._acks.refuse(probe.record, f"{best.command.kind} was the best, but then: {error.message}")
            return None
        said = f"adopted: {probed.reason}"
        if isinstance(outcome, AwaitRestore):
            outcome.message, outcome.result = said, result
            return probe.record, outcome
        done = outcome.done if isinstance(outcome, AwaitLearningRate) else outcome
        if isinstance(outcome, NotYet) or not isinstance(done, Done):
            self._acks.refuse(probe.record, f"{best.command.kind} was the best, but cannot be applied now")
            return None
        done.result |= result
        done.message = " ".join(filter(None, [f"{said}.", done.message]))
        return probe.record, outcome
