"""A person who has paused training finds it where it was: no agent resumes, stops or rewinds it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from transformers import TrainerCallback

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.errors import AlreadyDecided
from agenttune.protocol.events import StatusChanged
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State, Verdict
from agenttune.store.run_log import RunLog
from tests.core.test_approval import ASK, Desk
from tests.trainer.conftest import Bench, Result
from tests.trainer.test_admission import PATIENCE_S, make_run

pytestmark = pytest.mark.trainer
ANN = Author(principal="operator", name="ann")
AGENT = Author(principal="agent", name="tuner")
BACK = {"kind": "load_checkpoint", "checkpoint_id": "start"}
LEAVING: list[dict[str, Any]] = [{"kind": "resume_training"}, {"kind": "stop_training"}, BACK]
PAUSE, RESUME = {"kind": "pause_training"}, {"kind": "resume_training"}


class People(threading.Thread):
    """What a person and an agent do once training stands; always resumes it in the end."""

    def __init__(self, bench: Bench, what: Callable[[People], None]) -> None:
        super().__init__(daemon=True)
        self.control, self.what = LocalControl(bench.runs_dir), what
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self.until(lambda: self.control.info("r").status == "paused")
            self.what(self)
        except BaseException as problem:
            self.problem = problem
        finally:
            if self.control.info("r").is_live:
                self.ask(ANN, RESUME)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ask(self, author: Author, command: dict[str, Any]) -> CommandRecord:
        """Ask, and wait for what becomes of it."""
        return self.settled(
            self.control.submit("r", Proposal.model_validate({"command": command, "author": author})).command_id
        )

    def settled(self, command_id: str) -> CommandRecord:
        self.until(lambda: self.control.command("r", command_id).state is not State.QUEUED)
        return self.control.command("r", command_id)

    def decide(self, record: CommandRecord, verdict: str, **given: Any) -> CommandRecord:
        assert record.request is not None
        body = {"verdict": verdict, "digest": record.request.digest, "author": ANN, **given}
        self.control.decide("r", record.command_id, ApprovalDecision.model_validate(body))
        return self.settled(record.command_id)


class PausesAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, bench: Bench, author: Author, people: People) -> None:
        self.control, self.author, self.people = LocalControl(bench.runs_dir), author, people

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            self.control.submit("r", Proposal.model_validate({"command": PAUSE, "author": self.author}))
            self.people.start()


def run(bench: Bench, by: Author, what: Callable[[People], None]) -> Result:
    people = People(bench, what)
    result = bench.run(callbacks=[PausesAt(bench, by, people)])
    people.join(PATIENCE_S)
    if people.problem is not None:
        raise people.problem
    return result


def refused(record: CommandRecord) -> Verdict:
    assert record.state is State.REJECTED
    assert record.verdict is not None
    assert record.verdict.decided_by == "guardrail:persons_pause"
    return record.verdict


def test_no_agent_ends_a_persons_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(bench, monkeypatch)

    def what(people: People) -> None:
        for command in LEAVING:
            proposal = Proposal.model_validate({"command": command, "author": AGENT})
            assert people.control.dry_run("r", proposal).decision == "rejected"
            verdict = refused(people.ask(AGENT, command))
            assert verdict.reason.startswith("ann has paused training")
            assert "agenttune send r resume_training" in verdict.reason
        assert people.ask(AGENT, PAUSE).state is State.APPLIED
        refused(people.ask(AGENT, RESUME))  # a pause of its own on top of the person's gives it none
        for command in ({"kind": "do_evaluate"}, {"kind": "update_optimizer", "weight_decay": 0.2}):
            assert people.ask(AGENT, command).state is State.APPLIED
        assert people.control.info("r").paused_by == ANN
        assert people.ask(ANN, RESUME).state is State.APPLIED

    result = run(bench, ANN, what)
    assert result.trainer.state.global_step == 12
    assert result.log().info().status == "finished"


def test_an_agents_pause_is_its_own_until_a_person_pauses_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(bench, monkeypatch)

    def what(people: People) -> None:
        assert people.ask(ANN, PAUSE).state is State.APPLIED
        assert people.control.info("r").status_reason == "paused by ann"
        refused(people.ask(AGENT, RESUME))
        people.ask(ANN, RESUME)
        people.ask(AGENT, PAUSE)
        # Not "the same was refused 0 steps ago": what it was refused for is over.
        assert people.ask(AGENT, RESUME).state is State.APPLIED

    result = run(bench, AGENT, what)
    assert result.trainer.state.global_step == 12


def test_a_person_who_is_asked_may_let_an_agent_end_their_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody else: neither a condition nor a model, whoever would come before them."""
    rules = [{"name": "all", "approvers": ["rule", "model", "human"], "approve_if": "step >= 0"}]
    make_run(bench, monkeypatch, approval=rules)

    def what(people: People) -> None:
        asked = people.ask(AGENT, RESUME)
        assert asked.state is State.PROPOSED
        with pytest.raises(AlreadyDecided):
            people.decide(asked, "approve", approver="model")
        assert people.decide(asked, "approve", always=True).state is State.APPLIED
        assert people.control.info("r").status in ("running", "finished")

    result = run(bench, ANN, what)
    assert result.trainer.state.global_step == 12


def test_what_was_let_through_before_the_pause_came_is_refused_where_it_would_be_applied(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_run(bench, monkeypatch)

    def what(people: People) -> None:
        for command in LEAVING:  # judged by another process that had not seen the pause yet
            proposal = Proposal.model_validate({"command": command, "author": AGENT})
            log = RunLog.open(bench.runs_dir / "r")
            log.submit(proposal, Verdict(decision="approved", decided_by="auto"))
            log.close()
            ack = people.settled(proposal.command_id).ack
            assert ack is not None
            assert (ack.outcome, ack.step) == ("failed", 4)
            assert "refused before it was applied: ann has paused training" in ack.message

    assert run(bench, ANN, what).trainer.state.global_step == 12
    log.close()


def test_silence_is_no_yes_where_a_person_has_paused_meanwhile(tmp_path: Any) -> None:
    desk = Desk(tmp_path, approval=[{**ASK, "on_timeout": "approve"}])
    asked = desk.control.submit("r1", Proposal.model_validate({"command": {"kind": "stop_training"}, "author": AGENT}))
    assert asked.state is State.PROPOSED
    desk.log.append(StatusChanged(status="paused", reason="paused by ann", by=ANN))
    desk.now_s += 3600
    assert desk.control.pending("r1") == []
    refused(desk.control.command("r1", asked.command_id))
    desk.log.close()


def test_a_pause_ends_with_the_attempt_that_it_held(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    desk.log.append(StatusChanged(status="paused", reason="paused by ann", by=ANN))
    refused(desk.control.submit("r1", Proposal.model_validate({"command": RESUME, "author": AGENT})))
    desk.log.begin_attempt("ray", "preempted")
    desk.log.append(StatusChanged(status="running"))
    stop = desk.control.submit("r1", Proposal.model_validate({"command": {"kind": "stop_training"}, "author": AGENT}))
    assert stop.state is State.QUEUED
    desk.log.close()
