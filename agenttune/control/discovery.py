"""Finding the control server of a runs folder, and starting one where there is none. Cheap to import."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from agenttune.config import DEFAULT_PORT
from agenttune.errors import PortInUse, ServerUnreachable, StoreFault, UserError
from agenttune.store.folder_lock import folder_held
from agenttune.store.process_liveness import is_alive, started_s

SERVER_FILE = "server.json"
"""In the runs folder: where its control server listens, and which process it is. Never holds the token."""
LOG_FILE = "server.log"
LOCK_FILE = ".server.lock"
"""Held by those who start a server, until that has written its note."""
SERVING_FILE = ".server.serving"
"""Held by the server itself, as long as it lives."""
TOKEN_ENV = "AGENTTUNE_TOKEN"
SERVICE = "agenttune"
HEALTH_PATH = "/api/v1/health"
LOCAL_PREFIX = "/local/"
"""Begins the paths of a run's pages for who sits at this machine."""
HEALTH_TIMEOUT_S = 3.0
"""A loopback answer takes about 2 ms (measured); a busy machine gets a thousand times that."""
OWN_TIMEOUT_S = 15.0
"""The folder's own server, whose process lives, is waited for longer: a second one beside it would be worse."""
START_TIMEOUT_S = 60.0
"""A start takes about 1 s (measured); a cold disk and a busy machine get sixty times that."""
START_POLL_S = 0.05
HANDOVER_S = 10.0
"""A server that ends takes 4 s at most until it has said its last words; a busy machine gets twice that."""
PORT_IN_USE_EXIT = 98
"""Exit status of the server process if its port is taken: Linux's EADDRINUSE."""
LOG_TAIL_BYTES = 4000
LOG_BYTES = 5_000_000
"""A longer server.log is put aside at the next start (guess)."""

_started: list[subprocess.Popen[bytes]] = []
"""Kept so that the interpreter neither warns about a child left running nor leaves it a zombie when it ends."""


class Note(BaseModel):
    """The content of `server.json`.

    Attributes:
        url: Where the server listens.
        pid: Its process.
        pid_started_s: Start of that process, in seconds after boot: tells it from a later one of the same pid.
        runs_dir: The folder it serves.
        instance: What its `/health` calls itself.
    """

    model_config = ConfigDict(frozen=True)
    url: str = Field(pattern=r"^http://\S+:\d{1,5}$")
    pid: int = Field(ge=1, lt=2**31)
    pid_started_s: float | None
    runs_dir: str
    instance: str


@dataclass(frozen=True)
class ServerAddress:
    """A control server that answers.

    Attributes:
        url: Such as `http://127.0.0.1:7007`.
        pid: Its process.
        started: Whether this call started it.
        notice: Why it is not where it was asked for, in a line; empty if it is.
    """

    url: str
    pid: int
    started: bool = False
    notice: str = ""


def find_server(runs_dir: Path) -> ServerAddress | None:
    """The healthy control server of a runs folder, if there is one."""
    note = read_note(runs_dir)
    if note is None or not is_alive(note.pid, note.pid_started_s):
        return None
    health = ask_health(note.url, OWN_TIMEOUT_S)
    if health is None or health.get("instance") != note.instance:
        return None
    return ServerAddress(note.url, note.pid)


def read_note(runs_dir: Path) -> Note | None:
    """What the last server of a runs folder noted; None if there is no note, or nothing that one could use."""
    try:
        return Note.model_validate_json((runs_dir / SERVER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def only_server(runs_dir: Path) -> Iterator[None]:
    """Be the folder's only server; one that is just ending is waited for.

    Raises:
        UserError: The folder has a server already, or one that neither answers nor ends.
        StoreFault: The folder cannot be written to.
    """
    path = runs_dir / SERVING_FILE
    try:
        held = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFault(f"cannot write {path}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + HANDOVER_S
        while not _is_got(held):
            _refuse_second(runs_dir)
            if time.monotonic() > deadline:
                problem = f"{runs_dir} has a control server already, which does not answer; wait for its end, or end it"
                raise UserError(problem)
            time.sleep(START_POLL_S)
        _refuse_second(runs_dir)  # one of an older version holds nothing
        yield
    finally:
        os.close(held)


def _is_got(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it if this process dies
    except BlockingIOError:
        return False
    return True


def _refuse_second(runs_dir: Path) -> None:
    existing = find_server(runs_dir)
    if existing is not None:
        raise UserError(f"{runs_dir} has a control server already, at {existing.url} (process {existing.pid})")


@contextlib.contextmanager
def noted(runs_dir: Path, url: str, instance: str) -> Iterator[None]:
    """Keep a note in the runs folder of where this server listens, readable by its owner only.

    The folder is held while the note changes: a server that ends must not take its successor's away.
    """
    pid = os.getpid()
    note = Note(url=url, pid=pid, pid_started_s=started_s(pid), runs_dir=str(runs_dir), instance=instance)
    path, aside = runs_dir / SERVER_FILE, runs_dir / f".{SERVER_FILE}.{pid}"
    try:
        with folder_held(runs_dir):
            aside.unlink(missing_ok=True)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(note.model_dump_json())
            aside.replace(path)
    except OSError as error:
        raise StoreFault(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError), folder_held(runs_dir):  # the whole folder may be gone
            if read_note(runs_dir) == note:
                path.unlink(missing_ok=True)


def ask_health(url: str, timeout_s: float = HEALTH_TIMEOUT_S) -> dict[str, Any] | None:
    """What an agenttune server says of itself; None if nothing of the kind answers there.

    Straight to the address, never through a proxy of the environment.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", HEALTH_PATH)
        answer = json.loads(connection.getresponse().read(100_000))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) and answer.get("service") == SERVICE else None


def ensure_server(
    runs_dir: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    token_env: str = TOKEN_ENV,
    linger_s: float = 60,
    local_role: str = "agent",
    hidden: Collection[str] = (),
    request_s: float | None = None,
    allowed_origins: Collection[str] = (),
) -> ServerAddress:
    """Reuse the runs folder's healthy server, or start one as a process of its own that outlives this one.

    Args:
        runs_dir: The folder of runs; made if missing.
        host: Address to bind if one is started.
        port: Port to bind if one is started; 0 takes a free one, None 7007 or the next one that is free.
        token_env: Environment variable that holds the token, if there is one.
        linger_s: The server ends itself after so many seconds without a live run and without a client.
        local_role: As whom a program on this machine acts that sends no token, if one is started.
        hidden: Environment variables of ours that it does not inherit, if one is started.
        request_s: Seconds that a client has for its whole request, if one is started; None for its default.
        allowed_origins: Pages of other servers that may use it, if one is started.

    Raises:
        PortInUse: Somebody else listens on the port that was asked for.
        UserError: The server refuses these settings.
        ServerUnreachable: It did not come up; the message ends with its log's tail.
    """
    runs_dir = runs_dir.resolve()
    options = ["--host", host, "--linger-s", str(linger_s), "--token-env", token_env, "--local-role", local_role]
    options += [] if port is None else ["--port", str(port)]
    options += [] if request_s is None else ["--request-s", str(request_s)]
    options += [word for origin in allowed_origins for word in ("--allow-origin", origin)]
    with _locked(runs_dir):
        found = find_server(runs_dir) or _start(runs_dir, options, hidden)
        return replace(found, notice=_notice(found, port))


def _notice(found: ServerAddress, asked: int | None) -> str:
    """What somebody has to know who expects the server at the port asked for."""
    port = urlsplit(found.url).port
    if asked is None and found.started and port != DEFAULT_PORT:
        return f"port {DEFAULT_PORT} is taken, so the control server of this folder listens on {port}"
    if asked and not found.started and port != asked:
        return (
            f"port {asked} is not used: the runs folder has a control server already, at {found.url} "
            "(another store.runs_dir gets one of its own)"
        )
    return ""


@contextlib.contextmanager
def _locked(runs_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets go of it if this process dies."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        file = (runs_dir / LOCK_FILE).open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot use {runs_dir} as the runs folder: {error.strerror}", field="store.runs_dir") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(runs_dir: Path, options: Collection[str], hidden: Collection[str]) -> ServerAddress:
    command = [sys.executable, "-m", "agenttune.server", "--runs-dir", str(runs_dir), *options]
    log = runs_dir / LOG_FILE
    _make_room(log)
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=runs_dir,  # `-m` puts it first on sys.path: the user's own `random.py` must not be found there
            env=_environment(hidden),
        )
    _started.append(process)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        status = process.poll()
        if status is not None:
            raise _failure(status, log, begin)
        found = find_server(runs_dir)
        if found is not None:
            return ServerAddress(found.url, found.pid, started=True)
        time.sleep(START_POLL_S)
    process.terminate()
    raise ServerUnreachable(f"the control server did not answer within {START_TIMEOUT_S:g} s; {_tail(log, begin)}")


def _make_room(log: Path) -> None:
    """Put a long log aside, in place of the one that was put aside before."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))


def _environment(hidden: Collection[str]) -> dict[str, str]:
    """This process's environment but what is hidden, with a module path that finds the same agenttune anywhere."""
    paths = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    root = Path(__file__).resolve().parents[2]  # the folder that holds agenttune/
    if root.name not in ("site-packages", "dist-packages"):
        paths.append(str(root))
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths)}


def _failure(status: int, log: Path, begin: int) -> PortInUse | ServerUnreachable:
    tail = _tail(log, begin)
    if status == PORT_IN_USE_EXIT:
        return PortInUse(tail.splitlines()[-1], field="server.port")
    return ServerUnreachable(f"the control server ended at once (exit status {status}); {log} says:\n{tail}")


def _tail(log: Path, begin: int) -> str:
    """The end of what was written to the log since `begin`, a position in bytes."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - LOG_TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace").strip() or "(nothing)"
