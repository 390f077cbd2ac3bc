"""What a person must see on the screen, at the sizes that terminals have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from agenttune.protocol.commands import AddNote, UpdateOptimizer
from agenttune.protocol.events import (
    Acked,
    ApprovalRequested,
    BranchStarted,
    Event,
    Found,
    NoteAdded,
    PolicyAttached,
    RunStarted,
    Settled,
    StatusChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.overview import GoalOverview
from agenttune.protocol.proposals import Ack, ApprovalRequest, Author, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import MetricAt
from agenttune.protocol.text import clean, duration, number
from agenttune.store.run_log import RunLog
from agenttune.views.event_lines import lines_of
from agenttune.views.terminal import LiveScreen, PlainLines, view_for
from agenttune.views.terminal.chart import loss_chart, value_range
from agenttune.views.terminal.run_feed import RunFeed
from agenttune.views.terminal.runs_table import print_runs
from tests.cli.history import AT_S, HOSTILE, finish, lowered, new_log, point, rescued_run

URL = "http://127.0.0.1:7007"


@pytest.fixture
def rescued(tmp_path: Path) -> Iterator[RunLog]:
    log = rescued_run(tmp_path / "demo-1")
    yield log
    log.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[RunLog]:
    log = new_log(tmp_path / "demo-2", status="starting")
    yield log
    log.close()


def screen(log: RunLog, width: int, height: int = 24, now_s: float = AT_S + 2.5, above: str = "") -> str:
    """The screen's last picture as text, without colours."""
    quiet = Console(file=StringIO(), force_terminal=True, width=width, height=height)
    feed = RunFeed(log.folder, clock=lambda: now_s)
    live = LiveScreen(quiet, feed, "train.py --lr 0.5", URL, clock=lambda: now_s, above=above)
    live.refresh()
    frame = live.frame()
    live.close()
    page = Console(file=StringIO(), record=True, width=width, height=height, force_terminal=True)
    page.print(frame)
    return page.export_text()


def plain(log: RunLog) -> str:
    out = StringIO()
    view = view_for(Console(file=out, width=80), log.folder, "train.py", URL)
    assert isinstance(view, PlainLines)
    view.refresh()
    view.close()
    return out.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24), (120, 30), (200, 50)])
def test_the_link_printed_above_the_picture_stays_in_sight(rescued: RunLog, width: int, height: int) -> None:
    link = "page  " + URL + "/local/demo-1?key=" + "k" * 70
    with_link = screen(rescued, width, height, above=link).splitlines()
    folded = -(-len(link) // width)
    assert len(with_link) + folded <= height - 1
    assert any("applied" in line for line in with_link), "and the story too"


def test_a_small_terminal_keeps_the_picture(rescued: RunLog) -> None:
    assert screen(rescued, 80, 16, above="page  " + "x" * 100) == screen(rescued, 80, 16)


def test_what_was_only_done_is_said_once() -> None:
    proposal = Proposal(command=AddNote(text="hello"), author=Author(principal="operator", name="ann"))
    ack = Ack(outcome="applied", step=948)
    record = CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1)
    event = Event(seq=1, at_s=0.0, command_id=proposal.command_id, body=Acked(ack=ack))
    assert [line.text for line in lines_of(event, lambda command_id: record)] == ["add_note at step 948"]


def test_screen_shows_state_and_story_at_80_columns(rescued: RunLog) -> None:
    shown = screen(rescued, 80)
    for expected in (
        "demo-1",
        "running",
        "policy guardian",
        "train.py --lr 0.5",
        URL,
        "100/200",
        "50%",
        "50 steps/s",
        "2.0 s left",
        "2.25 at 100",
        "non_finite: step_loss is NaN",
        "guardian: update_optimizer lr 0.05 because the loss left the",
        "lr 0.5 -> 0.05 at step 61, read back at 62",
        "refused",
        "checkpoint-100",
    ):
        assert expected in shown, f"{expected!r} is missing in\n{shown}"


def test_base_and_effective_rate_are_both_shown(rescued: RunLog) -> None:
    rows = [line.split() for line in screen(rescued, 80).splitlines()]
    assert any(row[-2:] == ["lr", "0.05"] for row in rows)
    assert any(row[-2:] == ["base", "0.5"] for row in rows)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24), (60, 10), (40, 8), (200, 60), (20, 5)])
def test_screen_fits_the_terminal(rescued: RunLog, width: int, height: int) -> None:
    lines = screen(rescued, width, height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_newest_lines_stay_visible_in_a_small_terminal(rescued: RunLog) -> None:
    for index in range(300):
        rescued.append(NoteAdded(text=f"remark {index}", author="me"), step=100)
    shown = screen(rescued, 60)
    assert "remark 299" in shown
    assert "remark 100" not in shown


def test_run_without_a_step_says_that_it_waits(empty: RunLog) -> None:
    empty.append(RunStarted(framework="a test", pid=1, max_steps=10))
    shown = screen(empty, 80)
    assert "waiting for the first step" in shown
    assert "waiting for the first loss" in shown
    assert "not attached yet" in shown


def test_run_that_stands_still_does_not_pretend_a_speed(rescued: RunLog) -> None:
    shown = screen(rescued, 80, now_s=AT_S + 2 + 65)
    assert "no step for 1 min 05 s" in shown
    assert "steps/s" not in shown


def test_a_run_that_has_gone_back_is_not_told_to_run_backwards(empty: RunLog) -> None:
    """Seen: `-146 steps/s, -7.8 s left`, where rows of both branches came at once."""
    empty.append(RunStarted(framework="a test", pid=1, max_steps=400))
    empty.append_points([point(step, 1.0) for step in range(1, 101)])
    empty.append(BranchStarted(name="again", parent="main", from_step=0), step=0, branch="again")
    again = {"branch": "again"}
    later = [point(n, 1.0).model_copy(update={**again, "at_s": AT_S + 2 + n / 50}) for n in range(1, 21)]
    empty.append_points(later)
    shown = screen(empty, 100, now_s=AT_S + 2.5)
    assert "50 steps/s" in shown
    assert "-" not in shown.partition(" steps/s")[0][-8:]


def test_run_of_unknown_length_is_shown(empty: RunLog) -> None:
    empty.append(RunStarted(framework="a test", pid=1, max_steps=None))
    empty.append_points([point(7, 1.0)])
    assert "step 7" in screen(empty, 80)


def test_loss_of_nan_is_named(empty: RunLog) -> None:
    empty.append(RunStarted(framework="a test", pid=1, max_steps=10))
    empty.append_points(point(step, math.nan) for step in range(1, 5))
    shown = screen(empty, 80)
    assert "NaN" in shown
    assert "the loss is not finite" in shown


def test_an_undone_change_is_reported(rescued: RunLog) -> None:
    from agenttune.protocol.events import ReadBack

    rescued.append(ReadBack(held=False, expected={"lr": 0.05}, found={"lr": 0.5}), step=70, command_id="c1")
    assert "expected lr 0.05, found lr 0.5" in screen(rescued, 80)


def test_a_refusal_names_the_nearest_allowed_value(rescued: RunLog) -> None:
    asked = Proposal(command=UpdateOptimizer(lr=99.0), author=Author(principal="agent", name="guardian"))
    verdict = Verdict(
        decision="rejected", decided_by="guardrail:bounds", reason="too much", nearest_allowed={"lr": 10.0}
    )
    rescued.submit(asked, verdict)
    assert "update_optimizer lr 99 by guardrail:bounds: too much; nearest allowed: lr 10" in screen(rescued, 120)


def hostile_events(log: RunLog) -> None:
    log.append(NoteAdded(text=HOSTILE, author=HOSTILE[:60]), step=100)
    finding = Finding(kind="spike", severity="warning", metric="loss", step=100, summary=HOSTILE)
    log.append(Found(finding=finding), step=100)
    log.append(PolicyAttached(policy=HOSTILE), step=100)
    log.update_info(goal_metric=HOSTILE)
    log.append(StatusChanged(status="failed", reason=HOSTILE), step=100)


@pytest.mark.parametrize("width", [80, 60])
def test_hostile_text_cannot_steer_the_terminal(rescued: RunLog, width: int) -> None:
    hostile_events(rescued)
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=24)
    live = LiveScreen(console, RunFeed(rescued.folder), HOSTILE, URL)
    live.refresh()
    live.close()
    written = out.getvalue()
    for forbidden in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e", "\x9b"):
        assert forbidden not in written
    assert "[bold red]click[/bold red]" in written, "markup must be shown, not obeyed"


def test_plain_lines_carry_no_control_codes(rescued: RunLog) -> None:
    hostile_events(rescued)
    written = plain(rescued)
    assert all(c == "\n" or c.isprintable() for c in written)
    assert "step 61 applied: lr 0.5 -> 0.05 at step 61, read back at 62" in written
    assert "step 60 found: non_finite: step_loss is NaN" in written


@pytest.mark.parametrize("width", [300, 40])
def test_a_list_of_runs_carries_no_control_codes(width: int) -> None:
    score = GoalOverview(metric=HOSTILE, direction="minimize", newest=2.0, best=1.0)
    info = RunInfo(run_id=HOSTILE, name="r", status="failed", created_at_s=0.0, status_reason=HOSTILE)
    out = StringIO()
    print_runs(Console(file=out, width=width, color_system=None), [(info, score)])
    assert all(c == "\n" or c.isprintable() for c in out.getvalue())
    assert out.getvalue().count("owned") == 3


def test_plain_lines_print_each_event_once(rescued: RunLog) -> None:
    out = StringIO()
    view = PlainLines(Console(file=out), RunFeed(rescued.folder), "train.py", URL)
    view.refresh()
    view.refresh()
    rescued.append(NoteAdded(text="later", author="me"), step=101)
    view.close()
    assert out.getvalue().count("read back at 62") == 1
    assert out.getvalue().count("note: me: later") == 1


def test_plain_progress_comes_every_ten_seconds(rescued: RunLog) -> None:
    out, clock = StringIO(), [AT_S]
    view = PlainLines(Console(file=out), RunFeed(rescued.folder), "train.py", URL, clock=lambda: clock[0])
    view.refresh()
    assert "step 100/200" not in out.getvalue()
    clock[0] += 10
    view.close()
    assert "step 100/200, 50 steps/s, 2.0 s left, loss" in out.getvalue()
    assert "lr 0.05" in out.getvalue()


def test_a_start_in_a_pipe_says_what_is_waited_for_and_no_step_0(empty: RunLog) -> None:
    now_s = [empty.info().created_at_s]
    output = StringIO()
    feed = RunFeed(empty.folder)
    lines = PlainLines(Console(file=output), feed, "train.py", "http://127.0.0.1:1", clock=lambda: now_s[0])
    for _ in range(3):
        now_s[0] += 15
        lines.refresh()
    empty.append(RunStarted(framework="a test", pid=1, max_steps=200), StatusChanged(status="running"), step=0)
    now_s[0] += 5
    lines.close()
    shown = output.getvalue()
    assert "waiting for the first step, 15 s since the start" in shown
    assert "a test, 200 steps" in shown
    assert "step 0" not in shown
    assert "status: running" not in shown


def test_long_run_is_followed_in_bounded_memory(empty: RunLog) -> None:
    feed = RunFeed(empty.folder)
    empty.append_points(Point(step=s, at_s=AT_S + s, values={"step_loss": 1.0, "lr": 0.1}) for s in range(1, 10_001))
    feed.read()
    feed.close()
    assert feed.now.info.step == 10_000
    assert feed.now.loss is not None
    assert feed.now.loss.step == 10_000
    assert feed.now.curve is not None
    assert len(feed.now.curve.steps) <= 160


def test_best_value_follows_the_goal_direction(tmp_path: Path) -> None:
    log = new_log(tmp_path / "demo-3", goal_metric="accuracy", goal_direction="maximize")
    feed = RunFeed(log.folder)
    for step, value in ((1, 0.2), (2, 0.9), (3, math.nan), (4, 0.5)):
        log.append_points([Point(step=step, at_s=AT_S, values={"accuracy": value})])
        feed.read()
    feed.close()
    log.close()
    assert feed.now.goal_best == MetricAt(step=2, value=0.9)
    assert feed.now.goal_last == MetricAt(step=4, value=0.5)


def test_one_spike_does_not_flatten_the_curve() -> None:
    low, high = value_range([*[2.0 + i / 100 for i in range(99)], 1e9], newest=2.5)
    assert 1.5 < low < 2.1
    assert high < 10


def test_the_newest_value_is_always_in_range() -> None:
    low, high = value_range([*[1.0] * 99, 50.0], newest=50.0)
    assert low < 1.0 < 50.0 < high


def test_chart_keeps_its_size_whatever_is_drawn(rescued: RunLog) -> None:
    curve = rescued.curve("step_loss", max_points=160)
    for width, height in ((40, 9), (16, 4), (120, 14)):
        lines = loss_chart(curve, [MetricAt(step=60, value=8.5)], width, height).plain.splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
    assert not loss_chart(curve, [], 5, 2).plain


def test_ended_run_shows_its_end(rescued: RunLog) -> None:
    finish(rescued)
    shown = screen(rescued, 80)
    assert "finished" in shown
    assert "ended" in shown


def test_numbers_and_durations_are_short() -> None:
    assert [number(v) for v in (0.123456, 3e-9, math.inf, -math.inf, math.nan, 7)] == [
        "0.1235",
        "3e-09",
        "inf",
        "-inf",
        "NaN",
        "7",
    ]
    assert [duration(s) for s in (8.25, 42.4, 65, 7620)] == ["8.2 s", "42 s", "1 min 05 s", "2 h 07 min"]


def test_clean_cuts_and_keeps_what_can_be_read() -> None:
    assert clean("größer\n\nals  \u4e2d\u6587") == "größer als \u4e2d\u6587"
    assert clean("x" * 500, 10) == "x" * 9 + "…"
    assert lowered(rationale="why").rationale == "why"


def test_requests_and_probation_have_their_lines() -> None:
    """A person sees what waits for them, and what became of a change that was watched."""
    asked = Proposal.model_validate(
        {
            "command": {"kind": "update_optimizer", "lr": 0.1},
            "author": {"principal": "agent", "name": "llm"},
        }
    )
    request = ApprovalRequest(
        digest=asked.digest(),
        rule="ask",
        approvers=["human"],
        requested_at_s=0.0,
        expires_at_s=60.0,
        step=5,
        training="pause",
    )
    record = CommandRecord(proposal=asked, state=State.PROPOSED, request=request, submitted_seq=1)
    settled = Settled(outcome="reverted", reason="the loss was going to 1 and came to 2")
    bodies = [ApprovalRequested(request=request), settled]
    events = [Event(seq=i, at_s=0.0, step=5, command_id=asked.command_id, body=body) for i, body in enumerate(bodies)]
    (waits,), (reverted,) = (lines_of(event, lambda command_id: record) for event in events)
    assert (waits.mark, reverted.mark) == ("waits", "reverted")
    assert "update_optimizer for human, 60 s, then reject, training is held" in waits.text
    assert reverted.text == "update_optimizer: the loss was going to 1 and came to 2"
