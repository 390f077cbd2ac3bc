"""Routes that decide on proposals that wait."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from agenttune.control import Decision
from agenttune.protocol.commands import Command
from agenttune.protocol.proposals import CommandRecord, Record, StandingApproval
from agenttune.server.context import Ctx, RunId, Who, answer

router = APIRouter()


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
    decision = Decision(
        verdict=body.verdict,
        digest=body.digest,
        author=who.author(name=body.name),
        reason=body.reason,
        command=body.command,
        always=body.always,
    )
    return answer(await run_in_threadpool(context.control.decide, run_id, command_id, decision))


@router.delete("/runs/{run_id}/approvals/always/{kind}", response_model=StandingApprovals)
async def end_standing_approval(run_id: RunId, context: Ctx, who: Who, kind: str, name: Name = "") -> Response:
    """Take back that a kind of command is always approved; answers with what was taken back."""
    ended = await run_in_threadpool(context.control.end_standing_approval, run_id, kind, who.author(name=name))
    return answer(StandingApprovals(standing=ended))
