"""Every route of the server, asked in every role: nobody gets more than the table says, and no route is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from agenttune.control.tokens import create_token
from agenttune.protocol.events import Found
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import ChatMessage, ModelCalled
from agenttune.protocol.proposals import Author, Principal, Proposal
from agenttune.server.app import create_app
from agenttune.server.auth.rights import PREFIX, RECORDS, ROLES, Right, all_routes
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run, stop
from tests.warm import serve

ROLE_NAMES: list[Principal] = ["viewer", "trainer", "agent", "operator"]
SECRET = "the policy's own instructions"
LIMITS = ("0.00987", "777.25", "3.375")
"""Numbers that stand in no place but the rules."""
RULES = {
    "gate": {"bounds": {"lr": [1e-6, float(LIMITS[0])]}},
    "budgets": {"max_usd": float(LIMITS[1])},
    "probation": {"tolerance": float(LIMITS[2])},
}
LR = {"kind": "update_optimizer", "lr": 5e-4}
FINDING_SEQ = 4
"""Of the finding that every run of the house has."""
RECORD_BODIES: dict[str, dict[str, Any]] = {
    "found": {"finding": {"kind": "plateau", "step": 1, "metric": "loss", "severity": "info", "summary": "flat"}},
    "decided": {"policy": "p", "woken_by": "x"},
    "policy_attached": {"policy": "p"},
    "policy_detached": {"policy": "p"},
    "model_called": {"policy": "p", "purpose": "decide", "model": "m", "endpoint": "http://x", "protocol": "text"},
    "policy_requested": {"policy": "guardian"},
    "tags_changed": {"tags": ["mine"]},
    "finding_judged": {"finding_seq": FINDING_SEQ, "right": True},
}


class House:
    """A server over two runs, and a token of every role for all runs and for one of them."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        call = ModelCalled(
            policy="p",
            purpose="decide",
            model="m",
            endpoint="http://x",
            protocol="text",
            messages=[ChatMessage(role="system", content=SECRET)],
            answer=ChatMessage(role="assistant", content=SECRET),
        )
        for run_id in ("theirs", "mine"):
            log = make_run(runs_dir, run_id, steps=3, rules={**RULES, "wake": {"mode": "async"}})
            finding = Finding(kind="plateau", step=1, metric="loss", severity="info", summary="flat")
            assert log.append(call, Found(finding=finding), step=1)[-1] == FINDING_SEQ
            log.close()
        self.address = serve(runs_dir)
        self.tokens = {role: self.token(role, "*") for role in ROLE_NAMES}
        self.scoped = {role: self.token(role, "mi*") for role in ROLE_NAMES}
        self.own = {role: self.token(role, "mine") for role in ROLE_NAMES}

    def token(self, role: Principal, pattern: str) -> str:
        return create_token(self.runs_dir, role, f"the {role}", [pattern])[0]

    def client(self, token: str | None) -> httpx.Client:
        return httpx.Client(base_url=self.address.url, headers=bearer(token), trust_env=False)

    def stream(self, token: str | None, path: str) -> ClientConnection:
        return connect(
            self.address.url.replace("http", "ws") + path, additional_headers=bearer(token), close_timeout=0.1
        )

    def ask(self, token: str | None, method: str, path: str, body: Any = None, **parameters: str) -> tuple[int, str]:
        """Status and text of an answer; 101 for a stream that was opened."""
        if method != "WS":
            with self.client(token) as client:
                answer = client.request(method, path, json=body, params=parameters or None)
                return answer.status_code, answer.text
        try:
            with self.stream(token, path):
                return 101, ""
        except InvalidStatus as denial:
            return denial.response.status_code, (denial.response.body or b"").decode()


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("runs"))
    yield house
    stop(house.address)


def routes_of(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and whole path of every route, also of routers within routers."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes, prefix + getattr(route, "include_context").prefix)
            continue
        path = prefix + str(getattr(route, "path"))
        methods = getattr(route, "methods", None) or {"WS"}
        yield from ((method, path) for method in sorted(methods - {"HEAD"}))


def key(method: str, path: str) -> tuple[str, str]:
    return method, path.removeprefix(PREFIX)


BUILT = sorted(set(routes_of(create_app(Path("no-runs")).routes)))


def call_of(method: str, path: str, run_id: str = "mine") -> tuple[str, Any]:
    """A path and a body with which the route could be asked."""
    kept = {"{run_id}": run_id, "{command_id}": "c1", "{name:path}": "loss", "{path:path}": "nowhere"}
    for name, value in kept.items():
        path = path.replace(name, value)
    if path.endswith("/commands") and method == "POST":
        return path, {"command": LR}
    if path.endswith("/records"):
        return path, {"record": {"kind": "found", **RECORD_BODIES["found"]}}
    if "/approvals/" in path:
        return path, {"verdict": "reject", "digest": "0" * 64}
    if path.endswith("/api/command/"):
        return path, {"command": "do_evaluate", "args": "", "time": 0, "uuid": "u", "status": "requested"}
    return path, None


def test_every_route_has_a_declared_right() -> None:
    assert len(BUILT) > 30
    assert [route for route in BUILT if key(*route) not in all_routes()] == []


JUDGED = [r for r in BUILT if not r[1].startswith("/links/") and r != ("POST", f"{PREFIX}/session")]
"""Routes that go by who asks. A signed link goes by itself, whoever holds it: `test_links.py`; and so does what one
signs in with: `test_sign_in.py`."""


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("route", JUDGED, ids=" ".join)
def test_a_role_gets_what_the_table_says(house: House, route: tuple[str, str], role: Principal) -> None:
    path, body = call_of(*route)
    tokens = house.own if path.endswith("/records") else house.tokens  # an agent's are taken from the run's own
    status, text = house.ask(tokens[role], route[0], path, body)
    right = all_routes()[key(*route)]
    if right in ROLES[role]:
        assert status not in (401, 403, 500), text
        return
    assert status == 403, text
    assert f"the {role}" in text
    assert f"agenttune token create --role {'operator' if right is Right.DECIDE else ''}" in text


@pytest.mark.parametrize("route", JUDGED, ids=" ".join)
def test_without_a_token_a_local_program_is_an_agent_and_never_an_operator(
    house: House, route: tuple[str, str]
) -> None:
    path, body = call_of(*route)
    status, text = house.ask(None, route[0], path, body)
    refused = all_routes()[key(*route)] not in ROLES["agent"] or path.endswith("/records")
    assert (status == 403) is refused, text


@pytest.mark.parametrize("route", JUDGED, ids=" ".join)
@pytest.mark.parametrize("token", ["att_000000000000_x", "x" * 5000])
def test_a_wrong_token_is_less_than_none(house: House, route: tuple[str, str], token: str) -> None:
    path, body = call_of(*route)
    status, _ = house.ask(token, route[0], path, body)
    assert (status == 401) is (all_routes()[key(*route)] is not Right.OPEN)


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("route", [r for r in BUILT if "{run_id}" in r[1]], ids=" ".join)
def test_another_run_is_not_there(house: House, route: tuple[str, str], role: Principal) -> None:
    path, body = call_of(*route, run_id="theirs")
    status, text = house.ask(house.scoped[role], route[0], path, body)
    expected = 404 if all_routes()[key(*route)] in ROLES[role] else 403
    assert status == expected, text
    made_up, told = house.ask(house.scoped[role], route[0], path.replace("theirs", "thoirs"), body)
    assert (made_up, told.replace("thoirs", "theirs")) == (status, text)  # whether there is one cannot be told


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("route", [r for r in BUILT if r[1].startswith(("/api/get", "/ws/"))], ids=" ".join)
def test_nor_is_it_by_the_seeds_paths(house: House, route: tuple[str, str], role: Principal) -> None:
    method, path = route
    assert house.ask(house.scoped[role], method, f"{path}?run=theirs")[0] == 404
    status, text = house.ask(house.scoped[role], method, path)  # the newest of its own
    assert status in (200, 101)
    assert "theirs" not in text


def test_a_list_of_runs_has_its_own_only(house: House) -> None:
    with house.client(house.scoped["viewer"]) as client:
        assert [run["run_id"] for run in client.get(f"{PREFIX}/runs").json()["runs"]] == ["mine"]
        assert client.get(f"{PREFIX}/runs/latest").json()["run_id"] == "mine"
        missing = client.get(f"{PREFIX}/runs/mi-none")  # within its pattern: the error must not list the others
    assert missing.status_code == 404
    assert "theirs" not in missing.text


def test_a_route_that_nobody_declared_is_closed_to_everyone(tmp_path: Path) -> None:
    app: FastAPI = create_app(tmp_path, token="owner")
    app.router.routes.insert(0, app.router.routes.pop())
    app.add_api_route("/api/v1/brand-new", lambda: {"open": True}, methods=["GET"])
    with TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": "Bearer owner"}) as client:
        answer = client.get("/api/v1/brand-new")
    assert answer.status_code == 403
    assert "no right is declared" in answer.text


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("kind", RECORDS)
def test_each_kind_of_record_has_its_writers(house: House, kind: str, role: Principal) -> None:
    body = {"record": {"kind": kind, **RECORD_BODIES[kind]}}
    status, text = house.ask(house.own[role], "POST", f"{PREFIX}/runs/mine/records", body)
    assert status == (201 if RECORDS[kind] in ROLES[role] else 403), text


def test_another_policy_carries_the_name_of_who_wants_it(house: House) -> None:
    body = {"record": {"kind": "policy_requested", "policy": "guardian", "author": "ann"}}
    _, text = house.ask(house.tokens["operator"], "POST", f"{PREFIX}/runs/mine/records", body)
    log = RunLog.open(house.runs_dir / "mine")
    [event] = log.events(kinds=["policy_requested"], limit=1, newest=True)
    log.close()
    assert f'"seq":{event.seq}' in text
    assert getattr(event.body, "author").startswith("ann via the operator (")


@pytest.mark.parametrize("role", [*ROLE_NAMES, None])
def test_what_holds_an_agent_is_shown_to_operators_only(house: House, role: Principal | None) -> None:
    """Bounds, budgets, probation, and the instructions in what was said to a model: on every route that reads."""
    may = role == "operator"
    token = None if role is None else house.tokens[role]
    with house.client(token) as client:
        texts = {path: client.get(call_of(method, path)[0]).text for method, path in BUILT if method == "GET"}
    with house.stream(token, f"{PREFIX}/runs/mine/events/live") as stream:
        texts["live"] = "".join(str(stream.recv(timeout=20)) for _ in range(4))
    assert '"wake"' in texts[f"{PREFIX}/runs/{{run_id}}"]
    for path, text in texts.items():
        for secret in (*LIMITS, SECRET):
            assert may or secret not in text, (path, secret)
    events = texts[f"{PREFIX}/runs/{{run_id}}/events"]
    assert "model_called" in events
    assert "model_called" in texts["live"]
    assert (SECRET in events, SECRET in texts["live"], LIMITS[0] in texts[f"{PREFIX}/runs"]) == (may, may, may)


@pytest.mark.parametrize(
    ("role", "claim", "recorded"),
    [
        ("agent", None, "agent"),
        ("agent", "agent", "agent"),
        ("agent", "operator", None),
        ("operator", None, "operator"),
        ("operator", "agent", "agent"),
        ("operator", "operator", "operator"),
        (None, None, "agent"),
        (None, "operator", None),
    ],
)
def test_nobody_asks_as_more_than_it_is(
    house: House, role: Principal | None, claim: str | None, recorded: str | None
) -> None:
    token = None if role is None else house.tokens[role]
    author = {"author": {"principal": claim, "name": "me"}} if claim else {}
    with house.client(token) as client:
        before = client.get(f"{PREFIX}/runs/mine/commands").json()["commands"]
        answer = client.post(f"{PREFIX}/runs/mine/commands", json={"command": LR, **author})
        after = client.get(f"{PREFIX}/runs/mine/commands").json()["commands"]
    if recorded is None:
        assert (answer.status_code, answer.json()["error"]["field"]) == (403, "author.principal")
        assert "--role operator" in answer.text
        assert after == before
        return
    found = answer.json()["proposal"]["author"]
    assert found["principal"] == recorded
    assert found["name"] == ("me" if claim else "rest" if role is None else f"the {role}")
    assert found["via"].startswith("" if role is None else f"the {role} (")


def test_to_measure_takes_time_from_training_and_wants_an_agent(house: House) -> None:
    path = f"{PREFIX}/runs/mine/model"
    for role in ("viewer", "trainer"):
        assert house.ask(house.tokens[role], "GET", path, norms="true")[0] == 403
        assert house.ask(house.tokens[role], "GET", path)[0] == 200
    assert house.ask(house.tokens["agent"], "GET", path, norms="true", wait_s="0")[0] != 403


def test_the_name_of_old_clients_cannot_be_borrowed(house: House) -> None:
    """What came by the old API is shown to old pages as it was sent; nobody else may write such a text."""
    body = {"command": LR, "author": {"name": "seed client"}}
    assert house.ask(house.tokens["operator"], "POST", f"{PREFIX}/runs/mine/commands", body)[0] == 422


@pytest.mark.parametrize(
    ("local_role", "reads", "proposes"), [("agent", 200, 202), ("viewer", 200, 403), ("none", 401, 401)]
)
def test_who_sends_no_token_has_the_configured_role(tmp_path: Path, local_role: Any, reads: int, proposes: int) -> None:
    make_run(tmp_path).close()
    with TestClient(create_app(tmp_path, local_role=local_role), base_url="http://localhost") as client:
        assert client.get(f"{PREFIX}/runs").status_code == reads
        assert client.post(f"{PREFIX}/runs/one/commands", json={"command": LR}).status_code == proposes
        assert client.get(f"{PREFIX}/health").json()["service"] == "agenttune"


def test_old_logs_without_the_token_load() -> None:
    old = {"command": LR, "author": {"principal": "operator", "name": "ann"}}
    assert Proposal.model_validate(old).author == Author(principal="operator", name="ann", via="")
