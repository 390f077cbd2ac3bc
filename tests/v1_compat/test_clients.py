"""Clients do not take events from each other, whoever comes, goes or stops reading."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from websockets.asyncio.client import connect

from agenttune.control.discovery import ServerAddress, ensure_server
from agenttune.protocol.proposals import Ack
from agenttune.store.run_log import RunLog
from tests import warm
from tests.server.conftest import make_run, stop
from tests.v1_compat.client import Event, V1Client, args_of
from tests.v1_compat.conftest import NAN, NewClient, Trainer

CROWD = 50
ROWS = 200


def steps(events: list[Event]) -> list[int]:
    return [args_of(e)["metrics"]["global_step"] for e in events if e["command"] == "log_update"]


def read(client: V1Client, count: int) -> list[Event]:
    return [client.next() for _ in range(count)]


def test_log_updates_have_the_seeds_shape(client: V1Client, trainer: Trainer) -> None:
    trainer.row(loss=2.0, epoch=0.5)
    trainer.evaluation(eval_loss=2.5)
    first, second = read(client, 2)
    assert list(first) == ["status", "command", "args", "uuid", "time"]
    assert list(args_of(first)) == ["local_step", "wall_time", "branch_id", "metrics"]
    assert args_of(first)["metrics"] == {"loss": 2.0, "epoch": 0.5, "global_step": 1}
    assert [args_of(e)["local_step"] for e in (first, second)] == [1, 2]
    assert first["uuid"] != second["uuid"]


def test_a_loss_that_is_not_finite_is_left_out(client: V1Client, trainer: Trainer) -> None:
    """The seed wrote a bare NaN: its page stopped, and get_logs answered 500 for ever after."""
    trainer.row(loss=NAN, grad_norm=float("inf"))
    assert args_of(client.next())["metrics"] == {"global_step": 1}
    assert client.get("logs")["branched_logs"]["main"][0]["metrics"] == {"global_step": 1}


def test_two_clients_both_get_everything(client: V1Client, new_client: NewClient, trainer: Trainer) -> None:
    other = new_client()
    for _ in range(20):
        trainer.row(loss=1.0)
    identity, _ = other.post("pause_training")
    trainer.apply()
    mine, theirs = read(client, 22), read(other, 22)
    assert mine == theirs
    assert steps(mine) == list(range(1, 21))
    assert [(e["uuid"], e["status"]) for e in mine[20:]] == [(identity, "pending"), (identity, "success")]


def test_a_client_starts_with_the_present_unless_it_asks_for_the_past(
    client: V1Client, new_client: NewClient, trainer: Trainer
) -> None:
    trainer.row(loss=1.0)
    assert steps([client.next()]) == [1]
    late, curious = new_client(), new_client("?since=0")
    trainer.row(loss=1.0)
    assert steps([client.next()]) == steps([late.next()]) == [2]
    past = read(curious, 4)
    assert [e["command"] for e in past] == [
        *("initial_dataset_information", "train_state_update", "log_update", "log_update")
    ]
    assert args_of(past[0]) == curious.get("dataset_info")
    assert args_of(past[1])["model_infos"] == curious.get("model_info")


def test_a_client_that_leaves_takes_nothing_with_it(client: V1Client, new_client: NewClient, trainer: Trainer) -> None:
    """The seed's handler of a client that had left went on swallowing events."""
    leaving = new_client()
    trainer.row(loss=1.0)
    assert steps([leaving.next()]) == [1]
    leaving.close()
    for _ in range(5):
        trainer.row(loss=1.0)
    back = new_client()
    trainer.row(loss=1.0)
    assert steps([back.next()]) == [7]
    assert steps(read(client, 7)) == list(range(1, 8))
    assert [p["local_step"] for p in client.get("logs")["branched_logs"]["main"]] == list(range(1, 8))


def test_an_answer_reaches_a_client_that_has_come_back(tmp_path: Path) -> None:
    """Also with the server killed in between: its uuid and args are still the client's own."""
    playing = Trainer(make_run(tmp_path, steps=0, rules={}))
    playing.begin()
    with warm.processes():
        first = ensure_server(tmp_path, port=0)
    with V1Client(first.url) as client:
        identity, _ = client.post("update_optimizer", {"lr": {"name": "lr", "value": "1e-4"}})
    psutil.Process(first.pid).kill()
    with warm.processes():
        second = ensure_server(tmp_path, port=0)
    with V1Client(second.url) as back:
        playing.apply()
        done = back.outcome(identity)
    stop(second)
    assert (done["status"], args_of(done)) == ("success", {"lr": {"name": "lr", "value": "1e-4"}})


def never_read(address: ServerAddress) -> sockets.socket:
    parts = urlsplit(address.url)
    client = sockets.socket()
    client.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    client.connect((parts.hostname, parts.port))
    lines = ["GET /ws/message/?since=0 HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Version: 13"]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


def test_one_that_stops_reading_holds_up_nobody(server: ServerAddress, client: V1Client, trainer: Trainer) -> None:
    stuck = never_read(server)
    before_bytes = psutil.Process(server.pid).memory_info().rss
    wide: dict[str, Any] = {f"metric_{i:03}": 1.0 for i in range(100)}
    for _ in range(1500):  # 4 MB in frames: more than the sockets between them hold
        trainer.row(**wide)
    assert steps(read(client, 1500)) == list(range(1, 1501))
    assert psutil.Process(server.pid).memory_info().rss - before_bytes < 60_000_000
    stuck.close()


async def _collect(url: str, count: int, joined: asyncio.Semaphore) -> list[str]:
    async with connect(url, max_size=None, proxy=None, ping_interval=None) as client:
        joined.release()
        return [str(await asyncio.wait_for(client.recv(), 60)) for _ in range(count)]


async def _crowd(url: str, trainer: Trainer) -> list[list[str]]:
    joined = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(_collect(url, ROWS, joined)) for _ in range(CROWD)]
    for _ in tasks:
        await joined.acquire()
    await asyncio.to_thread(_train, trainer)
    return await asyncio.gather(*tasks)


def _train(trainer: Trainer) -> None:
    mine = Trainer(RunLog.open(trainer.log.folder))
    for _ in range(ROWS):
        mine.row(loss=1.0)
    mine.log.close()


def test_fifty_clients_get_all_in_order(server: ServerAddress, trainer: Trainer) -> None:
    received = asyncio.run(_crowd(server.url.replace("http", "ws") + "/ws/message/", trainer))
    assert steps([json.loads(text) for text in received[0]]) == list(range(1, ROWS + 1))
    assert all(one == received[0] for one in received)


def test_an_ack_by_another_process_is_answered_once(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("do_evaluate")
    trainer.log.acknowledge(trainer.queued().command_id, Ack(outcome="expired", step=3, message="too late"))
    trainer.row(loss=1.0)
    pending, failed, row = read(client, 3)
    assert (pending["status"], failed["status"], failed["uuid"]) == ("pending", "failed", identity)
    assert (failed["message"], row["command"]) == ("too late", "log_update")
