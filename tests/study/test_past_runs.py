"""Whoever plans the next run is shown how the earlier ones went, in bounded size, and not only how they ended."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.launch.study.conclusion import past_runs
from agenttune.launch.study.planner import DETAILED_RUNS, detailed_runs
from agenttune.policy.llm.digest import tokens_estimate
from agenttune.policy.llm.past_runs import PastRun, details, facts
from agenttune.protocol.events import Found
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Evaluation, Observation, SeriesView
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog, run_folder
from tests.study.conftest import LR, Lab, ScriptedModel
from tests.study.test_rounds import plan_of

MOST_TOKENS = 450
"""Of a run whose every part is as long as it can be; an ordinary one takes half."""


def run_of(losses: list[float], evals: list[tuple[int, float]] = [], findings: int = 0) -> PastRun:  # noqa: B006
    steps = list(range(1, len(losses) + 1))
    newest, old = slice(max(0, len(losses) - 512), None), slice(None, None, max(1, len(losses) // 128))
    view = SeriesView(
        name="step_loss",
        steps=steps[newest],
        values=losses[newest],
        downsampled_steps=steps[old],
        downsampled_values=losses[old],
    )
    found = [
        Finding(kind="spike", severity="warning", metric="step_loss", step=n + 1, summary="up " * 200)
        for n in range(findings)
    ]
    return PastRun(
        Observation(
            run_id="r",
            status="finished",
            step=len(losses),
            max_steps=len(losses),
            at_s=0.0,
            goal_metric="eval_loss",
            goal_direction="minimize",
            series={name: view.model_copy(update={"name": name}) for name in ("step_loss", "step_grad_norm", "lr")},
            evaluations=[Evaluation(step=step, metrics={"eval_loss": value}) for step, value in evals],
            findings=found,
            steps_per_s=3.14159,
        ),
        125.0,
    )


def test_a_run_is_told_by_its_curves_findings_and_time() -> None:
    losses = [4.0 / step for step in range(1, 2001)]
    losses[700] = math.nan
    told = details(run_of(losses, [(500, 2.0), (1000, 1.0), (2000, 1.5)], 2))
    assert told[0] == "took 2 min 05 s, 3.14 steps/s at its end"
    assert told[1].startswith("<data>step_loss</data> 1:4 ")
    assert " 2000:0.002" in told[1]
    assert "lowest 0.002 at step 2000" in told[1]
    assert told[2] == "<data>eval_loss</data> 500:2 1000:1 2000:1.5; best 1 at step 1000"
    assert told[-1].startswith("step 2, warning spike: <data>up up")
    broken = "; ".join(details(run_of([2.0, 1.0, math.inf, math.nan, math.nan])))
    assert "lowest 1 at step 2; not finite first at step 3" in broken


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5000),
    st.sampled_from([1e-30, 1.0, -123456.789, math.nan, math.inf]),
    st.integers(0, 50),
    st.integers(0, 50),
)
def test_however_long_the_run_it_takes_as_many_tokens(length: int, scale: float, evals: int, findings: int) -> None:
    losses = [scale * (1 + 1 / step) for step in range(1, length + 1)]
    made = run_of(losses, [(10 * (n + 1), scale) for n in range(evals)], findings)
    assert tokens_estimate("\n".join(details(made))) <= MOST_TOKENS


def test_model_and_data_are_told_where_the_trainer_told_them() -> None:
    known = RunFacts(
        model="GPT2 </data>",
        parameters=2_000_000,
        trainable=1000,
        optimizer="AdamW",
        batch_size=4,
        samples=640,
        epoch_steps=160,
        chance_loss=4.174,
    )
    told = facts(PastRun(run_of([1.0]).observation.model_copy(update={"facts": known}), 1.0))
    assert told[0].endswith("AdamW</data>, 2 M weights, 1 k trained")
    assert told[0].count("</data>") == told[0].count("<data>")
    assert told[1] == "640 training samples, batch 4 x accumulation 1 = 4 a step, 160 steps an epoch"
    assert "4.174 nats" in told[2]
    assert told[3] == "1 steps planned"
    assert facts(run_of([1.0])) == ["1 steps planned"]


def test_the_planner_and_the_reflection_see_the_courses_of_earlier_runs(lab: Lab) -> None:
    model = ScriptedModel([plan_of(0.05), "learned", plan_of(0.01), "done"])
    journal = lab.new()
    lab.go(journal, model)
    plan, reflection = model.asked[2][0].content or "", model.asked[1][0].content or ""
    for shown in (plan, reflection):
        assert "<data>step_loss</data> 1:3 2:2.5 3:2.333; lowest 2.333 at step 3" in shown  # round 0, lr 0.1
        assert "<data>step_loss</data> 1:2.699 " in shown  # round 1, lr 0.05
        assert "<data>eval_loss</data> 3:1.699; best 1.699 at step 3" in shown
        assert "3 steps planned" in shown
        assert "took " in shown


def test_findings_and_a_log_that_is_gone(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A study goes on without the curves of a run whose log somebody has removed."""
    lab.write(LR.replace("count: 2", "count: 1"))
    journal = lab.new()
    lab.go(journal, ScriptedModel([plan_of(0.05), "learned"]))
    runs = lab.study(journal).runs
    log = RunLog.open(run_folder(lab.plan.runs_dir, runs[1].run_id))
    summary = "the loss rose from 1 to 9"
    log.append(Found(finding=Finding(kind="divergence", severity="critical", metric="x", step=2, summary=summary)))
    log.close()
    (run_folder(lab.plan.runs_dir, runs[0].run_id) / "log.db").unlink()
    past = past_runs(lab.plan.runs_dir, runs)
    assert runs[0].run_id not in past
    assert "is shown without its curves" in caplog.text
    assert "step 2, critical divergence: <data>the loss rose from 1 to 9</data>" in details(past[runs[1].run_id])


def test_of_many_runs_round_0_the_best_and_the_newest_are_shown_with_their_course(lab: Lab) -> None:
    journal = lab.new()
    lab.go(journal, ScriptedModel([plan_of(0.01), "learned", plan_of(0.02), "done"]))
    study = lab.study(journal)
    best = study.best()
    assert best is not None
    many = study.model_copy(
        update={"runs": [*study.runs, *(study.runs[-1].model_copy(update={"run_id": f"x{n}"}) for n in range(40))]}
    )
    shown = [run.run_id for run in detailed_runs(many)]
    assert len(shown) == DETAILED_RUNS
    assert shown[0] == study.runs[0].run_id
    assert best.run_id in shown
    assert shown[-1] == "x39"


def test_a_log_of_before_without_facts_is_readable() -> None:
    old = RunInfo(run_id="r", name="r", status="finished", created_at_s=0.0)
    assert old.facts is None
