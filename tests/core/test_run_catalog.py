"""Finding the newest run and listing all of them: as if every log were read each time, without reading them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.control import LocalControl
from agenttune.protocol.events import NoteAdded, StatusChanged, TagsChanged
from agenttune.protocol.overview import OverviewQuery
from agenttune.protocol.reads import EventsQuery
from agenttune.protocol.run_info import RunInfo
from agenttune.store.kept_reads import FILE_NAME
from agenttune.store.run_catalog import RunCatalog
from agenttune.store.run_log import RunLog, list_runs

_opened: list[str] = []
_is_counting = False


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_counting and event == "sqlite3.connect":
        _opened.append(str(arguments[0]))


sys.addaudithook(_count)  # cannot be taken away again; it does nothing outside of `counting`


@contextmanager
def counting() -> Iterator[list[str]]:
    """The logs that are opened meanwhile."""
    global _is_counting
    _opened.clear()
    _is_counting = True
    try:
        yield _opened
    finally:
        _is_counting = False


def make(runs_dir: Path, name: str, created_at_s: float, status: Any = "finished") -> None:
    RunLog.create(runs_dir / name, RunInfo(run_id=name, name=name, status=status, created_at_s=created_at_s)).close()


def test_the_newest_of_many_runs_is_found_by_opening_one(tmp_path: Path) -> None:
    now_s = time.time()
    make(tmp_path, "first", now_s - 10_000)
    for number in range(1, 200):
        shutil.copytree(tmp_path / "first", tmp_path / f"r{number}")
    for path in tmp_path.glob("*/log.db"):
        os.utime(path, (now_s - 9_000, now_s - 9_000))
    make(tmp_path, "newest", now_s)
    for catalog in (RunCatalog(tmp_path), RunCatalog(tmp_path)):  # each as a program that has just started
        with counting() as opened:
            assert [catalog.newest() for _ in range(3)] == ["newest"] * 3
        assert len(opened) == 1, "and only once"


def test_runs_that_have_ended_are_not_read_again_until_somebody_writes(tmp_path: Path) -> None:
    for number in range(20):
        make(tmp_path, f"r{number}", float(number), "running" if number == 3 else "finished")
    control = LocalControl(tmp_path)
    before = control.runs()
    with counting() as opened:
        assert control.runs() == before
    assert len(opened) == 1, "the one that still runs"
    log = RunLog.open(tmp_path / "r3")
    log.append(StatusChanged(status="failed", reason="out of memory"))
    log.close()
    assert {info.run_id: info.status for info in control.runs()}["r3"] == "failed"
    (tmp_path / "r5").rename(tmp_path / "renamed")
    assert "renamed" in {info.run_id for info in control.runs()} - {"r5"}


def test_a_run_that_nobody_may_see_is_not_the_newest(tmp_path: Path) -> None:
    catalog = RunCatalog(tmp_path)
    assert catalog.newest() is None
    for number in range(4):
        make(tmp_path, f"r{number}", float(number))
    assert catalog.newest(lambda run_id: run_id in ("r0", "r2")) == "r2"
    assert catalog.newest() == "r3"
    (tmp_path / "r9").mkdir()
    (tmp_path / "r9" / "log.db").write_bytes(b"no database" * 1000)
    assert catalog.newest() == "r3"


NAMES = st.sampled_from(["a", "b", "c", "d"])
DEEDS = st.lists(st.tuples(st.sampled_from(["make", "remove", "rename", "write", "look"]), NAMES, NAMES), max_size=12)


@settings(max_examples=25, deadline=None)
@given(DEEDS)
def test_whatever_happens_in_the_folder_it_says_what_the_logs_say(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, str, str]]
) -> None:
    runs_dir = tmp_path_factory.mktemp("runs")
    catalog = RunCatalog(runs_dir)
    for moment, (deed, name, other) in enumerate(deeds):
        _do(runs_dir, deed, name, other, float(moment))
        if deed == "look" or moment == len(deeds) - 1:
            true = list_runs(runs_dir)
            assert catalog.infos() == true
            assert catalog.newest() == (true[0].run_id if true else None)


def _do(runs_dir: Path, deed: str, name: str, other: str, at_s: float) -> None:
    there, free = (runs_dir / name).exists(), not (runs_dir / other).exists()
    if deed == "make" and not there:
        make(runs_dir, name, at_s, "running")
    elif deed == "remove" and there:
        shutil.rmtree(runs_dir / name)
    elif deed == "rename" and there and free:
        (runs_dir / name).rename(runs_dir / other)
    elif deed == "write" and there:
        log = RunLog.open(runs_dir / name)
        log.append(StatusChanged(status="finished", reason=f"at {at_s}"))
        log.close()


def test_a_thousand_runs_are_told_by_the_next_process_without_opening_their_logs(tmp_path: Path) -> None:
    for number in range(20):
        make(tmp_path, f"r{number}", float(number), "running" if number == 3 else "finished")
    long_ago_s = time.time() - 100
    for path in tmp_path.glob("*/log.db"):
        os.utime(path, (long_ago_s, long_ago_s))
    before = LocalControl(tmp_path).overview(OverviewQuery())
    with counting() as opened:
        assert LocalControl(tmp_path).overview(OverviewQuery()) == before
    assert {Path(path).parent.name for path in opened if "log.db" in path} == {"r3"}
    for damaged in (b"", b"no database" * 1000):
        (tmp_path / FILE_NAME).write_bytes(damaged)
        assert LocalControl(tmp_path).overview(OverviewQuery()) == before
    assert LocalControl(tmp_path).overview(OverviewQuery()) == before


def test_what_was_kept_of_a_run_counts_only_while_its_log_is_as_it_was(tmp_path: Path) -> None:
    make(tmp_path, "r", 1.0)
    os.utime(tmp_path / "r" / "log.db", (1e9, 1e9))
    LocalControl(tmp_path).overview(OverviewQuery())
    log = RunLog.open(tmp_path / "r")
    log.append(TagsChanged(tags=["good"], author="me"))
    log.close()
    assert [run.tags for run in LocalControl(tmp_path).overview(OverviewQuery()).runs] == [["good"]]


FULL_DISK = """
import resource, sys
from pathlib import Path
from agenttune.control import LocalControl
from agenttune.protocol.reads import EventsQuery

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can grow, nor SQLite's shared memory be made
seconds = iter(range(0, 1000, 10))
control = LocalControl(Path(sys.argv[1]), monotonic=lambda: next(seconds))
print(*[control.runs()[0].status for _ in range(3)], len(control.read("r1", EventsQuery()).events))
"""


def test_runs_of_a_full_disk_are_listed_and_read_and_told_to_be_lost(tmp_path: Path) -> None:
    dead = {"pid": 2**22 + 7, "pid_started_s": 1.0}
    info = RunInfo(run_id="r1", name="r1", status="running", created_at_s=1.0, **dead)
    log = RunLog.create(tmp_path / "r1", info)
    log.append(NoteAdded(text="here", author="t"))
    log.close()
    told = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False)
    assert (told.stdout.split(), told.stderr) == (["lost", "lost", "lost", "1"], "")
    assert LocalControl(tmp_path).read("r1", EventsQuery()).events[-1].body.kind == "note_added", "nothing was written"
