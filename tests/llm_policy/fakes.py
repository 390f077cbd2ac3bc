"""A run to read and a model to ask, both scripted; the model fails on a call that the script does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agenttune.errors import ModelUnavailable, UserError
from agenttune.llm import Spent
from agenttune.policy.llm.history import history_of
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.events import BranchStarted, Curve, DatasetRead, Event, KnobState, ModuleInfo, SeriesInfo
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, PromptUsed, Purpose, ToolUse
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Proposal, Verdict
from agenttune.protocol.summary import Intervention

Protocol = Literal["tools", "json", "text"]


@dataclass
class FakeReader:
    """Reads one observation; the gate refuses rates above `max_lr`."""

    seen: Observation
    max_lr: float = 1.0
    earlier: list[ModelCalled] = field(default_factory=list)

    def observation(self) -> Observation:
        return self.seen

    def series(self) -> list[SeriesInfo]:
        last = self.seen.step
        return [SeriesInfo(name=n, branch="main", count=last, first_step=1, last_step=last) for n in self.seen.series]

    def curve(self, metric: str, first_step: int = 0, last_step: int | None = None, max_points: int = 100) -> Curve:
        if metric not in self.seen.series:
            raise UserError(f"no metric {metric!r}; there are: {', '.join(self.seen.series)}")
        view = self.seen.series[metric]
        steps, values = view.steps[-max_points:], view.values[-max_points:]
        return Curve(
            name=metric,
            branch="main",
            bucket_points=1,
            steps=steps,
            mean=values,
            low=values,
            high=values,
            nonfinite=[0] * len(steps),
        )

    def knobs(self) -> list[KnobState]:
        return self.seen.knobs

    def model(self, layer: str = "", norms: bool = False) -> ModuleInfo | None:
        return None

    def dataset(self) -> DatasetRead | None:
        return None

    def checkpoints(self) -> list[Event]:
        return []

    def branches(self) -> list[BranchStarted]:
        return []

    def history(self, limit: int = 50) -> list[Intervention]:
        return history_of(self.seen)[-limit:]

    def model_calls(self) -> list[ModelCalled]:
        return self.earlier

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
    spent: Spent = field(default_factory=lambda: Spent.of([]))
    before: Callable[[], None] = lambda: None

    def unavailable(self) -> str:
        return self.why_not

    def probe(self, policy: str) -> list[ModelCalled]:
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
