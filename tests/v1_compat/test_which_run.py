"""Several runs in one folder: a client of the seed stays with the run that it was shown, and commands no other."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from agenttune.protocol.events import StatusChanged
from agenttune.server.app import create_app
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run, stop
from tests.v1_compat.client import V1Client
from tests.warm import serve

ORIGIN = {"Origin": "http://127.0.0.1:7007"}
NewClient = Callable[..., TestClient]


class Runs:
    """Runs of one folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: dict[str, RunLog] = {}

    def begin(self, name: str) -> None:
        self.logs[name] = make_run(self.folder, name, steps=0, created_at_s=1e9 + len(self.logs))

    def end(self, name: str) -> None:
        self.logs[name].append(StatusChanged(status="finished"), step=1)

    def commanded(self) -> list[str]:
        """Runs that were sent a command."""
        return [name for name, log in self.logs.items() if log.commands()]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    runs = Runs(tmp_path)
    runs.begin("a")
    return runs


@pytest.fixture
def new_client(runs: Runs) -> NewClient:
    app = create_app(runs.folder)

    def new(**headers: str) -> TestClient:
        return TestClient(app, base_url="http://127.0.0.1:7007", headers=headers)

    return new


def post(client: TestClient, query: str = "", uid: str | None = None) -> dict[str, Any]:
    body = {"command": "do_evaluate", "args": "", "time": 0, "uuid": uid or str(uuid.uuid4()), "status": "requested"}
    answer: dict[str, Any] = client.post(f"/api/command/{query}", json=body).json()
    return answer


def shown(client: TestClient, what: str = "info") -> str:
    name: str = client.get(f"/api/get_{what}/").json()["run_name"]
    return name


def plain(client: TestClient) -> TestClient:
    """As a program that keeps no cookies."""
    client.cookies.clear()
    return client


def test_while_several_live_a_command_names_its_run(runs: Runs, new_client: NewClient) -> None:
    session = new_client()
    assert shown(session) == "a"
    runs.begin("b")
    for client in (session, new_client(), new_client(**ORIGIN)):
        answer = post(client)
        assert answer["status"] == "error"
        assert "b, a" in answer["message"]
        assert "?run=" in answer["message"]
        assert post(client, "?run=latest")["status"] == "error"
    assert runs.commanded() == []
    assert post(session, "?run=a") == {"status": "success"}
    assert runs.commanded() == ["a"]


@pytest.mark.parametrize("headers", [{}, ORIGIN])
def test_a_client_goes_on_reading_the_run_that_it_was_shown(
    runs: Runs, new_client: NewClient, headers: dict[str, str]
) -> None:
    client = new_client(**headers)
    assert shown(client) == "a"
    runs.begin("b")
    if headers:
        plain(client)  # a page of another origin sends no cookies
    assert shown(client) == "a"
    assert client.get("/api/get_logs/").json() == client.get("/api/get_logs/?run=a").json()
    assert shown(new_client()) == "b"


def test_a_session_of_a_run_that_has_ended_commands_no_other_until_it_is_shown_it(
    runs: Runs, new_client: NewClient
) -> None:
    session = new_client()
    shown(session)
    runs.begin("b")
    runs.end("a")
    shown(new_client())  # somebody else looks at b
    answer = post(session)
    assert (answer["status"], runs.commanded()) == ("error", [])
    assert "run a, which you were shown, is finished" in answer["message"]
    assert "?run=b" in answer["message"]
    assert shown(session) == "b"
    assert post(session) == {"status": "success"}
    assert runs.commanded() == ["b"]


@pytest.mark.parametrize("headers", [{}, ORIGIN])
def test_nor_does_one_without_cookies(runs: Runs, new_client: NewClient, headers: dict[str, str]) -> None:
    client = new_client(**headers)
    shown(client)
    runs.begin("b")
    runs.end("a")
    assert post(plain(client))["status"] == "error"
    assert runs.commanded() == []


def test_nor_the_tuner_that_sends_one_uuid_again_and_again(runs: Runs, new_client: NewClient) -> None:
    """It posts without a session; that another program has been shown the next run does not make it its own."""
    tuner, uid = new_client(), str(uuid.uuid4())
    assert post(tuner, uid=uid) == {"status": "success"}
    runs.begin("b")
    runs.end("a")
    shown(new_client())
    assert post(plain(tuner), uid=uid)["status"] == "error"
    assert runs.commanded() == ["a"]
    assert post(plain(new_client())) == {"status": "success"}
    assert runs.commanded() == ["a", "b"]


def test_a_page_does_not_take_over_what_a_program_was_shown(runs: Runs, new_client: NewClient) -> None:
    page = new_client(**ORIGIN)
    shown(page)
    runs.begin("b")
    runs.end("a")
    program = new_client()
    assert shown(program) == "b"
    assert post(plain(page))["status"] == "error"
    assert post(plain(program)) == {"status": "success"}


@pytest.fixture
def url(runs: Runs) -> Iterator[str]:
    address = serve(runs.folder)
    yield address.url
    stop(address)


def test_a_stream_shows_a_run_too(runs: Runs, url: str) -> None:
    with V1Client(url):
        runs.end("a")
    runs.begin("b")
    with V1Client(url) as tuner:
        assert tuner.post("do_evaluate")[1] == {"status": "success"}
        runs.end("b")
        assert tuner.rest()[0]["status"] == "pending"
        runs.begin("c")
        assert tuner.post("do_evaluate")[1]["status"] == "error"
    assert runs.commanded() == ["b"]


def test_a_cookie_of_no_run_and_a_run_named_twice(runs: Runs, new_client: NewClient) -> None:
    client = new_client()
    shown(client)
    for cookie in client.cookies.jar:
        cookie.value = "../../nope"
    assert shown(client) == "a"
    assert client.get("/api/get_info/?run=a&run=b").status_code == 422
    assert "given 2 times" in post(client, "?run=a&run=b")["message"]
