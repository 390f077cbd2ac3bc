"""What every route needs: the control, the live hub, and the checks they all share."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FolderPath
from typing import Annotated

from fastapi import Depends, Path
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.control.control import LATEST
from agenttune.dashboard.build import BUILT
from agenttune.errors import Unauthorized, UnknownRun, UserError
from agenttune.server.auth.identity import Identity
from agenttune.server.live_hub import Hub
from agenttune.server.shared_reads import SharedReads
from agenttune.server.v1_compat.events import Translator

MAX_RUN_ID_BYTES = 200
"""Below the 255 bytes that file systems allow for a name."""


@dataclass
class Context:
    """One server's parts.

    Attributes:
        control: The door to the runs folder.
        hub: Follows runs for live clients.
        translator: Makes v1's frames of events.
        built: The folder of the built dashboard.
        reads: Reads of runs under way, whose answer is the same for whoever may read.
        instance: Tells this start of the server from every other.
    """

    control: LocalControl
    hub: Hub
    translator: Translator
    built: FolderPath = BUILT
    reads: SharedReads[bytes] = field(default_factory=SharedReads)
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


async def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


Ctx = Annotated[Context, Depends(_context)]


async def _identity(connection: HTTPConnection) -> Identity:
    """Who asks; routes that take nobody have been left by then."""
    identity: Identity | None = connection.state.identity
    if identity is None:
        raise Unauthorized("this server wants a token", field="Authorization")
    return identity


Who = Annotated[Identity, Depends(_identity)]


async def _run_id(context: Ctx, who: Who, run_id: Annotated[str, Path(description="A run's id, or `latest`.")]) -> str:
    """The id with `latest` resolved. Whether there is such a run is left to whoever opens its log."""
    if run_id == LATEST:
        return await run_in_threadpool(_newest, context.control, who)
    check_length(context.control, run_id)
    return run_id


def check_length(control: LocalControl, run_id: str) -> None:
    """Raises UnknownRun for a name that no file system would take."""
    if len(run_id.encode()) > MAX_RUN_ID_BYTES:
        raise UnknownRun(f"no run {run_id[:40]!r}... in {control.runs_dir}", field="run_id")


def _newest(control: LocalControl, who: Identity) -> str:
    newest = control.newest_run(who.sees)
    if newest is None:
        raise UnknownRun(f"no run in {control.runs_dir} yet", field="run_id", allowed=[])
    return newest


RunId = Annotated[str, Depends(_run_id)]


async def known_parameters_only(connection: HTTPConnection) -> None:
    """Refuse a query parameter that the route does not know, and one given twice where one value is meant."""
    known = dict(_query_parameters(connection.scope["route"].dependant))
    given = Counter(name for name, _ in connection.query_params.multi_items())
    for name, times in given.items():
        if name not in known:
            message = f"unknown query parameter {name!r:.80}; this route knows: {', '.join(sorted(known)) or 'none'}"
            raise UserError(message, field=name[:80], allowed=sorted(known))
        if times > 1 and not known[name]:
            raise UserError(f"the query parameter {name!r} is given {times} times; give it once", field=name)


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Names, and whether a parameter may be repeated, of a route and all it depends on."""
    for parameter in dependant.query_params:
        yield parameter.alias, "list" in str(parameter.field_info.annotation)
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def json_response(content: BaseModel, status: int = 200) -> Response:
    """A model as JSON, written by the model itself: non-finite numbers become strings, nothing is checked twice."""
    return json_answer(json_body(content), status)


def json_body(content: BaseModel) -> bytes:
    """The bytes of such an answer, which may be sent to several."""
    return content.model_dump_json().encode()


def json_answer(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
