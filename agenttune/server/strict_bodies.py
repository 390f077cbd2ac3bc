"""Request bodies: JSON as the standard has it, small, shallow, every number finite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agenttune.protocol.strict_json import KeyTwice, once
from agenttune.server.error_responses import problem

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 64
"""Nesting of lists and objects (a guess: no command needs more than 5)."""
INT64 = 1 << 63
NONE = re.compile(r"(?!)")
"""Matches no path."""


class BadJson(Exception):
    """The body is not JSON that this server takes; says why."""


def parse_json(raw: bytes) -> Any:
    """Decode a JSON body; Python's own reader would take NaN, infinities, integers of any size, and a key twice.

    Raises:
        BadJson: Not JSON, not UTF-8, a non-finite number, an integer beyond 64 bits, half a surrogate pair, a key that
            stands twice in one object, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
            object_pairs_hook=once,
        )
        _check_depth(value, 1)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise BadJson(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise BadJson("the body is not UTF-8") from None
    except UnicodeEncodeError:
        raise BadJson("a string holds half a surrogate pair, which is not text") from None
    except KeyTwice as error:
        raise BadJson(str(error)) from None
    except json.JSONDecodeError as error:
        raise BadJson(f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    return value


def _refuse_constant(token: str) -> NoReturn:
    raise BadJson(f"{token} is not JSON; give a finite number")


def _finite(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise BadJson(f"the number {token[:40]} is too large for a 64-bit float")
    return value


def _bounded(token: str) -> int:
    # Twenty characters hold every 64-bit integer; Python refuses to read thousands of digits with another error.
    if len(token) > 20 or not -INT64 <= int(token) < INT64:
        raise BadJson(f"the integer {token[:40]} does not fit in 64 bits")
    return int(token)


def _check_depth(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadJson(f"nested deeper than {MAX_DEPTH} levels")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        if isinstance(child, (dict, list)):
            _check_depth(child, depth + 1)


class StrictBodies:
    """ASGI middleware: reads the whole body within its limit and lets only good JSON through to the routes.

    Args:
        app: What is guarded.
        judged_by_route: Paths whose routes refuse what is no good JSON themselves, in a shape of their own.
        forms: Paths that take forms of HTML instead.
    """

    def __init__(self, app: ASGIApp, judged_by_route: Collection[str] = (), forms: re.Pattern[str] = NONE) -> None:
        self._app = app
        self._judged_by_route = frozenset(judged_by_route)
        self._forms = forms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(receive)
        except ClientDisconnect:
            return  # half a body asks for nothing
        if body is None:
            message = f"the body is larger than {MAX_BODY_BYTES} bytes"
            await problem(413, "TooLarge", message, "body", headers={"Connection": "close"})(scope, receive, send)
            return
        if scope["path"] in self._judged_by_route or self._forms.fullmatch(scope["path"]):
            await self._app(scope, _replay(body, receive), send)
            return
        media = Headers(scope=scope).get("content-type", "").split(";")[0].strip().lower()
        if body and media != "application/json":
            message = f"the body's Content-Type is {media!r:.80}; send application/json"
            await problem(415, "UserError", message, "Content-Type", ["application/json"])(scope, receive, send)
            return
        try:
            if body:
                parse_json(body)
        except BadJson as error:
            await problem(400, "MalformedJson", str(error), "body")(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None if it is larger than allowed.

    Raises:
        ClientDisconnect: The client left before its end.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then whatever follows it (the client's going away)."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed
