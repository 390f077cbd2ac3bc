"""What an agent has decided on a branch is not done to another one that the run went back to meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from transformers import TrainerCallback

from agenttune.control import LocalControl
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State, Verdict
from agenttune.store.run_log import RunLog
from tests.trainer.conftest import Bench
from tests.trainer.test_admission import PATIENCE_S, make_run

pytestmark = pytest.mark.trainer
ANN = Author(principal="operator", name="ann")
AGENT, OTHER = (Author(principal="agent", name=name) for name in ("tuner", "other"))
SAVE = {"kind": "save_checkpoint", "tag": "here", "keep_in": "memory"}
BACK = {"kind": "load_checkpoint", "checkpoint_id": "here"}


class Course(TrainerCallback):  # type: ignore[misc]
    """Saves at step 3, goes back there from step 6, and then does at step 4 of the new branch what a test wants."""

    def __init__(self, bench: Bench, by: Author, then: Callable[[Course], None], with_it: Author | None = None) -> None:
        self.folder, self.control = bench.runs_dir / "r", LocalControl(bench.runs_dir)
        self.by, self.then, self.with_it = by, then, with_it
        self.asked: list[CommandRecord] = []
        self.has_left = False

    def ask(self, author: Author, command: dict[str, Any] | None = None, **seen: Any) -> CommandRecord:
        order = command or {"kind": "update_optimizer", "weight_decay": 0.25}
        record = self.control.submit("r", Proposal.model_validate({"command": order, "author": author, **seen}))
        self.asked.append(record)
        return record

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            self.ask(ANN, SAVE)
        elif state.global_step == 6 and not self.has_left:
            self.has_left = True
            self.ask(self.by, BACK)
            if self.with_it is not None:
                self.ask(self.with_it)
        elif state.global_step == 4 and self.has_left:
            until = time.monotonic() + PATIENCE_S
            while self.control.info("r").branch == "main":
                assert time.monotonic() < until
                time.sleep(0.01)
            self.then(self)


def became(course: Course, bench: Bench) -> list[CommandRecord]:
    """What became of what was asked for after the save and the return, once training is over."""
    result = bench.run(callbacks=[course])
    assert result.trainer.state.global_step == 12
    return [course.control.command("r", record.command_id) for record in course.asked[2:]]


@pytest.mark.parametrize("approval", [[], [{"approvers": ["human"]}]], ids=["approved", "asked"])
def test_it_is_superseded_where_it_arrives_after_the_return(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, approval: list[dict[str, Any]]
) -> None:
    make_run(bench, monkeypatch, approval=approval)

    def then(course: Course) -> None:
        course.ask(AGENT, based_on_step=6, based_on_branch="main")
        assert course.control.pending("r") == [], "it waits for somebody's decision about what is gone"
        course.ask(ANN, based_on_step=6, based_on_branch="main")

    late, persons = became(Course(bench, ANN, then), bench)
    assert late.state is State.SUPERSEDED
    assert late.verdict is not None
    assert late.verdict.decided_by == "restore"
    assert late.verdict.reason.startswith("decided on branch main at step 6, which the run has left; it is on branch-1")
    assert persons.state is State.APPLIED, "a person knows where the run stands"


def test_what_was_decided_here_or_goes_with_ones_own_return_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(bench, monkeypatch)

    def then(course: Course) -> None:
        course.ask(AGENT, based_on_step=6, based_on_branch="main")
        course.ask(OTHER, based_on_step=4, based_on_branch="branch-1")
        course.ask(OTHER)

    answers = became(Course(bench, AGENT, then, with_it=AGENT), bench)
    assert [record.state for record in answers] == [State.APPLIED] * 4


def test_what_another_asks_for_while_a_return_waits_for_its_turn_is_not_done_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(bench, monkeypatch)
    (other,) = became(Course(bench, AGENT, lambda course: None, with_it=OTHER), bench)
    assert other.state is State.EXPIRED
    assert other.ack is not None
    assert "asked for before the run went back to step 3" in other.ack.message


def test_what_was_let_through_just_before_the_return_is_not_applied_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate had still seen the branch that was left when it let it pass; the log had the new one already."""
    make_run(bench, monkeypatch).close()

    def then(course: Course) -> None:
        order = {"command": {"kind": "update_optimizer", "weight_decay": 0.25}, "author": AGENT}
        log = RunLog.open(course.folder)
        passed = Verdict(decision="approved", decided_by="auto")
        course.asked.append(log.submit(Proposal.model_validate({**order, "based_on_branch": "main"}), passed))
        log.close()

    (late,) = became(Course(bench, ANN, then), bench)
    assert late.state is State.EXPIRED
