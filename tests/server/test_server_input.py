"""Bad input gets a clear error that names the field; nothing is lost and nothing crashes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttune.control import LocalControl
from agenttune.control.discovery import ServerAddress
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.events import Logged
from agenttune.protocol.reads import EventsQuery
from agenttune.server.app import create_app
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run

JSON_HEADER = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def api(shared_server: ServerAddress) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{shared_server.url}/api/v1", trust_env=False) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def log(shared_runs: Path, shared_server: ServerAddress) -> RunLog:
    return make_run(shared_runs)


def problem(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"type", "message", "field", "allowed"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("path", "status", "kind", "field"),
    [
        ("/nope", 404, "NotFound", None),
        ("/runs/", 404, "NotFound", None),
        ("/runs/nope", 404, "UnknownRun", "run_id"),
        ("/runs/nope/events", 404, "UnknownRun", "run_id"),
        ("/runs/%00", 404, "UnknownRun", "run_id"),
        ("/runs/" + "x" * 3000, 404, "UnknownRun", "run_id"),
        ("/runs/one/commands/nope", 404, "UnknownCommandId", "command_id"),
        ("/runs/one/commands/nope?wait_s=1", 404, "UnknownCommandId", "command_id"),
        ("/runs/one/metrics/nope", 422, "UserError", "metric"),
        ("/runs/one/metrics/loss?max_points=0", 422, "UserError", "max_points"),
        ("/runs/one/metrics/loss?max_points=10001", 422, "UserError", "max_points"),
        ("/runs/one/metrics/loss?first_step=-1", 422, "UserError", "first_step"),
        ("/runs/one/metrics/loss?first_step=9&last_step=3", 422, "UserError", "last_step"),
        ("/runs/one/events?since=x", 422, "UserError", "since"),
        ("/runs/one/events?since=" + "9" * 30, 422, "UserError", "since"),
        ("/runs/one/events?since=" + "9" * 6000, 422, "UserError", "since"),
        ("/runs/one/events?since=1&since=2", 422, "UserError", "since"),
        ("/runs/one/events?kinds=nope", 422, "UserError", "kinds"),
        ("/runs/one/events?wait_s=nan", 422, "UserError", "wait_s"),
        ("/runs/one/events?wait_s=inf", 422, "UserError", "wait_s"),
        ("/runs/one/events?wait_s=61", 422, "UserError", "wait_s"),
        ("/runs/one/events?wait_s=-1", 422, "UserError", "wait_s"),
        ("/runs/one/events?limt=5", 422, "UserError", "limt"),
        ("/runs/one?x=1", 422, "UserError", "x"),
        ("/runs/one/commands?state=done", 422, "UserError", "state.0"),
        ("/runs?status=done", 422, "UserError", "status.0"),
        ("/health?x=%ff", 422, "UserError", "x"),
    ],
)
def test_a_bad_request_is_answered_in_one_shape(
    api: httpx.Client, path: str, status: int, kind: str, field: str | None
) -> None:
    response = api.get(path)
    error = problem(response)
    assert (response.status_code, error["type"], error["field"]) == (status, kind, field)
    assert len(response.content) < 4000


def test_an_unknown_parameter_is_told_the_known_ones(api: httpx.Client) -> None:
    error = problem(api.get("/runs/one/events?limt=5"))
    assert error["allowed"] == sorted(EventsQuery.model_fields)
    assert "'limt'" in error["message"]


def test_a_wrong_method_is_told_the_right_one(api: httpx.Client) -> None:
    response = api.delete("/runs/one")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert problem(response)["allowed"] == ["GET"]


NESTED = '{"command": ' + "[" * 500 + "]" * 500 + "}"


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        ("{", 400, "MalformedJson", "body"),
        ("", 422, "UserError", None),
        ("null", 422, "UserError", None),
        ("[1]", 422, "UserError", None),
        (b"\xff\xfe", 400, "MalformedJson", "body"),
        ('{"command": NaN}', 400, "MalformedJson", "body"),
        ('{"command": {"kind": "update_optimizer", "lr": 1e-4, "lr": 10.0}}', 400, "MalformedJson", "body"),
        (
            '{"command": {"kind": "add_note", "text": "a"}, "command": {"kind": "pause_training"}}',
            400,
            "MalformedJson",
            "body",
        ),
        ('{"command": {"kind": "update_optimizer", "lr": NaN}}', 400, "MalformedJson", "body"),
        ('{"command": {"kind": "update_optimizer", "lr": -Infinity}}', 400, "MalformedJson", "body"),
        ('{"command": {"kind": "update_optimizer", "lr": 1e999}}', 400, "MalformedJson", "body"),
        ('{"command": {"kind": "update_training", "max_steps": 1' + "0" * 400 + "}}", 400, "MalformedJson", "body"),
        ('{"command": {"kind": "add_note", "text": "\\ud800"}}', 400, "MalformedJson", "body"),
        (NESTED, 400, "MalformedJson", "body"),
        ("[" * 200_000, 400, "MalformedJson", "body"),
        ('{"command": {}}', 422, "CommandError", "kind"),
        ('{"command": 5}', 422, "CommandError", "command"),
        ('{"command": {"kind": ["x"]}}', 422, "CommandError", "kind"),
        ('{"command": {"kind": "explode"}}', 422, "CommandError", "kind"),
        ('{"command": {"kind": "update_optimizer", "lr": -1}}', 422, "CommandError", "lr"),
        ('{"command": {"kind": "update_optimizer", "lr": "fast"}}', 422, "CommandError", "lr"),
        ('{"command": {"kind": "update_optimizer", "lr": true}}', 422, "CommandError", "lr"),
        ('{"command": {"kind": "update_optimizer", "lr": "NaN"}}', 422, "CommandError", "lr"),
        ('{"command": {"kind": "update_optimizer", "learning_rate": 1}}', 422, "CommandError", "learning_rate"),
        ('{"command": {"kind": "update_optimizer"}}', 422, "CommandError", None),
        ('{"command": {"kind": "do_evaluate"}, "dry_run": true}', 422, "UserError", "dry_run"),
        ('{"command": {"kind": "do_evaluate"}, "command_id": "a b"}', 422, "UserError", "command_id"),
        ('{"command": {"kind": "do_evaluate"}, "valid_until_step": "5"}', 422, "UserError", "valid_until_step"),
        ('{"command": {"kind": "do_evaluate"}, "based_on_step": -1}', 422, "UserError", "based_on_step"),
        (
            '{"command": {"kind": "do_evaluate"}, "author": {"principal": "trainer", "name": "x"}}',
            422,
            "UserError",
            "author.principal",
        ),
    ],
)
def test_a_bad_command_is_refused_and_leaves_no_trace(
    api: httpx.Client, log: RunLog, body: str | bytes, status: int, kind: str, field: str | None
) -> None:
    before = log.last_seq()
    response = api.post("/runs/one/commands", content=body, headers=JSON_HEADER)
    error = problem(response)
    assert (response.status_code, error["type"], error["field"]) == (status, kind, field)
    assert log.last_seq() == before


def test_a_command_error_says_what_is_allowed(api: httpx.Client) -> None:
    unknown = problem(api.post("/runs/one/commands", json={"command": {"kind": "explode"}}))
    assert unknown["allowed"] == list(COMMAND_KINDS)
    bounds = problem(api.post("/runs/one/commands", json={"command": {"kind": "update_optimizer", "lr": 1e9}}))
    assert bounds["allowed"]["maximum"] == 100
    extra = problem(api.post("/runs/one/commands", json={"command": {"kind": "do_evaluate"}, "zzz": 1}))
    assert "command_id" in extra["allowed"]


def test_a_body_has_a_size_limit(api: httpx.Client) -> None:
    response = api.post("/runs/one/commands", content=b" " * (1 << 20) + b"1", headers=JSON_HEADER)
    assert (response.status_code, problem(response)["type"]) == (413, "TooLarge")


def test_a_body_must_say_that_it_is_json(api: httpx.Client, log: RunLog) -> None:
    before = log.last_seq()
    response = api.post("/runs/one/commands", content=b'{"command": {"kind": "do_evaluate"}}')
    assert (response.status_code, problem(response)["field"]) == (415, "Content-Type")
    assert log.last_seq() == before


def test_new_known_reused_and_rejected_commands_are_told_apart(api: httpx.Client) -> None:
    body = {"command": {"kind": "update_optimizer", "lr": 1e-4}, "command_id": "told-apart"}
    assert api.post("/runs/one/commands", json=body).status_code == 202
    known = api.post("/runs/one/commands", json=body)
    assert (known.status_code, known.json()["state"]) == (200, "queued")
    assert known.json()["proposal"]["author"] == {"principal": "agent", "name": "rest", "via": ""}
    reused = api.post("/runs/one/commands", json={**body, "command": {"kind": "do_evaluate"}})
    assert (reused.status_code, problem(reused)["type"]) == (409, "CommandIdReused")
    rejected = api.post("/runs/one/commands", json={"command": {"kind": "update_optimizer", "lr": 1.0}})
    assert (rejected.status_code, rejected.json()["state"]) == (202, "rejected")
    assert rejected.json()["verdict"]["nearest_allowed"] == {"lr": 0.01}


def test_a_record_of_the_trainers_kind_is_refused(api: httpx.Client, log: RunLog) -> None:
    before = log.last_seq()
    response = api.post("/runs/one/records", json={"record": {"kind": "status_changed", "status": "failed"}})
    assert (response.status_code, problem(response)["field"]) == (422, "record")
    assert log.last_seq() == before


def test_latest_is_the_newest_run(api: httpx.Client, log: RunLog) -> None:
    assert api.get("/runs/latest").json()["run_id"] == "one"


def test_nan_leaves_as_text_that_every_json_reader_takes(api: httpx.Client, log: RunLog) -> None:
    log.append(Logged(metrics={"loss": float("nan"), "grad_norm": float("inf")}))
    text = api.get("/runs/one/events?kinds=logged").text
    metrics = json.loads(text, parse_constant=pytest.fail)["events"][-1]["body"]["metrics"]
    assert metrics == {"loss": "NaN", "grad_norm": "Infinity"}


def test_the_interface_is_described(api: httpx.Client) -> None:
    described = api.get("/openapi.json").json()
    routes = set(described["paths"])
    assert {"/api/v1/runs/{run_id}/commands", "/api/v1/runs/{run_id}/metrics/{name}"} <= routes
    posted = json.dumps(described["paths"]["/api/v1/runs/{run_id}/commands"]["post"])
    assert "Submission" in posted
    assert "dry_run" in posted
    assert set(described["components"]["schemas"]) >= {"UpdateOptimizer", "CommandRecord", "Curve", "ErrorBody"}
    listed = api.get("/commands").json()["commands"]
    assert [c["kind"] for c in listed] == list(COMMAND_KINDS)
    assert listed[0]["risk"] == "tune"


_keys = st.sampled_from(
    ["command", "kind", "lr", "values", "other", "betas", "author", "principal", "name", "value", "step", "record"]
)
_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from([*COMMAND_KINDS, "operator", "agent", "found", "decided", "NaN", "lr"]),
)
_json = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
_commands = st.builds(
    lambda kind, rest: {"command": {**rest, "kind": kind}},
    st.sampled_from(list(COMMAND_KINDS)),
    st.dictionaries(_keys | st.sampled_from(["text", "shape", "end_step", "params", "layer_name"]), _json, max_size=4),
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=_json | _commands, route=st.sampled_from(["commands", "commands?dry_run=true", "records"]))
def test_no_json_body_makes_the_server_fail(api: httpx.Client, body: object, route: str) -> None:
    response = api.post(f"/runs/one/{route}", content=json.dumps(body), headers=JSON_HEADER)
    assert response.status_code < 500, response.text


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=60))
def test_no_bytes_make_the_server_fail(api: httpx.Client, body: bytes) -> None:
    response = api.post("/runs/one/commands", content=body, headers=JSON_HEADER)
    assert response.status_code in (400, 422)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(["since", "limit", "kinds", "wait_s", "x"]), value=st.text(max_size=12))
def test_no_query_makes_the_server_fail(api: httpx.Client, name: str, value: str) -> None:
    if name == "wait_s":
        value = value.replace("1", "").replace("2", "") or "x"
    response = api.get("/runs/one/events", params={name: value}, timeout=70)
    assert response.status_code in (200, 422)


async def _ask(app: Any, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7007/api/v1") as client:
        return await client.get(path)


def test_a_damaged_log_is_a_fault_of_the_store_and_hides_no_other_run(
    tmp_path: Path, new_run: Callable[..., RunLog]
) -> None:
    new_run(tmp_path, "good").close()
    new_run(tmp_path, "bad").close()
    (tmp_path / "bad" / "log.db").write_bytes(b"this is no database" * 100)
    app = create_app(tmp_path)
    broken = anyio.run(_ask, app, "/runs/bad")
    assert (broken.status_code, problem(broken)["type"]) == (503, "StoreFault")
    assert [r["run_id"] for r in anyio.run(_ask, app, "/runs").json()["runs"]] == ["good"]


def test_an_unforeseen_error_is_logged_and_shows_nothing_of_the_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(tmp_path)

    class Broken(LocalControl):
        def runs(self) -> Any:
            raise ZeroDivisionError("a secret detail")

    app.state.context.control = Broken(tmp_path)
    response = anyio.run(_ask, app, "/runs")
    assert (response.status_code, problem(response)["type"]) == (500, "InternalError")
    assert "secret" not in response.text
    assert "a secret detail" in caplog.text
