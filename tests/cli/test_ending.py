"""What the end of a script means, and when a launcher loses patience: pure, with a clock of the test's own."""

from __future__ import annotations

import runpy
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from agenttune.errors import StoreFault
from agenttune.launch.child_processes import RESTARTS, RestartBudget
from agenttune.launch.disk_room import DiskRoom
from agenttune.launch.exit_reason import ending_of, own_error, tail
from agenttune.launch.shutdown import ASK_S, TERM_S, Stopping
from agenttune.launch.supervisor import do_all
from agenttune.protocol.run_info import RunInfo, RunStatus


def run(status: RunStatus, reason: str = "") -> RunInfo:
    return RunInfo(run_id="r", name="r", status=status, status_reason=reason, created_at_s=time.time())


@pytest.mark.parametrize(
    ("exit_status", "status", "trained", "expected", "ok", "said"),
    [
        (0, "finished", True, "finished", True, ""),
        (0, "stopped", True, "stopped", True, "why it stopped"),
        (0, "failed", True, "failed", False, "why it stopped"),
        (3, "running", True, "failed", False, "ended with exit code 3 without closing its log"),
        (0, "running", True, "lost", False, "ended with exit code 0 without closing its log"),
        (1, "stopped", True, "failed", False, "training stopped, but then the script ended with exit code 1"),
        (1, "failed", True, "failed", False, "why it stopped; the script ended with exit code 1"),
        (130, "interrupted", True, "interrupted", False, "training interrupted; the script ended with exit code 130"),
        (-9, "running", True, "lost", False, "was killed by SIGKILL (the kernel does this when memory runs out)"),
        (-11, "starting", False, "lost", False, "was killed by SIGSEGV"),
        (1, "starting", False, "failed", False, "ended with exit code 1 before any training began"),
        (0, "starting", False, "failed", False, "agenttune.make_interactive(Trainer)"),
    ],
)
def test_endings_are_told_apart(
    exit_status: int, status: RunStatus, trained: bool, expected: str, ok: bool, said: str
) -> None:
    reason = "why it stopped" if status in ("stopped", "failed") else ""
    ending = ending_of(exit_status, run(status, reason), trained)
    assert (ending.status, ending.ok) == (expected, ok)
    assert said in ending.reason


def test_what_we_did_ourselves_is_not_blamed_on_the_script() -> None:
    ending = ending_of(-9, run("running"), trained=True, interrupted="killed at the second interrupt")
    assert ending.status == "interrupted"
    assert ending.reason == "killed at the second interrupt; the script was killed by SIGKILL"


def test_tail_is_short_clean_and_indented(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    text = "old\n" * 500 + "10%\r20%\r30%\nTraceback:\n    raise \x1b[31mX\n\n\xff"
    log.write_bytes(text.encode("latin-1"))
    lines = tail(log)
    assert len(lines) == 20
    assert lines[-4:-1] == ["30%", "Traceback:", "    raise [31mX"]
    assert tail(tmp_path / "missing.log") == []


def traceback_of(tmp_path: Path, code: str) -> Path:
    """The output of a script that ends with an error."""
    script, log = tmp_path / "train.py", tmp_path / "trainer.log"
    script.write_text(code, encoding="utf-8")
    try:
        runpy.run_path(str(script))
    except Exception:
        log.write_text(f"epoch 1\n{traceback.format_exc()}", encoding="utf-8")
    return log


def test_a_script_that_asks_us_for_what_there_is_not_is_told_in_one_line_where(tmp_path: Path) -> None:
    asks = "from pathlib import Path\nfrom agenttune.launch import make_plan\n\nmake_plan(Path('/gone.yaml'))\n"
    said = own_error(traceback_of(tmp_path, asks))
    assert said == "train.py:4: /gone.yaml: cannot be read: No such file or directory"
    ending = ending_of(1, run("starting"), False, said=said)
    assert ending.reason == f"{said}; the script ended with exit code 1 before any training began"
    assert ending.is_plain
    assert own_error(traceback_of(tmp_path, "1 / 0\n")) == "", "its own errors need their traceback"
    assert not ending_of(1, run("starting"), False).is_plain


def test_a_process_that_keeps_dying_is_given_up() -> None:
    now_s = [0.0]
    budget = RestartBudget(clock=lambda: now_s[0])
    assert [budget.take() for _ in range(RESTARTS + 1)] == [True] * RESTARTS + [False]
    now_s[0] = 61.0
    assert budget.take(), "deaths that lie a minute apart are forgiven"


class Target:
    """Stands for the training process: remembers the signals it got."""

    def __init__(self) -> None:
        self.got: list[signal.Signals] = []

    def signal(self, number: signal.Signals) -> None:
        self.got.append(number)


def stopping(target: Target, clock: Callable[[], float], taken: bool = True) -> Stopping:
    return Stopping(target.signal, lambda: ("asked" if taken else "refused", taken), clock)


def test_patience_with_a_trainer_is_long_but_ends() -> None:
    now_s, target = [0.0], Target()
    stop = stopping(target, lambda: now_s[0])
    assert stop.step(0) == ""
    assert "asked" in stop.step(1)
    now_s[0] = ASK_S - 1
    assert stop.step(1) == ""
    assert target.got == []
    now_s[0] = ASK_S
    assert "SIGTERM" in stop.step(1)
    now_s[0] = ASK_S + TERM_S - 1
    assert stop.step(1) == ""
    now_s[0] = ASK_S + TERM_S
    assert "SIGKILL" in stop.step(1)
    assert stop.step(2) == ""
    assert target.got == [signal.SIGTERM, signal.SIGKILL]


def test_second_interrupt_kills_at_once() -> None:
    target = Target()
    stop = stopping(target, lambda: 0.0)
    stop.step(1)
    assert "SIGKILL" in stop.step(2)
    assert target.got == [signal.SIGKILL]
    assert stop.forced == "killed at the second interrupt"


def test_refused_stop_is_a_sigterm() -> None:
    target = Target()
    assert "refused" in stopping(target, lambda: 0.0, taken=False).step(1)
    assert target.got == [signal.SIGTERM]


def test_an_error_at_the_end_does_not_skip_the_rest_of_the_ending() -> None:
    done: list[str] = []

    def fail() -> None:
        raise StoreFault("the disk is full")

    steps = {"ending the agent": fail, "taking back tokens": fail, "ending the server": lambda: done.append("server")}
    assert do_all(steps) == ["ending the agent failed: the disk is full", "taking back tokens failed: the disk is full"]
    assert done == ["server"]


def test_a_full_disk_is_told_once_and_so_is_room_again(tmp_path: Path) -> None:
    free = [10**9, 4096, 0, 10**9, 10**9]
    disk = DiskRoom(tmp_path, lambda folder: free.pop(0))
    assert disk.news() == ""
    assert "is full: training goes on, but nothing is recorded" in disk.news()
    assert disk.news() == "", "it is full still"
    assert "has room again" in disk.news()
    assert disk.news() == ""
    assert DiskRoom(tmp_path / "gone").news() == ""
