"""A client of the official SDK reads a live run, changes its rate and is told what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation, TextContent

from agenttune.control import LocalControl
from agenttune.control.tokens import create_token
from agenttune.errors import UserError
from agenttune.llm.tools import offered_reads, write_kinds
from agenttune.protocol.proposals import State
from agenttune.server.mcp.mcp_server import serve_http
from agenttune.server.mcp.tools import RunTools
from tests import warm
from tests.tools.conftest import Trainer

Visit = Callable[[Client], Awaitable[None]]
ME = Implementation(name="tests", version="1")


def command(runs_dir: Path, *more: str) -> list[str]:
    return ["-m", "agenttune", "mcp", "--runs-dir", str(runs_dir), *more]


def over_stdio(runs_dir: Path, visit: Visit, *more: str) -> None:
    async def main() -> None:
        parameters = StdioServerParameters(command=sys.executable, args=command(runs_dir, *more))
        async with Client(stdio_client(parameters), client_info=ME) as client:
            await visit(client)

    anyio.run(main)


def over_http(url: str, visit: Visit) -> None:
    async def main() -> None:
        # The handshake of the protocol's older versions, which most clients speak still; stdio tests the newest.
        async with Client(url, client_info=ME, mode="legacy") as client:
            await visit(client)

    anyio.run(main)


@pytest.fixture
def http_server(runs_dir: Path) -> Iterator[Callable[..., str]]:
    started: list[subprocess.Popen[str]] = []

    def start(*more: str, **environ: str) -> str:
        process = warm.Popen(
            [sys.executable, *command(runs_dir, "--http", "--port", "0", *more)],
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stderr is not None
        found = re.search(r"http://\S+/mcp", line := process.stderr.readline())
        assert found, line
        return found.group()

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


async def ask(client: Client, tool: str, **arguments: Any) -> tuple[Any, bool]:
    result = await client.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    return json.loads(content.text), result.is_error


async def drive(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"list_runs", "get_run", "wait", *write_kinds(), *offered_reads()}
    lr = tools["update_optimizer"].annotations
    assert lr is not None
    assert (lr.read_only_hint, lr.destructive_hint, lr.idempotent_hint) == (False, False, True)
    stop = tools["stop_training"].annotations
    assert stop is not None
    assert stop.destructive_hint is True
    runs, _ = await ask(client, "list_runs")
    assert [run["run_id"] for run in runs["runs"]] == ["r1"]
    metrics, is_error = await ask(client, "get_metrics", metric="step_loss", max_points=5)
    assert not is_error
    assert metrics["rows"]
    done, is_error = await ask(client, "update_optimizer", lr=0.05, reason="a test", valid_for_steps=10_000)
    assert not is_error, done
    assert (done["state"], done["verdict"]["decision"]) == ("applied", "approved")
    assert done["ack"]["changes"][0]["effective"] == 0.05
    refused, is_error = await ask(client, "update_optimizer", lr=99.0, reason="a test")
    assert is_error
    assert (refused["state"], refused["verdict"]["nearest_allowed"]) == ("rejected", {"lr": 10.0})
    unable, is_error = await ask(client, "do_evaluate", reason="a test")
    assert is_error
    assert "this trainer cannot do it" in unable["error"]
    wrong, is_error = await ask(client, "update_optimizer", lr="low", reason="a test", run="r")
    assert is_error
    assert wrong["field"] == "lr"
    nobody, is_error = await ask(client, "get_run", run="nope")
    assert is_error
    assert nobody["allowed"] == ["r1"]
    seen, _ = await ask(client, "get_run")
    assert seen["status"] == "running"
    waited, is_error = await ask(client, "wait", until_step=seen["step"] + 20, reason="a test")
    assert not is_error
    assert waited["woken_by"] == "step"
    history, _ = await ask(client, "get_history")
    assert [row["state"] for row in history["history"]] == ["applied", "rejected"]
    assert history["history"][0]["by"].startswith("agent mcp:")


def test_a_client_drives_a_live_run_over_stdio(runs_dir: Path, live: Trainer) -> None:
    over_stdio(runs_dir, drive)
    applied, rejected = LocalControl(runs_dir).commands("r1")
    assert (applied.state, rejected.state) == (State.APPLIED, State.REJECTED)
    assert (applied.proposal.author.principal, applied.proposal.rationale) == ("agent", "a test")
    assert applied.proposal.author.name == "mcp:tests"


def test_a_client_drives_a_live_run_over_http(runs_dir: Path, live: Trainer, http_server: Callable[..., str]) -> None:
    over_http(http_server(), drive)
    assert [record.state for record in LocalControl(runs_dir).commands("r1")] == [State.APPLIED, State.REJECTED]


def test_read_only_has_no_tool_that_changes_anything(runs_dir: Path, live: Trainer) -> None:
    async def look(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        refused, is_error = await ask(client, "update_optimizer", lr=0.05, reason="a test")
        assert is_error
        assert "read-only" in refused["error"]
        norms, is_error = await ask(client, "get_model_tree", norms=True)
        assert is_error, norms

    over_stdio(runs_dir, look, "--read-only")
    assert LocalControl(runs_dir).commands("r1") == []


def test_the_http_endpoint_lets_in_only_those_who_may(runs_dir: Path, http_server: Callable[..., str]) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    url = http_server()
    assert httpx.post(url, json=hello, headers={**accept, "Host": "evil.example"}).status_code == 403
    assert httpx.post(url, json=hello, headers={**accept, "Origin": "http://evil.example"}).status_code == 403
    guarded = http_server(AGENTTUNE_TOKEN="secret-token")
    assert httpx.post(guarded, json=hello, headers=accept).status_code == 401
    known = {**accept, "Authorization": "Bearer secret-token"}
    assert httpx.post(guarded, json=hello, headers=known).status_code not in (401, 403)


def test_a_token_says_what_a_client_may(runs_dir: Path, live: Trainer, http_server: Callable[..., str]) -> None:
    """Also an operator's: what comes by MCP is an agent's, and its record says by which token."""
    url = http_server()
    told: dict[str, tuple[set[str], Any, bool]] = {}

    def visit_as(token: str) -> None:
        async def main() -> None:
            client = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"})
            async with Client(
                streamable_http_client(url, http_client=client), client_info=ME, mode="legacy"
            ) as visitor:
                names = {tool.name for tool in (await visitor.list_tools()).tools}
                told[token] = (names, *await ask(visitor, "update_optimizer", lr=0.05, reason="a test"))

        anyio.run(main)

    viewer = create_token(runs_dir, "viewer", "viewer")[0]
    stranger = create_token(runs_dir, "agent", "agent", ["another"])[0]
    operator = create_token(runs_dir, "operator", "operator", ["r1"])[0]
    for token in (viewer, stranger, operator):
        visit_as(token)
    names, refused, is_error = told[viewer]
    assert not names & set(write_kinds())
    assert is_error
    assert "read-only" in refused["error"]
    names, unknown, is_error = told[stranger]
    assert set(write_kinds()) <= names
    assert is_error
    assert "r1" not in json.dumps(unknown)
    assert told[operator][1]["state"] == "applied"
    [record] = LocalControl(runs_dir).commands("r1")
    assert (record.proposal.author.principal, record.proposal.author.via[:10]) == ("agent", "operator (")


def test_other_machines_need_a_token(runs_dir: Path) -> None:
    tools = RunTools(LocalControl(runs_dir))
    with pytest.raises(UserError, match="AGENTTUNE_TOKEN") as caught:
        serve_http(tools, "0.0.0.0", 0, None)
    assert caught.value.field == "host"
    with pytest.raises(UserError, match="is empty"):
        serve_http(tools, "127.0.0.1", 0, " ")


def test_without_the_sdk_the_way_out_is_named(runs_dir: Path) -> None:
    code = (
        "import sys; sys.modules['mcp'] = None; sys.argv = ['agenttune', 'mcp']; from agenttune.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'agenttune-toolkit[mcp]'" in done.stderr


def test_an_unanswered_command_is_said_to_be_pending(runs_dir: Path, live: Trainer) -> None:
    live.__exit__()
    answer = RunTools(LocalControl(runs_dir), ack_wait_s=0.1).call(
        "update_optimizer", {"lr": 0.05, "reason": "x"}, "me"
    )
    told = json.loads(answer.text)
    assert not answer.is_error
    assert told["state"] == "queued"
    assert "has not answered yet" in told["note"]
