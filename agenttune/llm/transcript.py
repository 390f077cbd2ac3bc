"""What the log keeps of messages: without secrets, and each text once, later ones by its checksum."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from agenttune.protocol.model_calls import ChatMessage, ModelCalled

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
    """A text without these secrets and without anything that looks like one."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def secrets_of(url: str) -> list[str]:
    """Secrets in a URL: its password and the values of its query."""
    parts = urlsplit(url)
    found = [unquote(parts.password or ""), *(value for _, value in parse_qsl(parts.query))]
    return [secret for secret in found if secret]


class TranscriptWriter:
    """Turns messages into log records: redacted, and a repeated text as its checksum alone.

    Args:
        secrets: Texts that must not be recorded.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets
        self._recorded: set[str] = set()

    def clean(self, text: str) -> str:
        return redacted(text, *self._secrets)

    def clean_message(self, message: ChatMessage | None) -> ChatMessage | None:
        """The same without secrets."""
        if message is None:
            return None
        uses = [use.model_copy(update={"arguments": self.clean(use.arguments)}) for use in message.tool_uses]
        content = None if message.content is None else self.clean(message.content)
        return message.model_copy(update={"content": content, "tool_uses": uses})

    def record(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        return [self._record(message) for message in messages]

    def _record(self, message: ChatMessage) -> ChatMessage:
        cleaned = self.clean_message(message)
        if cleaned is None or cleaned.content is None:
            return cleaned or message
        sha256 = hashlib.sha256(cleaned.content.encode()).hexdigest()
        content = None if sha256 in self._recorded else cleaned.content
        self._recorded.add(sha256)
        return cleaned.model_copy(update={"content": content, "sha256": sha256})


def resolve(calls: Iterable[ModelCalled]) -> list[ModelCalled]:
    """Recorded calls, in order, with the full text of every message.

    A text stays None if the call that recorded it is not among these.
    """
    known: dict[str, str] = {}
    found = []
    for call in calls:
        for message in call.messages:
            if message.content is not None and message.sha256 is not None:
                known[message.sha256] = message.content
        messages = [
            m.model_copy(update={"content": known.get(m.sha256)}) if m.content is None and m.sha256 else m
            for m in call.messages
        ]
        found.append(call.model_copy(update={"messages": messages}))
    return found
