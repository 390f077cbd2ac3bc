"""Keeps secrets out of what is recorded."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "[hidden]"
SHORTEST_SECRET = 4
_PATTERNS = (
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)((?:api[_-]?key|token|password|secret)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{6,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(key=)[^\s\"',;&]{6,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(://)[^\s/:@]*:[^\s/@]+@"), rf"\1{HIDDEN}@"),
)


def redacted(text: str, *secrets: str) -> str:
    """A text without these secrets, and without what looks like one."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def secrets_of(url: str) -> list[str]:
    """What a URL may carry that must not be recorded: its password and the values of its query."""
    parts = urlsplit(url)
    found = [unquote(parts.password or ""), *(value for _, value in parse_qsl(parts.query))]
    return [secret for secret in found if secret]


def endpoint_of(url: str) -> str:
    """Scheme, host and port of a URL; never a user, a password, a path or a query."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or '?'}{port}"
