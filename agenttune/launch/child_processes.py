"""The processes beside the launcher: how each is started, watched and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from agenttune.config import ServerSettings
from agenttune.control.discovery import ServerAddress, ensure_server
from agenttune.errors import AgenttuneError, SystemFault
from agenttune.store.process_liveness import is_alive, started_s

RESTARTS = 5
RESTART_WINDOW_S = 60.0
"""More than five deaths a minute is not bad luck (a guess)."""
AGENT_GRACE_S = 5.0
"""The agent looks for the end of its run five times a second; this is its shutdown grace, to write the rest."""
RESUME = "--resume"
"""Tells an agent that is started again to go on with the policy that it was last given."""
SERVER_LINGER_S = 60.0
"""The server ends itself so long after the last run, should nobody be left to stop it."""


class RestartBudget:
    """Says whether a process that died may be started again.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at_s: deque[float] = deque(maxlen=RESTARTS)

    def take(self) -> bool:
        """Use one restart; False when five were used within the last minute."""
        now_s = self._clock()
        if len(self._at_s) == RESTARTS and now_s - self._at_s[0] < RESTART_WINDOW_S:
            return False
        self._at_s.append(now_s)
        return True


def spawn(
    command: list[str], cwd: Path, log: Path, env: Mapping[str, str], hidden: Collection[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that a terminal's Ctrl-C does not reach it, writing to `log`.

    It inherits our environment but what is `hidden`, and gets `env`.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**inherited, "PYTHONUNBUFFERED": "1", **env},
        )


class TrainingProcess:
    """The training script. A thread waits for it, so that its end is recorded the moment it comes.

    Args:
        process: The running script.
        on_end: Called in that thread with the exit status.
        marks: What this run alone has in its environment, by which the ranks are known that a launcher has left
            behind; None: the script is no launcher.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], on_end: Callable[[int], None], marks: Mapping[str, str] | None = None
    ) -> None:
        self._process = process
        self._on_end = on_end
        self._marks = marks
        self.pid = process.pid
        self.ended = threading.Event()
        self.exit_status: int | None = None
        self.fault: AgenttuneError | None = None
        threading.Thread(target=self._wait, name="training process", daemon=True).start()

    def _wait(self) -> None:
        self.exit_status = self._process.wait()
        if self._marks is not None:
            kill_ranks(self._marks)
        try:
            self._on_end(self.exit_status)
        except AgenttuneError as error:
            self.fault = error  # for the main thread, which tells it
        except OSError as error:
            self.fault = SystemFault(f"the end of the script could not be recorded: {error}")
        finally:
            self.ended.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the script and the processes it started."""
        below = _descendants(self.pid) if number is signal.SIGKILL else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        for process in below:  # torchrun's ranks have sessions of their own, which the group's signal does not reach
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def kill_ranks(marks: Mapping[str, str]) -> list[int]:
    """Kill the ranks of a run whose launcher is gone: nobody else would, and they hold their devices.

    Args:
        marks: What they have in their environment. The run's id does not do: it is unique in its folder of runs only,
            and two runs of one name that began in the same second, in two projects, have the same.

    Returns:
        Their process ids. Other programs that the script has started are let live.
    """
    killed = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if not (marks.items() <= environ.items() and {"TORCHELASTIC_RUN_ID", "LOCAL_RANK"} <= environ.keys()):
                continue
            if process.pid == os.getpid():
                continue
            process.kill()
            killed.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended meanwhile, or another user's
    return killed


class AgentProcess:
    """The agent, or a reviewer: started again when it dies while its run lives, unless it ended in peace.

    Args:
        command: As for `subprocess`.
        cwd: Its working folder.
        log: File for its output.
        budget: How often it may be started again.
        env: Environment variables beside ours, or in their place.
        name: What it is called in messages.
        hidden: Environment variables of ours that it does not inherit.
    """

    def __init__(
        self,
        command: list[str],
        cwd: Path,
        log: Path,
        budget: RestartBudget | None = None,
        env: Mapping[str, str] | None = None,
        name: str = "the agent",
        hidden: Collection[str] = (),
    ) -> None:
        self._command, self._cwd, self.log, self._name = command, cwd, log, name
        self._env, self._hidden = dict(env or {}), hidden
        self._budget = budget or RestartBudget()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._spawn(self._command)

    def _spawn(self, command: list[str]) -> None:
        # The agent runs this very agenttune, wherever it was imported from.
        env = {**self._env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = spawn(command, self._cwd, self.log, env, self._hidden)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def restart_if_dead(self) -> str:
        """What happened, in words; empty while it lives or after it was given up."""
        if self._process is None or self._process.poll() is None:
            return ""
        if self._process.returncode == 0:  # it was sent away, which the log tells
            self._process = None
            return ""
        how = f"{self._name} ended (exit status {self._process.returncode})"
        if not self._budget.take():
            self._process = None
            return f"{how}, {RESTARTS + 1} times within a minute: given up, training goes on without it; see {self.log}"
        try:
            self._spawn([*self._command, RESUME])
        except OSError as error:
            return f"{how} and could not be started again: {error}"
        return f"{how} and was started again; see {self.log}"

    def stop(self, grace_s: float = AGENT_GRACE_S) -> None:
        """Wait for its own end, then ask, then kill."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
                return


class ServerProcess:
    """The control server of the runs folder: found or started, and started again on its port when it dies.

    Args:
        runs_dir: The folder of runs.
        settings: Where it listens.
        hidden: Environment variables of ours that it does not inherit.
    """

    def __init__(
        self,
        runs_dir: Path,
        settings: ServerSettings,
        budget: RestartBudget | None = None,
        hidden: Collection[str] = (),
    ) -> None:
        self._runs_dir, self._settings, self._hidden = runs_dir, settings, hidden
        self._budget = budget or RestartBudget()
        self._port = settings.port
        self._given_up = False
        self._start()

    def _start(self) -> None:
        self.address: ServerAddress = ensure_server(
            self._runs_dir,
            self._settings.host,
            self._port,
            self._settings.token_env,
            SERVER_LINGER_S,
            self._settings.local_role,
            self._hidden,
            self._settings.request_s,
            self._settings.allowed_origins,
        )
        self._started_s = started_s(self.address.pid)
        self._port = urlsplit(self.address.url).port or self._port

    @property
    def url(self) -> str:
        return self.address.url

    def restart_if_dead(self, is_needed: Callable[[], bool] = lambda: True) -> str:
        """What happened, in words; empty while it lives, when it is not needed, or after it was given up.

        Args:
            is_needed: Asked when it was found dead, not before: who runs beside us ends it when our run is over too.
        """
        if self._given_up or is_alive(self.address.pid, self._started_s) or not is_needed():
            return ""
        if not self._budget.take():
            self._given_up = True
            return f"the server died {RESTARTS + 1} times within a minute: given up, training goes on without it"
        try:
            self._start()
        except (AgenttuneError, OSError) as error:
            return f"the control server died and could not be started again: {error}"
        return f"the control server died and was started again at {self.url}"

    def stop(self) -> None:
        """End it, if this launcher started it."""
        if not self.address.started or not is_alive(self.address.pid, self._started_s):
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.address.pid)
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(AGENT_GRACE_S)
                return
            process.kill()
