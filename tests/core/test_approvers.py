"""The approvers of a rule are asked one after the other; who does not decide leaves it to the next, never to chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agenttune.config import ApprovalRule, Config, GateSettings
from agenttune.errors import AlreadyDecided, UserError
from agenttune.gate import CommandHistory, Moment
from agenttune.gate.approval_rules import names_of
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.events import Escalated, StandingChanged
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from tests.core.test_approval import AGENT, ANNA, ASK, BEN, Desk

CHAIN = {"name": "chain", "approvers": ["rule", "model", "human"], "timeout_s": 60}
SMALL = {**CHAIN, "approve_if": "factor <= 2 and steps_left > 100", "reject_if": "factor > 100"}
MODEL = Author(principal="operator", name="stern")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Desk]:
    return lambda **gate: Desk(tmp_path, **gate)


def by_model(desk: Desk, record: CommandRecord, verdict: str, **fields: Any) -> CommandRecord:
    return desk.decide(record, verdict, MODEL, approver="model", **fields)


@pytest.mark.parametrize(
    ("lr", "state", "by"),
    [(0.02, State.QUEUED, "rule:chain"), (2.0, State.REJECTED, "rule:chain"), (0.05, State.PROPOSED, None)],
)
def test_a_rule_decides_where_its_conditions_hold(
    make: Callable[..., Desk], lr: float, state: State, by: str | None
) -> None:
    record = make(approval=[SMALL]).ask(lr=lr)
    assert record.state is state
    assert (record.verdict.decided_by if record.verdict else None) == by
    if record.request is not None:
        assert record.request.asked == "model"
        assert [p.by for p in record.request.passed] == ["rule:chain"]


def test_the_reason_of_a_rule_is_its_condition(make: Callable[..., Desk]) -> None:
    verdict = make(approval=[SMALL]).ask(lr=0.02).verdict
    assert verdict is not None
    assert verdict.reason == "approve_if holds: factor <= 2 and steps_left > 100"


def test_what_a_model_leaves_open_waits_for_a_person(make: Callable[..., Desk]) -> None:
    desk = make(approval=[SMALL])
    record = desk.ask(lr=0.05)
    passed = by_model(desk, record, "escalate", reason="I cannot tell")
    assert passed.state is State.PROPOSED
    assert passed.request is not None
    assert (passed.request.asked, passed.request.passed[-1].by) == ("human", "model:stern")
    assert passed.request.passed[-1].reason == "I cannot tell"
    assert [e.body.request.asked for e in desk.log.events() if isinstance(e.body, Escalated)] == ["human"]
    with pytest.raises(AlreadyDecided, match="not the model's turn"):
        by_model(desk, record, "approve")
    assert desk.decide(record, "approve").verdict.decided_by == "operator:anna"  # type: ignore[union-attr]


def test_nobody_decided_is_rejected(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{**CHAIN, "approvers": ["model", "human"]}])
    record = desk.ask(lr=0.05)
    by_model(desk, record, "escalate", reason="dead endpoint")
    ended = desk.decide(record, "escalate", reason="ask somebody who knows")
    assert ended.state is State.REJECTED
    assert ended.verdict is not None
    assert ended.verdict.decided_by == "nobody"
    assert "model:stern: dead endpoint; operator:anna: ask somebody who knows" in ended.verdict.reason


def test_a_rule_after_a_model_can_still_decide(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{**CHAIN, "approvers": ["model", "rule", "auto"], "reject_if": "factor > 3"}])
    large, small = desk.ask(lr=0.05), desk.ask(weight_decay=0.2)
    assert by_model(desk, large, "escalate").state is State.REJECTED
    decided = by_model(desk, small, "escalate")
    assert decided.state is State.QUEUED
    assert decided.verdict is not None
    assert decided.verdict.decided_by == "rule:chain"


def test_a_person_may_decide_before_the_model(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{**CHAIN, "approvers": ["model", "human"]}])
    record = desk.ask(lr=0.05)
    assert desk.decide(record, "reject", BEN).state is State.REJECTED
    with pytest.raises(AlreadyDecided, match="rejected, decided by operator:ben"):
        by_model(desk, record, "approve")


def test_a_models_silence_is_never_a_yes(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{**CHAIN, "approvers": ["model", "human"], "on_timeout": "approve"}])
    silent, passed = desk.ask(lr=0.05), desk.ask(weight_decay=0.2)
    by_model(desk, passed, "escalate")
    desk.now_s += 61
    assert desk.control.pending("r1") == []
    assert desk.state(silent) is State.EXPIRED
    assert desk.state(passed) is State.QUEUED


def test_a_models_edit_passes_the_guardrails(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{**CHAIN, "approvers": ["model"]}], bounds={"lr": [1e-6, 0.5]})
    record = desk.ask(lr=0.05)
    with pytest.raises(UserError, match="outside"):
        by_model(desk, record, "edit", command={"kind": "update_optimizer", "lr": 5.0})
    edited = by_model(desk, record, "edit", command={"kind": "update_optimizer", "lr": 0.02})
    assert (edited.state, edited.command.arguments()["lr"]) == (State.QUEUED, 0.02)


# -- always ------------------------------------------------------------------------------------------------------------


def test_always_holds_for_the_kind_and_its_rule_in_this_run(make: Callable[..., Desk]) -> None:
    other = {"name": "stop", "commands": ["stop_training"], "approvers": ["human"]}
    desk = make(approval=[other, ASK])
    first, waiting = desk.ask(lr=0.1), desk.ask(weight_decay=0.2)
    desk.decide(first, "approve", always=True)
    assert desk.control.pending("r1") == []
    assert desk.state(waiting) is State.QUEUED
    again = desk.ask(lr=0.05)
    assert again.state is State.QUEUED
    assert again.verdict is not None
    assert again.verdict.decided_by == "operator:anna"
    assert again.verdict.reason == "always allowed since step 100"
    assert desk.ask(kind="stop_training").state is State.PROPOSED
    assert desk.ask(kind="do_evaluate").state is State.PROPOSED


def test_always_is_no_way_around_a_guardrail(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK], bounds={"lr": [1e-6, 0.5]})
    desk.decide(desk.ask(lr=0.1), "approve", always=True)
    assert desk.ask(lr=5.0).state is State.REJECTED


def test_always_is_taken_back(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    desk.decide(desk.ask(lr=0.1), "approve", always=True)
    (ended,) = desk.control.end_standing_approval("r1", "update_optimizer", BEN)
    assert (ended.kind, ended.rule, ended.by) == ("update_optimizer", "ask", "operator:anna")
    assert desk.ask(lr=0.05).state is State.PROPOSED
    changes = [e.body.ended_by for e in desk.log.events() if isinstance(e.body, StandingChanged)]
    assert changes == [None, "operator:ben"]
    with pytest.raises(UserError, match="not always allowed in this run; nothing is"):
        desk.control.end_standing_approval("r1", "update_optimizer", BEN)


@pytest.mark.parametrize(
    ("verdict", "fields"), [("reject", {}), ("escalate", {}), ("approve", {"approver": "model"})], ids=str
)
def test_always_goes_with_a_persons_yes_only(make: Callable[..., Desk], verdict: str, fields: dict[str, Any]) -> None:
    desk = make(approval=[{**ASK, "approvers": ["model", "human"]}])
    with pytest.raises(UserError, match="'always' goes with a person's 'approve' only"):
        desk.decide(desk.ask(lr=0.1), verdict, always=True, **fields)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"approvers": ["rule"]}, "needs approve_if or reject_if"),
        ({"approvers": ["human"], "approve_if": "factor < 2"}, "only if 'rule' is among the approvers"),
        ({"approvers": ["auto", "human"]}, "auto always approves"),
        ({"approvers": ["human", "human"]}, "each approver can be asked once"),
        ({"approvers": ["rule"], "approve_if": "facto < 2"}, "did you mean 'factor'"),
        ({"approvers": ["rule"], "approve_if": "__import__('os')"}, "unknown function"),
        ({"approvers": []}, "at least 1 item"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ApprovalRule.model_validate(rule)


def test_rules_have_names_of_their_own_and_a_model_needs_one() -> None:
    with pytest.raises(ValidationError, match="two rules are called 'a'"):
        GateSettings.model_validate({"approval": [{"name": "a", "approvers": ["human"]}] * 2})
    raw = {"run": {"script": "train.py"}, "gate": {"approval": [{"approvers": ["model"]}]}}
    with pytest.raises(ValidationError, match=r"set gate\.reviewer\.model"):
        Config.model_validate(raw)
    assert Config.model_validate({**raw, "llm": {"model": "m"}}).gate.asks_model


def test_every_documented_name_has_a_value(make: Callable[..., Desk]) -> None:
    from agenttune.config.known_names import DOCUMENTED

    desk = make()
    proposal = Proposal.model_validate({"command": {"kind": "stop_training"}, "author": AGENT})
    moment = Moment(desk.control.info("r1"), Instant(0.0))
    names = names_of(proposal, moment, CommandHistory())
    assert names.keys() == DOCUMENTED.keys()
    assert names["factor"] == math.inf
    assert math.isnan(names["metric"])
    assert names["steps_left"] == 900


def test_conditions_see_what_the_command_would_do(make: Callable[..., Desk]) -> None:
    rule = {"name": "r", "approvers": ["rule"], "approve_if": "to('lr') <= now('lr')"}
    desk = make(approval=[rule])
    assert desk.ask(ANNA, lr=0.02).state is State.QUEUED
    assert desk.ask(lr=0.005).state is State.QUEUED
    assert desk.ask(lr=0.05).state is State.REJECTED
    assert desk.ask(weight_decay=0.2).state is State.REJECTED
