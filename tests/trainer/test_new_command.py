"""A command is one class and one function: defined here, it is at every door, and only where a loop says it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from fastapi.testclient import TestClient
from torch import nn

from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.control.tokens import create_token
from agenttune.errors import NotSupported
from agenttune.llm.tools import Toolbox
from agenttune.protocol.commands import BY_KIND, CommandBase, Impact, Risk, register
from agenttune.protocol.commands.value_types import Int
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from agenttune.server.app import create_app
from agenttune.server.mcp.tools import RunTools
from agenttune.store.run_log import RunLog
from agenttune.trainer.commands.outcomes import HANDLERS, Done, Outcome, applies
from agenttune.trainer.integrations.plain_adapter import PlainAdapter
from agenttune.trainer.integrations.plain_loop import PlainSession
from agenttune.trainer.options import Options
from agenttune.trainer.run_state import RunState
from docs.generate import commands_page
from tests.cli.conftest import agenttune, wait_for
from tests.server.test_rights import bearer


class Blink(CommandBase):
    """Blink the machine's lamp. It stands in the rack's third row."""

    risk = Risk.OBSERVE
    impact = Impact.NONE
    example: ClassVar = {"kind": "blink", "times": 2}
    kind: Literal["blink"] = "blink"
    times: Int


def blink(run_state: RunState, record: CommandRecord, command: Blink) -> Outcome:
    return Done(f"blinked at step {run_state.step}", result={"times": command.times})


class LampLoop(PlainAdapter):
    """A loop that says it can."""

    commands = (*PlainAdapter.commands, "blink")


@pytest.fixture(autouse=True)
def _blink() -> Iterator[None]:
    applies(register(Blink))(blink)
    yield
    del BY_KIND["blink"], HANDLERS["blink"]


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def training(adapter: type[PlainAdapter], runs_dir: Path) -> PlainSession:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = adapter(model, optimizer, None, None, None, 100, None)
    return PlainSession(loop, Options(runs_dir=runs_dir, run_name="r", server=False))


def begun(session: PlainSession, runs_dir: Path) -> str:
    """The id of a run whose first step is done and told."""
    session.step({"loss": 1.0})
    run_id, control = str(session.run_id), LocalControl(runs_dir)
    wait_for("the loop to tell what it can", lambda: control.info(run_id).capabilities)
    return run_id


def by_model(runs_dir: Path, run_id: str) -> None:
    control = LocalControl(runs_dir)
    reader = ControlReader(control, run_id)
    box = Toolbox(reader, LocalControl(runs_dir).observe(run_id))
    [shape] = [shape for shape in box.shapes() if shape.name == "blink"]
    assert shape.description == "Blink the machine's lamp."
    outcome = box.call("blink", {"times": 1, "reason": "a test"})
    assert outcome.command is not None
    author = Author(principal="agent", name="model")
    control.submit(run_id, Proposal(command=outcome.command, author=author))


def by_mcp(runs_dir: Path, run_id: str) -> None:
    tools = RunTools(LocalControl(runs_dir), ack_wait_s=0.0)
    assert "blink" in {shape.name for shape in tools.shapes()}
    answer = tools.call("blink", {"times": 2, "reason": "a test", "run": run_id}, "client")
    assert not answer.is_error, answer.text


def by_rest(runs_dir: Path, run_id: str) -> None:
    headers = bearer(create_token(runs_dir, "operator", "a test", ["*"])[0])
    with TestClient(create_app(runs_dir), base_url="http://localhost", headers=headers) as client:
        assert "Blink" in client.get("/api/v1/openapi.json").json()["components"]["schemas"]
        assert "blink" in {command["kind"] for command in client.get("/api/v1/commands").json()["commands"]}
        sent = client.post(f"/api/v1/runs/{run_id}/commands", json={"command": {"kind": "blink", "times": 3}})
    assert sent.status_code < 300, sent.text


def by_shell(runs_dir: Path, run_id: str) -> None:
    sent = agenttune("send", run_id, "blink", "--times", "4", "--wait-s", "0", cwd=runs_dir.parent)
    assert sent.code == 0, sent.err


DOORS: list[Callable[[Path, str], None]] = [by_model, by_mcp, by_rest, by_shell]


def test_a_new_command_comes_through_every_door_to_a_loop_that_can(runs_dir: Path) -> None:
    with training(LampLoop, runs_dir) as session:
        run_id = begun(session, runs_dir)
        for door in DOORS:
            door(runs_dir, run_id)
        session.step({"loss": 0.9})
    with closing(RunLog.open(runs_dir / run_id)) as log:
        records = log.commands()
    assert [record.state for record in records] == [State.APPLIED] * len(DOORS)
    assert [record.ack.result for record in records if record.ack] == [{"times": n} for n in (1, 2, 3, 4)]
    assert all(record.ack.message == "blinked at step 2" for record in records if record.ack)


def test_a_loop_that_does_not_know_it_refuses_it_and_offers_it_to_nobody(runs_dir: Path) -> None:
    with training(PlainAdapter, runs_dir) as session:
        run_id = begun(session, runs_dir)
        reader = ControlReader(LocalControl(runs_dir), run_id)
        with pytest.raises(NotSupported, match="this trainer cannot do it"):
            Toolbox(reader, LocalControl(runs_dir).observe(run_id)).call("blink", {"times": 1, "reason": "a test"})
        by_shell(runs_dir, run_id)
        session.step({"loss": 0.9})
    with closing(RunLog.open(runs_dir / run_id)) as log:
        [record] = log.commands()
    assert record.ack is not None
    assert record.ack.outcome == "failed"
    assert "this loop does not know the command" in record.ack.message


def test_it_stands_in_the_docs_and_no_other_can_take_its_kind() -> None:
    [row] = [line for line in commands_page().splitlines() if line.startswith("| `blink` |")]
    assert row.endswith('| `times`: integer | `{"kind": "blink", "times": 2}` |')
    with pytest.raises(TypeError, match="Blink is 'blink' already"):
        register(Blink)
