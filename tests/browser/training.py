"""A real training run in a process of its own, the server beside it, and what a browser test asks of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agenttune.control import LocalControl
from agenttune.control.page_link import page_link
from agenttune.protocol.events import Event
from agenttune.protocol.proposals import CommandRecord, Principal, Proposal
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.browser.desk import AGENT, ASK
from tests.warm import start

SCRIPT = Path(__file__).with_name("tiny_training.py")
LONGEST_S = 60.0
"""Importing torch takes some seconds of a busy machine; a test that waits longer than this has failed."""
POLL_S = 0.05
ENDLESS = 100_000
NAME = "tiny"


def until(is_so: Callable[[], Any], what: str, longest_s: float = LONGEST_S) -> Any:
    """Wait for something to come true; fails the test after `longest_s` seconds."""
    ends = time.monotonic() + longest_s
    while not (found := is_so()):
        assert time.monotonic() < ends, f"waited {longest_s:g} s for {what}"
        time.sleep(POLL_S)
    return found


class Training:
    """A run that trains, and whose agent asks a person before each change.

    Attributes:
        log: To look at what really happened.
    """

    def __init__(self, runs_dir: Path, run_id: str, name: str = NAME, steps: int = ENDLESS) -> None:
        self.runs_dir, self.run_id = runs_dir, run_id
        gate = {"approval": [ASK], "bounds": {"lr": [1e-6, 0.05]}}
        info = RunInfo(run_id=run_id, name=name, status="starting", created_at_s=time.time(), rules={"gate": gate})
        self.control = LocalControl(runs_dir)
        self.log = RunLog.create(runs_dir / run_id, info)
        environ = {"AGENTTUNE_RUN_ID": run_id, "AGENTTUNE_RUNS_DIR": str(runs_dir), "AGENTTUNE_SERVER_URL": "beside"}
        environ |= {"TINY_OUTPUT": str(runs_dir / run_id / "out"), "TINY_STEPS": str(steps)}
        self.script = start(SCRIPT, folder=runs_dir / run_id, **environ)

    @property
    def info(self) -> RunInfo:
        return self.log.info()

    def reach(self, step: int) -> None:
        """Wait until training has come so far."""

        def there() -> bool:
            assert self.script.process.poll() is None, self.script.err.read_text("utf-8")[-3000:]
            return self.info.step >= step

        until(there, f"step {step}")

    def commands(self, kind: str) -> list[CommandRecord]:
        return [record for record in self.log.commands() if record.command.kind == kind]

    def last(self, kind: str) -> CommandRecord:
        """The newest command of a kind."""
        return self.commands(kind)[-1]

    def answered(self, kind: str, before: int) -> CommandRecord:
        """The command of a kind that came after `before` others of it, once it is answered.

        The newest of a kind may still be an earlier test's.
        """

        def is_answered() -> CommandRecord | None:
            new = self.commands(kind)[before:]
            return new[0] if new and new[0].ack else None

        record: CommandRecord = until(is_answered, f"the answer to {kind}")
        return record

    def events(self, *kinds: str) -> list[Event]:
        return self.log.events(kinds=list(kinds))

    def ask(self, rationale: str = "the loss is flat", **arguments: Any) -> CommandRecord:
        """The agent asks; by default for twice the learning rate."""
        command = {"kind": "update_optimizer", **(arguments or {"lr": 2e-3})}
        proposal = {"command": command, "author": AGENT, "rationale": rationale, "based_on_step": self.info.step}
        return self.control.submit(self.run_id, Proposal.model_validate(proposal))

    def command(self, record: CommandRecord) -> CommandRecord:
        """The same command as it stands now."""
        return self.control.command(self.run_id, record.command_id)

    def link(self, url: str, tab: str = "", role: Principal = "operator") -> str:
        """Signs a browser in and leads to a page of the run."""
        link = page_link(url, self.runs_dir, self.run_id, role)[0]
        return link if not tab else link.replace("?key=", f"/{tab}?key=")

    def close(self) -> None:
        self.script.process.kill()
        self.script.process.wait()
        self.control.log(self.run_id).close()
        self.log.close()
