"""A request waits as long as its rule says, whoever sets the clock; silence is a yes only if the time really passed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttune.gate import timed_out
from agenttune.protocol.deadlines import BootTime, Instant, boot_time, instant, is_over, now_for
from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, State
from tests.core.test_approval import ASK, Desk

HOUR_S = 3600.0
SILENT_YES = {**ASK, "on_timeout": "approve"}


@pytest.fixture(params=["reject", "approve"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, approval=[{**ASK, "on_timeout": request.param}])
    yield made
    made.log.close()


def still_waits(desk: Desk, record: CommandRecord) -> bool:
    return [r.command_id for r in desk.control.pending("r1")] == [record.command_id]


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 10 * 365 * 86_400.0])
def test_a_clock_that_jumps_neither_hurries_nor_delays(desk: Desk, jump_s: float) -> None:
    record = desk.ask(lr=0.1)
    desk.now_s += 30
    desk.ahead_s = jump_s
    assert still_waits(desk, record)
    desk.control = desk.process()  # started after the jump
    desk.now_s += 29
    assert still_waits(desk, record)
    desk.now_s += 1
    assert desk.control.pending("r1") == []
    is_yes = record.request is not None and record.request.on_timeout == "approve"
    assert desk.state(record) is (State.QUEUED if is_yes else State.EXPIRED)


def test_after_a_restart_of_the_machine_the_wall_clock_counts_but_silence_is_no_yes(desk: Desk) -> None:
    record = desk.ask(lr=0.1)
    desk.boot_id, desk.control = "second", desk.process()
    desk.now_s += 59
    assert still_waits(desk, record)
    desk.now_s += 1
    assert desk.control.pending("r1") == []
    ended = desk.control.command("r1", record.command_id)
    assert ended.state is State.EXPIRED
    assert ended.verdict is not None
    said = "started anew" in ended.verdict.reason
    assert said == (record.request is not None and record.request.on_timeout == "approve")


def test_a_person_can_still_answer_after_a_jump(desk: Desk) -> None:
    record = desk.ask(lr=0.1)
    desk.ahead_s = HOUR_S
    assert desk.decide(record, "approve").state is State.QUEUED


def test_a_log_of_before_has_requests_by_the_wall_clock_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, approval=[SILENT_YES])
    request = desk.ask(lr=0.1).request
    assert request is not None
    written = json.loads(request.model_dump_json(exclude={"boot_id", "requested_boot_s"}))
    old, now = ApprovalRequest.model_validate(written), Instant(desk.now_s + 60, BootTime("first", desk.now_s + 60))
    assert now_for(old, now) == desk.now_s + 60
    verdict = timed_out(old, now)
    assert verdict is not None
    assert verdict.decision == "expired"
    desk.log.close()


def test_this_machine_has_a_clock_that_all_its_processes_share() -> None:
    before, between, after = boot_time(), instant(), boot_time()
    assert before.boot_id == between.boot.boot_id == after.boot_id != ""
    assert before.at_s <= between.boot.at_s <= after.at_s
    assert between.unix_s == pytest.approx(time.time(), abs=60)
    request = ApprovalRequest(
        digest="d",
        rule="ask",
        approvers=["human"],
        requested_at_s=between.unix_s,
        expires_at_s=between.unix_s + HOUR_S,
        boot_id=before.boot_id,
        requested_boot_s=before.at_s,
        step=1,
    )
    assert not is_over(request, instant())
