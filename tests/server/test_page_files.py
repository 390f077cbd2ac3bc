"""The dashboard's files: the page at each of its addresses, nothing outside of its folder, and no foreign script."""

from __future__ import annotations

import gzip
import itertools
import socket
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from agenttune.server.app import create_app
from agenttune.server.auth.rights import Right
from tests.server.conftest import make_run, stop
from tests.warm import serve

DOCUMENT = "<!doctype html><title>agenttune</title><script type=module src=/assets/index-abc.js></script>"
SCRIPT = "console.log('hello')\n" * 200
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ADDRESSES = ("/", "/compare?runs=a,b", "/runs", "/runs/one", "/runs/one/metrics?smooth=3", "/runs/none/such")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """As vite leaves it, with one file compressed."""
    folder = tmp_path / "built"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(DOCUMENT)
    (folder / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    script = folder / "assets" / "index-abc.js"
    script.write_text(SCRIPT)
    script.with_suffix(".js.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (folder / "assets" / "style-abc.css").write_text("body{}")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


def browser_of(built: Path, token: str | None = None) -> TestClient:
    return TestClient(create_app(built.parent / "runs", token=token, built=built), base_url="http://127.0.0.1:7007")


@pytest.fixture
def browser(built: Path) -> TestClient:
    return browser_of(built)


@pytest.mark.parametrize("token", [None, "owner"])
def test_every_address_of_the_page_is_the_page(built: Path, token: str | None) -> None:
    """Also for who may see nothing: the page asks them to sign in."""
    browser = browser_of(built, token)
    for address in ADDRESSES:
        answer = browser.get(address, headers=HTML)
        assert (address, answer.status_code, answer.text) == (address, 200, DOCUMENT)
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["cache-control"] == "no-cache"
        again = browser.get(address, headers={**HTML, "If-None-Match": answer.headers["etag"]})
        assert (address, again.status_code, again.text) == (address, 304, "")
        policy = "content-security-policy"
        assert again.headers[policy] == answer.headers[policy], "a browser keeps the page with the newest headers"
        head = browser.head(address, headers=HTML)
        assert (address, head.status_code, head.text) == (address, 200, "")


def test_what_is_no_address_of_the_page_is_an_error_for_programs_and_a_page_for_people(browser: TestClient) -> None:
    for path in ("/api/v1/nothing", "/api/nothing"):
        answer = browser.get(path, headers=HTML)
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NotFound")
    assert browser.get("/nothing").json()["error"]["type"] == "NotFound"
    shown = browser.get("/nothing", headers=HTML)
    assert (shown.status_code, "There is no such page" in shown.text) == (404, True)
    assert browser.post("/runs/one", json={}).status_code == 405


def test_files_are_kept_for_ever_and_sent_as_small_as_they_are(browser: TestClient) -> None:
    small = browser.get("/assets/index-abc.js", headers={"Accept-Encoding": "gzip, br"})
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < 300
    assert small.text == SCRIPT
    assert "javascript" in small.headers["content-type"]
    assert "immutable" in small.headers["cache-control"]
    assert small.headers["vary"] == "Accept-Encoding"
    plain = browser.get("/assets/index-abc.js", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert ("content-encoding" in plain.headers, plain.text) == (False, SCRIPT)
    assert plain.headers["etag"] != small.headers["etag"]
    known = {"Accept-Encoding": "gzip", "If-None-Match": small.headers["etag"]}
    unchanged = browser.get("/assets/index-abc.js", headers=known)
    assert (unchanged.status_code, "content-security-policy" in unchanged.headers) == (304, False)
    assert browser.head("/assets/style-abc.css").headers["content-type"].startswith("text/css")
    assert browser.get("/favicon.svg").headers["content-type"].startswith("image/svg")


TRAVERSALS = (
    "/assets/../../secret.txt",
    "/assets/%2e%2e/%2e%2e/secret.txt",
    "/assets/..%2f..%2fsecret.txt",
    "/assets/%2e%2e%2f%2e%2e%2fsecret.txt",
    "/assets/..%5c..%5csecret.txt",
    "/assets/%252e%252e/secret.txt",
    "/assets//etc/passwd",
    "/assets/%2fetc/passwd",
    "/assets/....//....//secret.txt",
    "/assets/../index.html",
    "/assets/%00",
    "/assets/" + "a" * 5000,
    "/assets/",
    "/assets/none.js",
    "/../secret.txt",
    "/secret.txt",
)


def test_nothing_outside_of_its_folder_is_served(built: Path, tmp_path: Path) -> None:
    """As raw bytes to a real server, since clients tidy paths up."""
    make_run(tmp_path / "runs", "one", steps=1).close()
    address = serve(tmp_path / "runs")
    try:
        port = int(address.url.rpartition(":")[2])
        for path in TRAVERSALS:
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.split()[1] in (b"404", b"400"), (path, answer[:200])
            assert b"root:" not in answer
    finally:
        stop(address)
    browser = browser_of(built)
    for path in TRAVERSALS:
        refused = browser.get(path)
        assert (refused.status_code, refused.text == "secret") == (404, False), path


def test_a_link_out_of_the_folder_is_not_followed(built: Path) -> None:
    (built / "assets" / "leak.js").symlink_to(built.parent / "secret.txt")
    assert browser_of(built).get("/assets/leak.js").status_code == 404


def test_every_answer_keeps_foreign_scripts_out(browser: TestClient) -> None:
    addresses = (*ADDRESSES, "/assets/index-abc.js", "/nothing", "/local/one", "/api/v1/runs")
    for address, accept in itertools.product(addresses, (HTML, {})):
        headers = browser.get(address, headers=accept).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] in ("'self'", "'none'"), (address, accept)
        assert policy.get("script-src", "'self'") == "'self'", (address, accept)
        assert "unsafe-eval" not in headers["content-security-policy"], (address, accept)
        assert policy["base-uri"] == "'none'", (address, accept)
        assert headers["x-content-type-options"] == "nosniff", (address, accept)
        assert headers["referrer-policy"] == "no-referrer", (address, accept)


def test_the_page_talks_to_its_own_server_and_is_framed_on_this_machine_only(browser: TestClient) -> None:
    policy = browser.get("/", headers=HTML).headers["content-security-policy"]
    assert "connect-src 'self' ws://127.0.0.1:7007 wss://127.0.0.1:7007;" in policy
    assert "object-src 'none'" in policy
    assert "form-action 'self'" in policy
    framers = policy.partition("frame-ancestors ")[2].split()
    assert all(framer == "'self'" or "://localhost:" in framer or "://127.0.0.1:" in framer for framer in framers)


@pytest.mark.parametrize("host", ["evil; script-src *", "127.0.0.1:1 https://evil", "[::1] *"])
def test_a_made_up_host_changes_no_policy(built: Path, host: str) -> None:
    app = create_app(built.parent / "runs", built=built, allowed_hosts=["*"])
    policy = TestClient(app).get("/", headers={"Host": host}).headers["content-security-policy"]
    assert "evil" not in policy
    assert "*" not in policy.partition("frame-ancestors")[0]


@pytest.mark.parametrize("path", ["/", "/runs/one/agent", "/runs/%3Cscript%3E"])
def test_where_it_is_not_built_the_page_says_what_to_type(tmp_path: Path, path: str) -> None:
    browser = TestClient(create_app(tmp_path / "runs", built=tmp_path / "none"), base_url="http://127.0.0.1")
    answer = browser.get(path, headers=HTML)
    assert answer.status_code == 200
    assert "python -m agenttune.dashboard.build" in answer.text
    assert "<script" not in answer.text
    assert ('href="/local/one"' in answer.text) is (path == "/runs/one/agent")
    assert browser.get("/assets/x.js").status_code == 404


def test_a_page_that_is_built_while_the_server_runs_is_there(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    browser = TestClient(create_app(tmp_path / "runs", built=folder), base_url="http://127.0.0.1")
    assert "not built" in browser.get("/").text
    built.rename(folder)
    assert browser.get("/").text == DOCUMENT
    assert browser.get("/assets/style-abc.css").text == "body{}"


@pytest.mark.parametrize("token", [None, "owner"])
def test_the_page_is_told_who_looks_at_it(tmp_path: Path, token: str | None) -> None:
    browser = TestClient(create_app(tmp_path / "runs", token=token), base_url="http://127.0.0.1")
    nobody = browser.get("/api/v1/me").json()
    assert (nobody["role"], nobody["via"]) == (("agent", "local") if token is None else (None, "none"))
    assert nobody["rights"]["decide"] is False
    assert "operator" in nobody["why_not"]["decide"]
    assert set(nobody["rights"]) == {right.name.lower() for right in Right}
    assert nobody["commands"]["update_optimizer"]["allowed"] is (token is None)
    assert bool(nobody["commands"]["update_optimizer"]["why_not"]) is (token is not None)
    if token is not None:
        owner = browser.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json()
        assert (owner["role"], owner["via"], owner["name"], owner["why_not"]) == ("operator", "token", "owner", {})
        assert all(owner["rights"].values())
        assert all(kind["allowed"] for kind in owner["commands"].values())


def test_the_list_of_routes_loads_nothing_from_elsewhere(browser: TestClient) -> None:
    """A foreign script there would act as whoever is signed in."""
    shown = browser.get("/api/v1/docs")
    assert shown.status_code == 200
    assert "/api/v1/runs/{run_id}/commands" in shown.text
    assert "<script" not in shown.text
    assert "//cdn" not in shown.text
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert 'href="openapi.json"' in shown.text
