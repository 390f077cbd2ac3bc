"""Approvers of the user's own: asked by their name, after the guardrails, and never a yes by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.agent.model_approver import ReviewLoop, open_approvers
from agenttune.config import GateSettings, PolicyFile
from agenttune.errors import AlreadyDecided
from agenttune.protocol.proposals import Author, State
from tests.core.test_approval import Desk

CODE = '''
from agenttune.gate import Approver, Opinion


class Careful(Approver):
    """Approves small rates."""

    def __init__(self, most: float = 0.1):
        self.most = most

    def decide(self, case):
        rate = case.proposal.command.lr
        if rate is None:
            return self.escalate("no rate in it")
        if rate > 10 * self.most:
            return self.reject(f"{rate} is far too much at step {case.observation.step}")
        return self.approve("small enough") if rate <= self.most else self.edit("less of it", lr=self.most)


class Raises(Approver):
    def decide(self, case):
        raise ValueError("oh no")


class Nonsense(Approver):
    def decide(self, case):
        return True


class WrongWord(Approver):
    def decide(self, case):
        return Opinion("yes")


class WrongEdit(Approver):
    def decide(self, case):
        return self.edit("off the limits", lr=5.0)
'''
CHAIN = {"name": "chain", "approvers": ["own"], "timeout_s": 60}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise RuntimeError('at module level')\n", encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text("gate: {approvers: {own: {type: ./mine.py:Careful, most: 0.02}}}\n", encoding="utf-8")
    return path


def ruled(config: Path, entry: object, lr: float, *others: str) -> tuple[State, str, str, float]:
    """State, decider, reason and rate of a command that an approver was asked about."""
    rule = {**CHAIN, "approvers": ["own", *others]}
    desk = Desk(config.parent / "runs", approval=[rule], approvers={"own": "./mine.py:Any"}, bounds={"lr": [0, 1.0]})
    record = desk.ask(lr=lr)
    approver = open_approvers({"own": entry}, config)["own"]
    ReviewLoop(desk.control, "r1", approver, "own").tick()
    record = desk.control.command("r1", record.command_id)
    verdict, request = record.verdict, record.request
    passed = request.passed[-1].reason if request and request.passed else ""
    by, reason = (verdict.decided_by, verdict.reason) if verdict else ("", passed)
    return record.state, by, reason, float(record.command.arguments()["lr"])


WITH_PARAMETERS = {"type": "./mine.py:Careful", "most": 0.02}


@pytest.mark.parametrize(
    ("entry", "lr", "state", "decided"),
    [
        (WITH_PARAMETERS, 0.01, State.QUEUED, 0.01),
        (WITH_PARAMETERS, 0.05, State.QUEUED, 0.02),
        ("./mine.py:Careful", 0.05, State.QUEUED, 0.05),
        (WITH_PARAMETERS, 0.5, State.REJECTED, 0.5),
    ],
)
def test_it_approves_edits_and_rejects(config: Path, entry: object, lr: float, state: State, decided: float) -> None:
    found = ruled(config, entry, lr)
    assert (found[0], found[1], found[3]) == (state, "approver:own", decided)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mine.py:Raises", "the approver failed: ValueError: oh no"),
        ("mine.py:Nonsense", "the approver gave True, not an Opinion of agenttune.gate"),
        ("mine.py:WrongWord", "not an Opinion of agenttune.gate"),
        ("mine.py:WrongEdit", "its edit cannot be used"),
        ("broken.py:Any", "RuntimeError: at module level"),
        ("mine.py:Gone", "has no class 'Gone'"),
    ],
)
def test_what_is_no_opinion_leaves_it_to_the_next_and_is_never_a_yes(config: Path, name: str, why: str) -> None:
    state, by, reason, _ = ruled(config, f"./{name}", 0.01, "human")
    assert (state, by) == (State.PROPOSED, "")
    assert why in reason


def test_nobody_left_is_a_no(config: Path) -> None:
    state, by, reason, _ = ruled(config, "./mine.py:Raises", 0.01)
    assert (state, by) == (State.REJECTED, "nobody")
    assert "oh no" in reason


def test_nobody_decides_in_another_approvers_turn_and_silence_is_no_yes(tmp_path: Path) -> None:
    rule = {**CHAIN, "approvers": ["own", "human"], "on_timeout": "approve"}
    desk = Desk(tmp_path, approval=[rule], approvers={"own": "./mine.py:Any", "other": "./mine.py:Any"})
    record = desk.ask(lr=0.02)
    with pytest.raises(AlreadyDecided, match="it is not the other's turn: own is asked"):
        desk.decide(record, "approve", Author(principal="operator", name="other"), approver="other")
    desk.now_s += 61
    assert desk.control.pending("r1") == []
    assert desk.state(record) is State.EXPIRED


def test_a_rule_asks_only_approvers_that_are_named() -> None:
    with pytest.raises(ValueError, match=r"rule 1: 'carefull' is no approver; did you mean 'careful'\?"):
        GateSettings.model_validate({"approvers": {"careful": "./m.py:M"}, "approval": [{"approvers": ["carefull"]}]})
    with pytest.raises(ValueError, match="'human' is no name for an approver"):
        GateSettings.model_validate({"approvers": {"human": "./m.py:M"}})
    with pytest.raises(ValueError, match="a policy cannot bring approvers of its own"):
        PolicyFile.model_validate({"gate": {"approvers": {"careful": "./m.py:M"}}})
