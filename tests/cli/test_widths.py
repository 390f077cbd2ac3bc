"""However wide the terminal is: status, steps, goal and values stand there whole; a reason is folded, never cut."""

from __future__ import annotations

from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import MetricAt, Score
from agenttune.store.journal.goal_metric import goal_values, score_of
from agenttune.views.report import print_report, read_journal
from agenttune.views.terminal import print_runs
from tests.cli.conftest import agenttune
from tests.cli.history import finish, rescued_run

REASON = "the data loader's worker 3 was killed by signal 9 while it read shard 00017, see the log of the machine " * 2
WIDTHS = [60, 80, 120, 200]


def shown_at(width: int, runs: list[tuple[RunInfo, Score | None]]) -> list[str]:
    file = StringIO()
    print_runs(Console(file=file, width=width), runs)
    return file.getvalue().splitlines()


def score(metric: str, last: float, best: float) -> Score:
    at = [MetricAt(step=step, value=value) for step, value in ((10, best), (20, last))]
    return Score(metric=metric, direction="minimize", first=at[0], last=at[1], best=at[0])


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
