"""What the machine runs out of costs what needs it, and is made good when there is room again."""

from __future__ import annotations

import logging
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from agenttune.control import open_files
from agenttune.control.discovery import find_server
from agenttune.server.log_throttle import PER_MINUTE, WINDOW_S, Repeats
from tests.server.conftest import make_run

FILES = 96


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[str]:
    """URL of a server of 30 runs that may have few files open, and no way to get more."""
    for number in range(30):
        make_run(tmp_path, f"r{number}", steps=3).close()
    log = (tmp_path / "server.log").open("wb")
    server = [sys.executable, "-m", "agenttune.server", "--runs-dir", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(["sh", "-c", f"ulimit -n {FILES}; exec {shlex.join(server)}"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while (found := find_server(tmp_path)) is None:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield found.url
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_a_server_short_of_files_serves_again_when_its_clients_have_left(narrow: str, tmp_path: Path) -> None:
    host, port = urlsplit(narrow).hostname, urlsplit(narrow).port
    assert httpx.get(f"{narrow}/api/v1/runs").status_code == 200
    with ExitStack() as stack:
        for _ in range(3 * FILES):  # more than it can accept: the others wait in the kernel's queue
            client = stack.enter_context(socket.create_connection((host, port or 0), timeout=10))
            client.sendall(b"GET /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        time.sleep(2.5)
    assert (tmp_path / "server.log").stat().st_size < 50_000
    deadline = time.monotonic() + 60
    while not _is_served(narrow):  # those that waited are let in first, and seen to have left
        assert time.monotonic() < deadline
        time.sleep(0.2)
    answers = [httpx.get(f"{narrow}/api/v1/runs/r{number}/events") for number in range(30)]
    assert [answer.status_code for answer in answers] == [200] * 30
    assert len(httpx.get(f"{narrow}/api/v1/runs").json()["runs"]) == 30


def _is_served(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v1/runs", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("files", [64, 96, 128, 256, 1024, 4096, 65_536])
def test_logs_and_clients_together_fit_into_what_a_process_may_open(files: int) -> None:
    threads = open_files.threads_for(files) + open_files.OTHER_THREADS
    logs = threads * open_files.logs_per_thread_for(files) * open_files.FILES_PER_LOG
    assert logs + open_files.clients_for(files) <= files


def test_what_repeats_is_said_a_few_times_a_minute_and_counted() -> None:
    now_s = 0.0
    repeats = Repeats(clock=lambda: now_s)
    lines = [logging.makeLogRecord({"pathname": "a.py", "lineno": n, "msg": "%d", "args": (n,)}) for n in (1, 2)]
    assert sum(bool(repeats.filter(lines[0])) for _ in range(500)) == PER_MINUTE
    assert repeats.filter(lines[1]), "another line of code"
    now_s = WINDOW_S + 1
    assert repeats.filter(lines[0])
    assert lines[0].getMessage() == f"1 ({500 - PER_MINUTE} more like it left out)"
