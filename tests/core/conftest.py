from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agenttune.protocol.events import KnobsRead
from agenttune.protocol.proposals import Author, Proposal, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog

APPROVED = Verdict(decision="approved", decided_by="auto")
AGENT = Author(principal="agent", name="tests")
OPERATOR = Author(principal="operator", name="tests")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "r1"


@pytest.fixture
def log(folder: Path) -> Iterator[RunLog]:
    created = RunLog.create(folder, RunInfo(run_id="r1", name="r1", status="running", created_at_s=time.time()))
    yield created
    created.close()


@pytest.fixture
def with_knobs(log: RunLog) -> RunLog:
    """A log whose trainer reported a scheduled learning rate half-way down, and a bounded knob."""
    rate = KnobState(name="lr", base=1e-3, effective=5e-4, command="update_optimizer")
    noise = KnobState(name="noise", effective=0.1, minimum=0.0, maximum=1.0)
    log.append(KnobsRead(knobs=[rate, noise]))
    return log


Propose = Callable[..., Proposal]


def propose(kind: str = "update_optimizer", author: Author = AGENT, **arguments: object) -> Proposal:
    """A proposal by kind and arguments; `command_id` and `valid_until_step` go to the proposal."""
    outer = {k: arguments.pop(k) for k in ("command_id", "valid_until_step", "based_on_step") if k in arguments}
    return Proposal.model_validate({"command": {"kind": kind, **arguments}, "author": author, **outer})
