"""Finding the newest run and listing all of them: as if every log were read each time, without reading them."""

from __future__ import annotations

import os
import shutil
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
from agenttune.protocol.events import StatusChanged
from agenttune.protocol.run_info import RunInfo
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
