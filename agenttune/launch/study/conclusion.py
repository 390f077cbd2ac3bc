"""What a run of a study came to, read from its log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from agenttune.control.owner_token import LAUNCHER
from agenttune.errors import StoreFault, UnknownRun
from agenttune.launch.study.records import RunConcluded, RunOutcome
from agenttune.launch.study.state import RoundRun
from agenttune.policy.llm.past_runs import PastRun
from agenttune.protocol.commands import StopTraining
from agenttune.protocol.model_calls import Cost
from agenttune.protocol.summary import Intervention, RunSummary
from agenttune.store.journal.observer import Observer
from agenttune.store.journal.run_summary import model_calls, summarize
from agenttune.store.run_log import RunLog, run_folder

log = logging.getLogger(__name__)


def summary_of(runs_dir: Path, run_id: str) -> RunSummary:
    """A run's report.

    Raises:
        UnknownRun, StoreFault: Its log is gone, or cannot be read.
    """
    with contextlib.closing(RunLog.open(run_folder(runs_dir, run_id))) as log:
        return summarize(log)


def past_runs(runs_dir: Path, runs: Sequence[RoundRun]) -> dict[str, PastRun]:
    """The course of each of these runs, by its id; one whose log is gone or cannot be read is left out, and logged."""
    found = {}
    for run in runs:
        try:
            found[run.run_id] = _past_run(runs_dir, run)
        except (UnknownRun, StoreFault) as error:
            log.warning("run %s is shown without its curves: %s", run.run_id, error)
    return found


def _past_run(runs_dir: Path, run: RoundRun) -> PastRun:
    with contextlib.closing(RunLog.open(run_folder(runs_dir, run.run_id))) as opened:
        info = opened.info()
        seen = Observer().observe(opened, info, info.ended_at_s or info.created_at_s, None)
    return PastRun(seen, run.duration_s)


def conclusion(runs_dir: Path, run_id: str, watched: bool, interrupted: bool = False) -> RunConcluded:
    """What a run came to.

    Args:
        runs_dir: The folder of runs.
        run_id: A run whose process has ended.
        watched: Whether this process saw its end, and did not find it in the log afterwards.
        interrupted: Whether the user interrupted it then.

    Raises:
        UnknownRun, StoreFault: Its log is gone, or cannot be read.
    """
    with contextlib.closing(RunLog.open(run_folder(runs_dir, run_id))) as log:
        summary = summarize(log)
        cost = Cost.of(model_calls(log))
    return RunConcluded(
        run_id=run_id,
        outcome=_outcome(summary, watched, interrupted),
        reason=summary.run.status_reason,
        steps=summary.run.step,
        duration_s=summary.duration_s,
        score=summary.score,
        commands=sum(i.applied_at_step is not None for i in summary.interventions),
        findings=len(summary.findings),
        calls=cost.calls,
        tokens=cost.tokens,
        usd=cost.whole_usd,
    )


def _outcome(summary: RunSummary, watched: bool, interrupted: bool) -> RunOutcome:
    status = summary.run.status
    if status == "finished":
        return "finished"
    if status == "stopped":
        return "interrupted" if any(map(_is_our_stop, summary.interventions)) else "stopped"
    if interrupted or status == "interrupted":
        return "interrupted"
    # A script that was killed under our eyes, say for its memory, is a result; one found dead later may be anything.
    return "failed" if watched or status == "failed" else "lost"


def _is_our_stop(item: Intervention) -> bool:
    asked = item.kind == StopTraining.kind_name() and item.principal == "operator" and item.author == LAUNCHER
    return asked and item.applied_at_step is not None
