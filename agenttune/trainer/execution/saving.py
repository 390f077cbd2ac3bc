"""Checkpoints of a run as its session makes them: by the loop's own saving, or from the state between two steps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from agenttune.errors import AgenttuneError, RanksApart, UserError
from agenttune.protocol.events import CheckpointDeleted
from agenttune.protocol.proposals import Ack
from agenttune.trainer.checkpoints.branch_folders import keep_within, taken_instead
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.checkpoint_files import check_readable, write_manifest
from agenttune.trainer.checkpoints.rank_parts import write_parts
from agenttune.trainer.commands.outcomes import AwaitCapture, AwaitSave, Waiting
from agenttune.trainer.execution.acks import AckWriter
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")


class Saving:
    """Saves checkpoints, and acknowledges the commands that wait for one."""

    def __init__(self, run_state: RunState, acks: AckWriter, recorder: Recorder, ranks: SingleRank) -> None:
        self._run_state, self._ranks = run_state, ranks
        self._acks = acks
        self._recorder = recorder
        self.saves: list[Waiting[AwaitSave]] = []
        self.captures: list[Waiting[AwaitCapture]] = []

    def accept_save(self, waiting: Waiting[AwaitSave], is_just_saved: bool) -> None:
        """Wait for the loop's own save, unless it has just made one that holds the values in force."""
        saved = self._run_state.checkpoints.newest_of_loop
        if is_just_saved and saved is not None and saved.step == self._run_state.step and saved.is_current:
            self._answer_save(waiting, saved)
        else:
            self.saves.append(waiting)

    def accept_capture(self, waiting: Waiting[AwaitCapture]) -> None:
        """Save the state as soon as the loop is done with this step."""
        self.captures.append(waiting)
        self.take_captures()

    def fail_open(self, status: str) -> None:
        """The run has ended; nothing is saved any more."""
        for record in [*(w.record for w in self.saves), *(w.record for w in self.captures)]:
            self._acks.refuse(record, f"the run is {status}, no checkpoint was saved")
        self.saves, self.captures = [], []

    # -- the loop's own -----------------------------------------------------------------------------------------

    def saved(self, checkpoint: SavedCheckpoint | str) -> None:
        """The loop has saved a checkpoint, or has not, for the reason given; answers who asked for it."""
        saves, self.saves = self.saves, []
        if isinstance(checkpoint, str):
            for waiting in saves:
                self._acks.refuse(waiting.record, checkpoint)
            return
        again = self._run_state.checkpoints.saved_again(checkpoint)
        self._run_state.checkpoints.newest_of_loop = checkpoint
        self._complete(checkpoint, [known.checkpoint_id for known in again])
        for waiting in saves:
            self._answer_save(waiting, checkpoint)
        if not saves and not again:
            self._run_state.checkpoints.add(checkpoint)
            self._recorder.record(checkpoint.saved_event())
        folder = self._run_state.adapter.loop_folder()
        deleted = keep_within(folder, self._run_state.checkpoints) if folder is not None else []
        if deleted:
            self._recorder.record(*deleted)

    def _complete(self, checkpoint: SavedCheckpoint, again: list[str]) -> None:
        """Complete the loop's own checkpoint with what it lacks, and forget those it has replaced."""
        checkpoints, adapter = self._run_state.checkpoints, self._run_state.adapter
        checkpoint.metric = checkpoints.metric
        gone = checkpoints.drop_vanished(but_for=checkpoint.path, kept=again)
        if gone:
            self._recorder.record(*gone)
        # Without a folder of its own this process does not record the run: another rank writes the manifest.
        if not adapter.checkpoint_refusal() and checkpoint.path is not None and checkpoints.root is not None:
            state = self._ranks.captured_for_disk()
            write_parts(Path(checkpoint.path), state.ranks)
            write_manifest(Path(checkpoint.path), state, checkpoint.branch, checkpoints.run_id)
            try:
                check_readable(Path(checkpoint.path))
            except UserError as error:
                checkpoint.problem = error.message

    def _answer_save(self, waiting: Waiting[AwaitSave], saved: SavedCheckpoint) -> None:
        outcome = waiting.outcome
        saved = saved.named(outcome.tag)
        self._run_state.checkpoints.add(saved)
        event = saved.saved_event(waiting.record.command_id)
        result: dict[str, Any] = {"checkpoint_id": saved.checkpoint_id, "path": saved.path}
        message = self._how_to_go_on(saved, outcome.message, result) if outcome.is_last else outcome.message
        message = "; ".join(filter(None, [message, saved.problem]))
        ack = Ack(outcome="applied", step=saved.step, result=result, message=message)
        self._acks.acknowledge(waiting.record, ack, (event,))

    def _how_to_go_on(self, saved: SavedCheckpoint, message: str, result: dict[str, Any]) -> str:
        """Add to what a stop says how its run can be gone on with."""
        adapter = self._run_state.adapter
        if saved.path is None or saved.problem:
            return message
        words = result["to_go_on"] = adapter.resume_words(Path(saved.path))
        instead = taken_instead(adapter.loop_folder(), self._run_state.checkpoints, Path(saved.path))
        return "; ".join(filter(None, [message, f"to go on: {words}", instead]))

    # -- from the state -----------------------------------------------------------------------------------------

    def take_captures(self) -> None:
        """Save the state for the commands that wait for it, once the loop is done with this step."""
        if not self.captures or not self._run_state.adapter.is_settled():
            return
        captures, self.captures = self.captures, []
        for waiting in captures:
            self._take(waiting)

    def _take(self, waiting: Waiting[AwaitCapture]) -> None:
        outcome = waiting.outcome
        try:
            saved, deleted = self.keep_state(outcome)
        except RanksApart:
            raise
        except AgenttuneError as error:
            self._acks.refuse(waiting.record, str(error))
        except Exception as error:  # the user's training is worth more than this checkpoint
            logger.exception("checkpoint not saved")
            self._acks.refuse(waiting.record, f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
        else:
            event = saved.saved_event(waiting.record.command_id)
            result: dict[str, Any] = {"checkpoint_id": saved.checkpoint_id, "path": saved.path}
            result["size_bytes"] = saved.size_bytes
            message = self._how_to_go_on(saved, outcome.message, result) if outcome.is_last else outcome.message
            ack = Ack(outcome="applied", step=self._run_state.step, result=result, message=message)
            self._acks.acknowledge(waiting.record, ack, (event, *deleted))
        if outcome.is_last:
            self._ranks.request_stop()

    def keep_state(self, outcome: AwaitCapture) -> tuple[SavedCheckpoint, list[CheckpointDeleted]]:
        """Save the present state; only where the loop is settled.

        Returns:
            The checkpoint, and what is gone.

        Raises:
            AgenttuneError: It cannot be kept there.
        """
        checkpoints, adapter = self._run_state.checkpoints, self._run_state.adapter
        vanished = checkpoints.drop_vanished()
        if vanished:
            self._ranks.drop([event.checkpoint_id for event in vanished])
            self._recorder.record(*vanished)
        is_on_disk = outcome.keep_in != "memory"
        state = self._ranks.captured_for_disk() if is_on_disk else self._ranks.captured()
        saved, deleted = checkpoints.save(state, adapter.write_model, outcome.keep_in, outcome.tag, outcome.pinned)
        gone = [event for _, event in deleted]
        self._ranks.drop([event.checkpoint_id for event in gone])
        try:
            self._ranks.hold(saved)
        except AgenttuneError:
            self._recorder.record(*gone)
            raise
        return saved, gone

    def release(self, checkpoint_id: str, purpose: str = "probation") -> None:
        """Delete a checkpoint that was saved for a purpose that is over."""
        gone = self._run_state.checkpoints.release(checkpoint_id, f"the {purpose} that it was kept for is over")
        if gone is not None:
            self._ranks.drop([checkpoint_id])
            self._recorder.record(gone)
