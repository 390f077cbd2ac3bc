"""The route that reads the model: from the log, or by asking the trainer for norms."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from agenttune.commands import ReadModel
from agenttune.errors import RunEnded, SystemFault, UserError
from agenttune.events import ModelRead, ModuleInfo
from agenttune.proposals import Author, CommandRecord, Proposal, State
from agenttune.server.context import Context, Ctx, RunId, answer
from agenttune.server.models import Model
from agenttune.server.submitting import Wait, acked

router = APIRouter()
READER = Author(principal="viewer", name="reader")


@router.get("/runs/{run_id}/model", response_model=Model)
async def model(
    run_id: RunId,
    context: Ctx,
    norms: Annotated[bool, Query(description="Ask the trainer for the norms of weights and last gradients.")] = False,
    layer: Annotated[str, Query(max_length=512, description="Only this layer and what is in it.")] = "",
    wait_s: Wait = 10.0,
) -> Response:
    """The model's layers: parameter counts, what is trainable, what can be done to each.

    As last read by the trainer. With `norms` the trainer is asked to measure, and the answer waits for it up to
    `wait_s`.
    """
    if not norms:
        return await run_in_threadpool(lambda: answer(_last_read(context, run_id, layer)))
    proposal = Proposal(command=ReadModel(layer_name=layer, norms=True), author=READER, rationale="asked for norms")
    record = await run_in_threadpool(context.control.submit, run_id, proposal)
    return answer(_measured(await acked(context, run_id, record, wait_s), layer, wait_s))


def _last_read(context: Context, run_id: str, layer: str) -> Model:
    event = context.control.newest(run_id, "model_read")
    if event is None or not isinstance(event.body, ModelRead):
        return Model()
    return Model(step=event.step, at_s=event.at_s, model=find_layer(event.body.model, layer))


def find_layer(root: ModuleInfo, name: str) -> ModuleInfo:
    """A layer by its dotted path.

    Raises:
        UserError: There is none; lists what is in the deepest layer of that path.
    """
    here, path = root, ""
    for part in name.split(".") if name else ():
        path = f"{path}.{part}" if path else part
        inside = {child.name: child for child in here.children}
        if path not in inside:
            message = f"no layer {name!r:.200}; in {here.name or 'the model'} there are: {', '.join(inside) or 'none'}"
            raise UserError(message, field="layer", allowed=list(inside))
        here = inside[path]
    return here


def _measured(record: CommandRecord, layer: str, wait_s: float) -> Model:
    """What the trainer answered to `read_model`.

    Raises:
        UserError: It refused, or the run has ended.
        SystemFault: It has not answered yet.
    """
    ack = record.ack
    if ack is None and record.verdict is not None and record.is_final:
        raise UserError(record.verdict.reason, field="layer")
    if ack is None:
        raise SystemFault(f"the trainer did not measure within {wait_s:g} s; ask with a longer wait_s")
    if record.state == State.EXPIRED:
        raise RunEnded(ack.message)
    if ack.outcome != "applied":
        raise UserError(ack.message, field="layer" if layer else None)
    return Model(step=ack.step, model=ModuleInfo.model_validate(ack.result), message=ack.message)
