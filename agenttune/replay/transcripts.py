"""What a language model was asked during a run and what came of its answers, from the run's log alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from agenttune.errors import UserError
from agenttune.protocol.events import Decided, Event
from agenttune.protocol.model_calls import Cost, ModelCalled, ToolUse, Usage
from agenttune.protocol.proposals import Record
from agenttune.protocol.summary import Intervention
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.journal.run_summary import summarize
from agenttune.store.run_log import RunLog

DECIDING = frozenset({"decide", "review"})


class RecordedDecision(Record):
    """What a policy decided after a call."""

    step: int | None
    reason: str
    asked_for: list[Intervention] = Field(default_factory=list, description="With what came of each.")
    shadowed: list[dict[str, Any]] = Field(default_factory=list)


class RecordedCall(Record):
    """One call with its answer."""

    seq: int
    step: int | None
    policy: str
    purpose: str
    model: str
    asked: str = Field(description="The newest message that was sent.")
    sent_characters: int = Field(description="Of all messages together.")
    answer: str
    tool_uses: list[ToolUse] = Field(default_factory=list)
    error: str = ""
    usage: Usage | None = None
    usd: float | None = None
    latency_s: float = 0.0
    decision: RecordedDecision | None = Field(None, description="The next decision in the log; for probes none.")


class Transcripts(Record):
    """All calls of a run."""

    run: str
    calls: list[RecordedCall]
    input_tokens: int
    output_tokens: int
    usd: float | None = Field(description="None: the price of a call is not known.")


def transcripts_of(log: RunLog) -> Transcripts:
    """Read the calls of a run; nothing is called.

    Raises:
        UserError: The run called no language model.
    """
    from agenttune.llm import resolve  # with the client of the endpoints, which a replay has no need of otherwise

    events = log.events(kinds=["model_called", "decided"], limit=EVERYTHING)
    asked = [(event, event.body) for event in events if isinstance(event.body, ModelCalled)]
    run_id = log.info().run_id
    if not asked:
        raise UserError(f"run {run_id} holds no calls of a language model", field="run")
    by_id = {item.command_id: item for item in summarize(log).interventions}
    # Messages that were sent before stand in the log once; here they are whole again.
    calls = list(resolve([body for _, body in asked]))
    recorded = [
        _recorded(event, call, _decision(event, call, events, by_id))
        for (event, _), call in zip(asked, calls, strict=True)
    ]
    cost = Cost.of(calls)
    return Transcripts(
        run=run_id,
        calls=recorded,
        input_tokens=cost.input_tokens,
        output_tokens=cost.output_tokens,
        usd=cost.whole_usd,
    )


def _decision(
    event: Event, call: ModelCalled, events: Sequence[Event], by_id: dict[str, Intervention]
) -> RecordedDecision | None:
    """The decision that a call led to: the next one in the log. Calls of one decision share it."""
    if call.purpose not in DECIDING:
        return None
    for later in events:
        if later.seq > event.seq and isinstance(later.body, Decided):
            body = later.body
            return RecordedDecision(
                step=body.based_on_step if body.based_on_step is not None else later.step,
                reason=body.reason,
                asked_for=[by_id[command_id] for command_id in body.command_ids if command_id in by_id],
                shadowed=[item.command.model_dump(mode="json", exclude_none=True) for item in body.shadowed],
            )
    return None


def _recorded(event: Event, call: ModelCalled, decision: RecordedDecision | None) -> RecordedCall:
    contents = [message.content for message in call.messages if message.content]
    return RecordedCall(
        seq=event.seq,
        step=event.step,
        policy=call.policy,
        purpose=call.purpose,
        model=call.model,
        asked=contents[-1] if contents else "",
        sent_characters=sum(map(len, contents)),
        answer=(call.answer.content or "") if call.answer else "",
        tool_uses=call.answer.tool_uses if call.answer else [],
        error=call.error,
        usage=call.usage,
        usd=call.usd,
        latency_s=call.latency_s,
        decision=decision,
    )
