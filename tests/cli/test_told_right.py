"""What a stranger reads after a run: what changed it stands apart from what only looked, and a plan's gaps are told."""

from __future__ import annotations

from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from agenttune.control.owner_token import LAUNCHER
from agenttune.policy.load import open_policy
from agenttune.protocol.commands import AddNote, SetKnob, StopTraining, UpdateOptimizer
from agenttune.protocol.events import PolicyAttached, StatusChanged
from agenttune.protocol.proposals import Ack, Author, Change, Proposal, Verdict
from agenttune.replay.distill import distill
from agenttune.store.run_log import RunLog
from agenttune.views.report import print_report, read_journal
from tests.cli.conftest import agenttune
from tests.cli.history import AGENT, new_log, rescued_run

APPROVED = Verdict(decision="approved", decided_by="auto")
ANN = Author(principal="operator", name="ann")
PLAN = """\
type: schedule
tolerance_steps: 5
entries:
  - {at_step: 10, do: {command: update_optimizer, lr: 0.02}}
  - {at_step: 20, do: {command: update_optimizer, lr: 0.01}}
  - {at_step: 198, do: {command: update_optimizer, lr: 0.001}}
"""


def report_of(log: RunLog, width: int = 80) -> str:
    file = StringIO()
    print_report(Console(file=file, width=width), read_journal(log))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_only_what_changed_the_run_stands_under_changed(tmp_path: Path, width: int) -> None:
    with closing(rescued_run(tmp_path / "runs" / "demo-1")) as log:
        for command, outcome in ((AddNote(text="hello"), "applied"), (SetKnob(name="x", value=1), "failed")):
            proposal = Proposal(command=command, author=ANN)
            log.submit(proposal, APPROVED)
            message = "there is no knob x" if outcome == "failed" else ""
            log.acknowledge(proposal.command_id, Ack(outcome=outcome, step=90, message=message))
        told = report_of(log, width)
    lines = [line.rstrip() for line in told.splitlines()]
    changed, else_asked = (
        lines.index(h) for h in ("What was changed, why, and what came of it", "What else was asked")
    )
    assert "applied, step 61: lr 0.5 -> 0.05, by guardian (agent)" in lines[changed:else_asked]
    assert any(line.startswith("effect  not clear: step_loss") for line in lines)
    assert "applied, step 90: add_note, by ann (operator)" in lines[else_asked:]
    failed = lines[lines.index("failed, step 100: set_knob name x, value 1, by ann (operator)", else_asked) + 1]
    assert failed.startswith("failed at step 90 on branch main")
    assert "there is no knob x" in told
    assert "no reason was given" not in told


def test_entries_of_a_plan_that_were_not_carried_out_are_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    with closing(new_log(tmp_path / "runs" / "fast-1", max_steps=200)) as log:
        log.append(PolicyAttached(policy="plan", details=open_policy(str(path)).details))
        proposal = Proposal(command=UpdateOptimizer(lr=0.01), author=AGENT, rationale="at_20: as planned")
        log.submit(proposal, APPROVED)
        change = Change(name="lr", previous=0.1, requested=0.01, effective=0.01)
        log.acknowledge(proposal.command_id, Ack(outcome="applied", step=21, changes=[change]))
        log.update_info(step=200)
        log.append(StatusChanged(status="finished"), step=200)
        told = " ".join(report_of(log).split())
    assert "plan: step 10: update_optimizer lr 0.02: dropped, the run was more than 5 steps further" in told
    assert "plan: step 198: update_optimizer lr 0.001: the run ended at step 200 before its turn" in told
    assert "plan: step 20:" not in told


def test_a_plan_made_of_a_run_does_not_stop_where_a_person_interrupted_it(tmp_path: Path) -> None:
    with closing(rescued_run(tmp_path / "runs" / "demo-1")) as log:
        launcher = Author(principal="operator", name=LAUNCHER)
        stop = Proposal(command=StopTraining(), author=launcher, rationale="SIGINT in the terminal")
        log.submit(stop, APPROVED)
        log.acknowledge(stop.command_id, Ack(outcome="applied", step=100))
        plan = distill(log)
    assert [entry.do["command"] for entry in plan.entries] == ["update_optimizer"]
    assert "somebody interrupted that run (SIGINT in the terminal)" in plan.text


def test_check_tells_of_a_runs_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("", encoding="utf-8")
    (tmp_path / "config.yaml").write_text("run: {script: train.py}\n", encoding="utf-8")
    (tmp_path / "runs").write_text("in the way", encoding="utf-8")
    checked = agenttune("check", cwd=tmp_path)
    assert checked.code == 2
    assert "runs is in the way" in checked.err
    assert agenttune("check", "--runs-dir", "runs/below/it", cwd=tmp_path).code == 2
    assert agenttune("check", "--runs-dir", "other", cwd=tmp_path).code == 0
    assert not (tmp_path / "other").exists()


def test_check_tells_of_a_missing_script_and_a_wrong_key_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "run: {script: nope.py}\ngoal: {metric: loss, direction: up}\n", encoding="utf-8"
    )
    checked = agenttune("check", cwd=tmp_path)
    assert checked.code == 2
    for words in ("config.yaml:1: run.script: there is no file", "config.yaml:2: goal.direction"):
        assert words in checked.err


@pytest.mark.parametrize("words", [("detach", "latest"), ("swap", "latest", "--policy", "noop"), ("attach", "latest")])
def test_a_run_can_be_named_where_a_url_can(tmp_path: Path, words: tuple[str, ...]) -> None:
    new_log(tmp_path / "runs" / "demo-1").close()
    answer = agenttune(*words, cwd=tmp_path)
    assert answer.code == 2
    assert "no control server serves runs" in answer.err
