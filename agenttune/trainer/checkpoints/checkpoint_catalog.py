"""The checkpoints of one run, as its training process knows them: found, saved, and deleted to stay within a cap."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from agenttune.config import CheckpointSettings
from agenttune.errors import UserError
from agenttune.protocol.events import CheckpointDeleted, CheckpointSaved, KeptAs
from agenttune.trainer.checkpoints.branches import MAIN, BranchTree
from agenttune.trainer.checkpoints.checkpoint_files import check_fits, read_state, remove_leftovers, write_state
from agenttune.trainer.checkpoints.manifest import LOOP_STATE, is_complete, written_by
from agenttune.trainer.checkpoints.training_state import Spare, TrainingState

logger = logging.getLogger("agenttune")

FOLDER = "checkpoints"
"""Beside the run's log."""
GIB = 2**30
SHOWN = 20
AMPLE = 4
"""A state that a run keeps by itself takes a fourth of what is there at most: of the memory that the machine has left,
and of the disk that checkpoints may take (guess: there will be others, and training needs some)."""
YIELDING: tuple[KeptAs, ...] = ("good", "start", "best")
"""In which order states that a run keeps by itself make room for somebody's own."""
BRANCH_CHARACTERS = 40
"""Of a branch's name in the ids of its checkpoints."""


@dataclass
class SavedCheckpoint:
    """A checkpoint that is complete.

    Attributes:
        path: Its folder; None for a snapshot in memory.
        is_own: Written by a command, so that the keep rule may delete it; or kept by the run itself.
        kept_as: What the run itself keeps it as, such as its best state; it deletes it by itself. None: for the user.
        is_current: No value was changed since it was saved.
        is_before: Of an earlier run: it lay there when this one began, which did not resume from it.
        is_found: It lay there when the run began.
        problem: Why it cannot be loaded again; empty if it can.
        state: What a snapshot holds.
    """

    path: str | None
    step: int
    branch: str = MAIN
    checkpoint_id: str = ""
    tag: str | None = None
    size_bytes: int | None = None
    metric: float | None = None
    pinned: bool = False
    is_own: bool = False
    kept_as: KeptAs = ""
    is_current: bool = True
    is_before: bool = False
    is_found: bool = False
    problem: str = ""
    state: TrainingState | None = None

    def __post_init__(self) -> None:
        if not self.checkpoint_id:
            self.checkpoint_id = f"{self.branch[:BRANCH_CHARACTERS]}-{self.step}-{secrets.token_hex(3)}"

    def named(self, tag: str | None) -> SavedCheckpoint:
        """The same checkpoint under a new id and a tag: two commands asked for one save."""
        return replace(self, checkpoint_id="", tag=tag)

    def saved_event(self, command_id: str | None = None) -> CheckpointSaved:
        return CheckpointSaved(
            checkpoint_id=self.checkpoint_id,
            path=self.path or "",
            tag=self.tag,
            command_id=command_id,
            keep_in="memory" if self.state is not None else "disk",
            size_bytes=self.size_bytes,
            metric=self.metric,
            pinned=self.pinned,
            is_before=self.is_before,
            kept_as=self.kept_as,
            problem=self.problem,
        )


@dataclass
class CheckpointCatalog:
    """The checkpoints of a run, and its branches.

    Args:
        root: Folder for those on disk; made when it is needed. None where none can be written.
        settings: Caps and what is kept.
        prefers_low: Whether less of the goal metric is better.

    Attributes:
        newest_of_loop: The last one that the loop itself saved.
    """

    root: Path | None = None
    settings: CheckpointSettings = field(default_factory=CheckpointSettings)
    prefers_low: bool = True
    known: dict[str, SavedCheckpoint] = field(default_factory=dict)
    branches: BranchTree = field(default_factory=BranchTree)
    metric: float | None = None
    newest_of_loop: SavedCheckpoint | None = None
    spare: Spare = field(default_factory=Spare)

    @property
    def branch(self) -> str:
        """The branch that training is on."""
        return self.branches.current

    @property
    def run_id(self) -> str:
        """Id of the run that these checkpoints belong to; empty if it has no folder."""
        return "" if self.root is None else self.root.parent.name

    def taken_by(self, checkpoint: SavedCheckpoint) -> str:
        """The other run that has written over a checkpoint that this one's loop saved; empty if none has."""
        if checkpoint.path is None or checkpoint.is_own or checkpoint.is_found or not self.run_id:
            return ""
        run = written_by(Path(checkpoint.path))
        return run if run != self.run_id else ""

    # -- finding ----------------------------------------------------------------------------------------------

    def add(self, checkpoint: SavedCheckpoint) -> None:
        """Take note of a checkpoint that is complete."""
        self.known[checkpoint.checkpoint_id] = checkpoint

    def add_found(self, folders: Iterable[Path], resumed_from: Path | None = None) -> list[SavedCheckpoint]:
        """Take note of what lies on disk when the run begins: `checkpoint-20` and the like, in order of steps.

        Args:
            folders: Where they lie.
            resumed_from: The one that the run resumed from, which belongs to it; the others are of earlier runs.
        """
        found = []
        for folder in folders:
            step = folder.name.rpartition("-")[2]
            if step.isdigit() and is_complete(folder):
                is_before = folder != resumed_from
                path = str(folder.absolute())
                found.append(
                    SavedCheckpoint(path, int(step), checkpoint_id=folder.name, is_before=is_before, is_found=True)
                )
        found.sort(key=lambda checkpoint: (checkpoint.step, not checkpoint.is_before))
        for twin in found:  # resumed from a folder elsewhere that has the name of one here
            if twin.is_before and any(c.checkpoint_id == twin.checkpoint_id and not c.is_before for c in found):
                twin.checkpoint_id = f"before-{twin.checkpoint_id}"
        for checkpoint in found:
            self.add(checkpoint)
        return found

    def find(self, name: str, is_agents: bool = False) -> SavedCheckpoint:
        """The checkpoint with this id, or the newest with this tag; the user's before those that the run itself keeps.

        Args:
            name: The id or tag.
            is_agents: An agent asks, who stays within its run.

        Raises:
            UserError: There is none, or it is not for an agent; lists the newest ones.
        """
        tagged = [checkpoint for checkpoint in self.known.values() if checkpoint.tag == name]
        tagged.sort(key=lambda checkpoint: not checkpoint.kept_as)
        found = self.known.get(name) or (tagged[-1] if tagged else None)
        known = [c for c in self.known.values() if not (is_agents and c.is_before)]
        ids = [c.checkpoint_id for c in known if not c.kept_as][-SHOWN:][::-1]
        ids += [kept_as for kept_as in YIELDING if any(c.kept_as == kept_as for c in known)]
        if found is not None and found.is_before and is_agents:
            raise UserError(
                f"checkpoint {name!r} is of before this run: {found.path} lay there when it began, and may be of "
                f"another training; an operator can load it, an agent loads one of this run's: "
                f"{', '.join(ids) or 'none yet, save one with save_checkpoint'}",
                field="checkpoint_id",
                allowed=ids,
            )
        if found is not None:
            return found
        raise UserError(
            f"no checkpoint {name!r} in this run; newest: {', '.join(ids) or 'none, save one with save_checkpoint'}",
            field="checkpoint_id",
            allowed=ids,
        )

    def read(
        self,
        checkpoint: SavedCheckpoint,
        model: nn.Module,
        optimizer: Any = None,
        agree: Callable[[], None] = lambda: None,
    ) -> TrainingState:
        """A checkpoint's state, checked first without reading the weights.

        Args:
            checkpoint: One of `known`.
            model: What it is for.
            optimizer: The same, where it is sharded.
            agree: As of `read_state`.

        Raises:
            UserError: It is gone, damaged, or of another model.
        """
        if checkpoint.state is not None:
            return checkpoint.state
        folder = Path(checkpoint.path or "")
        if not folder.is_dir():
            raise UserError(
                f"checkpoint {checkpoint.checkpoint_id} is gone: {folder} was deleted",
                field="checkpoint_id",
                allowed=[c.checkpoint_id for c in self.known.values() if c is not checkpoint][-SHOWN:],
            )
        if not is_complete(folder):
            raise UserError(f"{folder} is no complete checkpoint: it has no {LOOP_STATE}", field="checkpoint_id")
        if run := self.taken_by(checkpoint):
            raise UserError(
                f"checkpoint {checkpoint.checkpoint_id} is gone: {folder} was written by run {run}, which saves in the "
                "same folder; give each run an output_dir of its own",
                field="checkpoint_id",
            )
        check_fits(folder, model)
        return read_state(folder, model, optimizer, agree)

    # -- saving -----------------------------------------------------------------------------------------------

    def save(
        self,
        state: TrainingState,
        write_model: Callable[[Path], None],
        keep_in: str,
        tag: str | None,
        pinned: bool,
    ) -> tuple[SavedCheckpoint, list[tuple[SavedCheckpoint, CheckpointDeleted]]]:
        """Save a state, which may refer to live tensors; then delete old ones if the cap is exceeded.

        Returns:
            The checkpoint, and those deleted to stay within the cap.

        Raises:
            UserError: A snapshot would not fit into the memory allowed.
            SystemFault: The disk did not take it.
        """
        checkpoint = SavedCheckpoint(
            None, state.step, self.branch, tag=tag, metric=self.metric, pinned=pinned, is_own=True
        )
        if keep_in == "memory":
            if state.tensor_bytes > self.settings.memory_gib * GIB:
                raise UserError(
                    f"a snapshot takes {state.tensor_bytes / GIB:.1f} GiB, checkpoints.memory_gib allows "
                    f"{self.settings.memory_gib:g}; raise it, or keep it on disk",
                    field="keep_in",
                    allowed=["disk"],
                )
            size_bytes = checkpoint.size_bytes = state.tensor_bytes
            buffers = self.spare.take()
            deleted = self._yield(size_bytes, in_memory=True) + self._make_room(size_bytes, in_memory=True)
            if buffers is None and deleted:
                buffers = deleted[0][0].state
            checkpoint.state = state.copied(buffers)
            if self._in_memory_bytes() + 2 * size_bytes <= self.settings.memory_gib * GIB:
                self.spare.prepare(checkpoint.state)
        else:
            if self.root is None:
                raise UserError("this run has no folder for checkpoints", field="keep_in", allowed=["memory"])
            self.root.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.root)
            folder = self.root / checkpoint.checkpoint_id
            checkpoint.size_bytes = write_state(folder, state, self.branch, write_model)
            checkpoint.path = str(folder.absolute())
            deleted = self._yield(checkpoint.size_bytes, in_memory=False)
            deleted += self._make_room(checkpoint.size_bytes, in_memory=False)
        self.add(checkpoint)
        return checkpoint, deleted

    def _in_memory_bytes(self) -> int:
        return sum(c.size_bytes or 0 for c in self.known.values() if c.state is not None)

    # -- kept by the run itself -------------------------------------------------------------------------------

    def kept(self, kept_as: KeptAs) -> list[SavedCheckpoint]:
        """The states that the run itself keeps under this heading, oldest first."""
        return [checkpoint for checkpoint in self.known.values() if checkpoint.kept_as == kept_as]

    def keep(
        self,
        state: TrainingState,
        write_model: Callable[[Path], None],
        kept_as: KeptAs,
        most: int,
        for_disk: Callable[[], TrainingState] | None = None,
    ) -> tuple[SavedCheckpoint | None, list[CheckpointDeleted]]:
        """Keep a state to go back to: in memory if the other checkpoints leave room for it, else on disk.

        Args:
            state: May refer to live tensors; copied to memory beside the processor, wherever they are.
            write_model: Writes the model's files into a folder.
            kept_as: What it is kept as.
            most: Of that; the oldest make room.
            for_disk: Returns the state as it is written, where that is another: that of all ranks of a run.

        Returns:
            The checkpoint, None where there is no room; and those that made room.

        Raises:
            SystemFault: The disk did not take it.
        """
        older = self.kept(kept_as)
        replaced = older[: max(0, len(older) - most + 1)]
        saved = SavedCheckpoint(None, state.step, self.branch, tag=kept_as, metric=self.metric, is_own=True)
        saved.kept_as = kept_as
        size = saved.size_bytes = state.tensor_bytes
        buffers = next((c.state for c in replaced if c.state is not None), None)
        if self._has_memory(size, [c for c in replaced if c.state is not None]):
            saved.state = state.copied(buffers, torch.device("cpu"))
        elif self.root is not None and self._has_disk(size):
            self.root.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.root)
            folder = self.root / saved.checkpoint_id
            saved.size_bytes = write_state(folder, for_disk() if for_disk else state, self.branch, write_model)
            saved.path = str(folder.absolute())
        else:
            return None, []
        gone = [
            CheckpointDeleted(checkpoint_id=c.checkpoint_id, reason=f"a newer {kept_as} one")
            for c in replaced
            if self._drop(c)
        ]
        self.add(saved)
        return saved, gone

    def _has_memory(self, needed: int, replaced: Sequence[SavedCheckpoint]) -> bool:
        """Whether a kept state has room, in what is allowed and in what the machine has."""
        if self._free_bytes(in_memory=True) + sum(c.size_bytes or 0 for c in replaced) < needed:
            return False
        return bool(replaced) or psutil.virtual_memory().available >= AMPLE * needed

    def _has_disk(self, needed: int) -> bool:
        """Whether a kept state has room on disk, together with others like it."""
        cap_gib = self.settings.max_gib
        return cap_gib is None or (needed <= cap_gib * GIB / AMPLE and self._free_bytes(in_memory=False) >= needed)

    def _free_bytes(self, in_memory: bool) -> float:
        cap_gib = self.settings.memory_gib if in_memory else self.settings.max_gib
        if cap_gib is None:
            return float("inf")
        kind = [c for c in self.known.values() if c.is_own and (c.state is not None) == in_memory]
        used = sum(c.size_bytes or 0 for c in kind) + (self.spare.size_bytes if in_memory else 0)
        return cap_gib * GIB - used

    def _drop(self, checkpoint: SavedCheckpoint) -> bool:
        if not _is_removed(checkpoint):
            return False
        del self.known[checkpoint.checkpoint_id]
        return True

    def _yield(self, needed: int, in_memory: bool) -> list[tuple[SavedCheckpoint, CheckpointDeleted]]:
        """Delete what the run keeps by itself until somebody's own checkpoint of `needed` bytes has room."""
        deleted: list[tuple[SavedCheckpoint, CheckpointDeleted]] = []
        where = "memory" if in_memory else "disk"
        for kept_as in YIELDING:
            for checkpoint in [c for c in self.kept(kept_as) if (c.state is not None) == in_memory]:
                if self._free_bytes(in_memory) >= needed:
                    return deleted
                if self._drop(checkpoint):
                    reason = f"to leave the {where} to the checkpoints of commands"
                    event = CheckpointDeleted(checkpoint_id=checkpoint.checkpoint_id, reason=reason)
                    deleted.append((checkpoint, event))
        return deleted

    def _make_room(self, needed: int, in_memory: bool) -> list[tuple[SavedCheckpoint, CheckpointDeleted]]:
        """Delete the oldest that are not protected, until a new one of `needed` bytes is within the cap."""
        cap_gib = self.settings.memory_gib if in_memory else self.settings.max_gib
        if cap_gib is None:
            return []
        kind = [c for c in self.known.values() if c.is_own and not c.kept_as and (c.state is not None) == in_memory]
        total = needed + sum(c.size_bytes or 0 for c in kind)
        protected = self._protected(kind)
        deleted = []
        for checkpoint in kind:
            if total <= cap_gib * GIB:
                break
            if checkpoint.checkpoint_id not in protected and _is_removed(checkpoint):
                del self.known[checkpoint.checkpoint_id]
                total -= checkpoint.size_bytes or 0
                where = "memory" if in_memory else "disk"
                reason = f"to stay within {cap_gib:g} GiB of {where}"
                deleted.append((checkpoint, CheckpointDeleted(checkpoint_id=checkpoint.checkpoint_id, reason=reason)))
        return deleted

    def _protected(self, kind: list[SavedCheckpoint]) -> set[str]:
        """Ids that are never deleted to make room: pinned, the start of a branch, the newest, the best."""
        ids = {c.checkpoint_id for c in kind if c.pinned}
        ids |= {b.checkpoint_id for b in self.branches.known.values() if b.checkpoint_id is not None}
        if self.settings.keep_last > 1:  # the one that is being saved is the newest
            ids |= {c.checkpoint_id for c in kind[-(self.settings.keep_last - 1) :]}
        measured = [c for c in kind if c.metric is not None and c.metric == c.metric]
        measured.sort(key=lambda c: c.metric or 0.0, reverse=not self.prefers_low)
        return ids | {c.checkpoint_id for c in measured[: self.settings.keep_best]}

    def release(self, checkpoint_id: str, reason: str) -> CheckpointDeleted | None:
        """Delete a checkpoint that is no longer needed, even if a branch starts from it."""
        checkpoint = self.known.get(checkpoint_id)
        if checkpoint is None or checkpoint.pinned or not _is_removed(checkpoint):
            return None
        del self.known[checkpoint_id]
        return CheckpointDeleted(checkpoint_id=checkpoint_id, reason=reason)

    def saved_again(self, checkpoint: SavedCheckpoint) -> list[SavedCheckpoint]:
        """Known checkpoints of a step that the loop has saved once more, as at the end of an epoch."""
        where = (checkpoint.path, checkpoint.step, checkpoint.branch)
        return [c for c in self.known.values() if (c.path, c.step, c.branch) == where and not c.is_before]

    def drop_vanished(self, but_for: str | None = None, kept: Collection[str] = ()) -> list[CheckpointDeleted]:
        """Forget checkpoints that others have deleted, as the Trainer does with its own old ones.

        Args:
            but_for: A folder that has just been written; what lay there before is gone.
            kept: Ids of what lies there as before.
        """
        gone = [
            c
            for name, c in self.known.items()
            if c.path is not None and name not in kept and (c.path == but_for or not Path(c.path).is_dir())
        ]
        taken = {c.checkpoint_id: run for c in self.known.values() if (run := self.taken_by(c))}
        lost = {c.checkpoint_id for c in gone}
        gone += [self.known[name] for name in taken if name not in kept and name not in lost]
        for checkpoint in gone:
            del self.known[checkpoint.checkpoint_id]
        return [
            CheckpointDeleted(
                checkpoint_id=c.checkpoint_id,
                reason=f"{c.path} was {_fate(c, but_for, taken)}",
            )
            for c in gone
        ]


def _fate(checkpoint: SavedCheckpoint, but_for: str | None, taken: Mapping[str, str]) -> str:
    if checkpoint.checkpoint_id in taken:
        return f"written over by run {taken[checkpoint.checkpoint_id]}"
    return "written over" if checkpoint.path == but_for else "deleted"


def _is_removed(checkpoint: SavedCheckpoint) -> bool:
    """Remove its files; False, with a warning, if they cannot be deleted."""
    try:
        if checkpoint.path is not None:
            shutil.rmtree(checkpoint.path)
    except FileNotFoundError:
        return True
    except OSError as error:
        logger.warning("checkpoint %s cannot be deleted: %s", checkpoint.checkpoint_id, error)
        return False
    return True


def find_checkpoint(output_dir: Path, step: int, branch: str = MAIN) -> SavedCheckpoint | str:
    """The complete checkpoint of a step under `output_dir` (one level deeper for a hyperparameter search).

    Returns:
        The checkpoint, or why there is none.
    """
    name = f"checkpoint-{step}"
    complete = [*output_dir.glob(f"{name}/{LOOP_STATE}"), *output_dir.glob(f"*/{name}/{LOOP_STATE}")]
    if not complete:
        return f"the trainer reported a save, but {output_dir / name} holds no {LOOP_STATE}"
    newest = max(complete, key=lambda path: path.stat().st_mtime)
    return SavedCheckpoint(str(newest.parent.absolute()), step, branch)
