"""When training waits for the agent and for how long, without a training: a log, a clock that is set by hand."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenttune.config import WakeSettings
from agenttune.protocol.events import Decided, DecisionAwaited, PolicyAttached, PolicyDetached
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.execution import lockstep
from agenttune.trainer.execution.lockstep import Lockstep

pytestmark = pytest.mark.trainer
LIMIT_S = 60.0
NOBODY = 2**22 + 1
"""A process id that no machine gives out."""


class Stand:
    """A run that waits, and its clock."""

    def __init__(self, folder: Path, **wake: Any) -> None:
        self.log = RunLog.create(folder, RunInfo(run_id="r", name="r", status="running", created_at_s=0.0))
        self.now_s, self.passes_s = 1000.0, 0.0
        settings = WakeSettings(mode="lockstep", lockstep_limit_s=LIMIT_S, **{"every_steps": 5, **wake})
        self.lockstep = Lockstep(settings, self.log, self.write, self.clock_s)

    def write(self, write: Callable[[RunLog], object]) -> None:
        write(self.log)

    def attach(self, **given: Any) -> None:
        alive = {"pid": os.getpid(), "host": platform.node()}
        self.log.append(PolicyAttached(policy="p", **{**alive, **given}))

    def ask_at(self, step: int) -> bool:
        self.lockstep.reach(step, None)
        return self.lockstep.begin(step, "main")

    def decide(self, **given: Any) -> None:
        self.log.append(Decided(policy="p", woken_by="", **given))

    def asked(self) -> list[int | None]:
        return [e.step for e in self.log.events(kinds=["decision_awaited"])]

    def newest_seq(self) -> int:
        return self.log.events(kinds=["decision_awaited"])[-1].seq

    def notes(self) -> list[str]:
        return [str(e.body.model_dump()["text"]) for e in self.log.events(kinds=["note_added"])]

    def clock_s(self) -> float:
        """The time; what is to pass, passes after it was read."""
        read_s = self.now_s
        self.now_s, self.passes_s = read_s + self.passes_s, 0.0
        return read_s

    def pass_time(self, seconds: float) -> bool:
        """Time goes by while training stands idle; whether it still waits then."""
        self.passes_s = seconds
        self.lockstep.idle()
        return self.lockstep.goes_on()


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    found = Stand(tmp_path / "r")
    found.attach()
    return found


# -- when --------------------------------------------------------------------------------------------------------------


def test_every_so_many_steps_a_question_is_due_but_not_at_the_last(stand: Stand) -> None:
    due = []
    for step in range(1, 21):
        stand.lockstep.reach(step, 20)
        due += [step] if stand.lockstep.is_due(step) else []
    assert due == [5, 10, 15]
    stand.lockstep.reach(25, None)
    assert stand.lockstep.is_due(25)


def test_the_first_loss_that_is_not_finite_is_asked_about_and_the_next_only_after_a_finite_one(stand: Stand) -> None:
    losses = {1: 1.0, 2: math.nan, 3: math.nan, 4: 1.0, 6: math.inf}
    due = []
    for step, loss in losses.items():
        stand.lockstep.logged(step, math.isfinite(loss))
        due += [step] if stand.lockstep.is_due(step) else []
    assert due == [2, 6]


@pytest.mark.parametrize("is_on", [True, False])
def test_findings_and_evaluations_are_asked_about_where_the_settings_say_so(tmp_path: Path, is_on: bool) -> None:
    stand = Stand(tmp_path / "r", on_finding=is_on, on_evaluation=is_on)
    stand.lockstep.logged(2, False)
    assert stand.lockstep.is_due(2) is is_on
    stand.lockstep.evaluated(3)
    assert stand.lockstep.is_due(3) is is_on


def test_of_one_step_two_questions_are_asked_and_no_third(stand: Stand) -> None:
    """One at the boundary, and one about an evaluation that was asked for after it."""
    assert stand.ask_at(5)
    stand.decide(awaited_seq=stand.newest_seq())
    assert not stand.lockstep.goes_on()
    stand.lockstep.evaluated(5)
    assert stand.lockstep.begin(5, "main")
    stand.decide(awaited_seq=stand.newest_seq())
    assert not stand.lockstep.goes_on()
    stand.lockstep.evaluated(5)
    assert not stand.lockstep.begin(5, "main")
    stand.lockstep.evaluated(6)
    assert stand.lockstep.begin(6, "main")
    assert stand.asked() == [5, 5, 6]


def test_a_question_is_asked_once_and_says_why_and_for_how_long(stand: Stand) -> None:
    assert stand.ask_at(5)
    assert stand.lockstep.begin(5, "main"), "it still waits"
    (event,) = stand.log.events(kinds=["decision_awaited"])
    assert isinstance(event.body, DecisionAwaited)
    assert (event.step, event.branch, event.body.reason, event.body.limit_s) == (5, "main", "5 steps", LIMIT_S)


def test_a_question_about_a_step_that_was_left_by_restoring_is_not_asked(stand: Stand) -> None:
    stand.lockstep.reach(10, None)
    assert not stand.lockstep.begin(7, "retry")
    assert not stand.lockstep.begin(10, "main"), "nor when the run comes by there again"
    assert stand.ask_at(10)
    assert not stand.lockstep.begin(10, "other"), "what was asked on another branch is over"


# -- how long ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decided", "waits"),
    [({"awaited_seq": 0}, True), ({"based_on_step": 5}, False), ({"based_on_step": 4}, True), ({}, True)],
)
def test_only_the_decision_about_this_very_wait_ends_it(stand: Stand, decided: dict[str, Any], waits: bool) -> None:
    """One that names no wait, of a client that does not know of them, counts by its step."""
    assert stand.ask_at(5)
    assert stand.lockstep.goes_on()
    stand.decide(**decided)
    assert stand.lockstep.goes_on() is waits
    stand.decide(awaited_seq=stand.newest_seq(), based_on_step=3)
    assert not stand.lockstep.goes_on()


def test_a_wait_ends_with_its_limit_and_pauses_do_not_count(stand: Stand) -> None:
    assert stand.ask_at(5)
    stand.now_s += 10 * LIMIT_S  # such as the work of a command
    assert stand.lockstep.goes_on()
    assert stand.pass_time(LIMIT_S - 1)
    assert not stand.pass_time(1)
    assert not stand.lockstep.goes_on()
    assert stand.notes() == ["no decision about step 5 within 60 s; training goes on"]


def miss(stand: Stand, step: int) -> bool:
    """A question that nobody answers; whether it was asked at all."""
    was_asked = stand.ask_at(step)
    if was_asked:
        assert not stand.pass_time(LIMIT_S)
    return was_asked


def test_after_three_misses_in_a_row_nothing_is_waited_for_until_the_agent_decides(stand: Stand) -> None:
    assert [miss(stand, step) for step in (5, 10, 15, 20)] == [True, True, True, False]
    assert len(stand.notes()) == 2
    assert "3 times in a row" in stand.notes()[1]
    stand.decide(based_on_step=15)
    assert [miss(stand, step) for step in (25, 30, 35, 40)] == [True, True, True, False], "and they count anew"


def test_a_decision_in_between_ends_the_row(stand: Stand) -> None:
    assert miss(stand, 5)
    assert miss(stand, 10)
    assert stand.ask_at(15)
    stand.decide(awaited_seq=stand.newest_seq())
    assert not stand.lockstep.goes_on()
    assert [miss(stand, step) for step in (20, 25, 30, 35)] == [True, True, True, False]


# -- an agent that does not come ---------------------------------------------------------------------------------------


def test_nobody_is_waited_for_who_never_came(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "r")
    assert [miss(stand, step) for step in (5, 10)] == [True, False]
    assert stand.notes() == ["no policy came within 60 s; training goes on until one is attached"]
    stand.attach()
    assert stand.ask_at(15)


@pytest.mark.parametrize(("successor", "waits"), [(None, False), ("next", True)])
def test_an_agent_that_left_is_not_waited_for_unless_another_follows(
    stand: Stand, successor: str | None, waits: bool
) -> None:
    assert stand.ask_at(5)
    assert stand.lockstep.goes_on()
    stand.log.append(PolicyDetached(policy="p", reason="its budget is spent", successor=successor))
    assert stand.lockstep.goes_on() is waits
    if not waits:
        assert stand.notes() == ["policy p has left (its budget is spent); training goes on until one is attached"]
        assert not stand.ask_at(10)
        stand.attach()
        assert stand.ask_at(15)


def test_an_agent_that_left_between_two_waits_is_not_asked(stand: Stand) -> None:
    stand.log.append(PolicyDetached(policy="p"))
    assert not stand.ask_at(5)
    assert stand.asked() == []
    assert stand.notes() == ["policy p has left; training goes on until one is attached"]


@pytest.mark.parametrize(
    ("agent", "waits"),
    [
        ({"pid": NOBODY}, False),
        ({"pid": NOBODY, "host": "another machine"}, True),
        ({"pid": None}, True),
        ({"pid_started_s": 1e9}, False),
        ({}, True),
    ],
    ids=["gone", "elsewhere", "not told", "another process has its number", "alive"],
)
def test_an_agent_whose_process_is_gone_is_waited_for_ten_seconds(
    tmp_path: Path, agent: dict[str, Any], waits: bool
) -> None:
    stand = Stand(tmp_path / "r")
    stand.attach(**agent)
    assert stand.ask_at(5)
    assert stand.lockstep.goes_on()
    stand.now_s += 9.5
    assert stand.lockstep.goes_on()
    stand.now_s += 1.0
    assert stand.lockstep.goes_on() is waits
    assert len(stand.notes()) == (0 if waits else 1)


def test_an_agent_that_came_back_is_not_held_to_have_been_gone(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "r")
    stand.attach(pid=NOBODY)
    assert stand.ask_at(5)
    assert stand.lockstep.goes_on()
    stand.attach()
    stand.now_s += 5.0
    assert stand.lockstep.goes_on()
    stand.attach(pid=NOBODY)
    stand.now_s += 6.0
    assert stand.lockstep.goes_on()
    stand.now_s += 9.5
    assert stand.lockstep.goes_on()
    stand.now_s += 1.5
    assert not stand.lockstep.goes_on()


def test_a_log_that_is_written_slowly_is_not_one_that_cannot_be_written(tmp_path: Path) -> None:
    """Training on a busy machine must wait for the agent all the same."""
    stand = Stand(tmp_path / "r")
    stand.attach()
    quick = WakeSettings(mode="lockstep", every_steps=5, lockstep_limit_s=0.01)

    def write_later(job: Callable[[RunLog], object]) -> None:
        def write() -> None:
            with contextlib.closing(RunLog.open(stand.log.folder)) as log:
                job(log)

        threading.Timer(0.3, write).start()

    slow = Lockstep(quick, stand.log, write_later, stand.clock_s)
    slow.reach(5, None)
    assert slow.begin(5, "main")


def test_a_log_that_cannot_be_written_makes_nobody_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockstep, "ANNOUNCE_S", 0.01)
    stand = Stand(tmp_path / "r")
    stand.attach()
    quick = WakeSettings(mode="lockstep", every_steps=5, lockstep_limit_s=0.01)
    deaf = Lockstep(quick, stand.log, lambda write: None, stand.clock_s)
    deaf.reach(5, None)
    assert not deaf.begin(5, "main")
    assert "cannot be written" in caplog.text
    deaf.reach(10, None)
    assert not deaf.begin(10, "main")
