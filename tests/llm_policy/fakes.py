"""A run to read and a model to ask, both scripted; the model fails on a call that the script does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import BaseModel

from agenttune.errors import ModelUnavailable, UserError
from agenttune.policy.llm.history import interventions_of
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.metrics import Curve, SeriesInfo
from agenttune.protocol.model_calls import ChatMessage, Ledger, ModelCalled, PromptUsed, Purpose, ToolUse
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Proposal, Verdict
from agenttune.protocol.reads import (
    Branches,
    BranchesQuery,
    CheckpointsQuery,
    CurveQuery,
    DatasetQuery,
    Findings,
    FindingsQuery,
    History,
    HistoryQuery,
    InfoQuery,
    Knobs,
    KnobsQuery,
    ModelCalls,
    ModelCallsQuery,
    ModelQuery,
    ObservationQuery,
    R,
    RunQuery,
    Series,
    SeriesQuery,
)
from agenttune.protocol.run_info import RunInfo

Protocol = Literal["tools", "json", "text"]


@dataclass
class FakeReader:
    """Reads one observation; the gate refuses rates above `max_lr`."""

    seen: Observation
    max_lr: float = 1.0
    earlier: list[ModelCalled] = field(default_factory=list)

    def read(self, query: RunQuery[R]) -> R:
        return cast(R, self._answer(query))

    def _answer(self, query: RunQuery[Any]) -> BaseModel:
        seen, last = self.seen, self.seen.step
        if isinstance(query, ObservationQuery):
            return seen
        if isinstance(query, InfoQuery):
            about = {"run_id": seen.run_id, "name": seen.run_id, "status": seen.status, "branch": seen.branch}
            return RunInfo.model_validate({**about, "created_at_s": 0.0, "goal_metric": seen.goal_metric})
        if isinstance(query, SeriesQuery):
            extent = {"branch": "main", "count": last, "first_step": 1, "last_step": last}
            return Series(series=[SeriesInfo(name=name, **extent) for name in seen.series])
        if isinstance(query, CurveQuery):
            return self._curve(query)
        if isinstance(query, KnobsQuery):
            return Knobs(knobs=seen.knobs)
        if isinstance(query, HistoryQuery):
            return History(history=interventions_of(seen)[-query.limit :])
        if isinstance(query, ModelCallsQuery):
            return ModelCalls(calls=self.earlier)
        if isinstance(query, BranchesQuery):
            return Branches.of([])
        if isinstance(query, FindingsQuery):
            return Findings(findings=[])
        if isinstance(query, (ModelQuery, DatasetQuery, CheckpointsQuery)):
            return query.answer_type().model_validate(
                {"checkpoints": []} if isinstance(query, CheckpointsQuery) else {}
            )
        raise AssertionError(f"a read that no test has asked for: {query!r}")

    def _curve(self, query: CurveQuery) -> Curve:
        if query.name not in self.seen.series:
            raise UserError(f"no metric {query.name!r}; there are: {', '.join(self.seen.series)}")
        view = self.seen.series[query.name]
        steps, values = view.steps[-query.max_points :], view.values[-query.max_points :]
        return Curve(
            name=query.name,
            branch="main",
            bucket_points=1,
            steps=steps,
            mean=values,
            low=values,
            high=values,
            nonfinite=[0] * len(steps),
        )

    def dry_run(self, proposal: Proposal) -> Verdict:
        lr = getattr(proposal.command, "lr", None)
        if lr is not None and lr > self.max_lr:
            return Verdict(
                decision="rejected",
                decided_by="guardrail:bounds",
                reason=f"lr {lr:g} is outside [0, {self.max_lr:g}]",
                nearest_allowed={"lr": self.max_lr},
            )
        return Verdict(decision="approved", decided_by="auto")


def said(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def uses(*calls: tuple[str, dict[str, Any] | str], text: str | None = None) -> ChatMessage:
    """An answer with tool calls, such as `("wait", {"until_step": 300})`."""
    made = [
        ToolUse(id=f"call_{i}", name=name, arguments=given if isinstance(given, str) else json.dumps(given))
        for i, (name, given) in enumerate(calls)
    ]
    return ChatMessage(role="assistant", content=text, tool_uses=made)


@dataclass
class ScriptedChat:
    """Answers with the script's messages in turn; an error in it is raised."""

    script: list[ChatMessage | Exception]
    protocol: Protocol = "tools"
    name: str = "scripted"
    why_not: str = ""
    sent: list[list[ChatMessage]] = field(default_factory=list)
    schemas: list[dict[str, Any] | None] = field(default_factory=list)
    temperatures: list[float | None] = field(default_factory=list)
    tools: list[list[str]] = field(default_factory=list)
    spent: Ledger = field(default_factory=lambda: Ledger.of([]))
    before: Callable[[], None] = lambda: None

    def unavailable(self) -> str:
        return self.why_not

    def check_capabilities(self, policy: str) -> list[ModelCalled]:
        return []

    def ask(
        self,
        messages: Sequence[ChatMessage],
        *,
        policy: str,
        purpose: Purpose,
        tools: Sequence[ToolShape] = (),
        schema: dict[str, Any] | None = None,
        prompts: Sequence[PromptUsed] = (),
        temperature: float | None = None,
    ) -> ModelCalled:
        assert self.script, "one call more than the script knows"
        self.before()
        self.sent.append(list(messages))
        self.schemas.append(schema)
        self.temperatures.append(temperature)
        self.tools.append([tool.name for tool in tools])
        answer = self.script.pop(0)
        called = ModelCalled(
            policy=policy,
            purpose=purpose,
            model=self.name,
            endpoint="http://127.0.0.1:1",
            protocol=self.protocol,
            prompts=list(prompts),
            messages=list(messages),
        )
        if isinstance(answer, ModelUnavailable):
            answer.call = called.model_copy(update={"error": str(answer)})
        if isinstance(answer, Exception):
            raise answer
        return called.model_copy(update={"answer": answer})
