"""The address that a server listens on, and whether it may."""

from __future__ import annotations

import contextlib
import errno
import socket

from agenttune.config import DEFAULT_PORT
from agenttune.control.discovery import TOKEN_ENV, ask_health
from agenttune.control.tokens import TokenBook
from agenttune.errors import PortInUse, UserError
from agenttune.server.auth.guard import ANY_HOST, is_loopback

WILDCARDS = frozenset({"0.0.0.0", "::"})
"""Addresses that mean all of this machine's: clients name it as they like, and its token protects it."""
BACKLOG = 2048
PORTS_TRIED = 100
"""From the usual port on, where nobody asked for one; then any that is free (guess)."""


def allowed_hosts(host: str) -> list[str]:
    """What may stand in a request's Host header beside the loopback names."""
    return [ANY_HOST] if host in WILDCARDS else [host]


def check_token(host: str, token: str | None, book: TokenBook | None, field: str = "server.host") -> None:
    """Raises UserError for an address that other machines reach, where no token keeps them out."""
    if token is not None and not token.strip():
        raise UserError(f"the token in {TOKEN_ENV} is empty; set one or unset it", field=TOKEN_ENV)
    if token is None and not is_loopback(host) and not (book and book.has_operator()):
        raise UserError(
            f"binding {host} lets other machines steer your runs: set a token in {TOKEN_ENV}, or make one first with "
            "`agenttune token create --role operator --name NAME`, or use 127.0.0.1",
            field=field,
            allowed=["127.0.0.1", "localhost", "::1"],
        )


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; on the usual port or the next free one where `port` is None.

    Raises:
        PortInUse: Somebody else listens there.
        UserError: The address cannot be had.
    """
    if port is not None:
        return _bind(host, port)
    for free in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        with contextlib.suppress(PortInUse):
            return _bind(host, free)
    return _bind(host, 0)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise UserError(f"cannot bind {host}:{port}: {error}", field="server.host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it a restart has to wait a minute for the old connections; it does not share a port in use.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _port_in_use(host, port) from None
        raise UserError(f"cannot bind {host}:{port}: {error.strerror}", field="server.host") from None
    return listener


def _port_in_use(host: str, port: int) -> PortInUse:
    health = ask_health(url_of(host, port))
    who = "another program"
    if health is not None:
        details = f" of {health['runs_dir']} (process {health['pid']})" if health.get("runs_dir") else ""
        who = f"the agenttune control server{details}"
    return PortInUse(
        f"port {port} on {host} is taken by {who}; choose another with server.port in config.yaml or --port "
        "(0 takes a free one)",
        field="server.port",
    )


def url_of(host: str, port: int) -> str:
    """Where clients of this machine reach a server."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
