"""The link that `agenttune run` shows: its key becomes a cookie, which a page's scripts cannot read."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from agenttune.control.discovery import LOCAL_PREFIX
from agenttune.errors import Forbidden, Unauthorized
from agenttune.server.auth.identity import Access, Identity

COOKIE = "agenttune_local"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PAGE = re.compile(r"/local/([A-Za-z0-9][A-Za-z0-9._-]{0,199})")


def exchange(scope: Scope, access: Access) -> Response | None:
    """The answer to a link with a key: a cookie, and the same page without the key. None for anything else.

    Raises:
        Unauthorized: The key does not count (any longer), or is for another run.
    """
    page = _PAGE.fullmatch(scope["path"])
    keys = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("key", [])
    if page is None or not keys or scope["type"] != "http" or scope["method"] != "GET":
        return None
    identity = access.of(keys[0]) if len(keys) == 1 else None
    if identity is None or not identity.sees(page.group(1)):
        raise _ended()
    # No link that leaves the page, and no cache, may carry the key on.
    headers = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    answer = RedirectResponse(page.group(), 303, headers)
    # Not `strict`: terminals that are themselves pages, of notebooks and editors, lead here from another site.
    answer.set_cookie(COOKIE, keys[0], path=page.group(), httponly=True, samesite="lax")
    return answer


def by_cookie(scope: Scope, access: Access) -> Identity | None:
    """Who asks by the cookie of a link; None if there is none, or it is not meant for this path.

    Raises:
        Unauthorized: Its key no longer counts.
        Forbidden: It would change something, and no page of this server is known to have sent it.
    """
    connection = HTTPConnection(scope)
    key = connection.cookies.get(COOKIE) if scope["path"].startswith(LOCAL_PREFIX) else None
    if key is None:
        return None
    identity = access.of(key)
    if identity is None:
        raise _ended()
    is_safe = scope["type"] == "http" and scope["method"] in SAFE_METHODS
    if not is_safe and "origin" not in connection.headers:  # the guard has refused every other origin than ours
        raise Forbidden(
            "a request by cookie that changes something must come from this server's own page", field="Origin"
        )
    return identity


def _ended() -> Unauthorized:
    return Unauthorized(
        "this link does not count (any longer): its run has ended, or it is for another; take the one that "
        "`agenttune run` shows",
        field="key",
    )
