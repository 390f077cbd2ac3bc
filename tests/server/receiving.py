"""An HTTP endpoint that takes notifications of apprise's `json://`, after a script."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 30.0


class Receiver:
    """Answers with the statuses of its script, then with 200; keeps what it took.

    Attributes:
        taken: Messages that were answered with 200, as apprise sends them: `title`, `message`, ...
        refused: How many were not.
    """

    def __init__(self) -> None:
        self.script: list[int] = []
        self.refused = 0
        self.taken: queue.Queue[dict[str, Any]] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.script.pop(0) if receiver.script else 200
                if status == 200:
                    receiver.taken.put(json.loads(body))
                else:
                    receiver.refused += 1
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Keep the output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://user:s3cret-pass@127.0.0.1:{self.server.server_port}/in"

    def message(self) -> dict[str, Any]:
        """The next message, waited for."""
        return self.taken.get(timeout=PATIENCE_S)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
