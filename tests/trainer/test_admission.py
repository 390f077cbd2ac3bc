"""The gate is asked once more before a command is applied, and a request can hold training until somebody decides."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.protocol.events import KnobsRead
from agenttune.protocol.proposals import Ack, Author, Proposal, State
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.execution.queue import Admission
from tests.core.test_approval import ASK, Desk
from tests.trainer.conftest import At, Bench, Result, submit

pytestmark = pytest.mark.trainer
AGENT = Author(principal="agent", name="tests")
PERSON = Author(principal="operator", name="anna")
PATIENCE_S = 60.0
ANSWER_S = 15.0
PROBE = {"kind": "probe", "steps": 2, "candidates": [{"kind": "update_optimizer", "lr": lr} for lr in (1e-4, 2e-4)]}


def make_run(bench: Bench, monkeypatch: pytest.MonkeyPatch, **gate: Any) -> RunLog:
    info = RunInfo(run_id="r", name="r", status="starting", created_at_s=time.time(), rules={"gate": gate})
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r")
    log = RunLog.create(bench.runs_dir / "r", info)
    log.append(KnobsRead(knobs=[KnobState(name="lr", base=1e-3, effective=1e-3)]))
    return log


class Ask(TrainerCallback):  # type: ignore[misc]
    def __init__(self, bench: Bench, orders: dict[int, dict[str, Any]]) -> None:
        self._control, self._orders = LocalControl(bench.runs_dir), orders

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self._orders:
            proposal = Proposal.model_validate({"command": self._orders[state.global_step], "author": AGENT})
            self._control.submit("r", proposal)


def test_a_world_that_changed_since_the_approval(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked before training begins, when the rate was thought to be 1e-3; it begins at 1e-5."""
    make_run(bench, monkeypatch, max_change_factor=3)
    proposal = Proposal.model_validate({"command": {"kind": "update_optimizer", "lr": 2e-3}, "author": AGENT})
    assert LocalControl(bench.runs_dir).submit("r", proposal).state is State.QUEUED
    result = bench.run(learning_rate=1e-5)
    (record,) = result.records()
    assert record.state is State.FAILED
    assert record.ack is not None
    assert "refused before it was applied" in record.ack.message
    assert "more than a factor of 3" in record.ack.message
    assert max(result.series("lr")) <= 1e-5


def test_an_edited_command_is_what_is_applied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(bench, monkeypatch, bounds={"lr": [1e-6, 5e-3]}, clamp=True)
    orders = {3: {"kind": "update_optimizer", "lr": 0.5}}
    result = bench.run(callbacks=[Ask(bench, orders)], lr_scheduler_type="constant")
    (record,) = result.records()
    assert record.state is State.APPLIED
    assert record.ack is not None
    assert record.ack.changes[0].requested == 0.5
    assert record.ack.changes[0].effective == pytest.approx(5e-3)
    assert record.verdict is not None
    assert "clamped" in record.verdict.reason


class Anna(threading.Thread):
    """Decides on the first request she sees, and notes at which step training stood when she did."""

    def __init__(self, bench: Bench, verdict: str, after_s: float = 0.3) -> None:
        super().__init__(daemon=True)
        self._control, self._verdict, self._after_s = LocalControl(bench.runs_dir), verdict, after_s
        self.steps: list[int] = []

    def run(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (waiting := self._control.pending("r")) and time.monotonic() < deadline:
            time.sleep(0.02)
        # The log is written in the background: where training stands is told with the pause.
        while self._control.info("r").status != "paused" and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(2):
            time.sleep(self._after_s)
            self.steps.append(self._control.info("r").step)
        request = waiting[0].request
        assert request is not None
        body = {"verdict": self._verdict, "digest": request.digest, "author": PERSON}
        self._control.decide("r", waiting[0].command_id, ApprovalDecision.model_validate(body))


@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_training_waits_where_the_rule_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    rule = {"approvers": ["human"], "training": "pause", "timeout_s": PATIENCE_S}
    make_run(bench, monkeypatch, approval=[rule])
    anna = Anna(bench, verdict)
    anna.start()
    result = _run(bench, {5: {"kind": "update_optimizer", "lr": 2e-3}})
    anna.join(PATIENCE_S)
    assert anna.steps == [5, 5], "training went on while it should have waited"
    (record,) = result.records()
    assert record.state is (State.APPLIED if verdict == "approve" else State.REJECTED)
    statuses = [(e.body.status, e.step) for e in result.events("status_changed")]  # type: ignore[union-attr]
    assert ("paused", 5) in statuses
    assert result.trainer.state.global_step == 12


def test_training_waits_no_longer_than_the_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers, and nobody is there to say that the time is up."""
    make_run(bench, monkeypatch, approval=[{"approvers": ["human"], "training": "pause", "timeout_s": 1.0}])
    result = _run(bench, {5: {"kind": "update_optimizer", "lr": 2e-3}})
    assert result.trainer.state.global_step == 12
    (record,) = result.records()
    assert record.state is State.EXPIRED
    assert max(result.series("lr")) <= 1e-3
    told = [e.body.reason for e in result.events("status_changed") if e.step == 5]  # type: ignore[union-attr]
    assert told == ["a command waits for approval", "no request for approval holds it any more"]


class Bob(threading.Thread):
    """Asks for one thing after the other while training is held, each once the last is answered; then approves."""

    def __init__(self, bench: Bench, orders: list[dict[str, Any]], approves: bool = True) -> None:
        super().__init__(daemon=True)
        self._bench, self._control, self._orders, self._approves = bench, LocalControl(bench.runs_dir), orders, approves
        self.acks: list[Ack | None] = []

    def run(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (waiting := self._control.pending("r")) and time.monotonic() < deadline:
            time.sleep(0.02)
        while self._control.info("r").status != "paused" and time.monotonic() < deadline:
            time.sleep(0.02)
        log = RunLog.open(self._bench.runs_dir / "r")
        for number, order in enumerate(self._orders):
            submit(log, order, f"meanwhile-{number}")
            deadline = time.monotonic() + ANSWER_S
            while (ack := log.command(f"meanwhile-{number}").ack) is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self.acks.append(ack)
        log.close()
        request = waiting[0].request
        assert request is not None
        if self._approves:
            body = {"verdict": "approve", "digest": request.digest, "author": PERSON}
            self._control.decide("r", waiting[0].command_id, ApprovalDecision.model_validate(body))


HOLD = [{"approvers": ["human"], "training": "pause", "timeout_s": PATIENCE_S}]


def test_what_is_asked_while_training_is_held_is_answered_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the next command comes, or training goes on: that may take the request's whole time."""
    make_run(bench, monkeypatch, approval=HOLD)
    bob = Bob(
        bench,
        [
            {"kind": "update_schedule", "shape": "linear"},
            {"kind": "update_optimizer", "lr": 4e-4, "param_group": 1},
            {"kind": "update_optimizer", "lr": 3e-4},
            {"kind": "read_model", "norms": True},
            PROBE,
            {"kind": "resume_training"},
        ],
    )
    bob.start()
    result = _run(bench, {5: {"kind": "update_optimizer", "lr": 2e-3}})
    bob.join(PATIENCE_S)
    answered = [ack for ack in bob.acks if ack is not None]
    assert len(answered) == 6, f"some are not answered while training is held: {bob.acks}"
    assert {ack.step for ack in answered} == {5}
    *rates, read, probed, resumed = answered
    for ack in rates:
        assert (ack.outcome, ack.confirmed_step) == ("applied", None)
        assert "read back; training is held for an approval" in ack.message
        assert "overridden" not in ack.message
    assert "no gradient norms: training is held" in read.message
    assert (probed.outcome, "training is held" in probed.message) == ("failed", True)
    assert resumed.message.startswith("was not paused; training is held")
    approved = result.records()[0].ack
    assert approved is not None
    assert (approved.outcome, approved.confirmed_step) == ("applied", 6), "training goes on, and confirms it"


def test_a_probe_that_waits_for_its_turn_holds_nobody_up_while_training_is_held(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(bench, monkeypatch, approval=HOLD)
    bob = Bob(bench, [{"kind": "update_optimizer", "lr": 3e-4}])
    bob.start()
    result = bench.run([At(5, PROBE, "probe")], callbacks=[Ask(bench, {5: {"kind": "update_optimizer", "lr": 2e-3}})])
    bob.join(PATIENCE_S)
    assert [ack.outcome for ack in bob.acks if ack is not None] == ["applied"]
    answer = next(record.ack for record in result.records() if record.command_id == "probe")
    assert answer is not None
    assert (answer.outcome, "training is held" in answer.message) == ("failed", True)


@pytest.mark.parametrize("save", [False, True])
def test_a_stop_waits_for_no_approval(bench: Bench, monkeypatch: pytest.MonkeyPatch, save: bool) -> None:
    make_run(bench, monkeypatch, approval=HOLD)
    bob = Bob(bench, [{"kind": "stop_training", "save": save}], approves=False)
    bob.start()
    result = _run(bench, {5: {"kind": "update_optimizer", "lr": 2e-3}})
    bob.join(PATIENCE_S)
    (ack,) = bob.acks
    assert ack is not None
    assert ack.outcome == "applied"
    asked = result.records()[0]
    assert asked.verdict is None, "nobody's time ran out before the run ended"
    assert (asked.state, asked.ack and asked.ack.message) == (State.EXPIRED, "the run is stopped")
    assert result.trainer.state.global_step <= 6


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_neither_ends_nor_prolongs_the_wait(tmp_path: Path, jump_s: float) -> None:
    """Set back, it would keep an expensive machine idle; set ahead, training would go on undecided."""
    desk = Desk(tmp_path, approval=[{**ASK, "training": "pause"}])
    desk.ask(lr=0.1)
    admission = Admission(desk.log, desk.process().now)
    admission.look_for_requests()
    desk.ahead_s = jump_s
    desk.now_s += 59
    assert admission.is_held
    desk.now_s += 1
    assert not admission.is_held
    desk.log.close()


def _run(bench: Bench, orders: dict[int, dict[str, Any]]) -> Result:
    return bench.run(callbacks=[Ask(bench, orders)])
