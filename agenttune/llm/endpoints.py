"""Endpoints of language models: which may be called, how they are named, their HTTP client, or why there is none."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agenttune.errors import UserError
from agenttune.llm.transcript import redacted

if TYPE_CHECKING:
    import openai

REMOTE_ENV = "AGENTTUNE_REMOTE_MODELS"
"""Environment variable; with the value `off`, a process calls no endpoint but those of this machine."""
WORDS_CHARACTERS = 300


def endpoint_of(url: str) -> str:
    """Scheme, host and port of a URL; never a user, a password, a path or a query."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or '?'}{port}"


def check_allowed(url: str) -> None:
    """Refuse an endpoint elsewhere where `REMOTE_ENV` is off, so that no test reaches a provider by accident.

    Raises:
        UserError: It is not on this machine.
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


def http_client(url: str) -> openai.DefaultHttpxClient:
    """A client for an endpoint; one on this machine is called without a proxy.

    Raises:
        Exception: Of many kinds, by the proxies and the certificates that the environment names.
    """
    import openai  # 0.7 s, which runs without a model need not wait for

    if not is_local(url):
        return openai.DefaultHttpxClient()
    # A server on this machine may have a certificate signed by an authority that SSL_CERT_FILE names.
    verify = ssl.create_default_context() if url.startswith("https:") else False
    return openai.DefaultHttpxClient(trust_env=False, verify=verify)


def why_no_client(url: str) -> str:
    """Why no client can be made for an endpoint, in one line; empty if one can. Sends nothing."""
    if importlib.util.find_spec("openai") is None:
        return "the package openai is not installed, which language models need: pip install openai"
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0 or any(character.isspace() for character in url):
            raise ValueError("it names no host")
    except ValueError as error:
        problem = f"the endpoint {redacted(url)!r} is no URL ({error})"
        return f"{problem}: write it as http://127.0.0.1:8080/v1 (llm.base_url)"
    try:
        http_client(url).close()
    except Exception as error:  # a proxy's scheme without its package, a certificate file that is gone, ...
        words = " ".join(redacted(str(error)).split())[:WORDS_CHARACTERS]
        return f"the language model's client cannot be made: {type(error).__name__}: {words} ({_remedy(error)})"
    return ""


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install what is missing, or unset the proxy in ALL_PROXY, HTTPS_PROXY or HTTP_PROXY"
    if isinstance(error, OSError):
        return "look at SSL_CERT_FILE and SSL_CERT_DIR"
    return "look at ALL_PROXY, HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
