"""The routes that read: the server, its runs, and of a run one for each class of `protocol/reads.py`."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune import __version__
from agenttune.control.reader import norms_asked, norms_of
from agenttune.protocol.command_schemas import schemas_by_kind
from agenttune.protocol.overview import OverviewQuery, RunsOverview
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.reads import CommandQuery, EventsQuery, InfoQuery, Limit, ModelQuery, RunQuery
from agenttune.protocol.run_info import RunStatus
from agenttune.server.auth.identity import Identity
from agenttune.server.auth.rights import Right, require, shown_events, shown_info
from agenttune.server.request_context import Context, Ctx, RunId, Who, json_answer, json_body, json_response
from agenttune.server.schemas import CommandSchemas, Health, Runs

router = APIRouter()


@router.get("/health", response_model=Health)
def health(request: Request, context: Ctx) -> Response:
    """A sign of life; without the token it tells less."""
    seen = Health(version=__version__, instance=context.instance)
    if request.state.identity is not None:
        runs_dir = str(context.control.runs_dir)
        seen = seen.model_copy(update={"pid": request.app.state.pid, "runs_dir": runs_dir})
    return json_response(seen)


@router.get("/commands", response_model=CommandSchemas)
def command_schemas() -> Response:
    """Every command there is, with its JSON schema and risk class."""
    return json_response(CommandSchemas(commands=list(schemas_by_kind().values())))


@router.get("/runs", response_model=Runs)
def runs(
    context: Ctx,
    who: Who,
    limit: Annotated[Limit, Query()] = 100,
    status: Annotated[list[RunStatus], Query(description="Only runs of these statuses.")] = [],  # noqa: B006
) -> Response:
    """All runs that the token is for, newest first; what the gate obeys is shown to operators only."""
    found = [info for info in context.control.runs() if who.sees(info.run_id) and (not status or info.status in status)]
    return json_response(Runs(runs=[shown_info(info, who) for info in found[:limit]]))


def _overview(context: Ctx, who: Who, **given: Any) -> Response:
    """The list of runs with what tells whether each is well; of runs that have not moved, nothing is read again."""
    return json_response(context.control.overview(OverviewQuery(**given), who.sees))


Reader = Callable[[Context, Identity, str, Any], Awaitable[BaseModel]]
"""Answers a read for who asks."""


async def _info(context: Context, who: Identity, run_id: str, query: InfoQuery) -> BaseModel:
    return shown_info(await run_in_threadpool(context.control.read, run_id, query), who)


async def _events(context: Context, who: Identity, run_id: str, query: EventsQuery) -> BaseModel:
    """Waits with the hub, which holds no thread of the pool meanwhile."""
    at_once = query.model_copy(update={"wait_s": 0.0})
    found = await run_in_threadpool(context.control.read, run_id, at_once)
    if not found.events and query.wait_s > 0:
        deadline = time.monotonic() + query.wait_s
        async with context.hub.follow(run_id) as tail:
            more = True
            while more and not found.events:
                seen = tail.events.top
                found = await run_in_threadpool(context.control.read, run_id, at_once)
                more = bool(found.events) or await tail.past(seen, deadline)
    return found.model_copy(update={"events": shown_events(found.events, who)})


async def _command(context: Context, who: Identity, run_id: str, query: CommandQuery) -> BaseModel:
    record = await run_in_threadpool(context.control.command, run_id, query.command_id)
    return await acked(context, run_id, record, query.wait_s)


async def _model(context: Context, who: Identity, run_id: str, query: ModelQuery) -> BaseModel:
    if not query.norms:
        return await run_in_threadpool(context.control.read, run_id, query)
    require(who, Right.PROPOSE)
    record = await run_in_threadpool(context.control.submit, run_id, norms_asked(query, who.via))
    return norms_of(await acked(context, run_id, record, query.wait_s), query)


async def acked(context: Context, run_id: str, record: CommandRecord, wait_s: float) -> CommandRecord:
    """The record once it has its ack or needs none, or as it stands when the time is up."""
    if wait_s == 0 or record.is_settled:
        return record
    deadline = time.monotonic() + wait_s
    async with context.hub.follow(run_id) as tail:
        while True:
            seen = tail.events.top
            record = await run_in_threadpool(context.control.command, run_id, record.command_id)
            if record.is_settled or not await tail.past(seen, deadline):
                return record


READERS: dict[type[RunQuery[Any]], Reader] = {
    InfoQuery: _info,
    EventsQuery: _events,
    CommandQuery: _command,
    ModelQuery: _model,
}
"""Of reads that wait, or whose answer depends on who asks; the control answers all others."""


def _parameter(name: str, field: FieldInfo, is_in_path: bool) -> inspect.Parameter:
    """A field of a read as a parameter of its route."""
    place = Path() if is_in_path else Query(description=field.description)
    # By its method, as Python 3.10 takes no star in an index.
    annotation = Annotated.__class_getitem__((field.annotation, *field.metadata, place))  # type: ignore[attr-defined]
    default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _take(endpoint: Callable[..., Any], shared: Mapping[str, Any], query: type[BaseModel], in_path: list[str]) -> None:
    """Give an endpoint the parameters of a read, beside those that all have."""
    kind = inspect.Parameter.KEYWORD_ONLY
    known = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in shared.items()]
    own = [_parameter(name, field, name in in_path) for name, field in query.model_fields.items()]
    endpoint.__signature__ = inspect.Signature([*known, *own])  # type: ignore[attr-defined]


_take(_overview, {"context": Ctx, "who": Who}, OverviewQuery, [])
router.add_api_route("/overview", _overview, name="overview", response_model=RunsOverview)


def of_one_run(queries: Iterable[type[RunQuery[Any]]]) -> APIRouter:
    """A route for each of these reads."""
    routes = APIRouter()
    for query in queries:
        _add_route(routes, query)
    return routes


def _add_route(routes: APIRouter, query: type[RunQuery[Any]]) -> None:
    reader = READERS.get(query)

    async def endpoint(run_id: RunId, context: Ctx, who: Who, **given: Any) -> Response:
        asked = query(**given)
        if reader is None:
            key = run_id, query, asked.model_dump_json()
            return json_answer(await context.reads.answer(key, lambda: json_body(context.control.read(run_id, asked))))
        found = await reader(context, who, run_id, asked)
        return await run_in_threadpool(json_response, found)

    _take(endpoint, {"run_id": RunId, "context": Ctx, "who": Who}, query, query.path_fields())
    endpoint.__doc__ = query.__doc__
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", query.__name__.removesuffix("Query")).lower()
    routes.add_api_route(f"/runs/{{run_id}}{query.path}", endpoint, name=name, response_model=query.answer_type())
