"""Routes about the server and all of its runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from agenttune import __version__
from agenttune.protocol.command_schemas import schemas_by_kind
from agenttune.protocol.events import RunStatus
from agenttune.protocol.reads import Limit
from agenttune.server.auth.rights import shown_info
from agenttune.server.context import Ctx, Who, answer
from agenttune.server.schemas import CommandSchemas, Health, Runs

router = APIRouter()


@router.get("/health", response_model=Health)
def health(request: Request, context: Ctx) -> Response:
    """A sign of life; without the token it tells less."""
    seen = Health(version=__version__, instance=context.instance)
    if request.state.identity is not None:
        runs_dir = str(context.control.runs_dir)
        seen = seen.model_copy(update={"pid": request.app.state.pid, "runs_dir": runs_dir})
    return answer(seen)


@router.get("/commands", response_model=CommandSchemas)
def command_schemas() -> Response:
    """Every command there is, with its JSON schema and risk class."""
    return answer(CommandSchemas(commands=list(schemas_by_kind().values())))


@router.get("/runs", response_model=Runs)
def runs(
    context: Ctx,
    who: Who,
    limit: Annotated[Limit, Query()] = 100,
    status: Annotated[list[RunStatus], Query(description="Only runs of these statuses.")] = [],  # noqa: B006
) -> Response:
    """All runs that the token is for, newest first; what the gate obeys is shown to operators only."""
    found = [info for info in context.control.runs() if who.sees(info.run_id) and (not status or info.status in status)]
    return answer(Runs(runs=[shown_info(info, who) for info in found[:limit]]))
