"""A read is one class and one function: defined here, it is at every door."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import Field

from agenttune.control import Control, LocalControl
from agenttune.control.http import HttpControl
from agenttune.control.local import answer
from agenttune.control.run_logs import RunLogs
from agenttune.errors import CommandError, UserError
from agenttune.protocol.proposals import Record
from agenttune.protocol.reads import QUERIES, AsTool, RunQuery, register_read
from agenttune.server.app import create_app
from agenttune.server.listening import listen
from agenttune.server.mcp.tools import RunTools
from tests.cli.conftest import agenttune, wait_for
from tests.policy.conftest import SteeredRun
from tests.tools.conftest import MakeToolbox

MANY = 10_000


class Lamps(Record):
    rack: str
    lit: list[int]
    note: str | None = None


class LampsQuery(RunQuery[Lamps]):
    """Which lamps of a rack are lit."""

    path = "/racks/{rack}/lamps"
    tool = AsTool("list_lamps", "lamps")
    rack: str
    first: int = Field(0, ge=0, description="From this lamp on.")


class SecretQuery(RunQuery[Lamps]):
    """Not for models."""

    path = "/secret"


@answer.register
def _lamps(query: LampsQuery, logs: RunLogs, run_id: str) -> Lamps:
    lit = {"third": [1, 4, 9], "endless": range(MANY)}.get(query.rack)
    if lit is None:
        raise UserError(f"no rack {query.rack!r}; racks: third", field="rack", allowed=["third"])
    return Lamps(rack=query.rack, lit=[n for n in lit if n >= query.first])


@answer.register
def _secret(query: SecretQuery, logs: RunLogs, run_id: str) -> Lamps:
    return Lamps(rack="secret", lit=[])


@pytest.fixture(autouse=True)
def _reads() -> Iterator[None]:
    register_read(LampsQuery)
    register_read(SecretQuery)
    yield
    QUERIES.remove(LampsQuery)
    QUERIES.remove(SecretQuery)


@contextmanager
def serving(runs_dir: Path) -> Iterator[str]:
    """A server of this process, which knows the new read."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(runs_dir), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for("the server to start", lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def asked(control: Control, **given: Any) -> Lamps:
    return control.read("r1", LampsQuery(rack="third", **given))


def test_a_new_read_has_a_route_and_a_client(run: SteeredRun, runs_dir: Path) -> None:
    with serving(runs_dir) as url, HttpControl(url) as remote:
        assert asked(remote, first=4) == asked(LocalControl(runs_dir), first=4) == Lamps(rack="third", lit=[4, 9])
        with pytest.raises(UserError, match="racks: third") as caught:
            remote.read("r1", LampsQuery(rack="first"))
        assert caught.value.allowed == ["third"]
        assert httpx.get(f"{url}/api/v1/runs/r1/racks/third/lamps", params={"last": 1}).status_code == 422
        route = httpx.get(f"{url}/api/v1/openapi.json").json()["paths"]["/api/v1/runs/{run_id}/racks/{rack}/lamps"]
        assert route["get"]["description"] == "Which lamps of a rack are lit."


def test_a_new_read_is_a_tool(toolbox: MakeToolbox) -> None:
    box = toolbox()
    [read] = [shape for shape in box.shapes() if shape.name == "look"]
    assert read.parameters["properties"]["what"]["enum"][-1] == "lamps"
    assert {"rack", "first"} <= set(read.parameters["properties"])
    expected = {"rack": "third", "lit": [4, 9]}
    for name, more in (("look", {"what": "lamps"}), ("read", {"what": "lamps"}), ("list_lamps", {})):
        assert json.loads(box.call(name, {"rack": "third", "first": 4, **more}).text) == expected
    with pytest.raises(CommandError, match="first"):
        box.call("list_lamps", {"rack": "third", "first": -1})
    with pytest.raises(CommandError, match=r"list_lamps\.rack: .* required"):
        box.call("list_lamps", {})
    assert "secret" not in json.dumps([shape.model_dump(mode="json") for shape in box.shapes()])


def test_a_new_read_is_a_tool_for_mcp_and_a_word_for_the_shell(run: SteeredRun, runs_dir: Path) -> None:
    tools = RunTools(LocalControl(runs_dir), is_read_only=True)
    [shape] = [shape for shape in tools.shapes() if shape.name == "list_lamps"]
    assert (shape.description, shape.is_read_only) == ("Which lamps of a rack are lit.", True)
    assert shape.parameters["required"] == ["rack"]
    assert json.loads(tools.call("list_lamps", {"rack": "third"}, "client").text)["lit"] == [1, 4, 9]
    assert tools.call("list_lamps", {"rack": "first"}, "client").is_error
    shown = agenttune("show", "r1", "lamps", "--rack", "third", "--first", "9", cwd=runs_dir.parent)
    assert (shown.code, shown.out.splitlines()) == (0, ["rack: third", "lit:", "9"]), shown.err


def test_a_long_answer_is_bounded_and_keeps_the_newest(toolbox: MakeToolbox) -> None:
    told = json.loads(toolbox().call("list_lamps", {"rack": "endless"}).text)
    assert told["lit"][-1] == MANY - 1
    assert told["left_out"] == MANY - len(told["lit"])


def test_no_two_reads_share_a_path_or_a_name() -> None:
    class Other(RunQuery[Lamps]):
        """Another one."""

        path = "/other"
        tool = AsTool("list_lamps", "more lamps")

    with pytest.raises(TypeError, match="LampsQuery has the tool list_lamps already"):
        register_read(Other)
