"""Routes that ask for commands, decide on those that wait, and write an agent's own entries into the log."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from agenttune.control import AgentRecord, ApprovalDecision
from agenttune.errors import UserError
from agenttune.protocol.commands import Command
from agenttune.protocol.dry_run import DryRun
from agenttune.protocol.events import FindingJudged, PolicyRequested, TagsChanged
from agenttune.protocol.proposals import CommandRecord, Proposal, Record, StandingApproval
from agenttune.protocol.reads import Wait
from agenttune.server.auth.identity import Identity
from agenttune.server.auth.rights import require_author, require_recorder
from agenttune.server.request_context import Ctx, RunId, Who, json_response
from agenttune.server.routes.reads import acked
from agenttune.server.schemas import Recorded, RecordEntry, Submission
from agenttune.server.v1_compat.commands import AUTHOR as V1_CLIENT

router = APIRouter()


@router.post(
    "/runs/{run_id}/commands",
    status_code=202,
    response_model=CommandRecord | DryRun,
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
    recorded and the answer is the verdict, with values and learning rates before and after. With `wait_s`, the answer
    waits for the trainer's ack.
    """
    proposal = _proposal(submission, who)
    if dry_run:
        return json_response(await run_in_threadpool(context.control.dry_run, run_id, proposal))
    record = await run_in_threadpool(context.control.submit, run_id, proposal)
    # The log keeps the first proposal of an id, with its own time.
    status = 202 if record.proposal.created_at_s == proposal.created_at_s else 200
    return json_response(await acked(context, run_id, record, wait_s), status)


@router.post("/runs/{run_id}/records", status_code=201, response_model=Recorded)
def record(run_id: RunId, context: Ctx, who: Who, entry: RecordEntry) -> Response:
    """Write a finding, a decision, a call of a model, or a policy's coming and going into the log.

    Of agents, the run's own may: others obey these records. Another policy, tags and judgements of findings
    only operators write.
    """
    body: AgentRecord = entry.record
    require_recorder(who, run_id, body.kind)
    if isinstance(body, PolicyRequested) and who.via:
        body = body.model_copy(update={"author": f"{body.author or who.name} via {who.via}"})
    if isinstance(body, (TagsChanged, FindingJudged)):
        via = f" via {who.via}" if who.via else ""
        body = body.model_copy(update={"author": f"{body.author or who.name}{via}"})
    return json_response(Recorded(seq=context.control.record(run_id, body, entry.step)), 201)


def _proposal(submission: Submission, who: Identity) -> Proposal:
    claimed = submission.author
    if claimed.name == V1_CLIENT.name:
        raise UserError(f"the name {claimed.name!r} marks what came by v1's API; take another", field="author.name")
    chosen = {"command_id": submission.command_id} if submission.command_id is not None else {}
    return Proposal(
        command=submission.command,
        author=require_author(who, who.author(claimed.principal, claimed.name)),
        rationale=submission.rationale,
        based_on_step=submission.based_on_step,
        based_on_branch=submission.based_on_branch,
        valid_until_step=submission.valid_until_step,
        ask_always=submission.ask_always,
        **chosen,
    )


class DecisionBody(Record):
    """A decision on one proposal."""

    verdict: Literal["approve", "edit", "reject", "escalate"] = Field(
        description="`escalate` leaves it to the next approver of the rule; if there is none, it is rejected."
    )
    digest: str = Field(max_length=128, description="The request's, as shown: what was shown is what runs.")
    reason: str = Field("", max_length=2000, description="Goes back to who asked.")
    name: str = Field("", max_length=128, description="Who decides; default: the token's name.")
    command: Command | None = Field(None, description="With `edit`: what is to run instead.")
    always: bool = Field(
        False, description="With `approve`: also approve all further commands of this kind under the same rule."
    )


class Edit(Record):
    """What is to run instead of a command that waits."""

    command: Command


class StandingApprovals(Record):
    """What people have allowed from some step on."""

    standing: list[StandingApproval]


Name = Annotated[str, Query(max_length=128, description="Who decides; default: the token's name.")]


@router.post("/runs/{run_id}/approvals/{command_id}", response_model=CommandRecord)
async def decide(run_id: RunId, context: Ctx, who: Who, command_id: str, body: DecisionBody) -> Response:
    """Decide on a proposal that waits.

    The guardrails and the proposal's age are checked again: an approved command may come back refused or expired, and
    its record says why. The first decision is final; a later one is told so (409).
    """
    decision = ApprovalDecision(
        verdict=body.verdict,
        digest=body.digest,
        author=who.author(name=body.name),
        reason=body.reason,
        command=body.command,
        always=body.always,
    )
    return json_response(await run_in_threadpool(context.control.decide, run_id, command_id, decision))


@router.post("/runs/{run_id}/approvals/{command_id}/preview", response_model=DryRun)
def preview(run_id: RunId, context: Ctx, who: Who, command_id: str, body: Edit) -> Response:
    """What the guardrails say of a proposal that waits, were it to run with other values; decides nothing."""
    return json_response(context.control.dry_run_edit(run_id, command_id, body.command))


@router.delete("/runs/{run_id}/approvals/always/{kind}", response_model=StandingApprovals)
async def end_standing_approval(run_id: RunId, context: Ctx, who: Who, kind: str, name: Name = "") -> Response:
    """Take back that a kind of command is always approved; answers with what was taken back."""
    ended = await run_in_threadpool(context.control.end_standing_approval, run_id, kind, who.author(name=name))
    return json_response(StandingApprovals(standing=ended))
