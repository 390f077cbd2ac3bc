"""Live clients get every event, in order, each once, whatever the others do."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket as sockets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from agenttune.control.discovery import ServerAddress
from agenttune.protocol.events import NoteAdded, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, Author, Proposal, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.server.live_hub import RING_ENTRIES, Ring, StreamEntry
from agenttune.store.run_log import RunLog
from tests.server.conftest import StartServer, make_run

CLIENTS = 20
_names = (f"run{i}" for i in itertools.count())
NOTES = [NoteAdded(text="x" * 3000, author="me")] * 100


def live(address: ServerAddress, query: str = "", run_id: str = "one") -> str:
    return f"{address.url.replace('http', 'ws')}/api/v1/runs/{run_id}/events/live{query}"


def receive_seq(client: ClientConnection) -> int:
    frame = json.loads(client.recv(timeout=20))
    assert frame["type"] == "event"
    seq: int = frame["event"]["seq"]
    return seq


@pytest.fixture
def log(shared_runs: Path) -> RunLog:
    return make_run(shared_runs, next(_names))


def test_a_client_gets_the_past_and_then_the_present(shared_server: ServerAddress, log: RunLog) -> None:
    with connect(live(shared_server, run_id=log.folder.name)) as client:
        assert [receive_seq(client), receive_seq(client)] == [1, 2]
        log.append(NoteAdded(text="now", author="me"), step=7)
        frame = json.loads(client.recv(timeout=20))
    assert frame["event"]["body"] == {"kind": "note_added", "text": "now", "author": "me"}
    assert (frame["event"]["seq"], frame["event"]["step"]) == (3, 7)


def test_a_client_resumes_after_what_it_has(shared_server: ServerAddress, log: RunLog) -> None:
    log.append(*NOTES)
    with connect(live(shared_server, "?since=50", log.folder.name)) as client:
        assert [receive_seq(client) for _ in range(52)] == list(range(51, 103))


def test_points_come_only_if_asked_for(shared_server: ServerAddress, log: RunLog) -> None:
    with connect(live(shared_server, "?since=2&points=true&points_since=98", log.folder.name)) as client:
        first = json.loads(client.recv(timeout=20))
        assert (first["type"], [p["step"] for p in first["points"]]) == ("points", [99, 100])
        log.append_points([Point(step=101, at_s=time.time(), values={"loss": float("nan")})])
        second = json.loads(client.recv(timeout=20))
        assert [(p["step"], p["values"]) for p in second["points"]] == [(101, {"loss": "NaN"})]
        assert second["next"] == 101


@pytest.mark.parametrize(
    ("query", "run_id", "status"),
    [("?since=-1", "", 422), ("?since=x", "", 422), ("?sinse=1", "", 422), ("", "nope", 404), ("/x", "", 404)],
)
def test_a_bad_request_is_answered_before_the_stream(
    shared_server: ServerAddress, log: RunLog, query: str, run_id: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(live(shared_server, query, run_id or log.folder.name))
    assert caught.value.response.status_code == status
    assert set(json.loads(caught.value.response.body or b"")["error"]) == {"type", "message", "field", "allowed"}


def never_read(address: ServerAddress, run_id: str) -> sockets.socket:
    """A client that asks for the stream and then takes in nothing."""
    parts = urlsplit(address.url)
    client = sockets.socket()
    client.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    client.connect((parts.hostname, parts.port))
    lines = [f"GET /api/v1/runs/{run_id}/events/live HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Version: 13"]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


async def _collect(url: str, last: int, joined: asyncio.Semaphore) -> list[int]:
    async with connect_async(url, max_size=None) as client:
        joined.release()
        seqs: list[int] = []
        while not seqs or seqs[-1] < last:
            seqs.append(json.loads(await asyncio.wait_for(client.recv(), 60))["event"]["seq"])
        return seqs


async def _crowd(url: str, last: int, write: Callable[[], None]) -> list[list[int]]:
    joined = asyncio.Semaphore(0)
    clients = [asyncio.create_task(_collect(url, last, joined)) for _ in range(CLIENTS)]
    for _ in clients:
        await joined.acquire()
    await asyncio.to_thread(write)
    return await asyncio.gather(*clients)


def test_a_crowd_gets_everything_in_order_beside_one_that_never_reads(
    shared_server: ServerAddress, log: RunLog
) -> None:
    stuck = never_read(shared_server, log.folder.name)
    server = psutil.Process(shared_server.pid)
    before_bytes = server.memory_info().rss
    batches = 20

    def write() -> None:
        trainer = RunLog.open(log.folder)
        for _ in range(batches):
            trainer.append(*NOTES)
        trainer.close()

    last = 2 + batches * len(NOTES)
    received = asyncio.run(_crowd(live(shared_server, run_id=log.folder.name), last, write))
    assert received == [list(range(1, last + 1))] * CLIENTS
    # 21 clients x 2,000 events x 3 kB are 126 MB: a server that queued everything for everybody would hold them.
    assert server.memory_info().rss - before_bytes < 100_000_000
    stuck.close()


def test_a_client_that_fell_behind_the_ring_reads_from_the_store(shared_server: ServerAddress, log: RunLog) -> None:
    with connect(live(shared_server, "?since=2", log.folder.name)) as present:
        log.append(*[NoteAdded(text="x", author="me")] * (RING_ENTRIES + 500))
        last = log.last_seq()
        assert [receive_seq(present) for _ in range(3, last + 1)] == list(range(3, last + 1))
        with connect(live(shared_server, "?since=1", log.folder.name)) as late:
            assert [receive_seq(late) for _ in range(2, last + 1)] == list(range(2, last + 1))


def test_a_killed_trainer_is_told_to_the_live_clients(shared_server: ServerAddress, shared_runs: Path) -> None:
    """Its own process cannot: a follower would wait for ever."""
    info = RunInfo(run_id="dead", name="dead", status="running", created_at_s=1.0, pid=2**22 - 1, pid_started_s=1.0)
    log = RunLog.create(shared_runs / "dead", info)
    with connect(live(shared_server, run_id="dead")) as client:
        body = json.loads(client.recv(timeout=60))["event"]["body"]
    assert (body["kind"], body["status"]) == ("status_changed", "lost")
    assert log.info().status == "lost"


def test_submitting_can_wait_for_the_ack(shared_server: ServerAddress, log: RunLog) -> None:
    def trainer() -> None:
        mine = RunLog.open(log.folder)
        while not (queued := mine.commands()):
            time.sleep(0.01)
        mine.acknowledge(queued[0].command_id, Ack(outcome="applied", step=101))
        mine.close()

    thread = threading.Thread(target=trainer)
    thread.start()
    url = f"{shared_server.url}/api/v1/runs/{log.folder.name}/commands?wait_s=30"
    response = httpx.post(url, json={"command": {"kind": "do_evaluate"}}, timeout=40)
    thread.join()
    assert (response.status_code, response.json()["state"], response.json()["ack"]["step"]) == (202, "applied", 101)


def test_waiting_for_an_ack_ends_with_the_run(shared_server: ServerAddress, log: RunLog) -> None:
    proposal = Proposal.model_validate(
        {"command": {"kind": "do_evaluate"}, "author": Author(principal="operator", name="me"), "command_id": "c1"}
    )
    log.submit(proposal, Verdict(decision="approved", decided_by="auto"))

    def finish() -> None:
        trainer = RunLog.open(log.folder)
        trainer.append(StatusChanged(status="stopped"), step=100)
        trainer.close()

    timer = threading.Timer(0.2, finish)
    timer.start()
    url = f"{shared_server.url}/api/v1/runs/{log.folder.name}/commands/c1?wait_s=30"
    assert httpx.get(url, timeout=40).json()["state"] == "expired"
    timer.join()


def test_a_killed_server_loses_nothing_and_clients_resume(tmp_path: Path, start_server: StartServer) -> None:
    log = make_run(tmp_path)
    first = start_server(tmp_path)
    submit = {"command": {"kind": "do_evaluate"}, "command_id": "before"}
    accepted = httpx.post(f"{first.url}/api/v1/runs/one/commands", json=submit)
    assert accepted.status_code == 202
    log.append(*NOTES)
    with connect(live(first)) as client:
        seqs = [receive_seq(client) for _ in range(30)]
        psutil.Process(first.pid).kill()
        with pytest.raises(ConnectionClosed):
            while True:
                seqs.append(receive_seq(client))
    log.append(*NOTES)
    second = start_server(tmp_path, port=urlsplit(first.url).port)
    assert (second.url, second.started) == (first.url, True)
    with connect(live(second, f"?since={seqs[-1]}")) as client:
        while seqs[-1] < log.last_seq():
            seqs.append(receive_seq(client))
    assert seqs == list(range(1, log.last_seq() + 1))
    again = httpx.post(f"{second.url}/api/v1/runs/one/commands", json=submit)
    assert (again.status_code, again.json()) == (200, accepted.json())


def test_the_ring_says_when_it_cannot_serve_a_cursor() -> None:
    def texts(entries: list[StreamEntry] | None) -> Any:
        return entries if entries is None else [e.text for e in entries]

    ring = Ring(10)
    assert texts(ring.after(10)) == []
    assert texts(ring.after(9)) is None
    ring.add(StreamEntry(10, 15, "a"))
    ring.add(StreamEntry(15, 16, "b"))
    assert texts(ring.after(10)) == ["a", "b"]
    assert texts(ring.after(15)) == ["b"]
    assert texts(ring.after(12)) is None  # in the middle of a frame: sending all of it would repeat points
    assert texts(ring.after(99)) == []
    for i in range(RING_ENTRIES):
        ring.add(StreamEntry(16 + i, 17 + i, "x"))
    assert texts(ring.after(15)) is None
    assert len(texts(ring.after(16))) == RING_ENTRIES
