"""Tokens at a real server: they end at once, also for who is connected; links become cookies; the owner needs none."""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.control.discovery import SERVER_FILE, ServerAddress, read_note
from agenttune.control.http import HttpControl
from agenttune.control.owner_token import LASTS_S, OwnerToken, user_name
from agenttune.control.tokens import TOKENS_FILE, TokenBook, create_token, read_tokens, revoke_token
from agenttune.errors import Forbidden, Unauthorized
from agenttune.protocol.events import NoteAdded
from agenttune.protocol.proposals import Author, Principal, Proposal
from agenttune.server.auth.guard import Guard
from agenttune.server.auth.identity import Access
from tests.server.conftest import StartServer, make_run

OPERATOR = Author(principal="operator", name="ann")


@pytest.fixture(autouse=True)
def no_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTTUNE_TOKEN", raising=False)
    monkeypatch.delenv("AGENTTUNE_RUNS_DIR", raising=False)


@pytest.fixture(scope="module")
def house(shared_runs: Path, shared_server: ServerAddress) -> tuple[str, Path]:
    make_run(shared_runs).close()
    return shared_server.url, shared_runs


@pytest.fixture
def served(house: tuple[str, Path]) -> tuple[str, Path]:
    """A server and its folder, without tokens."""
    (house[1] / TOKENS_FILE).unlink(missing_ok=True)
    return house


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def live(url: str) -> str:
    return url.replace("http", "ws") + "/api/v1/runs/one/events/live"


def ask_for(control: HttpControl, author: Author) -> Author:
    return control.submit(
        "one", Proposal.model_validate({"command": {"kind": "do_evaluate"}, "author": author})
    ).proposal.author


def test_a_revoked_token_stops_working_at_once(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    text, token = create_token(runs_dir, "viewer", "ann")  # after the server's start
    assert httpx.get(f"{url}/api/v1/runs", headers=bearer(text)).status_code == 200
    revoke_token(runs_dir, token.id)
    answer = httpx.get(f"{url}/api/v1/runs", headers=bearer(text))
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "Unauthorized")
    with pytest.raises(Unauthorized, match="agenttune token create"):
        HttpControl(url, text).runs()


def test_who_is_connected_hears_no_more(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    text, token = create_token(runs_dir, "viewer", "ann")
    log = LocalControl(runs_dir).log("one")
    with connect(live(url), additional_headers=bearer(text), close_timeout=0.1) as stream:
        for _ in range(log.last_seq()):
            stream.recv(timeout=20)
        revoke_token(runs_dir, token.id)
        log.append(NoteAdded(text="not for ann", author="me"))
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/me", "/assets/OverviewPage-1.css"])
def test_a_token_that_ends_in_the_middle_of_an_answer_gets_a_whole_refusal(tmp_path: Path, path: str) -> None:
    """But for the parts of the page, which tell nothing of a run: a page that loads them then would stay half a one."""
    text, token = create_token(tmp_path, "viewer", "ann")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        revoke_token(tmp_path, token.id)
        await send({"type": "http.response.body", "body": b"secret"})

    access = Access(TokenBook(tmp_path), None, None, "AGENTTUNE_TOKEN")
    answer = TestClient(Guard(app, access, ["testserver"])).get(path, headers=bearer(text))
    if path.startswith("/assets/"):
        assert (answer.status_code, answer.text) == (200, "secret")
    else:
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "Unauthorized")


def test_a_long_wait_that_outlives_its_token_is_told_nothing(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    text, token = create_token(runs_dir, "viewer", "ann")
    log = LocalControl(runs_dir).log("one")
    answers: list[httpx.Response] = []
    path = f"{url}/api/v1/runs/one/events?since={log.last_seq()}&wait_s=30"
    waiting = threading.Thread(target=lambda: answers.append(httpx.get(path, headers=bearer(text), timeout=40)))
    waiting.start()
    time.sleep(0.5)  # so that it waits; were it late, the answer would be the same
    revoke_token(runs_dir, token.id)
    log.append(NoteAdded(text="not for ann", author="me"))
    waiting.join(30)
    assert answers[0].status_code == 401
    assert "not for ann" not in answers[0].text


def test_a_damaged_file_closes_and_says_so_to_nobody_else(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    text, _ = create_token(runs_dir, "viewer", "ann")
    (runs_dir / TOKENS_FILE).chmod(0o644)
    answer = httpx.get(f"{url}/api/v1/runs", headers=bearer(text))
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "TokensUnusable")
    assert "600" in answer.json()["error"]["message"]
    assert httpx.get(f"{url}/api/v1/runs").status_code == 200  # who needs no token goes on


def test_the_record_names_the_token(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    text, token = create_token(runs_dir, "operator", "ann's laptop")
    author = ask_for(HttpControl(url, text), OPERATOR)
    assert (author.name, author.via) == ("ann", f"ann's laptop ({token.id})")
    assert LocalControl(runs_dir).commands("one")[-1].proposal.author == author


def test_the_owner_acts_as_operator_from_any_shell(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    with pytest.raises(Forbidden, match="--role operator"):
        ask_for(HttpControl(url), OPERATOR)
    assert ask_for(HttpControl(url, OwnerToken(url)), OPERATOR).principal == "operator"
    assert ask_for(HttpControl(url.replace("127.0.0.1", "localhost"), OwnerToken(url, runs_dir)), OPERATOR).via
    assert all(token.expires_at_s is not None for token in read_tokens(runs_dir))


def test_the_owners_token_is_made_anew_in_time_and_swept(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    now = [time.time()]
    source = OwnerToken(url, clock=lambda: now[0])
    first = source()
    now[0] += 30
    assert source() == first
    now[0] += LASTS_S
    assert source() != first
    assert len(read_tokens(runs_dir)) == 1


def test_the_environments_token_comes_first(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, runs_dir = served
    monkeypatch.setenv("AGENTTUNE_TOKEN", "mine")
    assert OwnerToken(url)() == "mine"
    assert not (runs_dir / TOKENS_FILE).exists()


def test_a_user_without_a_name_has_one_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that was started under a bare number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_242_424)
    assert user_name() == "operator"


def _impostor(runs_dir: Path, instance: str) -> HTTPServer:
    """Another program on another port that says it is the server of this folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"service": "agenttune", "version": "1", "instance": instance, "runs_dir": str(runs_dir)}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_an_impostor_that_names_our_folder_gets_no_token(served: tuple[str, Path]) -> None:
    """It would use the token at the real server within its five minutes."""
    note = read_note(served[1])
    assert note is not None
    server = _impostor(served[1], note.instance)
    try:
        assert OwnerToken(f"http://127.0.0.1:{server.server_port}")() is None
    finally:
        server.shutdown()
    assert not (served[1] / TOKENS_FILE).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_who_does_not_own_the_server_gets_no_token(served: tuple[str, Path]) -> None:
    os.chown(served[1] / SERVER_FILE, 4242, 4242)
    try:
        assert OwnerToken(served[0], served[1])() is None
    finally:
        os.chown(served[1] / SERVER_FILE, os.geteuid(), os.getegid())


def test_the_world_may_come_in_if_there_is_an_operators_token(tmp_path: Path, start_server: StartServer) -> None:
    make_run(tmp_path).close()
    text, _ = create_token(tmp_path, "operator", "ann")
    url = start_server(tmp_path, host="0.0.0.0").url
    assert httpx.get(f"{url}/api/v1/runs").status_code == 401  # loopback or not: here nobody is anonymous
    assert HttpControl(url, text).info("one").run_id == "one"
    assert httpx.get(f"{url}/api/v1/health").json()["runs_dir"] is None


def test_only_an_operator_decides(served: tuple[str, Path]) -> None:
    url, runs_dir = served
    decision = ApprovalDecision(verdict="approve", digest="0" * 64, author=OPERATOR)
    roles: list[Principal] = ["viewer", "agent"]
    for role in roles:
        with pytest.raises(Forbidden, match=f"for the role {role}"):
            HttpControl(url, create_token(runs_dir, role, "x")[0]).decide("one", "c1", decision)


# -- the link of `agenttune run` -----------------------------------------------------------------------------------


def test_a_links_key_becomes_a_cookie_for_its_page_only(served: tuple[str, Path]) -> None:
    key, token = create_token(served[1], "operator", "ann", ["one"])
    with httpx.Client(base_url=served[0]) as client:  # keeps cookies
        answer = client.get(f"/local/one?key={key}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/local/one")
        assert (answer.headers["referrer-policy"], answer.headers["cache-control"]) == ("no-referrer", "no-store")
        cookie = answer.headers["set-cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/local/one"))
        assert key not in answer.text + answer.headers["location"]
        inside = client.get("/local/one")
        assert inside.status_code not in (401, 403)
        # The cookie is not sent to the API: there a browser is whoever any local program is.
        assert client.post("/api/v1/runs/one/approvals/c1", json={"verdict": "reject", "digest": ""}).status_code == 403
        unknown_origin = client.post("/local/one", json={})
        assert (unknown_origin.status_code, unknown_origin.json()["error"]["field"]) == (403, "Origin")
        foreign = client.post("/local/one", json={}, headers={"Origin": "http://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]["field"]) == (403, "Origin")
        own = client.post("/local/one", json={}, headers={"Origin": served[0]})
        assert own.status_code not in (401, 403)
        revoke_token(served[1], token.id)
        assert client.get("/local/one").status_code == 401


@pytest.mark.parametrize("query", ["key=", "key=att_000000000000_x", "key={key}&key={key}", "key={other}"])
def test_a_forged_or_foreign_key_opens_nothing(served: tuple[str, Path], query: str) -> None:
    key, other = (create_token(served[1], "operator", "ann", [run])[0] for run in ("one", "two"))
    answer = httpx.get(f"{served[0]}/local/one?{query.format(key=key, other=other)}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "Unauthorized")
    assert "set-cookie" not in answer.headers


def test_a_cookie_opens_no_stream_without_the_pages_origin(served: tuple[str, Path]) -> None:
    key, _ = create_token(served[1], "operator", "ann", ["one"])
    address = served[0].replace("http", "ws")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{address}/local/one/live", additional_headers={"Cookie": f"agenttune_local={key}"})
    assert refused.value.response.status_code == 403


def test_an_agent_that_writes_into_the_log_does_not_choose_its_next_policy(served: tuple[str, Path]) -> None:
    from agenttune.cli.attach import _last_policy
    from agenttune.protocol.events import PolicyAttached, PolicyRequested

    url, runs_dir = served
    policy = runs_dir / "mine.yaml"
    policy.write_text("type: rules\nrules: []\n")
    anybody = HttpControl(url, create_token(runs_dir, "agent", "agent", ["one"])[0])
    anybody.record("one", PolicyAttached(policy="evil", details={"path": "/tmp/evil.yaml"}))
    assert _last_policy(anybody, "one", "guardian", runs_dir) == "guardian"
    with pytest.raises(Forbidden):
        anybody.record("one", PolicyRequested(policy="/tmp/evil.yaml"))
    HttpControl(url, OwnerToken(url)).record("one", PolicyRequested(policy=str(policy)))
    anybody.record("one", PolicyAttached(policy="mine", details={"path": str(policy)}))
    assert _last_policy(anybody, "one", "guardian", runs_dir) == str(policy)
