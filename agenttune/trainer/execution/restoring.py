"""Restoring a checkpoint: the loop is asked to, its state is read back, the rest is restored, then comes the ack."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agenttune.errors import RanksApart, UserError
from agenttune.protocol.proposals import Ack, CommandRecord
from agenttune.trainer.checkpoints.branch_folders import Arranged, arrange
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.commands.outcomes import AwaitLearningRate, AwaitRestore, Waiting
from agenttune.trainer.execution.acks import AckWriter, ReadBacks
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")


class Restoring:
    """One restore at a time.

    Args:
        run_state: The run.
        acks: Writes acks.
        recorder: Writes the log.
        confirm: Acknowledges a learning rate that was set with the restore, when the next step has confirmed it.
        left: Told of the step that the run goes on from.
        ranks: All processes of the run.

    Attributes:
        newest: What the last restore was asked for with; None if there was none.
    """

    def __init__(
        self,
        run_state: RunState,
        acks: AckWriter,
        recorder: Recorder,
        confirm: Callable[[Waiting[AwaitLearningRate]], None],
        left: Callable[[int], None],
        ranks: SingleRank,
    ) -> None:
        self._run_state = run_state
        self._acks = acks
        self._recorder = recorder
        self._confirm, self._left, self._ranks = confirm, left, ranks
        self._waiting: Waiting[AwaitRestore] | None = None
        self.newest: CommandRecord | None = None

    @property
    def is_under_way(self) -> bool:
        return self._waiting is not None

    def accept(self, waiting: Waiting[AwaitRestore]) -> None:
        """Ask the loop to restore the state; it says when it has, now or before its next step."""
        self._waiting = waiting
        try:
            self._ranks.restore(waiting.outcome)
        except UserError as error:
            self._waiting = None
            self._acks.refuse(waiting.record, error.message)

    def fail_open(self, status: str) -> None:
        """The run has ended."""
        if self._waiting is not None:
            self._acks.refuse(self._waiting.record, f"the run is {status} before it could go back")
        self._waiting = None

    def restored(self) -> None:
        """The loop has restored its state: restore what it does not know of, and acknowledge."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        checkpoint, run_state = waiting.outcome.checkpoint, self._run_state
        left_step, left_branch = run_state.step, run_state.branch
        run_state.step = waiting.outcome.state.step  # what is recorded from here on is of that step
        self.newest = waiting.record
        self._acks.read_backs = ReadBacks()
        started = run_state.checkpoints.branches.start(
            waiting.outcome.branch, checkpoint.branch, checkpoint.step, checkpoint.checkpoint_id
        )
        run_state.checkpoints.metric = checkpoint.metric  # the evaluations since are of the way that is left behind
        try:
            restored = self._ranks.finish_restore(waiting.outcome)
        except RanksApart as apart:
            self._acks.refuse(waiting.record, str(apart)[:REASON_CHARACTERS])
            raise
        changes, changed, problem = restored.changes, restored.changed, restored.problem
        self._left(run_state.step)
        self._acks.note_change()
        folder = run_state.adapter.loop_folder()
        arranged = arrange(folder, run_state.checkpoints, checkpoint) if folder is not None else Arranged()
        events = (started, *arranged.moved, self._recorder.knobs_read(), *self._recorder.whole_read())
        where = f"went back as branch {started.name}, but "
        if problem or changed.problem:
            self._acks.refuse(waiting.record, f"{where}{problem or changed.problem}", events)
            return
        result: dict[str, object] = {
            "branch": started.name,
            "parent": started.parent,
            "checkpoint_id": checkpoint.checkpoint_id,
            "from_step": left_step,
            "from_branch": left_branch,
            "repeats_data": run_state.adapter.repeats_data(waiting.outcome.state) and not waiting.outcome.skips_data,
            **changed.result,
            **waiting.outcome.result,
        }
        if folder is not None:
            result["restart_from"] = None if arranged.restart_from is None else str(arranged.restart_from)
        message = "; ".join(
            filter(None, [waiting.outcome.message, _lost(run_state, waiting.outcome.state), arranged.note])
        )
        if changed.rate is None:
            ack = Ack(outcome="applied", step=run_state.step, changes=changes, result=result, message=message)
            self._acks.acknowledge(waiting.record, ack, events)
            return
        # Rows of the new branch come before the ack, which waits for the first step of it.
        self._recorder.record(*events, command_id=waiting.record.command_id)
        done = changed.rate.done
        done.message, done.result, done.changes = message, result, [*done.changes, *changes]
        changed.rate.stands = where
        self._confirm(Waiting(waiting.record, run_state.step, changed.rate))


def _lost(run_state: RunState, state: TrainingState) -> str:
    """What was not restored, so that training may not repeat exactly."""
    unknown = [n for n in run_state.registry.held if n not in state.extra.get("registered", {})]
    told = f"the checkpoint has no state of {', '.join(unknown)}, which was registered since" if unknown else ""
    return "; ".join(filter(None, [run_state.adapter.restore_note(state), told]))
