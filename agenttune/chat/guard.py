"""Which endpoints may be called."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from agenttune.chat.redact import endpoint_of
from agenttune.errors import UserError

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
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
