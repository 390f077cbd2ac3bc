"""A run that asks a person, as the server process finds it on the disk."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.control.tokens import create_token
from agenttune.errors import UnknownRun
from agenttune.protocol.events import Evaluated, KnobsRead, RunStarted
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.server.pages.signed_links import Link, make_key, sign
from agenttune.store.process_liveness import started_s
from agenttune.store.run_log import RunLog

AGENT = Author(principal="agent", name="model")
ANNA = Author(principal="operator", name="anna")
ASK = {"name": "ask", "approvers": ["human"], "timeout_s": 1800}
LAST_STEP = 120
HOUR_S = 3600.0
EVIL_HOST = "evil.example"
HOSTILE = (
    f"<script>alert(1)</script><img src=//{EVIL_HOST}/x onerror=alert(2)>\"'><form action=//{EVIL_HOST}>"
    "</textarea></style></title><!-- {{ 7*7 }} \x1b[31m\x07\u202eesrever\u2066\u200b "
    f"<a href=javascript:alert(3)>click</a> <svg/onload=alert(4)> <link rel=stylesheet href=//{EVIL_HOST}/s>"
)
INVISIBLE = "\x1b\x07\u202e\u2066\u200b"


class Desk:
    """A run at step 120 of 1000 whose learning rate may go to 0.05, and whose agent asks before each change."""

    def __init__(self, runs_dir: Path, url: str, run_id: str) -> None:
        self.runs_dir, self.url, self.run_id = runs_dir, url, run_id
        pid = os.getpid()
        gate = {"approval": [ASK], "bounds": {"lr": [1e-6, 0.05]}, "usd_per_hour": 2.5}
        info = RunInfo(
            run_id=run_id,
            name=run_id,
            status="running",
            created_at_s=time.time(),
            max_steps=1000,
            rules={"gate": gate},
            pid=pid,
            pid_started_s=started_s(pid),
        )
        self.log = RunLog.create(runs_dir / run_id, info)
        self.log.append(RunStarted(framework="test", pid=pid, max_steps=1000, capabilities=["update_optimizer"]))
        self.log.append(KnobsRead(knobs=[KnobState(name="lr", base=0.01, effective=0.01, command="update_optimizer")]))
        self._train()
        self.control = LocalControl(runs_dir)

    def _train(self) -> None:
        steps = range(1, LAST_STEP + 1)
        self.log.append_points(
            [Point(step=s, at_s=time.time(), values={"step_loss": 2 + 2 * math.exp(-s / 30)}) for s in steps]
        )
        for step in range(20, LAST_STEP + 1, 20):
            loss = 2.1 + 2 * math.exp(-step / 30)
            self.log.append_points([Point(step=step, at_s=time.time(), values={"eval_loss": loss}, source="eval")])
            self.log.append(Evaluated(metrics={"eval_loss": loss}), step=step)

    def close(self) -> None:
        with contextlib.suppress(UnknownRun):  # a test has deleted it
            self.control.log(self.run_id).close()
        self.log.close()

    def ask(self, rationale: str = "the loss is flat", author: Author = AGENT, **arguments: Any) -> CommandRecord:
        """The agent asks; by default for twice the learning rate."""
        raw = {"kind": "update_optimizer", **(arguments or {"lr": 0.02})}
        proposal = {"command": raw, "author": author, "rationale": rationale, "based_on_step": LAST_STEP - 5}
        return self.control.submit(self.run_id, Proposal.model_validate(proposal))

    def link(self, record: CommandRecord, lasts_s: float = HOUR_S) -> str:
        """As a message to a phone has it."""
        assert record.request is not None
        link = Link(
            run_id=self.run_id,
            command_id=record.command_id,
            digest=record.request.digest,
            expires_at_s=time.time() + lasts_s,
        )
        return f"{self.url}/links/{sign(link, make_key(self.runs_dir))}"

    def plain_link(self, record: CommandRecord, lasts_s: float = HOUR_S) -> str:
        """The same to the page without scripts."""
        return f"{self.link(record, lasts_s)}?plain"

    @property
    def local(self) -> str:
        """The address of the page of all requests."""
        return f"{self.url}/local/{self.run_id}"

    def key(self) -> str:
        """The secret in the address that `agenttune run` shows."""
        return create_token(self.runs_dir, "operator", "terminal", [self.run_id])[0]

    def decide(self, record: CommandRecord, verdict: str = "reject", reason: str = "") -> None:
        """Another operator is faster."""
        assert record.request is not None
        given = {"verdict": verdict, "digest": record.request.digest, "author": ANNA, "reason": reason}
        self.control.decide(self.run_id, record.command_id, ApprovalDecision.model_validate(given))

    def state(self, record: CommandRecord) -> str:
        return self.control.command(self.run_id, record.command_id).state.value

    def verdict(self, record: CommandRecord) -> Verdict:
        """What the log says; that nothing was decided fails the test."""
        found = self.control.command(self.run_id, record.command_id).verdict
        assert found is not None, "nothing was decided"
        return found
