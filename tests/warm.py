"""Python processes of their own that need not import torch, transformers and fastapi.

Importing them takes six seconds of a processor; here one process does, and each that a test asks for is a fork of it.
It is a child of whoever asked, with its own id, session, working folder, files and command line; only what the system
tells of its environment (`psutil.Process.environ`) is the first one's.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import logging
import os
import pickle
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agenttune.control.discovery import LOG_FILE, ServerAddress, find_server
from agenttune.server.app import create_app

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "torch",
    "transformers.trainer",
    "accelerate.state",
    "agenttune.agent",
    "agenttune.cli",
    "agenttune.launch",
    "agenttune.policy.load",
    "agenttune.server.process",
    "agenttune.trainer.session",
)
PR_SET_CHILD_SUBREAPER = 36
"""Of `prctl(2)`: a process whose parent ends becomes a child of the nearest ancestor that has this set."""
LONGEST_BYTES = 4096
"""Of the words that a fork can show as its command line: it has the first process's room for them."""
_fork_lock = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """A script that has ended: what it printed, and its exit status, negative if a signal ended it."""

    code: int
    out: str
    err: str


class Popen(subprocess.Popen[str]):
    """As `subprocess.Popen`; what is a Python script or module is a fork of a process that has imported everything."""

    def _execute_child(self, *given: Any) -> None:
        parent = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(parent).bind(*given).arguments
        words = asked["args"]
        is_python = isinstance(words, list) and words[0] == sys.executable and words[1:]
        if sys.platform != "linux" or not is_python or not (words[1] == "-m" or str(words[1]).endswith(".py")):
            parent(*given)
            return
        ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        env = dict(os.environ if asked["env"] is None else asked["env"])
        folder = os.getcwd() if asked["cwd"] is None else os.fspath(asked["cwd"])
        words = [str(word) for word in words[1:]]
        request = Request(words, folder, env, asked["start_new_session"], asked["preexec_fn"], os.getpid())
        self.pid = _fork(request, [standard if end == -1 else end for standard, end in enumerate(ends)])
        self._child_created = True
        kept = [asked[name] for name in ("p2cwrite", "c2pread", "errread")]
        closed = {end for end, other in zip(ends, kept, strict=True) if end != -1 and other != -1}
        for end in closed | {devnull for devnull in (getattr(self, "_devnull", None),) if devnull is not None}:
            os.close(end)


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """What this process starts meanwhile, as `agenttune run` starts its server and its agent, are such forks."""
    kept = subprocess.Popen
    subprocess.Popen = Popen  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        subprocess.Popen = kept  # type: ignore[misc]


@dataclass(frozen=True)
class Request:
    """What somebody wants forked; `words` are those behind `python`, and `asker` is the id of who asks."""

    words: list[str]
    folder: str
    env: dict[str, str]
    is_session: bool
    preexec: Callable[[], object] | None
    asker: int


def _fork(request: Request, files: Sequence[int]) -> int:
    """Have a process forked that becomes a child of ours; returns its id."""
    data = pickle.dumps(request)
    with _fork_lock:
        forks = _forks()
        _adopt(True)
        try:
            socket.send_fds(forks, [len(data).to_bytes(8, "big")], list(files))
            forks.sendall(data)
            return int.from_bytes(_exactly(forks, 8), "big")
        finally:
            _adopt(False)


def _adopt(does: bool) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(does), 0, 0, 0)


_kept: list[Popen] = []
"""The end of one that nobody holds would be a warning."""
_own: list[socket.socket] = []
"""Where this process asks for forks."""


def _forks() -> socket.socket:
    if _own:
        return _own[-1]
    ours, its = socket.socketpair()
    with its:
        words = [sys.executable, "-c", f"from tests import warm; warm.preload({its.fileno()})", "." * LONGEST_BYTES]
        null = subprocess.DEVNULL
        _kept.append(Popen(words, pass_fds=[its.fileno()], cwd=ROOT, stdin=null, start_new_session=True))
    _own.append(ours)
    return ours


def preload(descriptor: int) -> None:
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    create_app(ROOT / "nowhere").openapi()  # looks at all routes, for each server among the forks
    gc.freeze()  # the forks need not look at it, nor copy its pages
    gc.enable()
    _serve_forks(socket.socket(fileno=descriptor))


def _serve_forks(requests: socket.socket) -> None:
    """Fork until whoever asks is gone; by way of a process that ends at once, so that the asker adopts its child."""
    while True:
        head, files, *_ = socket.recv_fds(requests, 8, 3)
        if not head:
            os._exit(0)
        request: Request = pickle.loads(_exactly(requests, int.from_bytes(head, "big")))
        told, tell = os.pipe()
        if (between := os.fork()) == 0:
            if os.fork() == 0:
                os.close(told)
                requests.close()
                _present(request, tell)
                _become(request, files)
            os._exit(0)
        os.close(tell)
        os.waitpid(between, 0)
        requests.sendall(os.read(told, 8))
        for descriptor in (told, *files):
            os.close(descriptor)


def _present(request: Request, tell: int) -> None:
    """Tell who one is, once there is what `Popen` promises: whoever signals the group at once meets it."""
    if request.is_session:
        os.setsid()
    _tell_command_line(request.words)
    os.write(tell, os.getpid().to_bytes(8, "big"))
    os.close(tell)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the process that forks has ended")
        data += part
    return data


def _become(request: Request, files: Sequence[int]) -> None:
    """What a fresh interpreter would do with a file or a module, but for its imports."""
    words, folder, env = request.words, request.folder, request.env
    if request.preexec is not None:
        while os.getppid() != request.asker:  # it may be about the parent
            time.sleep(0.001)
        request.preexec()
    for standard, descriptor in enumerate(files):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    if words[0] == "-m" and words[1] != "agenttune.server":
        _fork_for_its_own()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    atexit._clear()
    logging.root.handlers.clear()
    tempfile.tempdir = None  # of the environment
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        is_direct = "PYTHONUNBUFFERED" in env
        stream.reconfigure(line_buffering=stream.isatty(), write_through=is_direct)  # type: ignore[union-attr]
    what, *sys.argv = words if words[0] != "-m" else words[1:]
    sys.argv.insert(0, what)
    sys.path[:0] = [str(Path(what).resolve().parent) if what.endswith(".py") else folder, *_paths(env), str(ROOT)]
    code = 0
    try:
        if what.endswith(".py"):
            runpy.run_path(what, run_name="__main__")
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            sys.stderr.write(f"{exit_.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _fork_for_its_own() -> None:
    """What this process starts are forks too: of a copy of it as it is now, before it has opened anything."""
    ours, its = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        for standard in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        _serve_forks(its)
    its.close()
    _own.append(ours)
    subprocess.Popen = Popen  # type: ignore[assignment, misc]


def _paths(env: Mapping[str, str]) -> list[str]:
    return [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]


def _tell_command_line(words: Sequence[str]) -> None:
    """Tests find processes by it."""
    begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    told = b"\0".join(word.encode() for word in (sys.executable, *words)) + b"\0"
    ctypes.memmove(begin, told[: end - begin].ljust(end - begin, b"\0"), end - begin)


@dataclass(frozen=True)
class Script:
    """A script under way; its output goes into files."""

    process: Popen
    out: Path
    err: Path

    def end(self, timeout_s: float = 150.0) -> Ended:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            error = f"the script did not end within {timeout_s:g} s: {self.err.read_text()[-2000:]}"
            raise TimeoutError(error) from None
        return Ended(code, self.out.read_text("utf-8"), self.err.read_text("utf-8"))


def start(path: Path, *arguments: str, folder: Path, name: str = "script", **environ: str) -> Script:
    """Run a script as `python PATH ARGUMENTS` would, in `folder`, which gets two files with its output."""
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    with out.open("ab") as stdout, err.open("ab") as stderr:
        words = [sys.executable, str(path), *arguments]
        process = Popen(words, cwd=folder, env=env, stdout=stdout, stderr=stderr, start_new_session=True)
    return Script(process, out, err)


def serve(runs_dir: Path, **settings: str | float) -> ServerAddress:
    """A control server with a free port, as `ensure_server` starts one; `tests.server.conftest.stop` ends it."""
    runs_dir = runs_dir.resolve()
    runs_dir.mkdir(parents=True, exist_ok=True)
    options = {"port": 0, "linger_s": 60.0, **settings}
    more = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = [sys.executable, "-m", "agenttune.server", "--runs-dir", str(runs_dir), *more]
    with (runs_dir / LOG_FILE).open("ab") as log:
        process = Popen(words, cwd=runs_dir, stdout=log, stderr=log, start_new_session=True)
    _kept.append(process)
    while (found := find_server(runs_dir)) is None:
        assert process.poll() is None, (runs_dir / LOG_FILE).read_text("utf-8")
        time.sleep(0.01)
    return replace(found, started=True)


def run_ranks(path: Path, *arguments: str, folder: Path, ranks: int = 2, **environ: str) -> list[Ended]:
    """Run a script as `torchrun --nproc_per_node RANKS PATH ARGUMENTS` would."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    shared |= {"LOCAL_WORLD_SIZE": str(ranks), **environ}
    started = [
        start(path, *arguments, folder=folder, name=f"rank{r}", **shared, RANK=str(r), LOCAL_RANK=str(r))
        for r in range(ranks)
    ]
    return [script.end() for script in started]
