"""The writer's thread: what is handed over comes into the log in order, many rows in one transaction."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agenttune.errors import StoreFault
from agenttune.protocol.events import LogGap, Logged, NoteAdded
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_info import RunInfo
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog
from agenttune.trainer.recording.background_writer import BackgroundWriter, StepMeter

LONG_S = 30.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    info = RunInfo(run_id="r1", name="r", status="running", created_at_s=0.0)
    RunLog.create(tmp_path / "r1", info).close()
    return tmp_path / "r1"


def logged(step: int, loss: float = 1.0) -> MetricRow:
    return MetricRow(step, float(step), {"loss": loss}, "log", "main", {"task": "cola"})


def note(text: str) -> Callable[[RunLog], object]:
    return lambda log: log.append(NoteAdded(text=text, author="a"))


def test_rows_of_the_loops_log_are_events_in_order_with_what_was_handed_over_between(folder: Path) -> None:
    go = threading.Event()

    def wait(log: RunLog) -> None:
        go.wait(LONG_S)

    writer = BackgroundWriter(folder, interval_s=LONG_S)
    writer.submit(wait)  # all that follows is there when the thread comes to it
    for step in (1, 2):
        writer.add_point(MetricRow(step, float(step), {"step_loss": 1.0}))
        writer.add_point(logged(step))
    writer.submit(note("between"))
    writer.add_point(logged(3, math.nan))
    writer.submit(note("last"))
    writer.add_point(logged(4))
    go.set()
    assert writer.close()
    events = RunLog.open(folder).events()
    told = [e.step if isinstance(e.body, Logged) else e.body.model_dump()["text"] for e in events]
    assert told == [1, 2, "between", 3, "last", 4]
    assert [e.seq for e in events] == list(range(1, 7))
    bodies = [e.body for e in events if isinstance(e.body, Logged)]
    assert bodies[0] == Logged(metrics={"loss": 1.0}, texts={"task": "cola"})
    assert math.isnan(bodies[2].metrics["loss"])
    assert [(p.step, p.source) for p in RunLog.open(folder).points()] == [
        *[(1, "step"), (1, "log"), (2, "step"), (2, "log")],
        *[(3, "log"), (4, "log")],
    ]


def test_while_the_thread_is_stuck_only_so_many_rows_wait_and_every_event_does(folder: Path) -> None:
    busy, go = threading.Event(), threading.Event()

    def wait(log: RunLog) -> None:
        busy.set()
        go.wait(LONG_S)

    writer = BackgroundWriter(folder, interval_s=LONG_S, capacity_rows=20)
    writer.submit(wait)
    assert busy.wait(LONG_S)
    for step in range(100):
        writer.add_point(logged(step))
        if step % 25 == 0:
            writer.submit(note(f"after {step}"))
    assert len(writer.queue) <= 20 + 1
    go.set()
    assert writer.close()
    bodies = [event.body for event in RunLog.open(folder).events()]
    assert [b.text for b in bodies if isinstance(b, NoteAdded)] == [f"after {step}" for step in (0, 25, 50, 75)]
    kept = [point.step for point in RunLog.open(folder).points()]
    gap = next(body for body in bodies if isinstance(body, LogGap))
    assert kept == list(range(gap.dropped_rows, 100))


def test_a_hundred_logged_steps_are_one_transaction(folder: Path) -> None:
    keep = RunLog.open(folder)
    writer = BackgroundWriter(folder, interval_s=LONG_S)
    for step in range(100):
        writer.add_point(MetricRow(step, float(step), {"step_loss": 1.0}))
        writer.add_point(logged(step))
    before = commits(folder)
    assert writer.close()
    assert commits(folder) - before == 1
    assert len(keep.events(limit=1000)) == 100


def commits(folder: Path) -> int:
    """SQLite's own count of commits, in the log's shared memory."""
    return int.from_bytes((folder / "log.db-shm").read_bytes()[8:12], "little")


def test_an_ack_waits_for_no_interval(folder: Path) -> None:
    writer, written = BackgroundWriter(folder, interval_s=LONG_S), threading.Event()
    writer.add_point(logged(1))

    def ack(log: RunLog) -> None:
        log.append(NoteAdded(text="ack", author="a"))
        written.set()

    writer.submit(ack)
    assert written.wait(LONG_S / 2)
    assert len(RunLog.open(folder).events()) == 2
    writer.close()


def test_while_the_disk_is_full_only_the_oldest_rows_go_and_the_order_stays(folder: Path) -> None:
    full, tried = threading.Event(), threading.Event()
    full.set()

    class Full(RunLog):
        def append_points(self, points: object) -> None:
            tried.set()
            if full.is_set():
                raise StoreFault("database or disk is full")
            super().append_points(points)  # type: ignore[arg-type]

    writer = BackgroundWriter(folder, Full.open, interval_s=0.01, capacity_rows=4)
    for step in range(10):
        writer.add_point(logged(step))
    writer.submit(note("kept"))
    assert tried.wait(LONG_S)
    writer.add_point(logged(10))
    full.clear()
    assert writer.close()
    events = RunLog.open(folder).events()
    rows = [e.step for e in events if isinstance(e.body, Logged)]
    gap = next(e.body for e in events if isinstance(e.body, LogGap))
    assert rows == sorted(rows, key=lambda step: step or 0)
    assert rows[-1] == 10
    assert len(rows) + gap.dropped_rows == 11
    assert any(isinstance(e.body, NoteAdded) for e in events)


def test_what_training_drops_while_the_thread_takes_is_told_and_the_rest_is_in_order(folder: Path) -> None:
    writer = BackgroundWriter(folder, interval_s=0.001, capacity_rows=10)
    for step in range(3000):
        writer.add_point(logged(step))
        if step % 500 == 0:
            writer.submit(note(f"after {step}"))
    assert writer.close()
    events = RunLog.open(folder).events(limit=10_000)
    dropped = sum(event.body.dropped_rows for event in events if isinstance(event.body, LogGap))
    kept = [event.step or 0 for event in events if isinstance(event.body, Logged)]
    assert kept == sorted(set(kept))
    assert len(kept) + dropped == 3000
    told = [event.body.text for event in events if isinstance(event.body, NoteAdded)]
    assert told == [f"after {step}" for step in range(0, 3000, 500)]


def test_rows_that_are_dropped_while_the_gap_is_written_are_told_too(folder: Path) -> None:
    later = [logged(3)]

    class Slow(RunLog):
        def append(self, *bodies: Record, **where: Any) -> list[int]:
            if isinstance(bodies[0], LogGap) and later:
                writer.add_point(later.pop())
            return super().append(*bodies, **where)

    writer = BackgroundWriter(folder, Slow.open, interval_s=LONG_S, capacity_rows=0)
    writer.add_point(logged(1))
    writer.submit(note("first"))
    assert writer.close()
    told = [event.body.dropped_rows for event in RunLog.open(folder).events() if isinstance(event.body, LogGap)]
    assert sum(told) == 2


def test_the_thread_waits_while_rows_are_dropped_before_it_looks_for_what_is_next(folder: Path) -> None:
    writer = BackgroundWriter(folder, interval_s=LONG_S, capacity_rows=4)
    looked = threading.Event()

    def look() -> None:
        writer._next_job()
        looked.set()

    with writer._heads:  # dropping: for a moment the queue is empty
        looking = threading.Thread(target=look)
        looking.start()
        assert not looked.wait(0.1)
    looking.join()
    assert writer.close()


def test_a_row_that_cannot_be_read_costs_itself_alone_and_is_told(folder: Path) -> None:
    go = threading.Event()
    writer = BackgroundWriter(folder, interval_s=LONG_S)
    writer.submit(lambda log: go.wait(LONG_S))
    for step in (1, 2, 3):
        meter = StepMeter()
        meter.losses = [torch.ones(2) if step == 2 else torch.tensor(1.0)]
        writer.add_point(meter.finish(step, 0.1, 0.1))
    writer.submit(note("an ack"))
    writer.add_point(logged(4))
    go.set()
    assert writer.close()
    log = RunLog.open(folder)
    assert [point.step for point in log.points()] == [1, 3, 4]
    bodies = [event.body for event in log.events()]
    assert [body.text for body in bodies if isinstance(body, NoteAdded)] == ["an ack"]
    (gap,) = [body for body in bodies if isinstance(body, LogGap)]
    assert gap.dropped_rows == 1
    assert gap.reason.startswith("could not be read: RuntimeError")
