"""Pages of other servers: those named in `server.allowed_origins` may use the server, as what it takes programs for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from agenttune.config.sections import ServerSettings
from agenttune.control.discovery import ServerAddress, ensure_server
from agenttune.control.tokens import create_token
from agenttune.errors import UserError
from agenttune.server.app import create_app
from agenttune.trainer import Options
from tests import warm
from tests.server.conftest import make_run, stop

PAGE = "http://localhost:5173"
"""Where the seed's page is served while it is worked on: it asks across, and its proxy hands its origin on."""
BODY = {"command": "do_evaluate", "args": "", "time": 0, "uuid": "u", "status": "requested"}


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    make_run(tmp_path).close()
    return TestClient(create_app(tmp_path, allowed_origins=[PAGE.upper()]), base_url="http://127.0.0.1:7007")


def test_a_named_page_reads_and_commands(client: TestClient) -> None:
    read = client.get("/api/get_info/", headers={"Origin": PAGE})
    assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "access-control-allow-credentials" not in read.headers
    sent = client.post("/api/command/", json=BODY, headers={"Origin": PAGE})
    assert (sent.json(), sent.headers["access-control-allow-origin"]) == ({"status": "success"}, PAGE)


def test_what_its_browser_asks_first_is_answered(client: TestClient) -> None:
    asked = "access-control-allow-origin,content-type"  # as the seed's page does, also where it reads
    wanted = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    answer = client.options("/api/command/", headers=wanted)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("origin", ["http://localhost:5174", "https://localhost:5173", "http://evil.example", "null"])
def test_any_other_page_stays_out_and_is_told_the_setting(client: TestClient, origin: str) -> None:
    answer = client.post("/api/command/", json=BODY, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "server.allowed_origins" in answer.text
    assert "access-control-allow-origin" not in answer.headers


def test_a_named_page_is_no_operator_by_the_cookie_of_a_link(client: TestClient, tmp_path: Path) -> None:
    """Cookies know no ports: a browser that followed the link sends its key to the page's own proxy too."""
    key, _ = create_token(tmp_path, "operator", "ann", ["one"])
    cookie = {"Cookie": f"agenttune_local={key}"}
    own = client.get("/local/one", headers=cookie | {"Origin": "http://127.0.0.1:7007"})
    assert own.status_code == 200
    assert client.get("/local/one", headers=cookie | {"Origin": PAGE}).status_code == 403


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerAddress]:
    make_run(tmp_path).close()
    with warm.processes():
        address = ensure_server(tmp_path, port=0, allowed_origins=[PAGE])
    yield address
    stop(address)


def test_its_stream_opens_on_a_server_that_was_started_so(server: ServerAddress) -> None:
    address = f"{server.url.replace('http', 'ws')}/ws/message/"
    with connect(address, origin=Origin(PAGE), proxy=None):
        pass
    with pytest.raises(InvalidStatus):
        connect(address, origin=Origin("http://evil.example"), proxy=None)


@pytest.mark.parametrize("origin", ["*", "null", "localhost:5173", f"{PAGE}/", "http://*.example", "", "file://"])
def test_what_is_no_origin_is_refused_wherever_it_is_set(tmp_path: Path, origin: str) -> None:
    setters: list[Any] = [
        lambda: ServerSettings(allowed_origins=[origin]),
        lambda: Options(allowed_origins=(origin,)),
        lambda: create_app(tmp_path, allowed_origins=[origin]),
    ]
    for setter in setters:
        with pytest.raises((UserError, ValueError), match="such as http://localhost:5173"):
            setter()
