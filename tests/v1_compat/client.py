"""A client of the seed, written from the description of its protocol alone: it knows nothing of agenttune."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE_S = 60.0
Event = dict[str, Any]
NOTICES = ("initial_dataset_information", "train_state_update", "checkpoint_info_update", "log_update")
"""Events that answer no command; their args are always a document."""


class V1Client:
    """What the seed's page and its example of a tuner do: read, post a command, wait for its outcome."""

    def __init__(self, url: str, query: str = "") -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=30)
        self.query = query
        address = url.replace("http", "ws", 1) + "/ws/message/" + query
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(address, max_size=None, proxy=None, ping_interval=None))
        self.seen: list[Event] = []
        self.close_code: int | None = None

    def __enter__(self) -> V1Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()
        self.http.close()

    def get(self, what: str) -> Any:
        """`info`, `dataset_info`, `optimizer_info`, `model_info`, `checkpoints` or `logs`."""
        response = self.http.get(f"/api/get_{what}/{self.query}")
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, command: str, args: Any = "", identity: str | None = None) -> tuple[str, dict[str, Any]]:
        """Post a command; objects become the string that `args` is. Returns its uuid and the answer."""
        identity = identity or str(uuid.uuid4())
        body = {
            "command": command,
            "args": args if args is None or isinstance(args, str) else json.dumps(args),
            "time": float(int(time.time() * 1000)),
            "uuid": identity,
            "status": "requested",
        }
        response = self.http.post(f"/api/command/{self.query}", json=body)
        assert response.status_code == 200, response.text
        return identity, response.json()

    def next(self, timeout_s: float = PATIENCE_S) -> Event:
        """The next event."""
        event: Event = json.loads(self.socket.recv(timeout=timeout_s), parse_constant=_refuse)
        if event["command"] in NOTICES:
            json.loads(event["args"], parse_constant=_refuse)
        self.seen.append(event)
        return event

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Read on to the event that is wanted."""
        while True:
            event = self.next()
            if wanted(event):
                return event

    def outcome(self, identity: str) -> Event:
        """What became of a command."""
        return self.until(lambda e: e["uuid"] == identity and e["status"] in ("success", "failed"))

    def ask(self, command: str, args: Any = "") -> Event:
        """Post, and wait for the outcome."""
        identity, answer = self.post(command, args)
        assert answer == {"status": "success"}, answer
        return self.outcome(identity)

    def rest(self) -> list[Event]:
        """Everything until the server closes the connection."""
        try:
            while True:
                self.next()
        except ConnectionClosed as closed:
            self.close_code = closed.rcvd.code if closed.rcvd else None
        return self.seen


def args_of(event: Event) -> Any:
    """The document inside an event's `args`."""
    return json.loads(event["args"])


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON: a browser could not read this")
