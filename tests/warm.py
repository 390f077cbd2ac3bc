"""Scripts and control servers in processes of their own that need not import torch, transformers and fastapi.

Importing them takes six seconds of a processor; here one process does, and each that a test asks for is a fork of it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from agenttune.control.discovery import LOG_FILE, ServerAddress, find_server

ROOT = Path(__file__).resolve().parents[1]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "transformers.trainer", "accelerate.state", "agenttune.server.process"])


@dataclass(frozen=True)
class Ended:
    """A script that has ended: what it printed, and its exit status, negative if a signal ended it."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Script:
    """A script under way; its output goes into files."""

    process: ForkServerProcess
    out: Path
    err: Path

    def end(self, timeout_s: float = 150.0) -> Ended:
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"the script did not end within {timeout_s:g} s: {self.err.read_text()[-2000:]}")
        return Ended(self.process.exitcode, self.out.read_text("utf-8"), self.err.read_text("utf-8"))


def start(path: Path, *arguments: str, folder: Path, name: str = "script", **environ: str) -> Script:
    """Run a script as `python PATH ARGUMENTS` would, in `folder`, which gets two files with its output."""
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    process = _context.Process(target=_run, args=(str(path), arguments, folder, env, out, err), daemon=True)
    process.start()
    return Script(process, out, err)


def serve(runs_dir: Path, **settings: str | float) -> ServerAddress:
    """A control server with a free port, as `ensure_server` starts one; `tests.server.conftest.stop` ends it."""
    runs_dir = runs_dir.resolve()
    runs_dir.mkdir(parents=True, exist_ok=True)
    options = {"port": 0, "linger_s": 60.0, **settings}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    log = runs_dir / LOG_FILE
    given = ("--runs-dir", str(runs_dir), *words)
    process = _context.Process(
        target=_run, args=("agenttune.server", given, runs_dir, dict(os.environ), log, log), daemon=True
    )
    process.start()
    while (found := find_server(runs_dir)) is None:
        assert process.exitcode is None, log.read_text("utf-8")
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


def _run(what: str, words: Sequence[str], folder: Path, env: Mapping[str, str], out: Path, err: Path) -> None:
    """What a fresh interpreter would do with a file or a module, but for its imports."""
    os.setsid()
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [what, *words]
    sys.path[:0] = [str(Path(what).parent), str(ROOT)]
    code = 0
    try:
        if what.endswith(".py"):
            runpy.run_path(what, run_name="__main__")
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
