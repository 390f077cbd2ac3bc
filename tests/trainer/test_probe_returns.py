"""Trials that begin at a saved state: each goes back there first; what is adopted is a return like any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agenttune.errors import CommandError
from agenttune.gate import CommandHistory
from agenttune.protocol.commands import parse_command
from agenttune.protocol.proposals import CommandRecord, Proposal, State
from tests.trainer.conftest import At, Bench
from tests.trainer.test_branches import losses, steered, weights
from tests.trainer.test_probe import AGENT, judged, outcome, plain_and_probed, probe, watched

pytestmark = pytest.mark.trainer


def back(**fields: Any) -> dict[str, Any]:
    return {"kind": "load_checkpoint", "checkpoint_id": "mark", **fields}


def saved(keep_in: str, at: int = 12) -> At:
    return At(at, {"kind": "save_checkpoint", "tag": "mark", "keep_in": keep_in})


CASES: dict[str, dict[str, Any]] = {
    "shuffling, dropout and a schedule": {"lr_scheduler_type": "cosine", "warmup_steps": 5},
    "to another epoch": {"at": 33},
    "accumulation": {"gradient_accumulation_steps": 2},
    "an evaluation decides": {"metric": "goal", "eval_strategy": "steps", "eval_steps": 50},
    "reduce on plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 50},
}


@pytest.mark.quick(
    "to another epoch-memory", "accumulation-disk", "an evaluation decides-memory", "reduce on plateau-disk"
)
@pytest.mark.parametrize("keep_in", ["memory", "disk"])
@pytest.mark.parametrize("case", CASES)
def test_with_nothing_adopted_training_goes_on_as_if_nothing_had_been_tried(
    bench: Bench, case: str, keep_in: str
) -> None:
    how = dict(CASES[case])
    at, metric = how.pop("at", 25), how.pop("metric", "loss")
    asked = probe(back(lr=1e-6), back(lr=1e-7, reset_optimizer=True), metric=metric, min_gain_frac=1.0)
    plain, expected, result = plain_and_probed(bench, [saved(keep_in), At(at, asked)], **how)
    ack = result.acks()[-1]
    assert (ack.outcome, ack.step, ack.changes) == ("applied", at, []), ack.message
    assert ack.message.startswith("nothing was adopted")
    assert [(t.name, t.steps, t.problem) for t in outcome(result).trials] == [
        (f"probe:1:{name}", 6, "") for name in ("current", "0", "1")
    ]
    by_branch = losses(result)
    assert by_branch["main"] == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))
    steps = range(13, 19)
    assert by_branch["probe:1:current"] == {step: expected[step] for step in steps}, "going back alone repeats them"
    for tried in ("probe:1:0", "probe:1:1"):
        assert list(by_branch[tried]) == list(steps)
        assert by_branch[tried][13] == expected[13]
        assert by_branch[tried] != by_branch["probe:1:current"], "the candidates were really tried"
    assert result.bodies("branch_started") == []
    started = result.bodies("trial_started")
    assert {(body.parent, body.from_step) for body in started} == {("main", 12)}
    assert result.log().info().branch == "main"


@pytest.mark.parametrize("keep_in", ["memory", "disk"])
def test_the_best_return_is_adopted_and_repeats_its_trial(bench: Bench, keep_in: str) -> None:
    asked = probe(back(lr=1e-6), back(lr=3e-2), back(lr=1e-4), steps=8)
    _, expected, result = plain_and_probed(bench, [saved(keep_in), At(25, asked)], learning_rate=1e-5)
    ack = result.acks()[-1]
    assert (ack.outcome, ack.step, ack.confirmed_step) == ("applied", 12, 13), ack.message
    assert ack.result["adopted"] == back(lr=3e-2)
    assert (ack.result["from_step"], ack.result["branch"]) == (25, "branch-1")
    assert "for going back alone" in ack.message
    assert [change.base for change in ack.changes if change.name == "lr"] == [3e-2]
    body = outcome(result)
    assert (body.adopted, body.extra_steps) == (2, 32)
    by_branch = losses(result)
    assert by_branch["main"] == {step: expected[step] for step in range(1, 26)}
    branch = by_branch["branch-1"]
    assert list(branch) == list(range(13, 61))
    tried = by_branch["probe:1:1"]
    assert {step: branch[step] for step in tried} == tried, "what was adopted does what it did when it was tried"
    (started,) = result.bodies("branch_started")
    assert (started.parent, started.from_step) == ("main", 12)


def test_one_of_several_returns_is_made_in_any_case_if_going_back_alone_is_no_measure(bench: Bench) -> None:
    asked = probe(back(), back(lr=1e-6), steps=8, include_current=False)
    _, expected, result = plain_and_probed(bench, [saved("memory"), At(25, asked)], learning_rate=1e-2)
    assert result.acks()[-1].result["adopted"] == back()
    branch = losses(result)["branch-1"]
    assert branch == {step: expected[step] for step in range(13, 61)}


def test_a_lower_rate_is_one_below_that_of_then(bench: Bench) -> None:
    """The run has lowered its rate since; what is tried is above that, and below that of the state."""
    cut = At(20, {"kind": "update_optimizer", "lr": 1e-5})
    asked = probe(back(lr=1e-3), steps=8, lower_rates="never", min_progress_frac=0.0)
    result = steered(bench, [saved("memory"), cut, At(25, asked)], learning_rate=0.9)
    assert "a lower rate is not adopted" in result.acks()[-1].message
    assert losses(result)["main"][60]


def test_an_adopted_return_is_one_to_whoever_counts_and_is_not_on_probation(bench: Bench) -> None:
    orders = [saved("memory"), At(25, probe(back(lr=1e-3), back(lr=1e-4), steps=2, include_current=False))]
    result = watched(bench, {"probation": {"steps": 5}}, orders, learning_rate=1e-2)
    probed = next(record for record in result.records() if record.command.kind == "probe")
    assert probed.goes_back()
    assert probed.state is not State.REVERTED
    log = result.log()
    assert log.count_returns() == 1
    rules = {"budgets": {"max_returns": 1}}
    for command in (back(), probe(back(lr=1e-3), back(lr=1e-4))):
        history = CommandHistory([probed], count_returns=log.count_returns)
        refused, _ = judged(command, rules, log, history)
        assert refused.decided_by == "guardrail:returns"


def test_trials_of_returns_are_no_way_around_the_gate(bench: Bench) -> None:
    log = steered(bench, [saved("memory")], lr_scheduler_type="constant").log()
    asked = probe(back(lr=1e-3), back(lr=0.5))
    refused, _ = judged(asked, {"gate": {"bounds": {"lr": [1e-6, 1e-2]}}}, log)
    assert (refused.decision, refused.decided_by) == ("rejected", "guardrail:bounds")
    forbidden, _ = judged(asked, {"gate": {"forbid": ["load_checkpoint"]}}, log)
    assert (forbidden.decision, forbidden.decided_by) == ("rejected", "guardrail:forbidden")
    gate = {"approval": [{"commands": ["load_checkpoint"], "approvers": ["human"]}, {"approvers": ["auto"]}]}
    waits, _ = judged(asked, {"gate": gate}, log)
    assert waits.approvers == ["human"]


def test_a_rate_beyond_the_limits_of_now_and_then_costs_that_trial(bench: Bench) -> None:
    rules = {"gate": {"max_change_factor": 5}}
    orders = [saved("memory"), At(25, probe(back(lr=9e-3), back(lr=9e-1), steps=2, include_current=False))]
    result = watched(bench, rules, orders, learning_rate=1e-2, lr_scheduler_type="constant")
    kept, lost = outcome(result).trials
    assert (kept.problem, kept.steps) == ("", 2)
    assert "more than a factor of 5" in lost.problem
    assert result.acks()[-1].result["adopted"] == back(lr=9e-3)


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ([back(lr=1e-3), {"kind": "update_optimizer", "lr": 1e-3}], "go back to the same checkpoint, or none"),
        ([back(lr=1e-3), back(checkpoint_id="other", lr=1e-3)], "go back to the same checkpoint, or none"),
        ([back(lr=1e-3), back()], "candidate 1 (from 0) goes back and changes nothing"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(candidates: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(CommandError, match=said.replace("(", r"\(").replace(")", r"\)")):
        parse_command(probe(*candidates))


def test_a_checkpoint_that_is_not_there_is_named_and_nothing_is_lost(bench: Bench) -> None:
    _, expected, result = plain_and_probed(bench, [At(25, probe(back(lr=1e-3)))])
    assert result.ack.outcome == "failed"
    assert "no checkpoint 'mark'" in result.ack.message
    assert losses(result)["main"] == expected


def test_while_it_waits_it_may_become_a_return() -> None:
    command = parse_command(probe(back(lr=1e-3), back(lr=1e-4)))
    record = CommandRecord(proposal=Proposal(command=command, author=AGENT), state=State.QUEUED, submitted_seq=1)
    assert record.goes_back()
    rates = probe({"kind": "update_optimizer", "lr": 1e-3})
    other = Proposal(command=parse_command(rates), author=AGENT)
    assert not record.model_copy(update={"proposal": other}).goes_back()
