"""Links with a key: the key becomes a cookie, which a page's scripts cannot read, and leaves the address.

The dashboard's key works once, for a cookie of its own. That of a run's page without scripts, `/local/<run>`, is an
operator's token; such links of before still work.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from agenttune.control.discovery import LOCAL_PREFIX
from agenttune.control.tokens import SESSION_S
from agenttune.dashboard.static_files import is_page, run_of
from agenttune.errors import Forbidden, Unauthorized
from agenttune.server.auth.identity import Access, Identity
from agenttune.server.error_responses import problem, problem_of, wants_page
from agenttune.server.pages.rendering import PageFrame, message_page

COOKIE = "agenttune_local"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
KEY = "key"
FRAMES = frozenset({"iframe", "frame", "object", "embed"})
"""Values of Sec-Fetch-Dest for a page that is shown inside of another one."""
NAMES = frozenset({"localhost", "127.0.0.1"})
"""Under which this machine shows pages to itself."""
_LOCAL_PAGE = re.compile(r"/local/([A-Za-z0-9][A-Za-z0-9._-]{0,199})")
_HEADERS = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
"""No link that leaves the page, and no cache, may carry a key on."""


def carries_key(scope: Scope) -> bool:
    """Whether this is a link with a key."""
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["query_string"]:
        return False
    return bool(_keys(scope)) and (is_page(scope["path"]) or _LOCAL_PAGE.fullmatch(scope["path"]) is not None)


def exchange(scope: Scope, access: Access) -> Response:
    """The answer to a link with a key: a cookie, and the same page without the key.

    Raises:
        Unauthorized: The key does not count (any longer), or is for another run.
        TokensUnusable: The folder's tokens cannot be read or written.
    """
    return _exchange_for_session(scope, access) if is_page(scope["path"]) else _exchange_for_local(scope, access)


def _keys(scope: Scope) -> list[str]:
    return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get(KEY, [])


def _exchange_for_local(scope: Scope, access: Access) -> Response:
    page, keys = _LOCAL_PAGE.fullmatch(scope["path"]), _keys(scope)
    identity = access.of(keys[0]) if len(keys) == 1 else None
    if page is None or identity is None or not identity.sees(page.group(1)):
        raise _ended()
    answer = RedirectResponse(page.group(), 303, _HEADERS)
    # Not `strict`: terminals that are themselves pages, of notebooks and editors, lead here from another site.
    answer.set_cookie(COOKIE, keys[0], path=page.group(), httponly=True, samesite="lax")
    return answer


def _exchange_for_session(scope: Scope, access: Access) -> Response:
    headers, keys, page = Headers(scope=scope), _keys(scope), _without_key(scope)
    if "prefetch" in headers.get("sec-purpose", ""):  # a browser that only guesses that the link will be followed
        return problem(503, "UserError", "a link that works once is not fetched ahead", KEY, headers=_HEADERS)
    name = _framing_name(headers)
    if name:
        message = f"a frame in a page of {name} keeps no sign-in of {headers['host']}; the key is good under {name}"
        return problem(403, "Forbidden", message, KEY, [name], headers=_HEADERS)
    try:
        if len(keys) != 1:
            raise Unauthorized("this link has more than one key", field=KEY)
        text, _ = access.exchange(keys[0])
    except Unauthorized as error:
        if session_identity(scope, access) is not None:  # the link in the terminal, followed again
            return RedirectResponse(page, 303, _HEADERS)
        return _refusal(scope, error, page)
    answer = RedirectResponse(page, 303, _HEADERS)
    set_session(answer, scope, text)
    return answer


def _framing_name(headers: Headers) -> str:
    """The name of this machine under which a page frames this link, if it is not ours; empty for none.

    To browsers `localhost` and `127.0.0.1` are two sites, and a frame of one in a page of the other gets no cookie.
    """
    if headers.get("sec-fetch-dest") not in FRAMES or headers.get("sec-fetch-site") != "cross-site":
        return ""
    framing, own = urlsplit(headers.get("referer", "")), urlsplit(f"//{headers['host']}").hostname
    is_other = framing.scheme == "http" and framing.hostname in NAMES and own in NAMES and framing.hostname != own
    return str(framing.hostname) if is_other else ""


def _without_key(scope: Scope) -> str:
    """The address without its key. It begins with the path of one of our pages, and so leads nowhere else."""
    rest = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query = urlencode([(name, value) for name, value in rest if name != KEY])
    return quote(scope["path"]) + (f"?{query}" if query else "")


def _refusal(scope: Scope, error: Unauthorized, page: str) -> Response:
    command = f"agenttune open {run_of(scope['path'])}".strip()
    words = f"{str(error)[0].upper()}{str(error)[1:]}. A new one, in the folder where you work: {command}"
    if not wants_page(scope):
        return problem_of(Unauthorized(words, field=KEY))
    frame = PageFrame(page, back_words="Open the page without it: this browser may be signed in already")
    answer = message_page(401, "This link signs nobody in", words, frame)
    answer.headers.update(_HEADERS)
    return answer


def session_cookie(host: str) -> str:
    """The name of the dashboard's cookie; with the port, as cookies know none and each server has its own."""
    port = host.rpartition(":")[2]
    return f"agenttune_{port if port.isdigit() else '80'}"


def set_session(answer: Response, scope: Scope, text: str) -> None:
    """Sign a browser in: from now on it sends this secret with each request to this server, and to no other site."""
    name, age_s = session_cookie(Headers(scope=scope)["host"]), int(SESSION_S)
    is_secure = scope.get("scheme") == "https"
    answer.set_cookie(name, text, age_s, path="/", secure=is_secure, httponly=True, samesite="strict")


def end_session(answer: Response, scope: Scope) -> None:
    """Have a browser forget its secret."""
    answer.delete_cookie(session_cookie(Headers(scope=scope)["host"]), path="/", httponly=True, samesite="strict")


def session_identity(scope: Scope, access: Access) -> Identity | None:
    """Whose browser sends this; None where nobody is signed in, or no longer."""
    connection = HTTPConnection(scope)
    text = connection.cookies.get(session_cookie(connection.headers["host"]))
    identity = access.of(text) if text is not None else None
    return identity and identity.by_cookie()


def by_cookie(scope: Scope, access: Access) -> Identity | None:
    """Who asks by the cookie of a link; None if there is none, it is not meant for this path, or it has ended.

    A cookie of the dashboard that has ended is as good as none: another server of this machine may have set it.

    Raises:
        Unauthorized: The key of a run's page without scripts no longer counts.
        Forbidden: It would change something, and no page of this server is known to have sent it.
    """
    connection = HTTPConnection(scope)
    key = connection.cookies.get(COOKIE) if scope["path"].startswith(LOCAL_PREFIX) else None
    identity = session_identity(scope, access)
    if identity is None and key is not None:
        identity = access.of(key)
        if identity is None:
            raise _ended()
        identity = identity.by_cookie()
    if identity is None:
        return None
    is_safe = scope["type"] == "http" and scope["method"] in SAFE_METHODS
    if not is_safe and "origin" not in connection.headers:  # the guard has refused every other origin than ours
        raise Forbidden(
            "a request by cookie that changes something must come from this server's own page", field="Origin"
        )
    return identity


def _ended() -> Unauthorized:
    return Unauthorized(
        "this link does not count (any longer): its run has ended, or it is for another; `agenttune open` gives a new "
        "one",
        field=KEY,
    )
