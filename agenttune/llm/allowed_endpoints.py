"""Which endpoints may be called."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from agenttune.errors import UserError
from agenttune.llm.redact import endpoint_of

REMOTE_ENV = "AGENTTUNE_REMOTE_MODELS"
"""Set to `off` in a process's environment, no endpoint but those of this machine is called by it."""


def check_allowed(url: str) -> None:
    """Tests, and processes that they start, cannot reach a provider by accident.

    Raises:
        UserError: Only endpoints of this machine may be called, and this is none.
    """
    if os.environ.get(REMOTE_ENV) == "off" and not is_local(url):
        raise UserError(
            f"{endpoint_of(url)} is not on this machine, and {REMOTE_ENV} is off; point llm.base_url at a server here, "
            "or unset that variable",
            field="llm.base_url",
        )


def is_local(url: str) -> bool:
    """Whether a URL names this machine's loopback."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # no URL at all; whoever calls it will say so
        return False
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761: never a name of the outside world
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _is_short_loopback(host)
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    # To connect to 0.0.0.0 or :: is to connect to this machine: servers print such addresses of themselves.
    return any(one.is_loopback or one.is_unspecified for one in (address, inner) if one is not None)


def _is_short_loopback(host: str) -> bool:
    """Whether a host is an IPv4 address in one of its short forms, such as 127.1, and loopback."""
    try:
        return bool(host) and host[0].isdigit() and socket.inet_aton(host)[0] == 127
    except OSError:
        return False
