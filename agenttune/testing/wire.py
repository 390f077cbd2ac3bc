"""The HTTP side of the scripted endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from agenttune.testing.chat_request import ChatRequest
from agenttune.testing.steps import Step


class Responder(Protocol):
    """Decides what is answered."""

    is_down: bool

    def respond(self, body: Any, headers: dict[str, str]) -> tuple[Step, ChatRequest | None]: ...

    def completion(self, step: Step, request: ChatRequest) -> dict[str, Any]: ...


class Wire:
    """A listening server with its thread.

    Args:
        responder: Decides what is answered.
        port: 0 takes a free one.
    """

    def __init__(self, responder: Responder, port: int = 0) -> None:
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.wire, self._server.responder = self, responder
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and leave answers that are being waited for."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    wire: Wire
    responder: Responder


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Say nothing."""

    def do_GET(self) -> None:
        """`/v1/models`, which servers have."""
        known = {"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "test"}]}
        self._send(200 if self.path.endswith("/models") else 404, json.dumps(known))

    def do_POST(self) -> None:
        """`/v1/chat/completions`, and nothing else."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.responder.is_down or self.server.wire.closing.is_set():
            self.close_connection = True
            return
        if not self.path.endswith("/v1/chat/completions"):
            self._send(404, _error(f"no such path: {self.path}", {"type": "invalid_request_error"}))
            return
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        step, request = self.server.responder.respond(body, headers)
        if self._has_waited(step):
            self._answer(step, request)

    def _has_waited(self, step: Step) -> bool:
        """Wait as the step says; False if the endpoint was closed meanwhile."""
        closing = self.server.wire.closing
        while step.gate is not None and not step.gate.wait(0.02) and not closing.is_set():
            pass
        self.close_connection = closing.wait(step.delay_s)
        return not self.close_connection

    def _answer(self, step: Step, request: ChatRequest | None) -> None:
        if step.shape == "error" or request is None:
            self._send(step.status, _error(step.error, dict(step.error_fields)), step.headers)
        elif step.shape == "garbled":
            self._send(step.status, step.text or "", step.headers)
        else:
            body = json.dumps(self.server.responder.completion(step, request))
            self._send(step.status, body, step.headers, is_cut=step.shape == "cut")

    def _send(self, status: int, text: str, headers: Iterable[tuple[str, str]] = (), is_cut: bool = False) -> None:
        body = text.encode()
        self.close_connection = True
        try:
            self.send_response(status)
            # A connection kept open would answer even after the endpoint is closed.
            for name, value in (("Content-Type", "application/json"), ("Connection", "close"), *headers):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        except (BrokenPipeError, ConnectionResetError):  # the client waited no longer
            return


def _error(message: str, fields: dict[str, str]) -> str:
    return json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": None, **fields}})
