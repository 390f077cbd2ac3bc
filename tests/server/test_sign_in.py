"""Signing a browser in: a link works once, its cookie only for our own page, and its key is nowhere afterwards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agenttune.control.discovery import ServerAddress
from agenttune.control.page_link import page_link
from agenttune.control.tokens import SESSION_S, TokenBook, create_token, read_tokens, revoke_token
from agenttune.errors import Unauthorized
from agenttune.protocol.events import StatusChanged
from agenttune.protocol.proposals import Principal
from agenttune.server.app import create_app
from tests.server.conftest import make_run, stop
from tests.warm import serve

URL = "http://127.0.0.1:7007"
OURS = {"Origin": URL}
COOKIE = "agenttune_7007"
LR = {"command": {"kind": "update_optimizer", "lr": 5e-4}}
HTML = {"Accept": "text/html"}


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    make_run(tmp_path, "one", steps=3).close()
    make_run(tmp_path, "two", steps=3).close()
    return tmp_path


def browser_of(runs_dir: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(runs_dir, **settings), base_url=URL, follow_redirects=False)


@pytest.fixture
def browser(runs_dir: Path) -> TestClient:
    return browser_of(runs_dir)


def link_of(runs_dir: Path, run_id: str = "one", role: Principal = "operator", **settings: Any) -> str:
    return page_link(URL, runs_dir, run_id, role, **settings)[0]


def me(browser: TestClient) -> Any:
    return browser.get("/api/v1/me").json()


@pytest.mark.parametrize("local_role", ["agent", "none"])
def test_a_link_becomes_a_cookie_and_leaves_the_address(runs_dir: Path, local_role: Any) -> None:
    browser = browser_of(runs_dir, local_role=local_role)
    answer = browser.get(link_of(runs_dir) + "&range=1-5")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/one?range=1-5")
    assert (answer.headers["referrer-policy"], answer.headers["cache-control"]) == ("no-referrer", "no-store")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"{COOKIE}=att_")
    for wanted in ("httponly", "samesite=strict", "path=/", f"max-age={int(SESSION_S)}"):
        assert wanted in cookie
    told = me(browser)
    assert (told["role"], told["via"], told["runs"]) == ("operator", "cookie", [])
    assert browser.get("/api/v1/runs/two").status_code == 200
    assert browser.get("/local/one", headers=HTML).status_code == 200
    done = browser.post("/api/v1/runs/one/commands", json=LR, headers=OURS)
    assert done.json()["proposal"]["author"]["principal"] == "operator"


def test_a_link_works_once_and_says_how_to_get_another(runs_dir: Path, browser: TestClient) -> None:
    link = link_of(runs_dir)
    assert browser.get(link).status_code == 303
    assert browser.get(link).headers["location"] == "/runs/one", "this browser is signed in"
    other = browser_of(runs_dir)
    shown = other.get(link, headers=HTML)
    assert (shown.status_code, "set-cookie" in shown.headers) == (401, False)
    assert "used already" in shown.text
    assert "agenttune open one" in shown.text
    assert "key=" not in shown.text
    assert 'href="/runs/one"' in shown.text
    assert "agenttune open one" in other.get(link).json()["error"]["message"]
    assert me(other)["role"] == "agent"


def test_of_two_browsers_at_once_one_is_signed_in(runs_dir: Path) -> None:
    link, start, answers = link_of(runs_dir), threading.Barrier(4), list[int]()

    def follow() -> None:
        browser = browser_of(runs_dir)
        start.wait()
        answers.append(browser.get(link).status_code)

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [303, 401, 401, 401]


def test_a_browser_that_looks_ahead_does_not_use_it_up(runs_dir: Path, browser: TestClient) -> None:
    link = link_of(runs_dir)
    ahead = browser.get(link, headers={"Sec-Purpose": "prefetch;prerender"})
    assert (ahead.status_code, "set-cookie" in ahead.headers) == (503, False)
    assert browser.head(link).status_code == 200
    assert browser.get(link).status_code == 303


def test_a_frame_that_would_keep_no_cookie_does_not_use_it_up(runs_dir: Path, browser: TestClient) -> None:
    """A notebook of the same machine under its other name, which to a browser is another site."""
    link = link_of(runs_dir)
    framed = {"Sec-Fetch-Dest": "object", "Sec-Fetch-Site": "cross-site", "Referer": "http://localhost:8888/"}
    refused = browser.get(link, headers=framed)
    assert refused.status_code == 403
    assert refused.json()["error"]["allowed"] == ["localhost"]
    assert "set-cookie" not in refused.headers
    followed = browser.get(link, headers={**framed, "Sec-Fetch-Dest": "document"})
    assert followed.status_code == 303, "a link that is followed from there is another matter"


@pytest.mark.parametrize("key", ["", "att_000000000000_x", "x" * 3000, "att_%00_x", "a&key=b"])
def test_what_is_no_key_signs_nobody_in(browser: TestClient, key: str) -> None:
    answer = browser.get(f"/runs/one?key={key}", headers=HTML)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_a_link_ends_and_so_does_who_followed_it(runs_dir: Path) -> None:
    now_s = time.time()
    link, token = page_link(URL, runs_dir, lasts_s=60.0)
    key = link.partition("key=")[2]
    book = TokenBook(runs_dir, clock=lambda: now_s)
    assert book.find(key) is None, "it opens nothing by itself"
    now_s += 59.0
    text, _ = book.exchange(key)
    found = book.find(text)
    assert found is not None
    assert (found.id, found.role) == (token.id, "operator")
    now_s += SESSION_S
    assert book.find(text) is None
    late = link_of(runs_dir, lasts_s=0.0)
    assert "does not count" in browser_of(runs_dir).get(late).json()["error"]["message"]


def test_a_token_is_no_key_and_a_key_no_token(runs_dir: Path, browser: TestClient) -> None:
    text, _ = create_token(runs_dir, "operator", "anna")
    assert browser.get(f"/?key={text}").status_code == 401
    key = link_of(runs_dir).partition("key=")[2]
    assert browser.get("/api/v1/runs", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    browser.cookies.set(COOKIE, key)
    assert me(browser)["via"] == "local"


def test_revoking_a_link_signs_its_browser_out(runs_dir: Path, browser: TestClient) -> None:
    link, token = page_link(URL, runs_dir)
    browser.get(link)
    assert me(browser)["via"] == "cookie"
    revoke_token(runs_dir, token.id)
    told = me(browser)
    assert (told["via"], told["role"]) == ("local", "agent")
    assert "agenttune open" in told["notice"]
    assert browser.get("/api/v1/runs").status_code == 200, "as the local role allows"


def test_a_runs_link_ends_with_the_run(tmp_path: Path) -> None:
    log = make_run(tmp_path, "one", steps=1)
    browser = browser_of(tmp_path)
    browser.get(link_of(tmp_path, ends_with_run="one"))
    waiting = link_of(tmp_path, ends_with_run="one")
    assert me(browser)["via"] == "cookie"
    log.append(StatusChanged(status="finished"))
    log.close()
    over = TokenBook(tmp_path, is_over=lambda run_id: True)
    assert [over.counts(token.id) for token in read_tokens(tmp_path)] == [False, False]
    with pytest.raises(Unauthorized, match="does not count"):
        over.exchange(waiting.partition("key=")[2])


@pytest.mark.parametrize("role", ["viewer", "agent", "operator"])
def test_a_browser_may_what_its_role_may(runs_dir: Path, role: Principal) -> None:
    browser = browser_of(runs_dir, local_role="none")
    browser.get(link_of(runs_dir, role=role))
    told = me(browser)
    assert (told["role"], told["rights"]["decide"]) == (role, role == "operator")
    status = browser.post("/api/v1/runs/one/commands", json=LR, headers=OURS).status_code
    assert (status == 202) is told["commands"]["update_optimizer"]["allowed"] is (role != "viewer")


def test_a_person_with_a_token_signs_in_and_out_without_an_address(runs_dir: Path) -> None:
    text, _ = create_token(runs_dir, "viewer", "bob", ["one"])
    browser = browser_of(runs_dir, local_role="none")
    assert me(browser)["role"] is None
    assert browser.post("/api/v1/session", json={"token": "att_wrong"}).status_code == 401
    signed_in = browser.post("/api/v1/session", json={"token": text}, headers=OURS)
    assert (signed_in.json()["role"], signed_in.json()["name"], signed_in.json()["runs"]) == ("viewer", "bob", ["one"])
    assert "httponly" in signed_in.headers["set-cookie"].lower()
    assert [run["run_id"] for run in browser.get("/api/v1/runs").json()["runs"]] == ["one"]
    assert browser.delete("/api/v1/session", headers=OURS).json()["role"] is None
    assert me(browser)["role"] is None
    key = link_of(runs_dir).partition("key=")[2]
    assert browser.post("/api/v1/session", json={"token": key}, headers=OURS).json()["role"] == "operator"
    assert browser.post("/api/v1/session", json={"token": key}).status_code in (401, 403)


# -- pages of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        (OURS, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8888"}, 403),
        ({"Origin": "http://localhost:7007"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_by_cookie_only_our_own_page_changes_anything(
    runs_dir: Path, browser: TestClient, headers: dict[str, str], status: int
) -> None:
    browser.get(link_of(runs_dir))
    assert browser.post("/api/v1/runs/one/commands", json=LR, headers=headers).status_code == status
    command = {"command": "do_evaluate", "args": "", "time": 0, "uuid": "u", "status": "requested"}
    assert (browser.post("/api/command/", json=command, headers=headers).status_code == 403) is (status == 403)


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_what_another_page_has_the_browser_fetch_is_not_the_operators(
    runs_dir: Path, browser: TestClient, site: str
) -> None:
    """Pages of other ports are of the same site: the browser sends the cookie with their images and forms."""
    browser.get(link_of(runs_dir))
    headers = {"Sec-Fetch-Site": site}
    assert browser.get("/api/v1/me", headers=headers).json()["role"] == "agent"
    done = browser.post("/api/v1/runs/one/commands", json=LR, headers={**headers, **OURS})
    assert done.json()["proposal"]["author"]["principal"] == "agent"


def test_a_page_that_is_let_in_is_not_signed_in(runs_dir: Path) -> None:
    other = "http://localhost:5173"
    browser = browser_of(runs_dir, allowed_origins=[other])
    browser.get(link_of(runs_dir))
    assert browser.get("/api/v1/me", headers={"Origin": other}).json()["role"] == "agent"
    assert "access-control-allow-credentials" not in browser.get("/api/v1/me", headers={"Origin": other}).headers


def test_another_servers_cookie_is_as_good_as_none(runs_dir: Path, browser: TestClient) -> None:
    """Cookies know no ports; a server that listened there before had other tokens."""
    browser.cookies.set(COOKIE, "att_000000000000_other")
    browser.cookies.set("agenttune_8080", link_of(runs_dir).partition("key=")[2])
    assert browser.get("/api/v1/runs").status_code == 200
    assert me(browser)["via"] == "local"


# -- a real server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(runs_dir: Path) -> Iterator[ServerAddress]:
    address = serve(runs_dir, local_role="none")
    yield address
    stop(address)


def test_a_stream_opens_by_cookie_for_our_own_page(runs_dir: Path, server: ServerAddress) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as browser:
        browser.get(page_link(server.url, runs_dir, "one")[0])
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    stream = server.url.replace("http", "ws") + "/api/v1/runs/one/events/live"
    for origin, status in ((None, 403), ("http://evil.example", 403), ("http://127.0.0.1:1", 403)):
        headers = {"Cookie": cookie} | ({} if origin is None else {"Origin": origin})
        with pytest.raises(InvalidStatus) as refused:
            connect(stream, additional_headers=headers)
        assert refused.value.response.status_code == status
    with connect(stream, additional_headers={"Cookie": cookie, "Origin": server.url}) as socket:
        assert '"type":"event"' in str(socket.recv(10)).replace(" ", "")
    with pytest.raises(InvalidStatus):
        connect(stream, additional_headers={"Origin": server.url})


def test_a_stream_ends_when_its_browser_is_signed_out(tmp_path: Path) -> None:
    log = make_run(tmp_path, "one", steps=1)
    address = serve(tmp_path, local_role="none")
    try:
        link, token = page_link(address.url, tmp_path)
        cookie = httpx.get(link, trust_env=False).headers["set-cookie"].partition(";")[0]
        stream = address.url.replace("http", "ws") + "/api/v1/runs/one/events/live"
        with connect(stream, additional_headers={"Cookie": cookie, "Origin": address.url}) as socket:
            assert "run_started" in str(socket.recv(10))
            revoke_token(tmp_path, token.id)
            log.append(StatusChanged(status="finished"))
            with pytest.raises(ConnectionClosed, match="token has ended"):
                while True:
                    socket.recv(10)
    finally:
        stop(address)
        log.close()


def test_neither_key_nor_cookie_is_in_any_file_or_log(runs_dir: Path, server: ServerAddress) -> None:
    link = page_link(server.url, runs_dir, "one")[0]
    key = link.partition("key=")[2]
    with httpx.Client(trust_env=False) as browser:
        cookie = browser.get(link).headers["set-cookie"].partition("=")[2].partition(";")[0]
        for path in ("/runs/one", "/nothing", "/api/v1/nothing", f"/runs/one?key={key}", f"/api/v1/runs?key={key}"):
            answer = browser.get(f"{server.url}{path}", headers={**HTML, "Cookie": f"agenttune_1={cookie}"})
            assert cookie not in answer.text
            assert key not in answer.text or "unknown query parameter" in answer.text
    stop(server)
    secret = [text.rpartition("_")[2].encode() for text in (key, cookie)]
    for file in (f for f in runs_dir.rglob("*") if f.is_file()):
        assert not [part for part in secret if part in file.read_bytes()], file


def test_a_fault_while_a_link_is_followed_is_logged_without_it(
    runs_dir: Path, browser: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    link = link_of(runs_dir)
    (runs_dir / "tokens.json").chmod(0o644)
    with caplog.at_level(logging.DEBUG):
        answer = browser.get(link, headers=HTML)
    assert answer.status_code in (401, 503)
    assert "set-cookie" not in answer.headers
    said = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert link.partition("key=")[2] not in "".join(said) + answer.text
