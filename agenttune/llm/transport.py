"""The HTTP client of a language model's endpoint, and why there may be none."""

from __future__ import annotations

import importlib.util
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agenttune.llm.allowed_endpoints import is_local
from agenttune.llm.redact import redacted

if TYPE_CHECKING:
    import openai

WORDS_CHARACTERS = 300


def http_client(url: str) -> openai.DefaultHttpxClient:
    """A client for an endpoint. One on this machine is called directly: a proxy is for the outside world.

    Raises:
        Exception: Of many kinds, by the proxies and the certificates that the environment names.
    """
    import openai  # 0.7 s, which runs without a model need not wait for

    if not is_local(url):
        return openai.DefaultHttpxClient()
    # A server on this machine may have a certificate all the same, signed by whom SSL_CERT_FILE names.
    verify = ssl.create_default_context() if url.startswith("https:") else False
    return openai.DefaultHttpxClient(trust_env=False, verify=verify)


def why_no_client(url: str) -> str:
    """Why an endpoint could not even be called, in one line; empty if it could. Sends nothing."""
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
        return f"the language model's client cannot be made: {type(error).__name__}: {words} ({_mend(error)})"
    return ""


def _mend(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install what is missing, or unset the proxy in ALL_PROXY, HTTPS_PROXY or HTTP_PROXY"
    if isinstance(error, OSError):
        return "look at SSL_CERT_FILE and SSL_CERT_DIR"
    return "look at ALL_PROXY, HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
