"""What a model is told of a run costs the same after a hundred steps and after a hundred thousand, and is true."""

from __future__ import annotations

import math
import re
from dataclasses import fields

import pytest

from agenttune.commands import UpdateOptimizer
from agenttune.config import BudgetSettings
from agenttune.events import KnobState
from agenttune.findings import Finding
from agenttune.observation import Evaluation, Observation
from agenttune.policy.curves import number
from agenttune.policy.digest import Digest, UsedUp, digest, tokens_estimate
from agenttune.prompting import Prompts
from agenttune.proposals import Author, CommandRecord, Proposal, State, Verdict
from agenttune.summary import Intervention, MetricAt
from tests.llm.test_prompting import HOSTILE
from tests.policy.conftest import applied, decay, observe, view


def text_of(seen: Digest) -> str:
    return Prompts().render("llm_observation", **vars(seen)).text


def refused(step: int) -> CommandRecord:
    proposal = Proposal(command=UpdateOptimizer(lr=50.0), author=Author(principal="agent", name="llm"))
    verdict = Verdict(
        decision="rejected",
        decided_by="guardrail:bounds",
        reason="lr 50 is outside [1e-08, 10]",
        nearest_allowed={"lr": 10.0},
    )
    return CommandRecord(proposal=proposal, state=State.REJECTED, verdict=verdict, submitted_seq=1, submitted_step=step)


def long_run(steps: int) -> Observation:
    """A run with as many evaluations, findings, commands and notes as an observation can hold."""
    found = [
        Finding(kind="spike", severity="info", metric="step_loss", step=steps - i, summary="up") for i in range(50)
    ]
    seen = observe(
        decay(steps),
        grads=decay(steps, seed=1),
        max_steps=2 * steps,
        evals=[(steps * i // 50, 3.0 - i / 100) for i in range(1, 51)],
        findings=found,
        commands=[applied(steps - 50 + i, 0.1, "because " * 100) for i in range(50)],
    )
    return seen.model_copy(update={"notes": ["x" * 4000] * 50, "woken_by": ["finding spike"]})


def test_the_size_does_not_grow_with_the_run() -> None:
    sizes = {steps: len(text_of(digest(long_run(steps)))) for steps in (1000, 10_000, 100_000)}
    assert max(sizes.values()) < 1.1 * min(sizes.values())
    assert max(sizes.values()) < 16_000


def test_the_size_is_bounded_whatever_an_observation_holds() -> None:
    many = {f"metric_{i}_{'x' * 300}": view(f"metric_{i}", decay(2000)) for i in range(200)}
    knobs = [KnobState(name="k" * 500, effective="v" * 5000, unit="u" * 500, groups=[1.0] * 99) for _ in range(300)]
    seen = long_run(1000).model_copy(update={"series": many, "knobs": knobs, "woken_by": ["w" * 9999] * 99})
    metrics = {f"m{i}" * 50: 1.0 for i in range(500)}
    seen = seen.model_copy(update={"evaluations": [Evaluation(step=i, metrics=metrics) for i in range(50)]})
    assert len(text_of(digest(seen))) < 40_000


def test_numbers_have_four_digits_and_say_when_they_are_none() -> None:
    assert [number(v) for v in (0.123456, 1234567.0, 7, math.nan, math.inf, -math.inf, True, "a")] == [
        *("0.1235", "1.235e+06", "7", "NaN", "Infinity", "-Infinity", "True", "a")
    ]


def test_losses_that_are_not_finite_are_shown_as_such() -> None:
    shown = text_of(digest(observe([*decay(100), math.nan, math.inf])))
    assert "101:NaN 102:Infinity" in shown
    assert "2 of the last 102 points NOT FINITE" in shown
    assert "not finite at any of the last 5 points" in text_of(digest(observe([math.nan] * 5)))


def test_recent_points_are_dense_and_older_ones_thinned() -> None:
    [_, older, before, latest, *_] = digest(observe(decay(5000))).curves
    steps = {
        line.split(":")[0].strip(): [int(s) for s in re.findall(r"(\d+):", line)] for line in (older, before, latest)
    }
    assert steps["latest"] == list(range(4991, 5001))
    assert steps["older"][-1] < steps["before"][0] <= steps["before"][-1] < 4991
    assert steps["older"][0] < 1000


def test_first_best_and_newest_evaluations_stay() -> None:
    values = [(100 * i, 3.0 - i / 10 if i < 10 else 2.5) for i in range(1, 30)]
    lines = digest(observe(decay(3000), evals=values)).goal
    assert lines[0] == "step 100: <data>eval_loss</data> 2.9 (first)"
    assert "step 900: <data>eval_loss</data> 2.1 (best)" in lines
    assert lines[-1] == "step 2900: <data>eval_loss</data> 2.5 (newest)"
    assert len(lines) == 7


def test_the_best_is_the_highest_where_more_is_better() -> None:
    seen = observe(decay(300), evals=[(100, 0.4), (200, 0.9), (300, math.nan)])
    lines = digest(seen.model_copy(update={"goal_direction": "maximize"})).goal
    assert "step 200: <data>eval_loss</data> 0.9 (best)" in lines


def test_a_refusal_is_shown_with_what_would_have_passed() -> None:
    [line] = digest(observe(decay(100), commands=[refused(90)])).tried
    assert "REFUSED: <data>guardrail:bounds</data>: <data>lr 50 is outside [1e-08, 10]</data>" in line
    assert '{"lr": 10.0}' in line


def test_a_change_is_shown_with_the_metric_before_and_after_it() -> None:
    seen = observe(
        decay(400), evals=[(100, 2.0), (200, 3.0), (300, 1.5)], commands=[applied(210, 0.01), applied(350, 0.005)]
    )
    first, second = digest(seen).tried
    assert "applied at step 210: <data>lr 0.1 -> 0.01</data>" in first
    assert "goal metric 3 (step 200) before, 1.5 (step 300) after" in first
    assert "goal metric 1.5 (step 300) before, not measured after" in second


def test_the_measured_history_of_the_log_comes_first() -> None:
    measured = Intervention(
        command_id="c1",
        kind="update_optimizer",
        arguments={"lr": 0.01},
        author="llm",
        principal="agent",
        rationale="r",
        proposed_at_step=5,
        state=State.REVERTED,
        applied_at_step=6,
        summary="lr 0.1 -> 0.01",
        metric_before=MetricAt(step=4, value=2.0),
        metric_after=MetricAt(step=9, value=2.5),
    )
    [line] = digest(observe(decay(100)), [measured]).tried
    assert "reverted at step 6" in line
    assert "2 (step 4) before, 2.5 (step 9) after" in line


def test_findings_tell_their_age_and_budgets_what_is_left() -> None:
    finding = Finding(kind="divergence", severity="critical", metric="step_loss", step=80, summary="rose")
    seen = digest(
        observe(decay(100), findings=[finding]),
        budgets=BudgetSettings(max_usd=2.0, max_calls=50, max_tokens=1000),
        used=UsedUp(calls=12, tokens=900, usd=None),
    )
    assert seen.findings == ["critical divergence, 20 steps ago: <data>rose</data>"]
    assert seen.budget == [
        "commands left: 100",
        "calls of language models: 12 of 50 used",
        "tokens: 900 of 1000 used",
        "US dollars: an unknown part of 2 used",
    ]


def test_knobs_have_both_rates_bounds_and_unit() -> None:
    rate = KnobState(
        name="lr",
        base=0.1,
        effective=0.05,
        minimum=0.0,
        unit="1/step",
        groups=[0.05, 0.005],
        command="update_optimizer",
    )
    [line] = digest(observe([1.0]).model_copy(update={"knobs": [rate]})).knobs
    assert line == (
        "<data>lr</data>: effective 0.05 <data>1/step</data>, base 0.1, by parameter group [0.05, 0.005], "
        "allowed 0 to inf (update_optimizer)"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_texts_stay_in_their_fences(text: str) -> None:
    finding = Finding(kind="spike", severity="info", metric=text, step=1, summary=text)
    author = Author(principal="operator", name=text)
    command = CommandRecord(
        proposal=Proposal(command=UpdateOptimizer(lr=0.1), author=author, rationale=text),
        state=State.REJECTED,
        verdict=Verdict(decision="rejected", decided_by=text, reason=text, nearest_allowed={text: text}),
        submitted_seq=1,
    )
    knob = KnobState(name=text, effective=text, unit=text, command=text)
    seen = observe(decay(50), findings=[finding], commands=[command]).model_copy(
        update={
            "series": {text: view(text, decay(50))},
            "evaluations": [Evaluation(step=1, metrics={text: 1.0})],
            "knobs": [knob, knob.model_copy(update={"effective": {text: [text]}})],
            "notes": [text],
            "woken_by": [text],
            "branch": text,
            "goal_metric": text,
        }
    )
    shown = text_of(digest(seen))
    outside = re.sub(r"<(data|note)>[^<]*</\1>", "", shown)
    assert "<" not in outside
    assert "SYSTEM" not in outside
    assert "Rules" not in outside


def test_a_digest_of_nothing_says_so() -> None:
    shown = text_of(digest(observe()))
    assert "no evaluation yet" in shown
    assert "nothing yet" in shown
    assert {f.name for f in fields(Digest)} >= {"progress", "curves", "tried"}


def test_tokens_are_estimated_from_the_length() -> None:
    assert [tokens_estimate(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
