"""The server's process: its socket, its note in the runs folder, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvicorn
from fastapi import FastAPI

from agenttune.control import LocalControl, open_files
from agenttune.control.discovery import TOKEN_ENV, noted, only_server
from agenttune.control.tokens import TokenBook
from agenttune.errors import AgenttuneError, UserError
from agenttune.server.app import create_app
from agenttune.server.auth.guard import is_loopback
from agenttune.server.auth.identity import LocalRole
from agenttune.server.connections import ClientPatience, Presence
from agenttune.server.listening import allowed_hosts, check_token, listen, url_of
from agenttune.server.live_hub import Hub
from agenttune.server.log_throttle import is_news
from agenttune.server.notify.notifier import Notifier

logger = logging.getLogger(__name__)
REQUEST_S = 30.0
"""Of the largest body that is taken, a slow line carries 35 KiB a second (guess)."""
MAX_CLIENT_FRAME_BYTES = 1 << 16
"""Live clients have nothing to say; larger frames end the connection."""
STOP_PATIENCE_S = 0.5
"""Connections that are not closed by then are left to the operating system: the server ends within a second."""
LAST_WORDS_S = 3.0
"""A message that waits to be sent when the server is told to end gets so long; whoever ends it waits 5 s."""
INDEX_INTERVAL_S = 2.0
"""Between two updates of the cached curves; a request adds what is newer (guess)."""
LINGER_CHECKS = 4
"""Looks per `linger_s` at whether it is time to end."""
MIN_CHECK_S, MAX_CHECK_S = 0.05, 5.0


def serve(
    runs_dir: Path,
    host: str,
    port: int | None,
    token: str | None = None,
    linger_s: float | None = None,
    on_ready: Callable[[str], None] | None = None,
    local_role: LocalRole = "agent",
    token_env: str = TOKEN_ENV,
    request_s: float = REQUEST_S,
    allowed_origins: Collection[str] = (),
) -> None:
    """Serve a folder of runs until SIGTERM, SIGINT, or nobody needs it any more.

    Args:
        runs_dir: The folder of runs; made if missing.
        host: Address to bind; anything but loopback needs a token.
        port: 0 takes a free one, None 7007 or the next one that is free.
        token: The owner's bearer token; None lets every program on this machine in, as `local_role`.
        linger_s: End after so many seconds without a live run and without a client; None for never.
        on_ready: Called with the server's URL once it listens.
        local_role: As whom a program acts that sends no token, on a loopback address without an owner's token.
        token_env: Where the owner's token came from, for the log.
        request_s: Seconds that a client has for its whole request, and to take in some more of an answer.
        allowed_origins: Pages of other servers that may use this one, such as `http://localhost:5173`.

    Raises:
        PortInUse: Somebody else listens on the port asked for.
        UserError: The folder has a server already, or the address cannot be had, or it needs a token.
    """
    runs_dir = runs_dir.resolve()
    open_files.raise_limit()
    check_token(host, token, TokenBook(runs_dir))
    _check_linger(linger_s)
    if not (math.isfinite(request_s) and request_s > 0):
        raise UserError(f"request_s is {request_s}; give seconds above 0", field="server.request_s")
    _make_folder(runs_dir)
    with only_server(runs_dir):
        role: LocalRole = local_role if is_loopback(host) else "none"
        app = create_app(
            runs_dir,
            token=token,
            allowed_hosts=allowed_hosts(host),
            local_role=role,
            token_env=token_env,
            allowed_origins=allowed_origins,
        )
        with contextlib.closing(listen(host, port)) as listener:
            url = url_of(host, listener.getsockname()[1])
            server = _Server(app, linger_s, Notifier(app.state.context.control, url), request_s)
            with _signals_kept(server.end_soon), noted(runs_dir, url, app.state.context.instance):
                logger.info("control server of %s at %s", runs_dir, url)
                if on_ready is not None:
                    on_ready(url)
                server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, made to end within a second whatever its clients do, and by itself when nobody needs it."""

    def __init__(self, app: FastAPI, linger_s: float | None, notifier: Notifier, request_s: float) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            limit_concurrency=open_files.clients_for(open_files.limit()),
            server_header=False,
            ws_max_size=MAX_CLIENT_FRAME_BYTES,
            ws_per_message_deflate=False,  # loopback has bandwidth; a hundred clients have no processor to spare
        )
        super().__init__(config)
        self._hub: Hub = app.state.context.hub
        self._presence: Presence = app.state.presence
        self._control: LocalControl = app.state.context.control
        self._linger_s = linger_s
        self._notifier = notifier
        self._patience = ClientPatience(request_s, time.monotonic)
        logging.getLogger("uvicorn.error").addFilter(is_news)

    def end_soon(self) -> None:
        """Answer no more requests; also before it has begun to."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_fault)
        anyio.to_thread.current_default_thread_limiter().total_tokens = open_files.threads_for(open_files.limit())
        await super().startup(sockets)
        self._notifier.start()
        self._indexing = asyncio.create_task(self._index())
        self._watching = asyncio.create_task(self._patience.watch(self.server_state.connections))
        if self._linger_s is not None:
            self._presence.touch()  # nobody could come before, and on a busy machine that took a while
            self._lingering = asyncio.create_task(self._linger(self._linger_s))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watching.cancel()
        self._hub.close()
        await asyncio.to_thread(self._notifier.close, LAST_WORDS_S)
        asyncio.get_running_loop().call_later(STOP_PATIENCE_S, self._let_go)
        await super().shutdown(sockets)

    def _let_go(self) -> None:
        """Wait no longer; a client that reads nothing would keep Python 3.12 and later waiting for ever."""
        self.force_exit = True
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def _index(self) -> None:
        while not self.should_exit:
            await _tried(self._control.look_after_runs)
            await _tried(self._notifier.look)
            await asyncio.sleep(INDEX_INTERVAL_S)

    async def _linger(self, linger_s: float) -> None:
        while not self.should_exit:
            await asyncio.sleep(min(max(linger_s / LINGER_CHECKS, MIN_CHECK_S), MAX_CHECK_S))
            if self._presence.quiet_s() < linger_s:
                continue
            await _tried(self._control.runs)  # records which are lost
            if await asyncio.to_thread(self._is_needed):
                self._presence.touch()
            elif self._presence.quiet_s() >= linger_s:  # nobody came while the logs were looked at
                logger.info("no live run and no client for %g s: ending", linger_s)
                self.should_exit = True

    def _is_needed(self) -> bool:
        return self._notifier.busy or self._control.has_running()


async def _tried(work: Callable[[], object]) -> None:
    """Do in a thread what is done again soon; a full disk or a held log must not end what comes after it for ever."""
    try:
        await asyncio.to_thread(work)
    except (AgenttuneError, OSError) as error:
        logger.warning("to be tried again: %s", error)


def _log_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As the loop's own, but from one line of code of ours, so that a fault that repeats does not fill the log.

    With no file left to open, the loop reports one for each client that waits, thousands a second.
    """
    error = context.get("exception")
    if isinstance(error, OSError):
        logger.error("%s: %s", context.get("message"), error)
    else:
        logger.error("%s", context.get("message"), exc_info=error)


def _check_linger(linger_s: float | None) -> None:
    if linger_s is not None and not (math.isfinite(linger_s) and linger_s >= 0):
        raise UserError(f"linger_s is {linger_s}; give seconds from 0 up, or leave it out to stay", field="linger_s")


def _make_folder(runs_dir: Path) -> None:
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use {runs_dir} as the runs folder: {error.strerror}", field="store.runs_dir") from None


@contextlib.contextmanager
def _signals_kept(end: Callable[[], object]) -> Iterator[None]:
    """While uvicorn does not take signals: before it serves, when they end it as soon as it does, and after it.

    Once it has ended for a signal it raises the signal again, which would end us before we have tidied up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: end()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
