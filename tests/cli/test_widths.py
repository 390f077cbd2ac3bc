"""However wide the terminal is: status, steps, goal and values stand there whole; a reason is folded, never cut."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from agenttune.protocol.overview import GoalOverview
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.goal_metric import goal_values, score_of
from agenttune.store.run_catalog import RunCatalog
from agenttune.views.report import print_report, read_journal
from agenttune.views.terminal import print_runs
from tests.cli.conftest import agenttune
from tests.cli.history import finish, rescued_run

REASON = "the data loader's worker 3 was killed by signal 9 while it read shard 00017, see the log of the machine " * 2
WIDTHS = [60, 80, 120, 200]


def shown_at(width: int, runs: list[tuple[RunInfo, GoalOverview | None]]) -> list[str]:
    file = StringIO()
    print_runs(Console(file=file, width=width), runs)
    return file.getvalue().splitlines()


def score(metric: str, last: float, best: float) -> GoalOverview:
    return GoalOverview(metric=metric, direction="minimize", newest=last, newest_step=20, best=best, best_step=10)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["run", "a-rather-long-name-of-an-experiment-x7"])
def test_the_list_of_runs_keeps_its_facts(width: int, name: str) -> None:
    run_id = f"{name}-20261127-160029"
    info = RunInfo(run_id=run_id, name=name, status="interrupted", created_at_s=1e9, step=81, max_steps=100_000)
    failed = info.model_copy(update={"status": "failed", "status_reason": REASON})
    lines = shown_at(width, [(info, score("eval_accuracy", 0.8125, 0.9)), (failed, None)])
    text = " ".join(" ".join(lines).split())
    for fact in (run_id, "interrupted", "failed", "81/100000", "eval_accuracy 0.8125 (best 0.9)", REASON.strip()):
        assert fact in text, fact
        assert fact == REASON.strip() or any(fact in line for line in lines), f"{fact} is broken"
    assert all(len(line.rstrip()) <= width for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_keeps_its_facts(tmp_path: Path, width: int) -> None:
    with closing(rescued_run(tmp_path / "runs" / "demo-1")) as log:
        finish(log)
        log.update_info(goal_metric="eval_loss")
        journal = read_journal(log)
    [first, *rest] = journal.entries
    proposal = first.record.proposal.model_copy(update={"rationale": REASON})
    first = first.model_copy(update={"record": first.record.model_copy(update={"proposal": proposal})})
    file = StringIO()
    print_report(Console(file=file, width=width), journal.model_copy(update={"entries": [first, *rest]}))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    facts = (
        "demo-1 finished",
        "eval_loss 2.25 at step 100 (less is better)",
        "lr 0.5 -> 0.05",
        "not clear",
    )
    for fact in facts:
        assert any(fact in line for line in lines), f"{fact} is broken in\n" + "\n".join(lines)
    assert REASON.strip() in " ".join(file.getvalue().split())
    assert all(len(line) <= width for line in lines if "log.db" not in line)


def test_a_goal_with_a_long_name_is_named_whole(tmp_path: Path) -> None:
    log = rescued_run(tmp_path / "runs" / "demo-1")
    log.update_info(goal_metric="eval_validation_perplexity_per_word")
    log.close()
    said = " ".join(agenttune("report", cwd=tmp_path).out.split())
    assert "minimize eval_validation_perplexity_per_word, which was never logged; shown instead: eval_loss" in said


def test_the_list_shows_what_the_goal_metric_reached(tmp_path: Path) -> None:
    with closing(rescued_run(tmp_path / "runs" / "demo-1")) as log:
        reached = score_of(goal_values(log, log.info(), "main"), log.info())
    assert reached is not None
    assert "eval_loss 2.25" in agenttune("runs", cwd=tmp_path).out


def test_the_list_of_a_thousand_runs_is_told_without_opening_their_logs_again(tmp_path: Path) -> None:
    """Each `agenttune runs` is a process of its own, which knows nothing of what the one before has read."""
    with closing(rescued_run(tmp_path / "runs" / "r0")) as log:
        finish(log)
    for number in range(1, 30):
        shutil.copytree(tmp_path / "runs" / "r0", tmp_path / "runs" / f"r{number}")
    for path in tmp_path.glob("runs/*/log.db"):
        os.utime(path, (time.time() - 100, time.time() - 100))
    first = agenttune("runs", cwd=tmp_path).out
    assert first.count("eval_loss 2.25") == 30
    for path in tmp_path.glob("runs/*/log.db"):
        written = path.stat()
        path.write_bytes(b"x" * written.st_size)  # whoever opens it now cannot read it
        os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert agenttune("runs", cwd=tmp_path).out == first
    assert RunCatalog(tmp_path / "runs").newest() in {f"r{number}" for number in range(30)}, "of a copied folder too"
