"""Routes that ask for commands and follow them, and the agent's own entries in the log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from agenttune.control import AgentRecord
from agenttune.errors import UserError
from agenttune.protocol.events import PolicyRequested
from agenttune.protocol.proposals import CommandRecord, Proposal, Verdict
from agenttune.protocol.reads import Wait
from agenttune.server.agent_entries import RecordEntry
from agenttune.server.auth.identity import Identity
from agenttune.server.auth.rights import require_author, require_recorder
from agenttune.server.context import Ctx, RunId, Who, answer
from agenttune.server.routes.reads import acked
from agenttune.server.schemas import Recorded, Submission
from agenttune.server.v1_compat.commands import AUTHOR as V1_CLIENT

router = APIRouter()


@router.post(
    "/runs/{run_id}/commands",
    status_code=202,
    response_model=CommandRecord | Verdict,
    responses={200: {"description": "The command_id was known: the record as it stands. Or a dry run's verdict."}},
)
async def submit(
    run_id: RunId,
    context: Ctx,
    who: Who,
    submission: Submission,
    dry_run: bool = False,
    wait_s: Annotated[Wait, Query()] = 0.0,
) -> Response:
    """Ask for a command.

    202: it was recorded now. Its `state` tells what became of it: `queued` for the trainer, or `rejected` with the
    reason and the nearest allowed values in `verdict`; a refusal by the gate is recorded like an approval and is no
    error of the request. 200: the `command_id` was known already; the record as it stands. With `dry_run`, nothing is
    recorded and the answer is the verdict. With `wait_s`, the answer waits for the trainer's ack.
    """
    proposal = _proposal(submission, who)
    if dry_run:
        return answer(await run_in_threadpool(context.control.dry_run, run_id, proposal))
    record = await run_in_threadpool(context.control.submit, run_id, proposal)
    # The log keeps the first proposal of an id, with its own time.
    status = 202 if record.proposal.created_at_s == proposal.created_at_s else 200
    return answer(await acked(context, run_id, record, wait_s), status)


@router.post("/runs/{run_id}/records", status_code=201, response_model=Recorded)
def record(run_id: RunId, context: Ctx, who: Who, entry: RecordEntry) -> Response:
    """Write a finding, a decision, a call of a model, or a policy's coming and going into the log.

    Of agents, the run's own may: others obey these records. Another policy only operators want.
    """
    body: AgentRecord = entry.record
    require_recorder(who, run_id, body.kind)
    if isinstance(body, PolicyRequested) and who.via:
        body = body.model_copy(update={"author": f"{body.author or who.name} via {who.via}"})
    return answer(Recorded(seq=context.control.record(run_id, body, entry.step)), 201)


def _proposal(submission: Submission, who: Identity) -> Proposal:
    claimed = submission.author
    if claimed.name == V1_CLIENT.name:
        raise UserError(
            f"the name {claimed.name!r} marks what came by the seed's API; take another", field="author.name"
        )
    chosen = {"command_id": submission.command_id} if submission.command_id is not None else {}
    return Proposal(
        command=submission.command,
        author=require_author(who, who.author(claimed.principal, claimed.name)),
        rationale=submission.rationale,
        based_on_step=submission.based_on_step,
        valid_until_step=submission.valid_until_step,
        **chosen,
    )
