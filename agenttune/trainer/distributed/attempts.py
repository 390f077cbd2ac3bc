"""A job that was started again trains on in the run that it has begun: found, taken over, brought up to date."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from agenttune.protocol.commands import Impact
from agenttune.protocol.events import BranchStarted, CheckpointSaved, NoteAdded, Settled
from agenttune.protocol.proposals import Record, State
from agenttune.protocol.rank_failures import TEXT
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import clean
from agenttune.store.job import Job
from agenttune.store.process_liveness import is_alive, started_s
from agenttune.store.run_log import COMPLETED, RunLog, list_runs
from agenttune.trainer.checkpoints.branches import BranchTree
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.distributed.error_files import ERROR_FILE
from agenttune.trainer.run_state import RunState

RECENT_EVENTS = 100
"""Newest events that are looked through for the last step (guess)."""
_parts: Counter[str] = Counter()


def part_of(job: Job) -> int:
    """Which of the job's trainings in this process begins now, from 1."""
    _parts[job.key] += 1
    return _parts[job.key]


def identity(job: Job | None, part: int) -> dict[str, object]:
    """Of a run's card: whose it is. While somebody would start the process again, that is who keeps the run."""
    mine: dict[str, object] = {"pid": os.getpid(), "pid_started_s": started_s(os.getpid())}
    if job is None:
        return mine
    if job.keeper_pid is not None:
        mine = {"pid": job.keeper_pid, "pid_started_s": job.keeper_started_s}
    return {**mine, "job": job.key, "job_part": part}


def find_run(runs_dir: Path, job: Job, part: int) -> RunInfo | None:
    """The run that a job has begun and not completed, whose process is gone; None if there is none."""
    for info in list_runs(runs_dir):
        if (info.job, info.job_part) != (job.key, part) or info.status in COMPLETED:
            continue
        is_kept = info.pid is not None and info.pid != job.keeper_pid and is_alive(info.pid, info.pid_started_s)
        if not (info.is_live and is_kept):
            return info
    return None


def continue_run(
    runs_dir: Path, job: Job | None, part: int, environ: Mapping[str, str], **fields: object
) -> RunLog | None:
    """Open the log of the run that this job has begun, for its next attempt; None if there is none."""
    found = find_run(runs_dir, job, part) if job is not None and job.is_restart else None
    if found is None or job is None:
        return None
    log = RunLog.open(Path(found.path))
    if log.begin_attempt(job.by, failures_before(environ), **identity(job, part), **fields):
        return log
    log.close()
    return None


def failures_before(environ: Mapping[str, str]) -> str:
    """What ranks of the attempt before have left as their errors, by torchrun's error files of this machine."""
    path, count = Path(environ.get(ERROR_FILE, "")), environ.get("TORCHELASTIC_RESTART_COUNT", "")
    if not (path.name and count.isdecimal() and int(count) > 0):
        return ""
    before = path.parent.parent.parent / f"attempt_{int(count) - 1}"
    found = []
    for file in sorted(before.glob("*/error.json")):
        try:
            message = json.loads(file.read_text(encoding="utf-8"))["message"]["message"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written by a rank that was killed
        found.append(f"local rank {file.parent.name}: {clean(str(message), TEXT)}")
    return "; ".join(found)


# -- the state of the run ------------------------------------------------------------------------------------------


def take_up(log: RunLog, info: RunInfo, run_state: RunState, step: int) -> list[Record]:
    """Go on with the run's branches and checkpoints.

    Args:
        log: The run's.
        info: Its card.
        run_state: Of this process, which knows nothing of the run so far.
        step: At which the loop goes on.

    Returns:
        What is to be recorded.
    """
    checkpoints, left = run_state.checkpoints, _last_step(log, info)
    branches = checkpoints.branches = known_branches(log, info.branch)
    for saved in _saved(log):
        checkpoints.add(saved)
    bodies: list[Record] = []
    if left > step:
        text = f"goes on at step {step}; steps {step + 1} to {left} of {branches.current} are left behind"
        bodies.append(branches.start(branches.new_name(), branches.current, step))
    else:
        text = f"goes on at step {step}"
    return [NoteAdded(text=f"attempt {info.attempt} {text}", author="agenttune"), *bodies]


def _last_step(log: RunLog, info: RunInfo) -> int:
    """The last step that the log knows of: a killed process may have left no row of its newest ones."""
    newest = log.events(limit=RECENT_EVENTS, newest=True)
    return max([info.step, *(event.step or 0 for event in newest if event.branch == info.branch)])


def known_branches(log: RunLog, current: str) -> BranchTree:
    """The run's branches."""
    branches = BranchTree()
    for event in log.events(kinds=["branch_started"]):
        if isinstance(event.body, BranchStarted):
            branches.known[event.body.name] = event.body
    branches.current = current
    return branches


def _saved(log: RunLog) -> Iterator[SavedCheckpoint]:
    """The checkpoints of earlier attempts that still lie on disk; those in memory went with their process."""
    for event in log.events(kinds=["checkpoint_saved"], limit=10_000):
        body = event.body
        if isinstance(body, CheckpointSaved) and body.path and not body.is_before and Path(body.path).is_dir():
            yield SavedCheckpoint(
                body.path,
                event.step or 0,
                branch=event.branch,
                tag=body.tag,
                checkpoint_id=body.checkpoint_id,
                size_bytes=body.size_bytes,
                metric=body.metric,
                pinned=body.pinned,
                is_own=Path(body.path).is_relative_to(log.folder),
                kept_as=body.kept_as,
            )


def settle_open(log: RunLog, attempt: int, step: int, branch: str) -> None:
    """End the probation of what the attempt before has left open: those values are set and watched again."""
    for record in log.commands(State.APPLIED, limit=10_000):
        is_change = record.command.impact is Impact.CHANGE and not record.goes_back()
        if is_change and record.proposal.author.principal == "agent":
            reason = f"attempt {attempt - 1} ended before its probation was over; in force, it is watched anew"
            log.settle(record.command_id, Settled(outcome="kept", reason=reason), step, branch)
