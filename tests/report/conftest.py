"""The log of an eventful night: what people, guardrails, clocks and probation decided, through the real control."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.protocol.deadlines import BootTime
from agenttune.protocol.events import (
    BranchStarted,
    Decided,
    Evaluated,
    Found,
    KnobsRead,
    LogGap,
    NoteAdded,
    PolicyAttached,
    PolicyDetached,
    ReadBack,
    RunStarted,
    Settled,
    StatusChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, PromptUsed, Usage
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog

AGENT = Author(principal="agent", name="model")
ANNA = Author(principal="operator", name="anna")
ASK = {"name": "ask", "approvers": ["human"], "timeout_s": 60}
SMALL = {"name": "small", "commands": ["update_optimizer"], "knobs": ["lr"], "max_factor": 2, "approvers": ["auto"]}
EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> [click](javascript:alert(3)) ![i](http://evil.example/p) "
    "`code` **bold** | cell | https://evil.example www.evil.example &lt;b&gt; \x1b[31mred \u202egnp.exe\r\n# head"
)


class Night:
    """A run and the hands that write into its log."""

    def __init__(self, runs_dir: Path, name: str = "night", **gate: Any) -> None:
        self.now_s = 1_000_000.0
        rules = {"gate": {"approval": [SMALL, ASK], "bounds": {"lr": [1e-6, 0.5]}, **gate}}
        info = RunInfo(run_id=name, name=name, status="running", created_at_s=1.0, max_steps=1000, rules=rules)
        self.folder = runs_dir / name
        self.log = RunLog.create(self.folder, info)
        self.control = LocalControl(runs_dir, clock=lambda: self.now_s, boot=lambda: BootTime("first", self.now_s))
        self.branch = "main"
        self.log.append(
            RunStarted(framework="a test", pid=os.getpid(), max_steps=1000), StatusChanged(status="running")
        )
        self.rate(0.01)

    def rate(self, lr: float) -> None:
        self.log.append(KnobsRead(knobs=[KnobState(name="lr", base=lr, effective=lr)]), branch=self.branch)

    def close(self) -> None:
        """As when every process has ended: one file is left."""
        self.control.log(self.folder.name).close()
        self.log.close()

    def steps(self, first: int, last: int, loss: float = 2.0, lr: float = 0.01) -> None:
        values = {"lr": lr, "base_lr": lr}
        self.log.append_points(
            Point(step=s, at_s=float(s), values={"step_loss": loss + 1 / s, **values}, branch=self.branch)
            for s in range(first, last + 1)
        )

    def evaluate(self, step: int, loss: float) -> None:
        point = Point(step=step, at_s=float(step), values={"eval_loss": loss}, source="eval", branch=self.branch)
        self.log.append_points([point])
        self.log.append(Evaluated(metrics={"eval_loss": loss}), step=step, branch=self.branch)

    def ask(
        self, author: Author = AGENT, rationale: str = "", until: int | None = None, **fields: Any
    ) -> CommandRecord:
        raw = {"kind": "update_optimizer", **fields}
        proposal = {"command": raw, "author": author, "rationale": rationale, "valid_until_step": until}
        return self.control.submit(self.folder.name, Proposal.model_validate(proposal))

    def decide(self, record: CommandRecord, verdict: str, reason: str = "", **fields: Any) -> CommandRecord:
        digest = record.request.digest if record.request else ""
        body = {"verdict": verdict, "digest": digest, "author": ANNA, "reason": reason, **fields}
        return self.control.decide(self.folder.name, record.command_id, ApprovalDecision.model_validate(body))

    def apply(self, record: CommandRecord, step: int, before: float, after: float) -> None:
        change = Change(name="lr", previous=before, requested=after, effective=after, previous_base=before, base=after)
        ack = Ack(outcome="applied", step=step, branch=self.branch, changes=[change], confirmed_step=step + 1)
        self.log.acknowledge(record.command_id, ack)
        self.rate(after)

    def found(self, step: int, summary: str) -> None:
        finding = Finding(kind="spike", severity="critical", metric="step_loss", step=step, summary=summary)
        self.log.append(Found(finding=finding), step=step)

    def thought(self, step: int, records: list[CommandRecord], reason: str) -> None:
        """A call of a model, and the decision that came of it."""
        call = ModelCalled(
            policy="llm",
            purpose="decide",
            model="a-model",
            endpoint="http://localhost",
            protocol="tools",
            prompts=[PromptUsed(name="decide.md", sha256="ab" * 32)],
            messages=[ChatMessage(role="user", content="a secret of the transcript")],
            usage=Usage(input_tokens=1200, output_tokens=34),
            usd=0.002,
            latency_s=1.5,
        )
        ids = [record.command_id for record in records]
        body = Decided(policy="llm", woken_by="finding spike", command_ids=ids, reason=reason, based_on_step=step)
        self.log.append(call, body, step=step)


def eventful(runs_dir: Path, name: str = "night", words: str = "the loss jumped") -> Night:
    """A run with a decision of every outcome; `words` stand wherever a stranger may write."""
    night = Night(runs_dir, name)
    night.log.append(PolicyAttached(policy="llm"), step=0)
    night.steps(1, 100)
    night.evaluate(50, 2.5)
    night.found(90, words)
    small = night.ask(lr=0.015, rationale=words, until=200)
    night.thought(90, [small], words)
    night.apply(small, 101, 0.01, 0.015)
    night.log.append(
        ReadBack(held=True, expected={"lr": 0.015}, found={"lr": 0.015}), command_id=small.command_id, step=106
    )
    night.steps(101, 200, 1.9, 0.015)
    night.evaluate(150, 2.25)
    kept = Settled(outcome="kept", reason=words, forecast=2.0, found=1.9, noise=0.05, metric="step_loss")
    night.log.settle(small.command_id, kept, 160, "main")
    asked = night.ask(lr=0.4, rationale=words)
    edited = night.decide(asked, "edit", words, command={"kind": "update_optimizer", "lr": 0.1})
    night.apply(edited, 201, 0.015, 0.1)
    night.steps(201, 260, 9.0, 0.1)
    night.log.append_points([Point(step=s, at_s=0.0, values={"step_loss": math.nan}) for s in range(261, 280)])
    night.evaluate(250, 7.75)
    undone = Settled(
        outcome="reverted",
        reason=words,
        forecast=1.9,
        found=math.inf,
        noise=0.1,
        metric="step_loss",
        reverted_by="back",
    )
    night.log.settle(edited.command_id, undone, 280, "main")
    waited = night.ask(kind="do_evaluate")
    _go_back(night)
    assert night.control.command(name, waited.command_id).state.value == "superseded"
    _refusals(night, words)
    night.log.append(NoteAdded(text=words, author=words[:60]), step=300)
    night.log.append(LogGap(dropped_rows=7, reason="the disk was full"), step=300)
    night.log.append(PolicyDetached(policy="llm", reason=words), step=300)
    return night


def _go_back(night: Night) -> None:
    body = BranchStarted(name="retry", parent="main", from_step=200, checkpoint_id="checkpoint-200")
    night.log.append(body, step=280, branch="retry")
    night.branch = "retry"
    night.rate(0.015)
    night.steps(201, 300, 1.7, 0.015)
    night.evaluate(290, 2.0)


def _refusals(night: Night, words: str) -> None:
    night.decide(night.ask(kind="stop_training", rationale=words), "reject", f"not while I sleep {words}")
    for i in range(8):
        night.ask(lr=0.6 + i, rationale=words)
    night.ask(kind="save_checkpoint", tag="late", rationale=words)
    night.now_s += 61
    night.control.pending(night.folder.name)
    failed = night.ask(ANNA, lr=0.02)
    night.log.acknowledge(failed.command_id, Ack(outcome="failed", step=299, branch="retry", message=words))
    night.ask(ANNA, lr=0.03, rationale=words)


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    made = eventful(tmp_path / "runs")
    yield made
    made.log.close()
