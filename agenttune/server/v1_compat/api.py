"""The API of v1 (Interactive Training v1), so that its clients work unchanged: same paths, same shapes.

Everything goes through the same door as `/api/v1`. What differs from v1, on purpose:

- `success` is said once the trainer has applied and read back; what fails is `failed`, with a `message`. A POST whose
  args cannot be understood, or that the gate refuses, is answered `{"status": "error", "message": ...}` at once.
- Every answer carries the uuid of its command. Each POST runs, also with a uuid that was used before.
- `lr` is the base rate, which the schedule scales, both when read and when set. Set to the rate in use as it was last
  told, it stays: that is how v1's tuner says "Same" (`learning_rates.py`).
- A WebSocket client gets each event from its connection on, once and in order, whatever other clients do; with
  `?since=0` also all that came before. It is closed with 1012 when the run ends.
- A client stays with the run that it was shown, and while several are live a command without `?run=` is refused:
  see `clients.py`.
- Only pages of `server.allowed_origins` may use the server beside its own, and the token is wanted if there is one;
  who sends none acts as the server's `local_role`, so its commands are judged like an agent's: it resumes what it has
  paused itself, and not what a person has.
- v1's `reset_layer` and `wrapper_resume_load_checkpoint` did nothing and are unknown here. Our commands that
  v1 lacks (such as `update_schedule`) make no event here; those it knows do, whoever sent them.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, WebSocket
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.errors import RunEnded, UnknownRun, UserError
from agenttune.protocol.events import NoteAdded
from agenttune.protocol.proposals import State
from agenttune.protocol.reads import MAX_STEP
from agenttune.protocol.run_info import RunInfo
from agenttune.server.auth.guard import chosen_subprotocol
from agenttune.server.auth.identity import Identity
from agenttune.server.live_hub import Tail
from agenttune.server.request_context import Context, Ctx, Who
from agenttune.server.routes.streams import SEND_TIMEOUT_S, Stream, event_stream, until_first, until_gone
from agenttune.server.strict_bodies import BadJson, parse_json
from agenttune.server.v1_compat.clients import V1Clients
from agenttune.server.v1_compat.commands import AUTHOR, KINDS, Sent, Stays, keep, propose
from agenttune.server.v1_compat.events import ends_run
from agenttune.server.v1_compat.shapes import (
    checkpoints,
    dataset_info,
    logs,
    model_info,
    optimizer_info,
    run_info,
    to_json,
)

router = APIRouter()
COMMAND_PATH = "/api/command/"
RUN_ENDED = 1012
"""WebSocket close code with which v1's server went away."""
MAX_ARGS_CHARS = 200_000
"""A request that cannot be understood is kept in the log, for its answer to reach every client (guess)."""


RunParameter = Annotated[
    str | None, Query(description="Default: the run that the client was shown, else the newest live.")
]


def _clients(connection: HTTPConnection) -> V1Clients:
    clients: V1Clients = connection.app.state.v1_clients
    return clients


async def _run_id(connection: HTTPConnection, who: Who, run: RunParameter = None) -> str:
    return await run_in_threadpool(_clients(connection).to_read, connection, who)


RunId = Annotated[str, Depends(_run_id)]


def _answer(content: object, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


@router.get("/api/get_info/")
def get_info(request: Request, context: Ctx, who: Who, run: RunParameter = None) -> Response:
    """Start, status and name of the run; with it begins what the client is shown."""
    run_id = _clients(request).to_read(request, who, anew=True)
    answer = _answer(run_info(context.control, context.control.info(run_id)))
    _clients(request).remember(answer, run_id)
    return answer


@router.get("/api/get_dataset_info/")
def get_dataset_info(run_id: RunId, context: Ctx) -> Response:
    """Parameters of an interactive dataset."""
    return _answer(dataset_info(context.control, run_id))


@router.get("/api/get_optimizer_info/")
def get_optimizer_info(run_id: RunId, context: Ctx) -> Response:
    """Hyperparameters as read from the optimizer; `lr` is the base rate."""
    return _answer(optimizer_info(context.control, context.control.info(run_id)))


@router.get("/api/get_model_info/")
def get_model_info(run_id: RunId, context: Ctx) -> Response:
    """The tree of layers."""
    return _answer(model_info(context.control, run_id))


@router.get("/api/get_checkpoints/")
def get_checkpoints(run_id: RunId, context: Ctx) -> Response:
    """Checkpoints that exist, by step."""
    return _answer(checkpoints(context.control, run_id))


@router.get("/api/get_logs/")
def get_logs(run_id: RunId, context: Ctx) -> Response:
    """Every log point of the run, by branch."""
    return _answer(logs(context.control, context.control.info(run_id)))


# -- commands ------------------------------------------------------------------------------------------------------


@router.post(COMMAND_PATH)
async def command(request: Request, context: Ctx, who: Who, run: RunParameter = None) -> Response:
    """Ask for a command. `success` means that it is queued; the WebSocket tells what came of it."""
    try:
        sent = _read(request, await request.body())
    except BadJson as error:
        problem = {"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {}}
        return _answer({"detail": [problem | {"ctx": {"error": str(error)}}]}, 422)
    except ValidationError as error:
        return _answer({"detail": [_detail(problem) for problem in error.errors(include_url=False)]}, 422)
    if sent.command not in KINDS:
        return _error("Unknown command type")
    return await run_in_threadpool(_submit, request, context.control, sent, who)


def _read(request: Request, body: bytes) -> Sent:
    """Raises ValidationError or BadJson; anything but JSON counts as a text, which is no command."""
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    value: object = parse_json(body) if media == "application/json" else body.decode("utf-8", "replace")[:200]
    return Sent.model_validate(value, from_attributes=True)


def _detail(problem: Any) -> dict[str, Any]:
    shown = {key: problem[key] for key in ("type", "loc", "msg", "input")}
    return shown | {"loc": ["body", *problem["loc"]]}


def _error(message: str) -> Response:
    return _answer({"status": "error", "message": message})


def _submit(request: Request, control: LocalControl, sent: Sent, who: Identity) -> Response:
    if len(sent.args or "") > MAX_ARGS_CHARS:
        return _error(f"args has more than {MAX_ARGS_CHARS} characters")
    try:
        run_id = _clients(request).to_command(request, who, sent.uuid)
    except UnknownRun:
        raise
    except UserError as error:
        return _error(error.message)
    info = control.info(run_id)
    try:
        proposal = propose(sent, control, info, who.author(name=AUTHOR.name))
    except UserError as error:
        return _refuse(control, info, sent, error.message)
    if isinstance(proposal, Stays):
        return _leave(control, info, sent, proposal)
    try:
        record = control.submit(run_id, proposal)
    except RunEnded as error:  # there is nobody left to tell over its WebSocket
        return _error(error.message)
    except UserError as error:
        return _refuse(control, info, sent, error.message)
    if record.state != State.QUEUED and record.ack is None and record.verdict is not None:
        return _error(record.verdict.reason)
    return _answer({"status": "success"})


def _refuse(control: LocalControl, info: RunInfo, sent: Sent, reason: str) -> Response:
    """Tell who sent it, and through the log everybody else."""
    if info.is_live:
        _note(control, info, keep(sent, reason))
    return _error(reason)


def _leave(control: LocalControl, info: RunInfo, sent: Sent, stays: Stays) -> Response:
    """Nothing has to be done, which is told as success to who sent it, and through the log to everybody else."""
    if not info.is_live:
        return _error(f"run {info.run_id} is {info.status}; it takes no more commands")
    _note(control, info, keep(sent, stays=stays))
    return _answer({"status": "success"})


def _note(control: LocalControl, info: RunInfo, text: str) -> None:
    control.record(info.run_id, NoteAdded(text=text, author=AUTHOR.name), info.step)


# -- events --------------------------------------------------------------------------------------------------------


@router.websocket("/ws/message/")
async def message(
    socket: WebSocket,
    context: Ctx,
    who: Who,
    run: RunParameter = None,
    since: Annotated[int | None, Query(ge=0, le=MAX_STEP, description="Also what follows this `seq`.")] = None,
) -> None:
    """The run's events in v1's shapes."""
    run_id = await run_in_threadpool(_clients(socket).to_read, socket, who, True)
    async with context.hub.follow(run_id) as tail:
        has_ended = not (await run_in_threadpool(context.control.info, run_id)).is_live
        # Of the log itself: a tail that was started for others may be behind it.
        newest = await run_in_threadpool(context.control.last_seq, run_id)
        await socket.accept(chosen_subprotocol(socket))
        stream = event_stream(context, tail, newest if since is None else since)
        sending = _send_all(socket, context, tail, stream, has_ended)
        await until_first([sending, until_gone(socket), context.hub.closing.wait()])


async def _send_all(socket: WebSocket, context: Context, tail: Tail, stream: Stream, has_ended: bool) -> None:
    """Send what there is and wait for more, until the run has ended and all is said."""
    translator = context.translator
    while not tail.stopped:
        if tail.fault is not None:
            raise tail.fault
        changed = tail.changed
        entries = await stream.upcoming()
        if not entries and has_ended:
            await socket.close(RUN_ENDED)
            return
        if not entries:
            await changed.wait()
            continue
        frames = translator.known(tail.run_id, entries)
        if frames is None:
            frames = await run_in_threadpool(translator.frames, tail.run_id, entries)
        texts = [text for of_one in frames for text in of_one]
        await asyncio.wait_for(_send(socket, texts), SEND_TIMEOUT_S)
        stream.cursor = entries[-1].upto
        has_ended = has_ended or any(map(ends_run, entries))


async def _send(socket: WebSocket, texts: list[str]) -> None:
    for text in texts:
        await socket.send_text(text)
