"""The log keeps what it acknowledged, whatever is killed or full, and refuses to contradict itself."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttune.errors import CommandIdReused, LogFull, StoreFault, UnknownCommandId, UnknownRun, UserError
from agenttune.protocol.events import Acked, Evaluated, NoteAdded, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import NEXT, Ack, Change, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.downsampling import Bucket, thin
from agenttune.store.metric_table import MetricTable, metrics_json
from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.core.conftest import APPROVED, propose

APPLIED = Ack(outcome="applied", step=3, changes=[Change(name="lr", previous=0.1, requested=0.01, effective=0.01)])


def loss_points(values: list[float], first_step: int = 0) -> list[Point]:
    return [Point(step=first_step + i, at_s=float(i), values={"loss": v}) for i, v in enumerate(values)]


def test_a_command_goes_from_queued_to_applied_once(log: RunLog) -> None:
    proposal = propose(lr=0.01)
    assert log.submit(proposal, APPROVED).state is State.QUEUED
    log.acknowledge(proposal.command_id, APPLIED)
    record = log.command(proposal.command_id)
    assert (record.state, record.ack) == (State.APPLIED, APPLIED)
    with pytest.raises(UserError, match="cannot become failed"):
        log.acknowledge(proposal.command_id, Ack(outcome="failed", step=4))
    kinds = [e.body.kind for e in log.events(command_id=proposal.command_id)]
    assert kinds == ["proposed", "judged", "acked"]


def test_the_same_id_gives_the_same_answer_again(log: RunLog) -> None:
    first = log.submit(propose(lr=0.01, command_id="a"), APPROVED)
    assert log.submit(propose(lr=0.01, command_id="a"), APPROVED) == first
    assert len(log.commands()) == 1
    with pytest.raises(CommandIdReused, match="use a new id"):
        log.submit(propose(lr=0.02, command_id="a"), APPROVED)


def test_an_ack_and_its_state_are_one_transaction(log: RunLog) -> None:
    proposal = propose(lr=0.01)
    log.submit(proposal, APPROVED)
    with pytest.raises(RuntimeError), log.transaction():
        log._advance(proposal.command_id, State.APPLIED, Acked(ack=APPLIED), 3, "main")
        raise RuntimeError("killed here")
    assert log.command(proposal.command_id).state is State.QUEUED
    assert log.events(kinds=["acked"]) == []


def test_the_end_of_a_run_expires_what_is_queued_and_is_final(log: RunLog) -> None:
    proposal = propose(lr=0.01)
    log.submit(proposal, APPROVED)
    log.append(StatusChanged(status="finished"), step=9)
    record = log.command(proposal.command_id)
    assert record.state is State.EXPIRED
    assert record.ack is not None
    assert record.ack.message == "the run is finished"
    log.append(StatusChanged(status="lost"), step=9)
    assert log.info().status == "finished"


def test_unknown_things_are_named(log: RunLog, folder: Path) -> None:
    with pytest.raises(UnknownCommandId, match="'nope'"):
        log.command("nope")
    with pytest.raises(UnknownRun, match=r"newest: r1"):
        run_folder(folder.parent, "nope")
    for evil in ("../r1", "", ".", "..", "a/b", "/etc"):
        with pytest.raises(UnknownRun):
            run_folder(folder.parent, evil)
    with pytest.raises(UserError, match="no metric 'x' in branch 'main'; there are: none yet"):
        log.curve("x")


def test_events_are_dense_and_ordered_between_writers(log: RunLog, folder: Path) -> None:
    other = RunLog.open(folder)
    for i in range(50):
        (log if i % 2 else other).append(NoteAdded(text=str(i), author="t"))
    events = log.events()
    assert [e.seq for e in events] == list(range(1, 51))
    assert [getattr(e.body, "text", "") for e in events] == [str(i) for i in range(50)]
    assert [e.seq for e in log.events(since=48)] == [49, 50]
    assert [e.seq for e in log.events(limit=2, newest=True)] == [49, 50]
    other.close()


def test_data_version_changes_when_another_connection_writes(log: RunLog, folder: Path) -> None:
    other = RunLog.open(folder)
    before = log.data_version()
    assert log.data_version() == before
    other.append(NoteAdded(text="x", author="t"))
    assert log.data_version() != before
    other.close()


def test_non_finite_metrics_come_back_as_they_were(log: RunLog) -> None:
    log.append_points(loss_points([1.0, math.nan, math.inf, -math.inf, 2.0]))
    values = [p.values["loss"] for p in log.points()]
    assert values[0] == 1.0
    assert math.isnan(values[1])
    assert values[2:] == [math.inf, -math.inf, 2.0]
    curve = log.curve("loss")
    assert curve.nonfinite == [0, 1, 1, 1, 0]
    assert '"NaN"' in curve.model_dump_json()
    assert "NaN," not in curve.model_dump_json().replace('"NaN"', "")


@pytest.mark.parametrize("name", ['a"b', "a.b", "a\\b", "x[0]", "größe", "eval/loss", "$"])
def test_any_metric_name_has_its_curve(log: RunLog, name: str) -> None:
    log.append_points([Point(step=i, at_s=0.0, values={name: float(i)}) for i in range(40)])
    assert log.curve(name).mean == [float(i) for i in range(40)]


@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=900),
    cuts=st.lists(st.integers(0, 900), max_size=4),
    max_points=st.integers(1, 1000),
)
@settings(max_examples=25, deadline=None)
def test_a_curve_counts_every_point_once(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], cuts: list[int], max_points: int
) -> None:
    """Whatever the batches, and with a new reader that brings the cache up to date after each of them."""
    folder = tmp_path_factory.mktemp("curve") / "r"
    log = RunLog.create(folder, RunInfo(run_id="r", name="r", status="running", created_at_s=0.0))
    edges = sorted({0, len(values), *[c for c in cuts if c < len(values)]})
    for start, end in itertools.pairwise(edges):
        log.append_points(loss_points(values[start:end], start))
        reader = RunLog.open(folder)
        assert sum(s.count for s in reader.series()) == end
        reader.close()
    curve = log.curve("loss", max_points=max_points)
    finite = [v for v in values if math.isfinite(v)]
    assert len(curve.steps) <= max_points
    assert curve.steps == sorted(curve.steps)
    assert curve.steps[-1] == len(values) - 1
    assert sum(curve.nonfinite) == len(values) - len(finite)
    if finite:
        assert min(v for v in curve.low if math.isfinite(v)) == pytest.approx(min(finite), rel=1e-6)
        assert max(v for v in curve.high if math.isfinite(v)) == pytest.approx(max(finite), rel=1e-6)
    log.close()


def test_a_long_curve_is_right_in_every_part(log: RunLog) -> None:
    values = [random.Random(1).gauss(0, 1) + i / 1000 for i in range(20_000)]
    for start in range(0, 20_000, 777):
        log.append_points(loss_points(values[start : start + 777], start))
    curve = log.curve("loss", max_points=100)
    assert len(curve.steps) <= 100
    first = 0
    for step, mean in zip(curve.steps, curve.mean, strict=True):
        part = values[first : step + 1]
        assert mean == pytest.approx(sum(part) / len(part), rel=1e-5)
        first = step + 1
    window = log.curve("loss", first_step=5000, last_step=5049)
    assert window.steps == list(range(5000, 5050))
    assert window.mean == pytest.approx(values[5000:5050], rel=1e-6)


def test_merging_buckets_keeps_totals() -> None:
    parts = [Bucket.of_one(v, i, i + 1) for i, v in enumerate([1.0, math.nan, 5.0])]
    curve = thin("x", "main", parts, 1)
    assert (curve.mean, curve.low, curve.high, curve.nonfinite) == ([3.0], [1.0], [5.0], [1])


KILLED_WRITER = """
import sys, time
from pathlib import Path
from typing import Any
from agenttune.protocol.metrics import Point
from agenttune.store.run_log import RunLog
log = RunLog.open(Path(sys.argv[1]))
for i in range(1_000_000):
    log.append_points([Point(step=i, at_s=0.0, values={"loss": float(i)})])
    print(i, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(log: RunLog, folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 300:
            break
    process.send_signal(signal.SIGKILL)
    acknowledged = max([300, *[int(line) for line in process.stdout if line.endswith("\n")]])
    process.wait()
    steps = [p.step for p in log.points(limit=10**6)]
    assert steps == list(range(len(steps)))
    assert len(steps) > acknowledged
    check = sqlite3.connect(folder / "log.db").execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)
    log.append_points(loss_points([0.5], first_step=len(steps)))
    assert sum(p.step == len(steps) for p in log.points(limit=10**6)) == 1


def test_a_full_disk_is_an_error_and_the_log_stays_readable(log: RunLog) -> None:
    pages = log._db.execute("PRAGMA page_count").fetchone()[0]
    log.append(NoteAdded(text="before", author="t"))
    log._db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreFault, match="full"):
        for i in range(200):
            log.append(NoteAdded(text="x" * 1000, author=str(i)))
    assert getattr(log.events()[0].body, "text", "") == "before"
    log._db.execute("PRAGMA max_page_count=100000")
    seq = log.append(NoteAdded(text="after", author="t"))[0]
    assert log.last_seq() == seq


def test_curves_of_a_full_disk_are_read_as_far_as_they_are_kept(log: RunLog, folder: Path) -> None:
    """A view, a report or a page that only reads needs no room, and must not end for the lack of it."""
    log.append_points(loss_points([2.0, 1.0]))
    log.index_points()
    log.append_points([Point(step=s, at_s=1.0, values={f"m{s}": 1.0}) for s in range(3, 300)])
    log._db.execute(f"PRAGMA max_page_count={log._db.execute('PRAGMA page_count').fetchone()[0]}")
    assert log.curve("loss").mean == [2.0, 1.0]
    assert log.recent_points(1)[0].step == 299, "rows are all there"
    with pytest.raises(LogFull):
        log.append(NoteAdded(text="x" * 100_000, author="t"))
    log._db.execute("PRAGMA max_page_count=100000")
    assert log.curve("m299").mean == [1.0]


def test_a_second_run_of_the_same_name_is_refused(log: RunLog, folder: Path) -> None:
    with pytest.raises(StoreFault, match="choose another name"):
        RunLog.create(folder, log.info())


def test_a_damaged_log_does_not_hide_the_others(log: RunLog, folder: Path) -> None:
    broken = folder.parent / "broken"
    broken.mkdir()
    (broken / "log.db").write_bytes(b"not a database, but long enough to look like a file" * 100)
    assert [info.run_id for info in list_runs(folder.parent)] == ["r1"]
    with pytest.raises(StoreFault, match="not a database"):
        RunLog.open(broken).info()


def test_a_log_of_a_newer_version_is_refused(log: RunLog, folder: Path) -> None:
    log._db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreFault, match="format 99"):
        RunLog.open(folder)


def test_two_readers_that_take_turns_agree_with_one(log: RunLog, folder: Path, tmp_path: Path) -> None:
    values = [math.sin(i / 50) for i in range(5000)]
    alone = RunLog.create(tmp_path / "alone", log.info())
    alone.append_points(loss_points(values))
    other = RunLog.open(folder)
    for start in range(0, 5000, 111):
        log.append_points(loss_points(values[start : start + 111], start))
        assert (other if start % 2 else log).curve("loss").steps[-1] == min(start + 110, 4999)
    assert log.curve("loss") == other.curve("loss") == alone.curve("loss")
    assert alone.series() == log.series()
    other.close()
    alone.close()


def test_every_state_leads_to_an_end() -> None:
    ends = {s for s in State if not NEXT[s]}
    assert ends == {State.REJECTED, State.SUPERSEDED, State.FAILED, State.EXPIRED, State.KEPT, State.REVERTED}
    assert set().union(*NEXT.values()) == set(State) - {State.PROPOSED}


def test_info_tells_the_newest_step(log: RunLog) -> None:
    log.append_points(loss_points([1.0, 2.0], first_step=41))
    assert log.info().step == 42
    assert time.time() - log.info().created_at_s < 60


def test_a_curve_has_no_hole_where_another_reader_brings_it_up_to_date(
    log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for closed buckets and the look for what is newer, the newest bucket is closed."""
    values = [99.0 if step == 2004 else 1.0 for step in range(2008)]
    log.append_points([Point(step=step, at_s=0.0, values={"loss": value}) for step, value in enumerate(values)])
    other = RunLog.open(log.folder)
    look = MetricTable._last_closed

    def close_a_bucket(table: MetricTable, *which: Any) -> Any:
        monkeypatch.undo()
        other.append_points([Point(step=step, at_s=0.0, values={"loss": 1.0}) for step in range(2008, 2030)])
        other.index_points()
        return look(table, *which)

    monkeypatch.setattr(MetricTable, "_last_closed", close_a_bucket)
    curve = log.curve("loss", max_points=100)
    other.close()
    assert max(map(float, curve.high)) == 99.0
    assert log.curve("loss", max_points=100).steps[-1] == 2029


@pytest.mark.parametrize("last_step", [None, 5_000])
def test_the_newest_rows_are_found_without_reading_the_others(log: RunLog, last_step: int | None) -> None:
    """Every observation and every submission asks for them: a long run must not make that slow."""
    log.append_points([Point(step=s, at_s=1.0, values={"loss": 1.0}) for s in range(1, 20_001)])
    log.append_points([Point(step=s, at_s=1.0, values={"eval_loss": 1.0}, source="eval") for s in (10, 5_000, 20_000)])
    work: list[int] = []

    def count() -> int:
        work.append(1)
        return 0  # anything else would interrupt the query

    log._db.set_progress_handler(count, 1000)
    try:
        rows = log.recent_points(3, ("step", "eval"), last_step=last_step)
    finally:
        log._db.set_progress_handler(None, 0)
    evals = [(step, "eval") for step in (10, 5_000, 20_000)]
    expected = evals if last_step is None else [(last_step, "step"), *evals[:2]]
    assert [(row.step, row.source) for row in rows] == expected, "in order of writing"
    assert len(work) < 5, f"{len(work)} thousand operations of SQLite's machine"


@given(values=st.dictionaries(st.text(max_size=9), st.floats() | st.integers(-9, 9) | st.booleans(), max_size=6))
def test_the_quick_way_writes_what_json_does(values: dict[str, float]) -> None:
    """Whatever a user calls a metric: a quote, a per cent sign, a line's end."""
    read = json.loads(metrics_json(values))
    assert list(read) == list(values)
    for name, value in values.items():
        assert float(read[name]) == value or (math.isnan(float(read[name])) and math.isnan(value))


@given(name=st.text(max_size=9), value=st.floats(width=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_metric_is_found_in_evaluations_whatever_its_name(log: RunLog, name: str, value: float) -> None:
    before = len(log.evaluations(name))
    log.append(Evaluated(metrics={name: value, f"{name}_": 1.0, "$.other": 2.0}), step=3, branch="b")
    step, branch, found = log.evaluations(name)[before]
    assert (step, branch) == (3, "b")
    assert found == value or (math.isnan(found) and math.isnan(value))
