"""Ctrl-C ends a command whatever the main thread is in the middle of."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Both locks are private to `threading`: where the main thread is while it waits, and while it starts a thread.
WAITING = """
import signal, sys, threading
from agenttune.cli.app import stop_on_signals

stop = threading.Event()
got = stop_on_signals(stop)
with stop._cond, threading._active_limbo_lock:
    signal.raise_signal(int(sys.argv[1]))
    signal.raise_signal(int(sys.argv[1]))
print(stop.wait(30), got)
"""
UNDER_SLURM = """
import signal, threading
from agenttune.trainer.distributed.preemption import Preemption

asked = threading.Event()
preemption = Preemption(asked.set, {"SLURM_JOB_ID": "1"})
with asked._cond, threading._active_limbo_lock:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
print(asked.wait(30), preemption.came)
preemption.leave()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
IMPORTING = """
import signal, sys
from importlib.abc import MetaPathFinder
from agenttune.__main__ import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background

class Comes(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == last:
            signal.raise_signal(signal.SIGINT)

last = sys.argv.pop(1)
sys.meta_path.insert(0, Comes())
main()
"""


def told(code: str, *arguments: str) -> list[str]:
    """What a process says that runs the code; one that hangs is a failure."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_waits_is_ended(number: signal.Signals) -> None:
    assert told(WAITING, str(int(number))) == [f"True {[int(number)] * 2}"]


@pytest.mark.trainer
def test_a_job_that_slurm_takes_away_is_stopped() -> None:
    assert told(UNDER_SLURM) == ["True True", "True"]


@pytest.mark.parametrize("imported", ["agenttune.cli", "typer", "agenttune.cli.tokens", "agenttune.policy.load"])
def test_ctrl_c_while_the_command_is_still_being_loaded_says_nothing(imported: str) -> None:
    command = [sys.executable, "-c", IMPORTING, imported]
    ended = subprocess.run([*command, "policies"], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
