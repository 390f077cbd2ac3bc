"""Clients that ask wrongly, stop in the middle or leave: none stays for ever, and none fills the server's log."""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from agenttune.control.discovery import LOG_FILE, ServerAddress
from agenttune.protocol.events import Logged
from agenttune.server.connections import ClientPatience
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run, stop
from tests.warm import serve

LIMIT_S = 1.0
STREAMS = ("/ws/message/", "/api/v1/runs/one/events/live")
REFUSED = (
    *("/ws/message/?run=nope", "/ws/message/?run=one&run=two", "/ws/nope", "/api/v1/runs/nope/events/live"),
    *("/api/v1/runs/one/events/live?since=x", f"/api/v1/runs/one/events/live?points_since={'9' * 30}"),
)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def log(runs_dir: Path) -> RunLog:
    return make_run(runs_dir)


@pytest.fixture(scope="module")
def server(runs_dir: Path, log: RunLog) -> Iterator[ServerAddress]:
    address = serve(runs_dir, request_s=LIMIT_S)
    yield address
    stop(address)


@pytest.fixture
def line(server: ServerAddress) -> Iterator[socket.socket]:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=20) as line:
        yield line


HEAD = b"POST /api/v1/runs/one/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"G",
        b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n",
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b"Content-Length: 100\r\n\r\n" + b'{"command": {"kind": "do_evaluate"}}',
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n",
    ],
)
def test_half_a_request_is_not_waited_for_for_ever_nor_carried_out(
    line: socket.socket, log: RunLog, said: bytes
) -> None:
    line.sendall(said)
    while _received(line):  # until the server closes it
        pass
    assert log.commands() == []


def test_a_request_that_trickles_is_ended_too(line: socket.socket) -> None:
    with pytest.raises(OSError):
        while True:
            line.sendall(b"G")
            time.sleep(LIMIT_S / 4)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(4096)
    except ConnectionResetError:
        return b""


def test_who_goes_on_is_served_for_as_long_as_it_likes(server: ServerAddress) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        until_s = time.monotonic() + 3 * LIMIT_S
        while time.monotonic() < until_s:
            assert client.get("/api/v1/health").status_code == 200
        waited = client.get("/api/v1/runs/one/events", params={"since": 10**9, "wait_s": 3 * LIMIT_S})
        assert waited.json()["events"] == []
    with connect(f"{server.url.replace('http', 'ws')}/api/v1/runs/one/events/live", proxy=None) as stream:
        stream.recv(timeout=20)
        time.sleep(3 * LIMIT_S)
        stream.ping().wait(20)


class Line:
    """What is seen of one of uvicorn's connections."""

    def __init__(self) -> None:
        self.cycle: Line | None = None
        self.transport = self
        self.response_complete = self.more_body = False
        self.unsent, self.ended = 0, False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.ended = True


@pytest.mark.parametrize("taken", [0, 10])
def test_an_answer_that_nobody_takes_in_is_ended_and_a_slow_one_is_not(taken: int) -> None:
    now_s = 0.0
    line, cycle = Line(), Line()
    line.cycle, line.unsent = cycle, 1000
    patience = ClientPatience(5.0, lambda: now_s)
    for _ in range(20):
        patience.look([line])
        now_s += 1.0
        line.unsent -= taken
    assert line.ended is (taken == 0)


# -- streams -------------------------------------------------------------------------------------------------------


def frame(kind: int, data: bytes, masked: bool = True) -> bytes:
    size, mask = len(data), 0x80 if masked else 0
    head = bytes([0x80 | kind])
    if size < 126:
        head += bytes([mask | size])
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", size)
    return head + (bytes(4) if masked else b"") + data


WRONG = {
    "bad JSON": frame(1, b'{"a":'),
    "binary": frame(2, b"\0\1"),
    "huge": frame(1, b"x" * 200_000),
    "no UTF-8": frame(1, b"\xff\xfe"),
    "unmasked": frame(1, b"hi", masked=False),
    "half a frame": frame(1, b"x" * 100)[:20],
    "no such kind": frame(7, b""),
    "half a close": frame(8, b"\3"),
    "closing": frame(8, struct.pack(">H", 1000)),
    "zeros": bytes(50),
}


def ask(line: socket.socket, path: str, version: int = 13) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Version: {version}"]
    line.sendall("\r\n".join([*lines, "", ""]).encode())


def leave_at_once(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def test_no_client_of_a_stream_makes_a_traceback(server: ServerAddress, runs_dir: Path, log: RunLog) -> None:
    parts = urlsplit(server.url)
    for path in REFUSED:
        with socket.create_connection((parts.hostname, parts.port or 0), timeout=20) as line:
            ask(line, path)
            assert line.recv(12) in (b"HTTP/1.1 404", b"HTTP/1.1 422", b"HTTP/1.1 403")
    for number, data in enumerate(WRONG.values()):
        line = socket.create_connection((parts.hostname, parts.port or 0), timeout=20)
        ask(line, STREAMS[number % 2])
        assert line.recv(12) == b"HTTP/1.1 101"
        line.sendall(data)
        line.close()
    for path in STREAMS:
        with socket.create_connection((parts.hostname, parts.port or 0), timeout=20) as line:
            ask(line, path, version=8)
            assert line.recv(12) == b"HTTP/1.1 400"
        line = socket.create_connection((parts.hostname, parts.port or 0), timeout=20)
        ask(line, path)
        leave_at_once(line)
    for step in range(120):  # somebody leaves in the middle of what is sent
        if step % 40 == 0:
            line = socket.create_connection((parts.hostname, parts.port or 0), timeout=20)
            ask(line, "/ws/message/?since=0")
            line.recv(12)
        log.append(Logged(metrics={"loss": 1.0}), step=step)
        if step % 40 == 20:
            leave_at_once(line)
    with connect(f"{server.url.replace('http', 'ws')}/ws/message/?since=0", proxy=None, close_timeout=0.1) as stream:
        stream.recv(timeout=20)  # it is there for others
    said = (runs_dir / LOG_FILE).read_text()
    assert "Traceback" not in said
    assert " ERROR " not in said
