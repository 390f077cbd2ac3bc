"""Watching a log must not take SQLite's locks away, or another process cuts the shared memory off under a trainer."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.protocol.events import NoteAdded
from agenttune.protocol.run_info import RunInfo
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.store.wal_monitor import OwnCommits, WalMonitor

WRITER = """
import sys
from pathlib import Path
from agenttune.protocol.events import NoteAdded
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.store.wal_monitor import WalMonitor

log = RunLog.open(Path(sys.argv[1]))
for _ in range(3):
    watch = WalMonitor(Path(sys.argv[1]) / LOG_NAME)
    watch.may_have_changed()
    del watch
print("ready", flush=True)
for number in range(3000):
    log.append(NoteAdded(text=str(number), author="writer"))
"""


def new_log(folder: Path) -> RunLog:
    return RunLog.create(folder, RunInfo(run_id=folder.name, name="r", status="starting", created_at_s=time.time()))


def test_a_change_is_seen_once(tmp_path: Path) -> None:
    log = new_log(tmp_path / "r")
    other = RunLog.open(tmp_path / "r")
    watch = WalMonitor(tmp_path / "r" / LOG_NAME)
    assert watch.may_have_changed()
    assert watch.is_unchanged()
    other.append(NoteAdded(text="x", author="y"))
    assert not watch.is_unchanged()
    assert [watch.may_have_changed(), watch.may_have_changed()] == [True, False]
    log.close()
    other.close()


def locks_on(path: Path) -> int:
    inode = f":{path.stat().st_ino} "
    return sum(inode in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux lists locks")
def test_sqlites_locks_stay(tmp_path: Path) -> None:
    log = new_log(tmp_path / "r")
    shm = tmp_path / "r" / f"{LOG_NAME}-shm"
    before = locks_on(shm)
    for _ in range(3):
        WalMonitor(tmp_path / "r" / LOG_NAME).may_have_changed()
    assert locks_on(shm) == before > 0
    log.close()


def test_a_watched_log_survives_that_others_come_and_go(tmp_path: Path) -> None:
    """Whoever opens the log last and finds no lock takes itself for alone, and truncates the shared memory."""
    new_log(tmp_path / "r").close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    while writer.poll() is None:
        other = RunLog.open(tmp_path / "r")
        other.last_seq()
        other.close()
    assert writer.returncode == 0
    left = RunLog.open(tmp_path / "r")
    assert left.last_seq() == 3000
    left.close()
    writer.stdout.close()


@settings(max_examples=25, deadline=None)
@given(did=st.lists(st.sampled_from(["own rows", "own event", "other", "checkpoint", "no rows", "fault"]), max_size=25))
def test_only_rows_of_ones_own_are_no_change(did: list[str]) -> None:
    """A command that is missed would never be applied."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "r"
        log, other = new_log(folder), RunLog.open(folder)
        log.own = own = OwnCommits(folder / LOG_NAME)
        raw = sqlite3.connect(folder / LOG_NAME)
        watch = WalMonitor(folder / LOG_NAME, own)
        watch.may_have_changed()
        for step, what in enumerate(did):
            if what == "own rows":
                log.append_points([MetricRow(step, 0.0, {"loss": 1.0})])
                assert watch.is_unchanged()
            elif what == "no rows":
                log.append_points([])
                assert watch.is_unchanged()
            elif what == "fault":
                with pytest.raises(ZeroDivisionError):
                    log.append_points([MetricRow(step, 0.0, {"loss": Unreadable()})])
                assert watch.is_unchanged()
            elif what == "checkpoint":
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                watch.may_have_changed()  # it may look like one
            else:
                (log if what == "own event" else other).append(NoteAdded(text=what, author="x"))
                log.append_points([MetricRow(step, 0.0, {"loss": 1.0})])
                assert not watch.is_unchanged()
                assert watch.may_have_changed()
        for opened in (log, other, raw):
            opened.close()


class Unreadable(float):
    """Fails while it is written."""

    def __add__(self, other: object) -> float:
        raise ZeroDivisionError

    __radd__ = __add__


def test_a_process_that_watches_one_log_after_the_other_keeps_no_descriptors(tmp_path: Path) -> None:
    def watch(number: int) -> None:
        log = new_log(tmp_path / str(number))
        monitor = WalMonitor(log.folder / LOG_NAME)
        assert monitor.may_have_changed()
        log.append(NoteAdded(text="one more", author="writer"))
        assert not monitor.is_unchanged()
        log.close()

    watch(0)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 30):
        watch(number)
    assert len(os.listdir("/proc/self/fd")) <= before + 2, "those of the newest go with the next one"
