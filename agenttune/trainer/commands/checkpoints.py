"""Commands about checkpoints that are there already: tag, pin, delete."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agenttune.errors import UserError
from agenttune.protocol.commands import DeleteCheckpoints, UpdateCheckpoint
from agenttune.protocol.events import CheckpointLabelled
from agenttune.protocol.proposals import CommandRecord
from agenttune.trainer.checkpoints.checkpoint_catalog import CheckpointCatalog, SavedCheckpoint
from agenttune.trainer.commands.outcomes import Done, Outcome, applies
from agenttune.trainer.run_state import RunState


@applies(UpdateCheckpoint)
def update_checkpoint(run_state: RunState, record: CommandRecord, command: UpdateCheckpoint) -> Outcome:
    is_agents = record.proposal.author.principal == "agent"
    checkpoint = run_state.checkpoints.find(command.checkpoint_id, is_agents)
    if command.tag is not None:
        checkpoint.tag = command.tag or None
    if command.pin is not None:
        checkpoint.pinned = command.pin
    label = CheckpointLabelled(checkpoint_id=checkpoint.checkpoint_id, tag=checkpoint.tag, pinned=checkpoint.pinned)
    told = {"checkpoint_id": checkpoint.checkpoint_id, "tag": checkpoint.tag, "pinned": checkpoint.pinned}
    return Done(result=told, events=(label,))


@applies(DeleteCheckpoints)
def delete_checkpoints(run_state: RunState, record: CommandRecord, command: DeleteCheckpoints) -> Outcome:
    catalog = run_state.checkpoints
    chosen = (
        _named(catalog, command.checkpoint_ids) if command.checkpoint_ids is not None else _by_rule(catalog, command)
    )
    reason = f"deleted by {record.proposal.author.name}"
    deleted = [event for checkpoint in chosen if (event := catalog.release(checkpoint.checkpoint_id, reason))]
    left = [c.checkpoint_id for c in chosen if c.checkpoint_id not in {event.checkpoint_id for event in deleted}]
    if chosen and not deleted:
        raise UserError(f"the disk does not let go of {', '.join(left)}")
    count = len(deleted)
    message = f"{count} checkpoint{'s' * (count != 1)} deleted" + (f"; left: {', '.join(left)}" if left else "")
    return Done(message, result={"deleted": [event.checkpoint_id for event in deleted]}, events=tuple(deleted))


def _named(catalog: CheckpointCatalog, names: Sequence[str]) -> list[SavedCheckpoint]:
    """Those that were named.

    Raises:
        UserError: One of them is not there, or must stay; nothing is deleted then.
    """
    found = [catalog.find(name) for name in names]
    for checkpoint in found:
        why = _why_kept(catalog, checkpoint)
        if why:
            raise UserError(f"checkpoint {checkpoint.checkpoint_id} stays: {why}", field="checkpoint_ids")
    return found


def _by_rule(catalog: CheckpointCatalog, command: DeleteCheckpoints) -> list[SavedCheckpoint]:
    free = [checkpoint for checkpoint in catalog.known.values() if not _why_kept(catalog, checkpoint)]
    if command.branch is not None:
        free = [checkpoint for checkpoint in free if checkpoint.branch == command.branch]
    if command.before_step is not None:
        free = [checkpoint for checkpoint in free if checkpoint.step < command.before_step]
    kept = {c.checkpoint_id for c in free[-command.keep_last :]} if command.keep_last else set[str]()
    measured = [c for c in free if c.metric is not None and math.isfinite(c.metric)]
    measured.sort(key=lambda c: c.metric or 0.0, reverse=not catalog.prefers_low)
    kept |= {c.checkpoint_id for c in measured[: command.keep_best or 0]}
    return [checkpoint for checkpoint in free if checkpoint.checkpoint_id not in kept]


def _why_kept(catalog: CheckpointCatalog, checkpoint: SavedCheckpoint) -> str:
    """Why a checkpoint must not be deleted; empty if it may."""
    if checkpoint.pinned:
        return "it is pinned; unpin it first, with update_checkpoint"
    if checkpoint.kept_as:
        return "the run keeps it by itself to go back to"
    if not checkpoint.is_own:
        return "no command of this run saved it: it is the training loop's, or of before the run"
    branch = next(
        (b.name for b in catalog.branches.known.values() if b.checkpoint_id == checkpoint.checkpoint_id), None
    )
    return "" if branch is None else f"branch {branch} began from it"
