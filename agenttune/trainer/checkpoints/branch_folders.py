"""Folders of the loop's own checkpoints: those of the current branch where a restart looks, the others aside.

transformers resumes from the `checkpoint-N` of the highest N in its output folder. After a restore that must be one of
the current branch or its parents, so the others move to `branches/<branch>/` in the same folder, and come back when a
restore makes them part of the current branch again. Each move is one rename. Those that a restart would take
come away first, newest first: killed in between, the folder's newest is one of the branch that was in force until then,
or of what both have in common.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agenttune.protocol.events import CheckpointDeleted, CheckpointMoved
from agenttune.trainer.checkpoints.checkpoint_catalog import CheckpointCatalog, SavedCheckpoint

logger = logging.getLogger("agenttune")

ASIDE = "branches"
OF_BEFORE = "_before"
"""Folder of what lay there when the run began; no branch can be named so."""
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class LoopFolder:
    """The folder in which the loop saves and a restart looks.

    Attributes:
        path: The folder.
        limit: Most checkpoints that its user wants to keep; None for all.
        is_used: Whether the loop saves by itself.
    """

    path: Path
    limit: int | None = None
    is_used: bool = True


@dataclass
class Arranged:
    """The result of a move.

    Attributes:
        moved: The moves that were made.
        problem: Why not all were.
        restart_from: The folder that a restart takes; None if there is none.
        note: The same in words, for the ack.
    """

    moved: list[CheckpointMoved] = field(default_factory=list)
    problem: str = ""
    restart_from: Path | None = None
    note: str = ""


def arrange(folder: LoopFolder, checkpoints: CheckpointCatalog, stands_on: SavedCheckpoint | None = None) -> Arranged:
    """Move each of the loop's checkpoints to where it belongs, after the current branch has changed.

    Args:
        folder: The loop's.
        checkpoints: What was saved, and the branches; the paths in it follow.
        stands_on: The checkpoint that was loaded.
    """
    arranged = Arranged()
    aside: set[Path] = set()
    for source, target in planned_moves(folder.path, checkpoints):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except OSError as error:
            arranged.problem = f"{source} could not be moved to {target} ({error})"
            logger.warning("%s", arranged.problem)
            break
        if target.parent != folder.path:
            aside.add(target.parent)
        arranged.moved += _followed(checkpoints, source, target)
    newest = _newest(folder.path)
    arranged.restart_from = newest
    notes = [_restart_note(folder.path, newest, checkpoints, stands_on)] if folder.is_used or newest is not None else []
    if aside:
        notes.append(f"later ones of what was left are in {', '.join(map(str, sorted(aside)))}")
    arranged.note = "; ".join([*notes, *filter(None, [arranged.problem])])
    return arranged


def planned_moves(home: Path, checkpoints: CheckpointCatalog) -> list[tuple[Path, Path]]:
    """The moves to make, in order: out of the folder, newest first, then into it."""
    by_path = {Path(c.path): c for c in checkpoints.known.values() if c.path is not None and not c.is_own}
    from_step = checkpoints.branches.known[checkpoints.branch].from_step
    out = [(p, by_path.get(p)) for p in _checkpoints_in(home) if _must_go(p, by_path.get(p), checkpoints, from_step)]
    back = [p for p, c in by_path.items() if p.parent.parent == home / ASIDE and _is_in_line(c, checkpoints)]
    leaving = {path for path, _ in out}
    # What has the name of one that comes back, and is not known, makes room for it.
    out += [(home / p.name, None) for p in back if (home / p.name).exists() and home / p.name not in leaving]
    out.sort(key=lambda pair: _step(pair[0]), reverse=True)
    moves: list[tuple[Path, Path]] = []
    for path, checkpoint in out:
        moves.append((path, _free(home / ASIDE, _folder_of(checkpoint), path.name, moves)))
    return moves + [(p, home / p.name) for p in sorted(back, key=_step)]


def _must_go(path: Path, saved: SavedCheckpoint | None, checkpoints: CheckpointCatalog, from_step: int) -> bool:
    if saved is None or saved.is_before:
        return _step(path) > from_step  # a restart would take it before any of this branch
    return not _is_in_line(saved, checkpoints)


def _is_in_line(saved: SavedCheckpoint, checkpoints: CheckpointCatalog) -> bool:
    """Whether a checkpoint belongs to the current branch or its parents."""
    return checkpoints.branches.lineage().has(saved.branch, saved.step)


def _folder_of(saved: SavedCheckpoint | None) -> str:
    return OF_BEFORE if saved is None or saved.is_before else saved.branch


def _free(aside: Path, branch: str, name: str, moves: Iterable[tuple[Path, Path]]) -> Path:
    """A path that nothing has; an earlier run in the same folder may have had a branch of the same name."""
    taken = {target for _, target in moves}
    number = 1
    while True:
        target = aside / (branch if number == 1 else f"{branch}-{number}") / name
        if target not in taken and not target.exists():
            return target
        number += 1


def _followed(checkpoints: CheckpointCatalog, source: Path, target: Path) -> list[CheckpointMoved]:
    """Have the catalog follow a move."""
    events = []
    for checkpoint in checkpoints.known.values():
        if checkpoint.path == str(source):
            checkpoint.path = str(target)
            events.append(CheckpointMoved(checkpoint_id=checkpoint.checkpoint_id, path=checkpoint.path))
    return events


def _restart_note(
    home: Path, newest: Path | None, checkpoints: CheckpointCatalog, stands_on: SavedCheckpoint | None
) -> str:
    if newest is not None:
        whose = _whose(newest, checkpoints)
        return f"a restart with resume_from_checkpoint=True goes on from {newest.name}, {whose}"
    begins = f"until this branch saves one in {home}, a restart "
    if stands_on is None or stands_on.path is None:
        return f"{begins}begins anew"
    return f"{begins}needs resume_from_checkpoint={stands_on.path!r}"


def _whose(path: Path, checkpoints: CheckpointCatalog) -> str:
    known = next((c for c in checkpoints.known.values() if c.path == str(path)), None)
    return "of before this run" if known is None or known.is_before else f"of {known.branch}"


def taken_instead(folder: LoopFolder | None, checkpoints: CheckpointCatalog, saved: Path) -> str:
    """Which other checkpoint a restart takes by default, in words; empty if it takes the one just saved."""
    newest = None if folder is None else _newest(folder.path)
    if folder is None or newest == saved:
        return ""
    if newest is None:
        return f"resume_from_checkpoint=True finds nothing in {folder.path}"
    return f"resume_from_checkpoint=True takes {newest.name}, {_whose(newest, checkpoints)}"


def keep_within(folder: LoopFolder, checkpoints: CheckpointCatalog) -> list[CheckpointDeleted]:
    """Hold the loop's own limit over all branches: it counts those in its folder alone, and deletes there itself.

    Those aside go first, oldest first.
    """
    if folder.limit is None or folder.limit <= 0:
        return []
    aside = {Path(c.path): c for c in checkpoints.known.values() if c.path is not None and not c.is_own}
    paths = [path for path in aside if path.parent.parent == folder.path / ASIDE and path.is_dir()]
    surplus = len(_checkpoints_in(folder.path)) + len(paths) - folder.limit
    deleted = []
    for path in paths[: max(0, surplus)]:
        try:
            shutil.rmtree(path)
        except OSError as error:
            logger.warning("%s cannot be deleted for save_total_limit: %s", path, error)
            continue
        reason = f"to stay within save_total_limit={folder.limit}, over all branches"
        for name in [name for name, c in checkpoints.known.items() if c.path == str(path)]:
            del checkpoints.known[name]
            deleted.append(CheckpointDeleted(checkpoint_id=name, reason=reason))
    return deleted


def _checkpoints_in(home: Path) -> list[Path]:
    found = home.iterdir() if home.is_dir() else ()
    return [path for path in found if _NAME.fullmatch(path.name) and path.is_dir()]


def _newest(home: Path) -> Path | None:
    """As transformers finds it."""
    return max(_checkpoints_in(home), key=_step, default=None)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
