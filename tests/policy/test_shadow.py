"""A policy in shadow touches nothing, and can be judged afterwards by what it would have done."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.base import PolicyContext
from agenttune.policy.load import load_policy
from agenttune.protocol.commands import CommandBase, DoEvaluate, SetKnob, UpdateOptimizer
from agenttune.protocol.events import Decided, Evaluated, Found, KnobsRead, Shadowed
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, Change, Proposal, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.journal.run_summary import summarize
from agenttune.store.journal.shadow_evaluation import aims, shadow_evaluation
from agenttune.store.run_log import RunLog
from agenttune.views.report import print_report, read_journal
from tests.policy.conftest import AGENT, SteeredRun, Valley

APPROVED = Verdict(decision="approved", decided_by="auto")


def diverging(runs_dir: Path, policy_text: str, folder: Path) -> SteeredRun:
    """A run at a far too high rate, to the end, with a policy beside it."""
    run, control = SteeredRun(runs_dir, Valley(lr=0.5)), LocalControl(runs_dir)
    path = folder / "p.yaml"
    path.write_text(policy_text, encoding="utf-8")
    policy = load_policy(str(path), PolicyContext(folder, environ={}))
    loop = AgentLoop(control, "r1", policy, WakeSettings(), clock_s=lambda: 0.0)
    for _ in range(12):
        for _ in range(10):
            run.step()
        assert loop.tick()
    run.finish()
    loop.tick()
    return run


def test_in_shadow_the_guardian_touches_nothing_and_is_recorded(runs_dir: Path, tmp_path: Path) -> None:
    run = diverging(runs_dir, "type: shadow\npolicy: guardian\n", tmp_path)
    plain = Valley(lr=0.5)
    for _ in range(120):
        plain.step()
    assert run.log.commands() == []
    assert run.valley.losses == plain.losses
    score = summarize(run.log).shadow
    run.close()
    assert score is not None
    assert score.alone == len(score.proposals) >= 2
    assert score.proposals[0].kind == "update_optimizer"
    assert score.proposals[0].arguments["lr"] < 0.5
    assert score.proposals[0].rationale.startswith("cut_far: ")


def test_a_shadow_of_the_same_policy_beside_the_real_one_agrees(runs_dir: Path, tmp_path: Path) -> None:
    both = "type: escalation\npolicies: [{type: shadow, policy: guardian}, guardian]\n"
    run = diverging(runs_dir, both, tmp_path)
    score = summarize(run.log).shadow
    run.close()
    assert score is not None
    assert (score.agreed, score.opposed, score.alone) == (len(score.proposals), 0, 0)
    assert "p at step" in score.proposals[0].done


def shadowed(log: RunLog, step: int, command: CommandBase) -> None:
    body = Decided(policy="llm", woken_by="x", based_on_step=step, shadowed=[Shadowed(command=command)])
    log.append(body, step=step)


def done(log: RunLog, step: int, before: float, after: float) -> None:
    proposal = Proposal(command=UpdateOptimizer(lr=after), author=AGENT)
    log.submit(proposal, APPROVED)
    change = Change(name="lr", previous=before, requested=after, effective=after)
    log.acknowledge(proposal.command_id, Ack(outcome="applied", step=step, changes=[change]))


def history(runs_dir: Path) -> RunLog:
    """A run of 400 steps at a rate of 0.1, raised at 120, evaluated every 50."""
    log = RunLog.create(runs_dir / "r1", RunInfo(run_id="r1", name="r1", status="running", created_at_s=0.0))
    rate = KnobState(name="lr", base=0.1, effective=0.1, command="update_optimizer")
    log.append(KnobsRead(knobs=[rate, KnobState(name="noise", effective=0.5)]), step=0)
    for step in range(1, 401):
        lr = 0.1 if step <= 120 else 0.3
        log.append_points([Point(step=step, at_s=float(step), values={"step_loss": 5.0 - step / 100, "lr": lr})])
        if step % 50 == 0:
            log.append(Evaluated(metrics={"eval_loss": 5.0 - step / 100}), step=step)
        if step == 120:
            done(log, step, 0.1, 0.3)
        if step == 350:
            critical = Finding(kind="divergence", severity="critical", metric="step_loss", step=350, summary="x")
            log.append(Found(finding=critical), step=350)
    return log


def test_hindsight_compares_kind_and_direction_and_says_what_came_of_it(runs_dir: Path) -> None:
    log = history(runs_dir)
    shadowed(log, 100, UpdateOptimizer(lr=0.2))
    shadowed(log, 100, UpdateOptimizer(lr=0.01))
    shadowed(log, 110, DoEvaluate())
    shadowed(log, 300, UpdateOptimizer(lr=0.2))
    score = shadow_evaluation(log)
    log.close()
    assert score is not None
    assert [p.hindsight for p in score.proposals] == ["agreed", "opposed", "alone", "alone"]
    assert (score.agreed, score.opposed, score.alone, score.alone_before_critical) == (1, 1, 2, 1)
    first, _, _, last = score.proposals
    assert first.done == "tests at step 120: lr 0.1 -> 0.3"
    assert first.metric_before is not None
    assert first.metric_after is not None
    assert (first.metric_before.step, first.metric_after.step) == (100, 200)
    assert (last.done, last.critical_after, first.critical_after) == ("", True, False)


def test_the_direction_is_that_from_the_value_at_the_time() -> None:
    knobs = {"lr": KnobState(name="lr", base=1.0, effective=0.1), "noise": KnobState(name="noise", effective=0.5)}
    assert aims(UpdateOptimizer(lr=0.2), knobs) == {"lr": 1}
    assert aims(UpdateOptimizer(lr=0.2, lr_sets="base"), knobs) == {"lr": -1}
    assert aims(UpdateOptimizer(lr=0.1, weight_decay=0.1), knobs) == {"lr": 0}
    assert aims(SetKnob(name="noise", value=0.1), knobs) == {"noise": -1}
    assert aims(DoEvaluate(), knobs) == {}


def test_the_report_shows_the_score_and_has_none_without_a_shadow(runs_dir: Path) -> None:
    log = history(runs_dir)
    assert summarize(log).shadow is None
    shadowed(log, 100, UpdateOptimizer(lr=0.2))
    console = Console(record=True, width=140, file=io.StringIO())
    print_report(console, read_journal(log))
    log.close()
    shown = " ".join(console.export_text().split())
    assert "update_optimizer lr 0.2" in shown
    assert "agreed" in shown
    assert "in shadow: 1 agreed, 0 opposed, 0 alone" in shown


def test_a_policy_that_stood_in_the_shadow_for_long_has_its_report_at_once(runs_dir: Path) -> None:
    """A reading of the whole log, or of curves, for each of thousands of proposals takes minutes."""
    log = history(runs_dir)
    for step in range(1, 401):
        shadowed(log, step, UpdateOptimizer(lr=0.2))
    work: list[int] = []

    def count() -> int:
        work.append(1)
        return 0  # anything else would interrupt the query

    log._db.set_progress_handler(count, 1000)
    try:
        score = shadow_evaluation(log)
    finally:
        log._db.set_progress_handler(None, 0)
        log.close()
    assert score is not None
    assert [p.hindsight for p in score.proposals].count("agreed") == 101  # the raise at 120 is within 100 steps of 20
    assert sum(p.critical_after for p in score.proposals) == 100
    assert len(work) < 150, f"{len(work)} thousand operations of SQLite's machine"
