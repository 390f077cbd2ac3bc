"""What the page behind a signed link asks for: the one request, what an edit would come to, and the decision.

The token in the address is the proof, and all that it opens is here and in `pages/approval_pages.py`. No cookie and no
bearer token counts here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.errors import Forbidden, UserError
from agenttune.protocol.command_schemas import CommandSchema, schemas_by_kind
from agenttune.protocol.commands import Command, CommandBase
from agenttune.protocol.decision import Approval
from agenttune.protocol.dry_run import DryRun
from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import CommandRecord, Record
from agenttune.protocol.reads import ApprovalQuery, GuardrailsQuery
from agenttune.protocol.run_info import KnobState, RunStatus
from agenttune.protocol.text import given
from agenttune.server.auth.guard import SIGNED_PATHS
from agenttune.server.error_responses import problem
from agenttune.server.pages.signed_links import HOLDER, FollowedLink, LinkRefused, follow
from agenttune.server.request_context import Ctx, json_response
from agenttune.server.routes.commands import Edit

router = APIRouter()
ONE = f"{SIGNED_PATHS}{{token}}"


class LinkedRun(Record):
    """What a link shows of the run."""

    run_id: str
    name: str
    status: RunStatus
    step: int
    max_steps: int | None = None


class LinkedRequest(Record):
    """The request that a link is for, with all that its card shows.

    Attributes:
        command: Its shape, with the arguments alone that were asked for: a link edits these and no others.
        commands: All shapes, as some commands hold others.
        bounds: By argument, what the gate allows: lowest, highest.
        knobs: Those of these names, which have bounds of their own.
    """

    run: LinkedRun
    approval: Approval
    command: CommandSchema
    commands: list[CommandSchema]
    bounds: dict[str, tuple[Metric | None, Metric | None]]
    knobs: list[KnobState]
    ends_at_s: float = Field(description="Unix time from which the link does nothing any more.")


class LinkDecision(Record):
    """A decision on the request that a link is for, as it was shown; nothing beyond that request."""

    verdict: Literal["approve", "edit", "reject"]
    reason: str = Field("", max_length=2000, description="Goes back to who asked.")
    command: Command | None = Field(None, description="With `edit`: what is to run instead, of the same kind.")


@router.get(f"{ONE}/request", response_model=LinkedRequest)
def linked_request(token: str, context: Ctx) -> Response:
    """The request that a signed link is for, as long as it waits; deciding nothing, however often."""
    return _answer(context.control, token, lambda link: linked(context.control, link))


@router.post(f"{ONE}/preview", response_model=DryRun)
def preview(token: str, request: Request, context: Ctx, body: Edit) -> Response:
    """What the guardrails say of that request, were it to run with other values; decides nothing."""
    _refuse_other_pages(request)

    def look(link: FollowedLink) -> DryRun:
        refuse_other_command(link.record.proposal.command, body.command)
        return context.control.dry_run_edit(link.run_id, link.record.command_id, body.command)

    return _answer(context.control, token, look)


@router.post(f"{ONE}/decision", response_model=CommandRecord)
async def decide(token: str, request: Request, context: Ctx, body: LinkDecision) -> Response:
    """Decide on that request, once.

    The guardrails and its age are checked again, as for every decision. The log says `operator:link`, not who.
    """
    _refuse_other_pages(request)
    return await run_in_threadpool(_answer, context.control, token, lambda link: _decided(context.control, link, body))


def linked(control: LocalControl, link: FollowedLink) -> LinkedRequest:
    """All that the card of a request shows, and nothing else of its run."""
    info = control.info(link.run_id)
    approval = control.read(link.run_id, ApprovalQuery(command_id=link.record.command_id))
    command = link.record.proposal.command
    asked = set(given(command.arguments()))
    bounds = control.read(link.run_id, GuardrailsQuery()).bounds
    return LinkedRequest(
        run=LinkedRun(run_id=info.run_id, name=info.name, status=info.status, step=info.step, max_steps=info.max_steps),
        approval=approval.model_copy(update={"record": _without_token(approval.record)}),
        command=_narrowed(schemas_by_kind()[command.kind], asked),
        commands=list(schemas_by_kind().values()),
        bounds={name: limits for name, limits in bounds.items() if name in asked},
        knobs=[knob for knob in info.knobs if knob.name in asked],
        ends_at_s=link.ends_s,
    )


def refuse_other_command(asked: CommandBase, wanted: CommandBase) -> None:
    """Raises UserError for an edit that makes something else of a command: a link is for what was asked."""
    if wanted.kind != asked.kind:
        raise UserError(f"this link decides on {asked.kind} alone; it runs no {wanted.kind}", field="command.kind")
    allowed = sorted(given(asked.arguments()))
    more = sorted(set(given(wanted.arguments())) - set(allowed))
    if more:
        message = f"this link edits what was asked for ({', '.join(allowed) or 'nothing'}), not {', '.join(more)}"
        raise UserError(message, field=f"command.{more[0]}", allowed=allowed)


def _decided(control: LocalControl, link: FollowedLink, body: LinkDecision) -> CommandRecord:
    if body.command is not None:
        refuse_other_command(link.record.proposal.command, body.command)
    decision = ApprovalDecision(
        verdict=body.verdict, digest=link.digest, author=HOLDER, reason=body.reason, command=body.command
    )
    return _without_token(control.decide(link.run_id, link.record.command_id, decision))


def _without_token(record: CommandRecord) -> CommandRecord:
    """A record without the name of the token that its author has: that is nothing for who merely has a link."""
    author = record.proposal.author.model_copy(update={"via": ""})
    return record.model_copy(update={"proposal": record.proposal.model_copy(update={"author": author})})


def _narrowed(schema: CommandSchema, names: set[str]) -> CommandSchema:
    """The shape of a command with some of its arguments alone."""
    parts = {name: part for name, part in schema.json_schema["properties"].items() if name in {"kind", *names}}
    fields = [field for field in schema.fields if field.name in names]
    return schema.model_copy(update={"json_schema": {**schema.json_schema, "properties": parts}, "fields": fields})


def _answer(control: LocalControl, token: str, use: Callable[[FollowedLink], BaseModel]) -> Response:
    try:
        return json_response(follow(control, token, use))
    except LinkRefused as refused:
        return problem(refused.status, "LinkRefused", refused.sentence)


def _refuse_other_pages(request: Request) -> None:
    """Raises Forbidden for what a browser says comes from another page.

    Its own word is taken rather than the Origin, which says nothing behind a tunnel that changes the Host.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("a link decides from its own page alone", field="Sec-Fetch-Site")
