"""Only who may steer the runs gets in: no other page, no rebound name, nobody without the token."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from agenttune.control.discovery import ServerAddress
from agenttune.control.http import HttpControl
from agenttune.errors import UserError
from agenttune.server.auth.guard import is_loopback
from agenttune.server.process import serve
from tests import warm
from tests.server.conftest import make_run, stop

TOKEN = "a-secret-0123456789"
PORT_AT = len("http://127.0.0.1:")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerAddress, Path]]:
    """A server with a token, one run in its folder."""
    runs_dir = tmp_path_factory.mktemp("locked")
    make_run(runs_dir).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_OWN_TOKEN", TOKEN)
        address = warm.serve(runs_dir, token_env="MY_OWN_TOKEN")
    yield address, runs_dir
    stop(address)


@pytest.fixture(scope="module")
def open_server(shared_runs: Path, shared_server: ServerAddress) -> ServerAddress:
    make_run(shared_runs).close()
    return shared_server


def live_url(address: ServerAddress) -> str:
    return address.url.replace("http", "ws") + "/api/v1/runs/one/events/live"


def test_the_token_is_wanted_on_every_route_but_health(locked: tuple[ServerAddress, Path]) -> None:
    url = locked[0].url
    ours = ("/api/v1/runs", "/api/v1/openapi.json", "/api/v1/docs", "/nope", "/api/v1/health/")
    for path in (*ours, "/api/get_info/", "/api/get_logs/"):
        response = httpx.get(url + path)
        assert (response.status_code, response.json()["error"]["type"]) == (401, "Unauthorized"), path
    health = httpx.get(f"{url}/api/v1/health").json()
    assert (health["service"], health["pid"], health["runs_dir"]) == ("agenttune", None, None)


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer", "Basic " + TOKEN, TOKEN, "Bearer " + TOKEN[:-1], "Bearer ä"]
)
def test_a_wrong_token_is_refused(locked: tuple[ServerAddress, Path], header: str) -> None:
    headers = [(b"Authorization", header.encode())]
    assert httpx.get(f"{locked[0].url}/api/v1/runs", headers=headers).status_code == 401


def test_the_right_token_opens(locked: tuple[ServerAddress, Path]) -> None:
    address, runs_dir = locked
    assert HttpControl(address.url, TOKEN).info("one").run_id == "one"
    health = httpx.get(f"{address.url}/api/v1/health", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert (health["pid"], health["runs_dir"]) == (address.pid, str(runs_dir))
    with pytest.raises(UserError, match="token"):
        HttpControl(address.url).runs()


def test_the_token_is_in_no_file(locked: tuple[ServerAddress, Path]) -> None:
    runs_dir = locked[1]
    assert stat.S_IMODE((runs_dir / "server.json").stat().st_mode) == 0o600
    for path in runs_dir.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_a_live_client_needs_the_token_and_may_send_it_as_a_browser_can(locked: tuple[ServerAddress, Path]) -> None:
    url = live_url(locked[0])
    with pytest.raises(InvalidStatus):
        connect(locked[0].url.replace("http", "ws") + "/ws/message/")
    for protocols in (None, [Subprotocol("bearer.wrong")]):
        with pytest.raises(InvalidStatus) as caught:
            connect(url, subprotocols=protocols)
        assert caught.value.response.status_code == 401
    with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
        assert '"seq":1' in str(socket.recv())
    offered = [Subprotocol("agenttune"), Subprotocol(f"bearer.{TOKEN}")]
    with connect(url, subprotocols=offered) as socket:
        assert socket.subprotocol == "agenttune"
        assert '"seq":1' in str(socket.recv())


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost:{port}"])
def test_pages_of_other_origins_are_refused(open_server: ServerAddress, origin: str) -> None:
    origin = origin.format(port=open_server.url[PORT_AT:])
    response = httpx.get(f"{open_server.url}/api/v1/runs", headers={"Origin": origin})
    assert (response.status_code, response.json()["error"]["field"]) == (403, "Origin")
    assert not [name for name in response.headers if name.startswith("access-control")]
    with pytest.raises(InvalidStatus) as caught:
        connect(live_url(open_server), origin=Origin(origin))
    assert caught.value.response.status_code == 403


def test_the_servers_own_page_is_let_in_also_through_a_tunnel(open_server: ServerAddress) -> None:
    own = {"Origin": open_server.url}
    assert httpx.get(f"{open_server.url}/api/v1/runs", headers=own).status_code == 200
    tunnel = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
    assert httpx.get(f"{open_server.url}/api/v1/runs", headers=tunnel).status_code == 200
    with connect(live_url(open_server), origin=Origin(open_server.url)) as socket:
        assert '"seq":1' in str(socket.recv())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7007", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"])
def test_a_rebound_name_is_refused(open_server: ServerAddress, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    response = httpx.get(f"{open_server.url}/api/v1/runs", headers=headers)
    assert (response.status_code, response.json()["error"]["field"]) == (403, "Host")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((own, True) for own in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]", "LOCALHOST")),
        *((foreign, False) for foreign in ("0.0.0.0", "192.168.0.1", "localhost.evil.example", "")),
    ],
)
def test_loopback_is_told_from_the_world(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_the_world_gets_no_server_without_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(UserError, match="AGENTTUNE_TOKEN") as caught:
        serve(tmp_path, host, 0)
    assert caught.value.field == "server.host"
    with pytest.raises(UserError, match="AGENTTUNE_TOKEN"):
        serve(tmp_path, host, 0, token=" ")
    assert not (tmp_path / "server.json").exists()


def test_a_page_cannot_post_a_form(open_server: ServerAddress) -> None:
    body = '{"command": {"kind": "stop_training"}}'
    headers = {"Content-Type": "text/plain"}
    response = httpx.post(f"{open_server.url}/api/v1/runs/one/commands", content=body, headers=headers)
    assert response.status_code == 415
    assert HttpControl(open_server.url).commands("one") == []
