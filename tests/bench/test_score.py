"""Real runs as the benchmark measures them: what pairs with what, and what is said where there are too few."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agenttune.bench.cell import NONE
from agenttune.bench.faults import AS_IT_WAS
from agenttune.bench.metrics import cell_figures
from agenttune.bench.score import ScoredRuns, score_runs
from agenttune.bench.standings import standings
from agenttune.cli import app
from agenttune.errors import UserError
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.events import BranchStarted, Evaluated, Found, PolicyAttached, RunStarted, StatusChanged
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Author, Proposal, Verdict
from agenttune.protocol.run_info import RunInfo, RunStatus
from agenttune.store.run_log import RunLog


def write_run(
    runs: Path,
    name: str,
    final: float,
    policy: str = "",
    args: str = "",
    status: RunStatus = "finished",
    returns: bool = False,
) -> None:
    """The log of a run with two evaluations; `returns`: it went back to step 50 in between."""
    info = RunInfo(run_id=name, name="run", status="starting", created_at_s=1000.0 + len(list(runs.glob("*"))),
                   started_at_s=1000.0, max_steps=100)  # fmt: skip
    log = RunLog.create(runs / name, info)
    log.append(RunStarted(framework="a test", pid=1, max_steps=100), StatusChanged(status="running"))
    log.append(BranchStarted(name="main"))
    if policy:
        log.append(PolicyAttached(policy=policy))
    log.append_points(Point(step=step, at_s=1000.0 + step, values={"step_loss": 1.0}) for step in (1, 60))
    log.append(Evaluated(metrics={"eval_loss": 2.0}), step=60)
    branch = "main"
    if returns:
        branch = "b1"
        log.append(BranchStarted(name=branch, parent="main", from_step=50), step=50, branch=branch)
        log.update_info(branch=branch)
    log.append_points(Point(step=s, at_s=1100.0 + s, values={"step_loss": 1.0}, branch=branch) for s in (61, 100))
    if returns:
        log.append(Found(finding=Finding(kind="spike", severity="info", metric="loss", step=80, summary="up")), step=80)
        late = Proposal(command=UpdateOptimizer(lr=0.1), author=Author(principal="agent", name="a"), based_on_step=80)
        log.submit(late, Verdict(decision="rejected", decided_by="a test"))
    log.append(Evaluated(metrics={"eval_loss": final}), step=100, branch=branch)
    log.append(StatusChanged(status=status, reason="out of memory" if status == "failed" else ""))
    log.close()
    (runs / name / "config.yaml").write_text(f"run:\n  script: train.py\n  args: [{args}]\nfurther: of any version\n")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Six seeds with and without a policy, which helps."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed in range(6):
        write_run(folder, f"plain-{seed}", 0.5 + seed / 100, args=f"--lr, 0.1, --seed, {seed}")
        write_run(folder, f"ruled-{seed}", 0.3 + seed / 90, "guardian", f"--lr, 0.1, --seed={seed}", returns=seed == 0)
    return folder


def places(found: ScoredRuns) -> dict[str, str | None]:
    kinds = {AS_IT_WAS.name: AS_IT_WAS}
    return {s.contender: s.verdict for s in standings(cell_figures(found.results, found.tasks, kinds))}


def test_runs_of_one_script_pair_by_their_seed(runs: Path) -> None:
    found = score_runs(runs)
    assert len({result.cell.scenario.name for result in found.results}) == 1
    assert not found.notes
    assert places(found) == {"guardian": "better", NONE: None}
    first = next(r for r in found.results if r.cell.contender == "guardian" and r.cell.seed == 0)
    assert first.outcome.trained is not None
    assert first.outcome.trained.total_steps == 110, "ten steps were undone, and made all the same"
    assert [point.total_steps for point in first.outcome.trained.evaluations] == [60, 110]
    assert first.outcome.found_steps == [90], "findings and commands are counted by total steps, as in a suite"
    assert [(i.step, i.total_steps) for i in first.outcome.interventions] == [(80, 90)]


def test_too_few_runs_or_no_pairs_are_said(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with pytest.raises(UserError, match=r"no run in .* has ended"):
        score_runs(runs)
    write_run(runs, "ruled", 0.3, "guardian", "--seed, 1")
    write_run(runs, "unseeded", 0.3, "guardian")
    write_run(runs, "live", 0.3, "guardian", "--seed, 2", status="running")
    told = " ".join(score_runs(runs).notes)
    assert "no run without a policy" in told
    assert "1 run without a seed" in told
    assert "live is running" in told
    write_run(runs, "plain", 0.5, "noop", "--seed, 1")
    assert "have 1 seed in common; 5 are the least" in " ".join(score_runs(runs).notes)


def test_a_run_that_failed_counts(runs: Path) -> None:
    write_run(runs, "broken", 0.1, "guardian", "--lr, 0.1, --seed, 9", status="failed")
    write_run(runs, "whole", 0.5, "", "--lr, 0.1, --seed, 9")
    found = score_runs(runs)
    broken = next(r for r in found.results if r.cell.seed == 9 and r.cell.contender == "guardian")
    assert broken.state == "failed"
    assert "out of memory" in broken.outcome.failure


def test_the_command_writes_a_report_that_leads_to_the_runs(runs: Path, tmp_path: Path) -> None:
    write_run(runs, "harmful", 0.9, "guardian", "--lr, 0.1, --seed, 7")
    write_run(runs, "harmless", 0.5, "", "--lr, 0.1, --seed, 7")
    done = CliRunner().invoke(app, ["bench", "score", str(runs), "--out", str(tmp_path / "score")])
    assert done.exit_code == 0, done.output
    assert "guardian" in done.output
    page = (tmp_path / "score" / "report.html").read_text()
    assert "real runs" in page
    assert "TEST RANGE" not in page
    links = re.findall(r'href="(report-runs/[^"]+)"', page)
    assert len(links) == 1
    assert "harmful" in (tmp_path / "score" / links[0]).read_text()
