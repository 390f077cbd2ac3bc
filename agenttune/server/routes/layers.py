"""The route that reads the model: from the log, or by asking the trainer for norms."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from agenttune.control import READER
from agenttune.control.reader import find_layer, measured_model
from agenttune.protocol.commands import ReadModel
from agenttune.protocol.events import ModelRead
from agenttune.protocol.proposals import Proposal
from agenttune.server.auth.rights import Right, require
from agenttune.server.context import Context, Ctx, RunId, Who, answer
from agenttune.server.routes.commands import Wait, acked
from agenttune.server.schemas import Model

router = APIRouter()


@router.get("/runs/{run_id}/model", response_model=Model)
async def model(
    run_id: RunId,
    context: Ctx,
    who: Who,
    norms: Annotated[bool, Query(description="Ask the trainer for the norms of weights and last gradients.")] = False,
    layer: Annotated[str, Query(max_length=512, description="Only this layer and what is in it.")] = "",
    wait_s: Wait = 10.0,
) -> Response:
    """The model's layers: parameter counts, what is trainable, what can be done to each.

    As last read by the trainer. With `norms` the trainer is asked to measure, and the answer waits for it up to
    `wait_s`; that takes time from training, so it wants a role that may propose commands.
    """
    if not norms:
        return await run_in_threadpool(lambda: answer(_last_read(context, run_id, layer)))
    require(who, Right.PROPOSE)
    author = READER.model_copy(update={"via": who.via})
    proposal = Proposal(command=ReadModel(layer_name=layer, norms=True), author=author, rationale="asked for norms")
    record = await run_in_threadpool(context.control.submit, run_id, proposal)
    record = await acked(context, run_id, record, wait_s)
    measured, ack = measured_model(record, layer, wait_s), record.ack
    return answer(Model(step=ack.step if ack else None, model=measured, message=ack.message if ack else ""))


def _last_read(context: Context, run_id: str, layer: str) -> Model:
    event = context.control.newest(run_id, "model_read")
    if event is None or not isinstance(event.body, ModelRead):
        return Model()
    return Model(step=event.step, at_s=event.at_s, model=find_layer(event.body.model, layer))
