"""One server per runs folder: found, started once, ended cleanly, and honest about a taken port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from agenttune.config import DEFAULT_PORT
from agenttune.control import discovery
from agenttune.control.discovery import Note, ServerAddress, ask_health, find_server, noted, only_server, read_note
from agenttune.control.http import HttpControl
from agenttune.errors import PortInUse, ServerUnreachable, UserError
from agenttune.protocol.events import NoteAdded, StatusChanged
from agenttune.server.app import create_app
from agenttune.server.listening import PORTS_TRIED, listen, url_of
from agenttune.server.notify.notifier import Notifier
from agenttune.server.process import REQUEST_S, _Server, serve
from agenttune.store.process_liveness import is_alive, started_s
from tests.server.conftest import StartServer, make_run
from tests.server.test_live import live, never_read


def test_a_server_is_started_once_and_found_again(tmp_path: Path, start_server: StartServer) -> None:
    runs_dir = tmp_path / "new" / "runs"
    assert find_server(runs_dir) is None
    first = start_server(runs_dir)
    assert first.started
    assert find_server(runs_dir) == ServerAddress(first.url, first.pid, started=False)
    assert replace(start_server(runs_dir, port=1), notice="") == ServerAddress(first.url, first.pid, started=False)
    note = json.loads((runs_dir / "server.json").read_text())
    assert (note["url"], note["pid"], note["runs_dir"]) == (first.url, first.pid, str(runs_dir))
    with pytest.raises(UserError, match=first.url):
        serve(runs_dir, "127.0.0.1", 0)


def test_of_servers_that_start_at_once_one_serves(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agenttune.server", "--runs-dir", str(tmp_path), "--port", "0"]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        give_up = time.monotonic() + 60
        while sum(process.poll() is None for process in started) > 1 and time.monotonic() < give_up:
            time.sleep(0.05)
        [serves] = [process for process in started if process.poll() is None]
        found = find_server(tmp_path)
        assert found is not None
        assert found.pid == serves.pid
        for process in started:
            if process is not serves:
                assert process.stderr is not None
                assert f"has a control server already, at {found.url} (process {found.pid})" in process.stderr.read()
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_one_that_starts_while_another_ends_takes_its_place(tmp_path: Path) -> None:
    ends = threading.Event()

    def hold() -> None:
        with only_server(tmp_path):
            ends.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    threading.Timer(0.3, ends.set).start()
    with only_server(tmp_path):
        assert ends.is_set()
    holder.join()


def test_one_that_neither_answers_nor_ends_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "HANDOVER_S", 0.1)
    with only_server(tmp_path), pytest.raises(UserError, match="already, which does not answer"), only_server(tmp_path):
        pass


def test_it_is_a_process_of_its_own(tmp_path: Path, start_server: StartServer) -> None:
    """Ctrl-C in the terminal of the run must not end the server under other runs."""
    code = "import sys; from pathlib import Path; from agenttune.control.discovery import ensure_server as e; "
    code += "print(e(Path(sys.argv[1]), port=0).pid); assert 'torch' not in sys.modules; "
    code += "assert 'fastapi' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    address = start_server(tmp_path)
    assert not address.started
    assert address.pid == int(done.stdout)
    assert psutil.Process(address.pid).terminal() is None


def test_starters_at_the_same_time_end_with_one_server(tmp_path: Path, start_server: StartServer) -> None:
    code = "import sys; from pathlib import Path; from agenttune.control.discovery import ensure_server as e; "
    code += "a = e(Path(sys.argv[1]), port=0); print(a.pid, a.started)"
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [starter.communicate(timeout=60)[0].split() for starter in starters]
    address = start_server(tmp_path)
    assert {int(pid) for pid, _ in answers} == {address.pid}
    assert sorted(started for _, started in answers) == ["False", "False", "False", "True"]


def test_a_note_left_by_a_killed_server_misleads_nobody(tmp_path: Path, start_server: StartServer) -> None:
    first = start_server(tmp_path)
    process = psutil.Process(first.pid)
    process.kill()
    process.wait(10)
    assert (tmp_path / "server.json").exists()
    assert find_server(tmp_path) is None
    second = start_server(tmp_path)
    assert second.started
    assert find_server(tmp_path) is not None


def test_a_server_that_ends_leaves_its_successors_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would find the successor: whoever starts one waits for its note, in vain."""
    begun, written, end = threading.Event(), threading.Event(), threading.Event()

    def succeed() -> None:
        begun.set()
        with noted(tmp_path, "http://127.0.0.1:2", "second"):
            written.set()
            end.wait(60)

    successor = threading.Thread(target=succeed)

    def read_just_before(runs_dir: Path) -> Note | None:
        note = read_note(runs_dir)
        monkeypatch.undo()
        successor.start()
        begun.wait(60)
        written.wait(0.3)  # so that it has written by now, if it may
        return note

    with noted(tmp_path, "http://127.0.0.1:1", "first"):
        monkeypatch.setattr(discovery, "read_note", read_just_before)
    assert written.wait(60)
    found = read_note(tmp_path)
    end.set()
    successor.join(60)
    assert found is not None
    assert found.instance == "second"


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"url": 5, "pid": "x", "pid_started_s": 0, "instance": 1}'])
def test_a_broken_note_is_no_server(tmp_path: Path, note: str) -> None:
    (tmp_path / "server.json").write_text(note)
    assert find_server(tmp_path) is None


def test_a_port_taken_by_another_program_is_named(tmp_path: Path, start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.settimeout(0)
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse) as caught:
            start_server(tmp_path, port=port)
    message = str(caught.value)
    assert f"port {port}" in message
    assert "server.port" in message
    assert "--port" in message
    assert caught.value.field == "server.port"


def test_where_nobody_asked_for_a_port_the_next_free_one_is_taken_and_named(
    tmp_path: Path, start_server: StartServer
) -> None:
    host = f"127.77.{os.getpid() % 250}.{os.getpid() // 250 % 250}"  # loopback too, and nobody else's ports
    with socket.create_server((host, DEFAULT_PORT)):
        first, second = (start_server(tmp_path / name, host=host, port=None) for name in "ab")
        ports = [urlsplit(address.url).port or 0 for address in (first, second)]
        assert ports[0] != ports[1]
        assert all(DEFAULT_PORT < port < DEFAULT_PORT + PORTS_TRIED for port in ports)
        for address, port in zip((first, second), ports, strict=True):
            assert "\n" not in address.notice
            assert f"port {DEFAULT_PORT} is taken" in address.notice
            assert str(port) in address.notice
        again = start_server(tmp_path / "a", host=host, port=None)
        assert again == ServerAddress(first.url, first.pid, started=False)


def test_a_folder_whose_server_listens_elsewhere_than_asked_says_so(tmp_path: Path, start_server: StartServer) -> None:
    first = start_server(tmp_path)
    again = start_server(tmp_path, port=1)
    assert (again.url, again.started) == (first.url, False)
    assert "port 1 is not used" in again.notice
    assert first.url in again.notice


def test_a_port_taken_by_another_folders_server_says_whose(tmp_path: Path, start_server: StartServer) -> None:
    first = start_server(tmp_path / "a")
    with pytest.raises(PortInUse, match=str(tmp_path / "a")):
        start_server(tmp_path / "b", port=urlsplit(first.url).port)
    assert find_server(tmp_path / "a") is not None


def test_a_server_that_cannot_start_says_why(tmp_path: Path, start_server: StartServer) -> None:
    with pytest.raises(ServerUnreachable, match="AGENTTUNE_TOKEN"):
        start_server(tmp_path, host="0.0.0.0")
    with pytest.raises(ServerUnreachable, match="cannot bind"):
        start_server(tmp_path, host="192.0.2.1", token_env="PATH")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="runs folder"):
        start_server(tmp_path / "file")
    (tmp_path / "locked" / ".server.lock").mkdir(parents=True)
    with pytest.raises(UserError, match="runs folder"):
        start_server(tmp_path / "locked")


@pytest.mark.parametrize("linger_s", [-1.0, float("nan"), float("inf")])
def test_a_senseless_linger_time_is_refused(tmp_path: Path, linger_s: float) -> None:
    with pytest.raises(UserError, match="linger_s"):
        serve(tmp_path, "127.0.0.1", 0, linger_s=linger_s)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_clients_connected(
    tmp_path: Path, start_server: StartServer, number: signal.Signals
) -> None:
    log = make_run(tmp_path)
    log.append(*[NoteAdded(text="x" * 3000, author="me")] * 2000)
    address = start_server(tmp_path)
    stuck = never_read(address, "one")
    with connect(live(address), close_timeout=0.1) as client, httpx.Client() as idle:
        idle.get(f"{address.url}/api/v1/health")
        client.recv(timeout=20)
        process = psutil.Process(address.pid)
        process.send_signal(number)
        process.wait(30)
    stuck.close()
    assert not (tmp_path / "server.json").exists()
    log_text = (tmp_path / "server.log").read_text()
    assert "Traceback" not in log_text
    assert "ERROR" not in log_text


SIGNALLED_AT_ONCE = """
import signal, sys
from pathlib import Path
from agenttune.server.process import serve

serve(Path(sys.argv[1]), "127.0.0.1", 0, on_ready=lambda url: signal.raise_signal(int(sys.argv[2])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_it_serves_is_not_lost(tmp_path: Path, number: signal.Signals) -> None:
    """Such as Ctrl-C as soon as its address is printed: uvicorn begins to take signals a moment later."""
    command = [sys.executable, "-c", SIGNALLED_AT_ONCE, str(tmp_path), str(int(number))]
    subprocess.run(command, timeout=60, check=True)
    assert not (tmp_path / "server.json").exists()


def test_a_client_that_comes_while_it_looks_whether_to_end_keeps_it(tmp_path: Path) -> None:
    """Whoever has just found the server must not meet its end."""
    app, listener = create_app(tmp_path), listen("127.0.0.1", 0)
    url = url_of("127.0.0.1", listener.getsockname()[1])
    looks: list[bool] = []

    class Asked(_Server):
        def _is_needed(self) -> bool:
            looks.append(self.should_exit or ask_health(url) is None)
            if len(looks) == 2:
                self.end_soon()
            return super()._is_needed()

    # So long may pass between the answer here and the next line of the server's.
    server = Asked(app, 1.0, Notifier(app.state.context.control, url), REQUEST_S)
    serving = threading.Thread(target=server.run, args=([listener],))
    serving.start()
    serving.join(60)
    assert looks == [False] * 2


def outlive(start_server: StartServer, runs_dir: Path) -> None:
    """Start a server that ends after 0.6 s without use: one that was started before it has been idle for longer."""
    log = make_run(runs_dir)  # else it might end before it is found
    process = psutil.Process(start_server(runs_dir, linger_s=0.6).pid)
    log.append(StatusChanged(status="finished"), step=100)
    process.wait(60)


def test_it_lingers_while_a_run_lives_and_ends_after_the_last(tmp_path: Path, start_server: StartServer) -> None:
    log = make_run(tmp_path / "busy")
    busy = psutil.Process(start_server(tmp_path / "busy", linger_s=0.3).pid)
    outlive(start_server, tmp_path / "idle")
    assert busy.is_running()
    log.append(StatusChanged(status="finished"), step=100)
    busy.wait(60)
    assert not (tmp_path / "busy" / "server.json").exists()


def test_a_live_client_keeps_it(tmp_path: Path, start_server: StartServer) -> None:
    log = make_run(tmp_path / "watched")
    watched = start_server(tmp_path / "watched", linger_s=0.3)
    with connect(live(watched)):
        log.append(StatusChanged(status="finished"), step=100)
        outlive(start_server, tmp_path / "idle")
        assert psutil.Process(watched.pid).is_running()
    psutil.Process(watched.pid).wait(60)


def test_no_server_is_said_plainly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert ask_health(f"http://127.0.0.1:{port}") is None
    with pytest.raises(ServerUnreachable, match=f"127.0.0.1:{port}"):
        HttpControl(f"http://127.0.0.1:{port}").runs()


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    shared_server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert HttpControl(shared_server.url).runs() == []
    assert ask_health(shared_server.url) is not None


# Slow, one case: the server waits out SQLite's ten seconds on a held file; that a dead run lets it end is the first.
@pytest.mark.parametrize("case", ["dead", pytest.param("dead and held", marks=pytest.mark.slow), "unknown and silent"])
def test_a_run_whose_process_is_gone_does_not_keep_it(tmp_path: Path, start_server: StartServer, case: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    is_known = case != "unknown and silent"
    pid, since_s = (process.pid, started_s(process.pid)) if is_known else (None, None)
    log = make_run(tmp_path, pid=pid, pid_started_s=since_s)
    address = start_server(tmp_path, linger_s=6.0 if case == "dead and held" else 0.3)
    process.kill()
    process.wait()
    log.update_info(pid=pid, pid_started_s=since_s)
    log.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "one" / "log.db")) as holder:
        if case == "dead and held":
            holder.execute("BEGIN IMMEDIATE")  # nobody can record that the run is lost, which is due after 5 s
            httpx.get(f"{address.url}/api/v1/runs")
        deadline = time.monotonic() + 60
        while is_alive(address.pid, None) and time.monotonic() < deadline:
            for path in [] if is_known else (tmp_path / "one").glob("log.db*"):
                os.utime(path, (time.time() - 3600,) * 2)  # the server's own cache of the curves is a writing too
            time.sleep(0.1)
    assert not is_alive(address.pid, None)
