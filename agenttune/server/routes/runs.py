"""Routes that read: runs, metrics, knobs, checkpoints, branches."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from agenttune import __version__
from agenttune.errors import UserError
from agenttune.protocol.command_schemas import COMMAND_SCHEMAS
from agenttune.protocol.events import (
    EVENT_KINDS,
    BranchStarted,
    CheckpointSaved,
    Curve,
    DatasetRead,
    Event,
    RunInfo,
    RunStatus,
)
from agenttune.protocol.observation import Observation
from agenttune.server.agent_entries import MAX_STEP
from agenttune.server.auth.rights import shown_info
from agenttune.server.context import Ctx, RunId, Who, answer
from agenttune.server.schemas import (
    Branch,
    Branches,
    Checkpoint,
    Checkpoints,
    CommandSchemas,
    Dataset,
    Health,
    History,
    Knobs,
    ModelCalls,
    Points,
    Runs,
    Series,
)

router = APIRouter()
Cursor = Annotated[int, Query(ge=0, le=MAX_STEP, description="Only what follows this cursor.")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="At most so many.")]
StepBound = Annotated[int, Query(ge=0, le=MAX_STEP)]
BranchName = Annotated[str, Query(max_length=200)]


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
    return answer(CommandSchemas(commands=list(COMMAND_SCHEMAS)))


@router.get("/runs", response_model=Runs)
def runs(
    context: Ctx,
    who: Who,
    limit: Limit = 100,
    status: Annotated[list[RunStatus], Query(description="Only runs of these statuses.")] = [],  # noqa: B006
) -> Response:
    """All runs that the token is for, newest first; what the gate obeys is shown to operators only."""
    found = [info for info in context.control.runs() if who.sees(info.run_id) and (not status or info.status in status)]
    return answer(Runs(runs=[shown_info(info, who) for info in found[:limit]]))


@router.get("/runs/{run_id}", response_model=RunInfo)
def run_info(run_id: RunId, context: Ctx, who: Who) -> Response:
    """One run."""
    return answer(shown_info(context.control.info(run_id), who))


@router.get("/runs/{run_id}/observation", response_model=Observation)
def observation(run_id: RunId, context: Ctx) -> Response:
    """What a policy sees now."""
    return answer(context.control.observe(run_id))


@router.get("/runs/{run_id}/metrics", response_model=Series)
def metrics(run_id: RunId, context: Ctx, branch: BranchName = "main") -> Response:
    """The metrics there are, with their extent."""
    return answer(Series(series=context.control.series(run_id, branch)))


@router.get("/runs/{run_id}/metrics/{name:path}", response_model=Curve)
def curve(
    run_id: RunId,
    context: Ctx,
    name: str,
    branch: BranchName = "main",
    first_step: StepBound = 0,
    last_step: StepBound | None = None,
    max_points: Limit = 1000,
) -> Response:
    """One metric over steps, thinned to at most `max_points`."""
    if last_step is not None and last_step < first_step:
        raise UserError(f"last_step {last_step} is before first_step {first_step}", field="last_step")
    return answer(context.control.curve(run_id, name, branch, first_step, last_step, max_points))


@router.get("/runs/{run_id}/points", response_model=Points)
def points(run_id: RunId, context: Ctx, since: Cursor = 0, limit: Limit = 1000) -> Response:
    """Whole metric rows, in order of writing."""
    found = context.control.points(run_id, since, limit)
    return answer(Points(points=found, next=found[-1].point_id if found else since))


@router.get("/runs/{run_id}/knobs", response_model=Knobs)
def knobs(run_id: RunId, context: Ctx) -> Response:
    """Every live-tunable value as it stands."""
    return answer(Knobs(knobs=context.control.knobs(run_id)))


@router.get("/runs/{run_id}/checkpoints", response_model=Checkpoints)
def checkpoints(run_id: RunId, context: Ctx) -> Response:
    """Checkpoints that still exist, in order of saving."""
    return answer(Checkpoints(checkpoints=[_checkpoint(event) for event in context.control.checkpoints(run_id)]))


@router.get("/runs/{run_id}/branches", response_model=Branches)
def branches(run_id: RunId, context: Ctx) -> Response:
    """Every branch: which it went off, at which step, from which checkpoint; as a list and as a tree."""
    found = context.control.branches(run_id)
    current = found[-1].name
    return answer(Branches(branches=found, current=current, tree=_tree(found, current)))


@router.get("/runs/{run_id}/dataset", response_model=Dataset)
def dataset(run_id: RunId, context: Ctx) -> Response:
    """The training dataset and its parameters, as last read."""
    event = context.control.newest(run_id, "dataset_read")
    if event is None or not isinstance(event.body, DatasetRead):
        return answer(Dataset())
    return answer(Dataset(step=event.step, at_s=event.at_s, dataset=event.body))


@router.get("/runs/{run_id}/history", response_model=History)
def history(run_id: RunId, context: Ctx, limit: Limit = 50) -> Response:
    """The newest commands, what became of them, and the goal metric before and after each."""
    return answer(History(history=context.control.history(run_id, limit)))


@router.get("/runs/{run_id}/model-calls", response_model=ModelCalls)
def model_calls(run_id: RunId, context: Ctx) -> Response:
    """Calls of language models with their tokens and cost, without what was said."""
    return answer(ModelCalls(calls=context.control.model_calls(run_id)))


def _tree(branches: list[BranchStarted], current: str) -> list[Branch]:
    """Branches under those they went off; one whose parent is not known is a root."""
    made: dict[str, Branch] = {}
    roots: list[Branch] = []
    for started in branches:
        branch = Branch(
            name=started.name,
            parent=started.parent,
            from_step=started.from_step,
            checkpoint_id=started.checkpoint_id,
            is_current=started.name == current,
            children=[],
        )
        siblings = made[started.parent].children if started.parent in made else roots
        siblings.append(branch)
        made[started.name] = branch
    return roots


def _checkpoint(event: Event) -> Checkpoint:
    saved = event.body
    if not isinstance(saved, CheckpointSaved):
        raise TypeError(f"event {event.seq} is no checkpoint")
    return Checkpoint(
        checkpoint_id=saved.checkpoint_id,
        path=saved.path,
        tag=saved.tag,
        keep_in=saved.keep_in,
        size_bytes=saved.size_bytes,
        metric=saved.metric,
        pinned=saved.pinned,
        is_before=saved.is_before,
        problem=saved.problem,
        step=event.step,
        branch=event.branch,
        at_s=event.at_s,
        command_id=saved.command_id or event.command_id,
        seq=event.seq,
    )


def known_kinds(kinds: list[str]) -> list[str]:
    """Refuse event kinds that there are not."""
    for kind in kinds:
        if kind not in EVENT_KINDS:
            known = ", ".join(EVENT_KINDS)
            raise UserError(
                f"unknown event kind {kind!r:.80}; known: {known}", field="kinds", allowed=list(EVENT_KINDS)
            )
    return kinds
