"""What a model is told of a run costs the same after a hundred steps and after a hundred thousand, and is true."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from statistics import median
from typing import Any

import pytest

from agenttune.config import BudgetSettings
from agenttune.llm.prompts import Prompts
from agenttune.policy.llm.digest import Digest, digest, tokens_estimate
from agenttune.protocol.commands import UpdateOptimizer, parse_command
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.model_calls import Ledger
from agenttune.protocol.observation import CheckpointView, Evaluation, Observation, Resolution
from agenttune.protocol.proposals import Ack, Author, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_facts import Rhythm, RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.protocol.summary import Effect, Intervention
from agenttune.protocol.text import number
from agenttune.testing.situations import series_view
from tests.llm_policy.test_prompting import HOSTILE
from tests.policy.conftest import applied, decay, observe


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
    many = {f"metric_{i}_{'x' * 300}": series_view(f"metric_{i}", decay(2000)) for i in range(200)}
    knobs = [KnobState(name="k" * 500, effective="v" * 5000, unit="u" * 500, groups=[1.0] * 99) for _ in range(300)]
    seen = long_run(1000).model_copy(update={"series": many, "knobs": knobs, "woken_by": ["w" * 9999] * 99})
    metrics = {f"m{i}" * 50: 1.0 for i in range(500)}
    seen = seen.model_copy(update={"evaluations": [Evaluation(step=i, metrics=metrics) for i in range(50)]})
    assert len(text_of(digest(seen))) < 40_000


def test_numbers_have_four_digits_and_say_when_they_are_none() -> None:
    assert [number(v) for v in (0.123456, 1234567.0, 7, math.nan, math.inf, -math.inf, True, "a")] == [
        *("0.1235", "1.235e+06", "7", "NaN", "inf", "-inf", "True", "a")
    ]


def test_losses_that_are_not_finite_are_shown_as_such() -> None:
    shown = text_of(digest(observe([*decay(100), math.nan, math.inf])))
    assert "latest, steps 95 to 102: " in shown
    assert " NaN inf\n" in shown
    assert "2 of the last 102 points NOT FINITE" in shown
    assert "not finite at any of the last 5 points" in text_of(digest(observe([math.nan] * 5)))


def test_recent_points_are_dense_and_older_ones_thinned() -> None:
    [_, course, latest, *_] = digest(observe(decay(5000))).curves
    steps = [int(s) for s in re.findall(r"(\d+):", course)]
    assert "latest, steps 4993 to 5000: " in latest
    assert len(latest.split()) == 6 + 8
    assert len(steps) == 10
    assert steps[0] < 1000
    assert steps[-1] < 4993


def test_first_best_and_newest_evaluations_stay() -> None:
    values = [(100 * i, 3.0 - i / 10 if i < 10 else 2.5) for i in range(1, 30)]
    lines = digest(observe(decay(3000), evals=values)).goal
    assert lines[:2] == ["step: eval_loss, training loss there", "100: 2.9, - (first)"]
    assert "900: 2.1, - (best)" in lines
    assert re.fullmatch(r"2900: 2.5, 1\.\d+ \(newest\)", lines[-1])
    assert len(lines) == 7


def test_the_best_is_the_highest_where_more_is_better() -> None:
    seen = observe(decay(300), evals=[(100, 0.4), (200, 0.9), (300, math.nan)])
    lines = digest(seen.model_copy(update={"goal_direction": "maximize"})).goal
    assert any(re.fullmatch(r"200: 0.9, \S+ \(best\)", line) for line in lines)


def test_a_refusal_is_shown_with_what_would_have_passed() -> None:
    [line] = digest(observe(decay(100), commands=[refused(90)])).tried
    assert "REFUSED: guardrail:bounds: lr 50 is outside [1e-08, 10]" in line
    assert '{"lr": 10.0}' in line


def test_a_change_is_shown_with_what_it_did_against_the_forecast() -> None:
    seen = observe(
        decay(400), evals=[(100, 2.0), (200, 3.0), (300, 1.5)], commands=[applied(210, 0.01), applied(350, 0.005)]
    )
    first, second = digest(seen).tried
    assert "step 210: <data>update_optimizer(lr=0.01) -> applied: lr 0.1 ->" in first
    assert "effect not clear: step_loss " in first
    assert "effect not clear: step_loss " in second


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
        effect=Effect(verdict="worse", metric="eval_loss", found=2.5, expected=2.0, low=1.9, high=2.1, until_step=9),
    )
    [line] = digest(observe(decay(100)), [measured]).tried
    assert "reverted at step 6" in line
    assert "worse: eval_loss 2.5, without it 2 (1.9 to 2.1), up to step 9" in line


def test_findings_tell_their_age_and_budgets_what_is_left() -> None:
    finding = Finding(kind="divergence", severity="critical", metric="step_loss", step=80, summary="rose")
    seen = digest(
        observe(decay(100), findings=[finding]),
        budgets=BudgetSettings(max_usd=2.0, max_calls=50, max_tokens=1000),
        used=Ledger(calls=12, tokens=900, usd=None),
    )
    assert seen.findings == ["critical divergence, 20 steps ago: <data>rose</data>"]
    assert seen.budget == [
        "commands left: 100",
        "calls of language models: 12 of 50 used",
        "tokens: 900 of 1000 used",
        "US dollars: an unknown part of 2 used",
    ]


def knob(name: str, effective: Any, command: str = "update_optimizer", **given: Any) -> KnobState:
    return KnobState(name=name, effective=effective, command=command, **given)


def knobs_told(*knobs: KnobState, **given: Any) -> list[str]:
    return digest(observe([1.0]).model_copy(update={"knobs": list(knobs), **given})).knobs


def test_values_stand_after_the_command_that_sets_them_for_every_parameter_group() -> None:
    told = knobs_told(
        knob("lr", 0.05, base=0.1, groups=[0.05, 0.005]),
        knob("weight_decay", 0.0, groups=[0.0, 0.1]),
        knob("betas", [0.9, 0.999], groups=[[0.9, 0.999], [0.9, 0.999]]),
        knob("amsgrad", False, groups=[False, False]),
        knob("max_grad_norm", 1.0, "update_training"),
        knob("temperature", 0.7, "set_knob", unit="K", minimum=0),
        knob("logging_steps", 10, "set_knob", unit="steps"),
    )
    assert told == [
        "optimizer: lr [0.05, 0.005] (base 0.1); weight_decay [0, 0.1]; betas (0.9, 0.999)",
        "training: max_grad_norm 1",
        "knobs: <data>temperature</data> 0.7 <data>K</data>",
    ]


def test_many_parameter_groups_are_bounded_and_say_so() -> None:
    [line] = knobs_told(knob("lr", 0.0, groups=[i / 1000 for i in range(60)]))
    assert "[0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, ... 52 more]" in line


def track(groups: list[int], rates: list[float]) -> Track:
    return Track(groups=groups, shares=[1.0] * len(groups), rates=rates, lowest=rates, highest=rates)


def test_the_rates_to_come_are_told_for_all_groups_that_differ() -> None:
    steps = list(range(0, 101, 10))
    course = LrCourse(
        kind="cosine", steps=steps, tracks=[track([0, 2], [1.0 - s / 100 for s in steps]), track([1], [0.5] * 11)]
    )
    seen = observe([1.0] * 35, lr=1.0, max_steps=100).model_copy(update={"schedule": course})
    assert digest(seen).knobs[:2] == [
        "schedule <data>cosine</data>, parameter group 0, 2: lr 0.6 at step 40, 0.4 at step 60, 0.2 at step 80, "
        "0 at step 100; the mean of the rest is 30 % of the base 1",
        "schedule <data>cosine</data>, parameter group 1: lr 0.5 at step 40, 0.5 at step 60, 0.5 at step 80, "
        "0.5 at step 100",
    ]
    unknown = course.model_copy(update={"is_foretold": False, "kind": "ReduceLROnPlateau"})
    assert "not known" in digest(seen.model_copy(update={"schedule": unknown})).knobs[0]


FACTS = RunFacts(
    model="GPT2LMHeadModel",
    parameters=124_439_808,
    trainable=124_439_808,
    tied=["lm_head.weight = transformer.wte.weight"],
    optimizer="AdamW",
    batch_size=8,
    replicas=2,
    samples=7000,
    epoch_steps=220,
    epochs=4.5,
    chance_loss=math.log(50257),
    chance_of="a uniform guess over 50257 tokens",
    evaluation=Rhythm(every=100),
    saving=Rhythm(every=1, unit="epochs"),
    logging=Rhythm(every=10),
)


def test_what_an_expert_asks_first_is_told() -> None:
    seen = observe(decay(330), max_steps=1000).model_copy(
        update={
            "facts": FACTS,
            "knobs": [knob("gradient_accumulation_steps", 2, "update_training")],
            "started_at_s": 1000.0,
            "at_s": 1120.0,
            "steps_per_s": 2.0,
            "capabilities": ["probe"],
            "probe_steps_left": 185,
            "checkpoints": [
                CheckpointView(checkpoint_id="main-200-ab", step=200, tag="good", metric=2.5),
                CheckpointView(checkpoint_id="b-300-cd", step=300, branch="b", keep_in="memory"),
            ],
        }
    )
    told = digest(seen)
    assert told.training == [
        "<data>GPT2LMHeadModel; AdamW; tied lm_head.weight = transformer.wte.weight</data>, 124 M weights, all trained",
        "7000 training samples, batch 8 x accumulation 2 x 2 processes = 32 a step, 220 steps an epoch, "
        "4.5 epochs planned",
        "chance level of the loss: 10.82 nats (<data>a uniform guess over 50257 tokens</data>)",
    ]
    assert told.progress.splitlines() == [
        "step 330 of 1000 (33 %), epoch 1.50, running",
        "2 min 00 s used, about 5 min 35 s left",
        "the loop's next: evaluation at step 400 (every 100 steps), checkpoint at step 440 (every 1 epochs)",
    ]
    assert told.states == [
        "<data>main-200-ab, tag good</data>: step 200, goal 2.5",
        "<data>b-300-cd, branch b</data>: step 300, in memory",
    ]
    assert told.budget == ["commands left: 100", "extra steps left for probes: 185"]
    text = text_of(told)
    assert all(line in text for line in (*told.training, *told.progress.splitlines(), told.states[0]))


def test_what_the_loop_does_not_tell_is_left_out() -> None:
    told = digest(observe(decay(100)).model_copy(update={"facts": RunFacts()}))
    assert (told.training, told.progress) == ([], "step 100 of 1000 (10 %), running")
    frozen = FACTS.model_copy(update={"trainable": 2_400_000, "evaluation": None})
    seen = observe(decay(990)).model_copy(update={"facts": frozen})
    assert "124 M weights, 2.4 M trained" in digest(seen).training[0]
    assert "checkpoint at the end (every 1 epochs)" in digest(seen).progress
    assert "it plans no evaluation" in digest(seen).progress


def test_what_moves_by_schedule_or_clock_is_the_newest_value_and_no_median() -> None:
    rates = [0.01 * 0.9**i for i in range(100)]
    series = {
        name: series_view(name, rates) for name in ("lr", "base_lr_1", "epoch", "memory_bytes", "eval_runtime", "beta")
    }
    seen = observe(decay(100)).model_copy(update={"series": {**observe(decay(100)).series, **series}})
    shown = "\n".join(digest(seen).curves)
    assert f"<data>beta</data>: now {rates[-1]:.3g}, first" in shown
    assert "median of 16" in shown.split("<data>beta")[0]
    assert not re.search("epoch|memory|runtime|lr", shown)


def test_one_loss_and_one_gradient_norm_are_told_of_those_that_say_the_same() -> None:
    names = ("step_loss", "loss", "train_loss", "step_grad_norm", "grad_norm")
    seen = observe(decay(50)).model_copy(update={"series": {name: series_view(name, decay(50)) for name in names}})
    shown = "\n".join(digest(seen).curves)
    told = re.compile("^([a-z_]+): now", re.MULTILINE)
    assert told.findall(shown) == ["step_loss", "step_grad_norm"]
    goal = digest(seen.model_copy(update={"goal_metric": "loss"}))
    assert told.findall("\n".join(goal.curves)) == ["step_loss", "loss", "step_grad_norm"]


def test_evaluations_tell_of_the_model_and_not_of_the_machine() -> None:
    metrics = {
        "eval_loss": 2.0,
        "eval_runtime": 3.0,
        "eval_samples_per_second": 9.0,
        "epoch": 1.0,
        "eval_accuracy": 0.5,
    }
    seen = observe(decay(100)).model_copy(update={"evaluations": [Evaluation(step=50, metrics=metrics)]})
    assert digest(seen).goal == [
        "step: eval_loss, eval_accuracy, training loss there",
        f"50: 2, 0.5, {median(decay(100)[34:50]):.3g} (newest, best)",
    ]


def answered(kind: str, result: dict[str, Any], message: str = "", **arguments: Any) -> CommandRecord:
    command = parse_command({"kind": kind, **arguments})
    return CommandRecord(
        proposal=Proposal(command=command, author=Author(principal="agent", name="tests"), rationale="why not"),
        state=State.APPLIED,
        verdict=Verdict(decision="approved", decided_by="auto"),
        ack=Ack(outcome="applied", step=60, result=result, message=message),
        submitted_seq=1,
        submitted_step=60,
    )


def test_what_a_command_found_is_told() -> None:
    trials = [
        {"command": None, "value": 2.5, "steps": 5},
        {"command": {"kind": "update_optimizer", "lr": 0.05, "lr_sets": "effective"}, "value": 2.251, "steps": 5},
        {"command": {"kind": "update_optimizer", "lr": 9.0}, "value": None, "steps": 1, "problem": "the loss is NaN"},
    ]
    probed = answered(
        "probe",
        {"adopted": None, "metric": "training loss", "extra_steps": 11, "trials": trials},
        "nothing was adopted: 2.251 is not 20 % better than 2.5",
        candidates=[{"kind": "update_optimizer", "lr": 0.05}, {"kind": "update_optimizer", "lr": 9.0}],
        min_gain_frac=0.2,
    )
    evaluated = answered("do_evaluate", {"eval_loss": 2.0, "eval_runtime": 1.0})
    saved = answered("save_checkpoint", {"checkpoint_id": "main-60-ab", "path": "/x"})
    counted, first, second, third = digest(observe(decay(100), commands=[probed, evaluated, saved])).tried
    assert counted == "applied in all: 1 probe, 1 do_evaluate, 1 save_checkpoint, of 3 asked for"
    assert "nothing was adopted: 2.251 is not 20 % better than 2.5" in first
    assert "training loss of each trial: (nothing changed) 2.5; (lr=0.05) 2.251; (lr=9) lost: the loss is NaN" in first
    assert "probe(candidates=[(lr=0.05), (lr=9)], steps=20, min_gain_frac=0.2)" in first
    assert "applied: eval_loss 2;" in second
    assert "saved as main-60-ab" in third


def test_messages_and_failures_of_the_newest_commands_are_told_whole() -> None:
    why = "the schedule is still planned for 100 steps; " * 20
    failed = answered("do_evaluate", {}).model_copy(
        update={"state": State.FAILED, "ack": Ack(outcome="failed", step=60, message=why)}
    )
    extended = answered("update_training", {}, why, max_steps=200)
    for line in digest(observe(decay(100), commands=[failed, extended])).tried:
        assert why.strip() in line


def test_the_last_decision_says_what_came_of_it_beside_its_commands() -> None:
    late = Resolution(policy="llm", step=40, reason="halve it; update_optimizer not asked for: it came too late")
    told = digest(observe(decay(100)).model_copy(update={"last_decision": late})).tried
    assert told[-1] == f"last decision, at step 40: <data>{late.reason}</data>"


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
            "series": {text: series_view(text, decay(50))},
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
