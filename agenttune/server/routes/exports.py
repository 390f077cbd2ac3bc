"""Routes that send a run's log as a file, however long it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from agenttune.control.exports import events_as_jsonl, metrics_as_csv
from agenttune.protocol.reads import MOST_CURVES, BranchName, EventsQuery, MetricNameText, StepBound
from agenttune.server.auth.rights import shown_events
from agenttune.server.request_context import Context, Ctx, RunId, Who

router = APIRouter()
JSONL, CSV = "application/x-ndjson", "text/csv; charset=utf-8"


@router.get(
    "/runs/{run_id}/export/events.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {JSONL: {"schema": {"type": "string"}}}}},
)
def events(
    run_id: RunId,
    context: Ctx,
    who: Who,
    kinds: Annotated[list[str], Query(description="Only events of these kinds.")] = [],  # noqa: B006
    first_step: StepBound | None = None,
    last_step: StepBound | None = None,
    search: Annotated[str, Query(max_length=200, description="Only events that hold this text.")] = "",
) -> StreamingResponse:
    """All events, or those that fit, as JSON lines, oldest first."""
    query = EventsQuery(kinds=kinds, first_step=first_step, last_step=last_step, search=search)
    lines = events_as_jsonl(context.control, run_id, query, lambda page: shown_events(page, who))
    return _file(context, run_id, lines, JSONL, "events.jsonl")


@router.get(
    "/runs/{run_id}/export/metrics.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}},
)
def metrics(
    run_id: RunId,
    context: Ctx,
    name: Annotated[list[MetricNameText], Query(max_length=MOST_CURVES, description="Default: all.")] = [],  # noqa: B006
    branch: Annotated[list[BranchName], Query(max_length=MOST_CURVES, description="Default: all.")] = [],  # noqa: B006
) -> StreamingResponse:
    """Every row of metrics as comma-separated values, in order of writing; what is not finite is `nan` or `inf`."""
    lines = metrics_as_csv(context.control, run_id, name, branch)
    return _file(context, run_id, lines, CSV, "metrics.csv")


def _file(context: Context, run_id: str, lines: Iterator[str], media_type: str, name: str) -> StreamingResponse:
    context.control.log(run_id)  # that there is no such run is told before anything is sent
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", run_id)[:100]
    headers = {"Content-Disposition": f'attachment; filename="{safe}-{name}"'}
    return StreamingResponse(lines, media_type=media_type, headers=headers)
