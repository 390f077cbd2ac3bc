"""A person answers in the live view: by keys, on what is shown, in a real terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agenttune.control import LocalControl
from agenttune.control.discovery import find_server
from agenttune.control.http import HttpControl
from agenttune.errors import UserError
from agenttune.gate import with_arguments
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from agenttune.views.terminal import LiveScreen
from agenttune.views.terminal.approval_keys import ARM_S, ApprovalPrompt
from agenttune.views.terminal.edit_arguments import Editable, read_texts
from agenttune.views.terminal.keys import CLEAR, CLEAR_WORD, Keys
from agenttune.views.terminal.run_feed import RunFeed
from agenttune.views.terminal.screen import _prompt
from tests.cli.conftest import Launched, Project, environment, wait_for
from tests.cli.history import HOSTILE
from tests.core.test_approval import AGENT, ASK
from tests.core.test_approval import Desk as Rules

ENTER, ESCAPE, BACKSPACE = "\n", "\x1b", "\x7f"


class Person:
    """Somebody before a screen whose clock they turn."""

    def __init__(self, folder: Path, **gate: Any) -> None:
        self.rules = Rules(folder, **{"approval": [ASK], **gate})
        self.at_s = 0.0
        self.desk = ApprovalPrompt(self.rules.control, "r1", "anna", clock=lambda: self.at_s)

    def look(self) -> None:
        self.at_s += 2 * ARM_S
        self.desk.refresh("")
        self.at_s += 2 * ARM_S

    def press(self, keys: str) -> None:
        self.desk.refresh(keys)

    def record(self, record: CommandRecord) -> CommandRecord:
        return self.rules.control.command("r1", record.command_id)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Person]:
    return lambda **gate: Person(tmp_path, **gate)


@pytest.mark.parametrize(
    ("keys", "state", "reason"),
    [
        ("y", State.QUEUED, ""),
        (f"n{ENTER}", State.REJECTED, ""),
        (f"nit is late{ENTER}", State.REJECTED, "it is late"),
        (f"nit is lats{BACKSPACE}e{ENTER}", State.REJECTED, "it is late"),
        (f"nno{ESCAPE}y", State.QUEUED, ""),
    ],
)
def test_keys_decide(make: Callable[..., Person], keys: str, state: State, reason: str) -> None:
    person = make()
    asked = person.rules.ask(lr=0.1)
    person.look()
    person.press(keys)
    record = person.record(asked)
    assert record.state is state
    assert record.verdict is not None
    assert (record.verdict.decided_by, record.verdict.reason) == ("operator:anna", reason)
    assert person.desk.asked is None
    assert state.value in person.desk.said


def test_an_edit_starts_from_what_was_asked_and_a_wrong_one_stays_to_be_mended(make: Callable[..., Person]) -> None:
    person = make(bounds={"lr": [1e-6, 0.5]})
    asked = person.rules.ask(lr=0.1)
    person.look()
    person.press("e")
    assert person.desk.asked is not None
    assert person.desk.asked.typed == "0.1"
    person.press(f"7.5{ENTER}")
    assert "the edit is refused (nearest allowed: lr 0.5)" in person.desk.said[:80], "80 columns show what to type"
    assert person.desk.asked.typed == "7.5"
    assert person.record(asked).state is State.PROPOSED
    person.press(f"{CLEAR}2e-2{ENTER}")
    record = person.record(asked)
    assert (record.state, record.command.arguments()["lr"]) == (State.QUEUED, 0.02)


LONG = 0.012345678901234567


@pytest.mark.parametrize(
    ("asked", "keys", "runs"),
    [
        ({"lr": LONG}, "", {"lr": LONG}),  # untouched: all its digits
        ({"lr": LONG}, "0.02", {"lr": 0.02}),  # typing replaces
        ({"lr": LONG}, "lr=0.02", {"lr": 0.02}),
        ({"lr": LONG}, "lr=0.02 weight_decay=0.1", {"lr": 0.02, "weight_decay": 0.1}),
        ({"lr": LONG}, f"{BACKSPACE}9", {"lr": 0.0123459}),  # rounded to what a person types
        ({"lr": LONG}, f"{BACKSPACE}{CLEAR}3e-3", {"lr": 0.003}),
        ({"lr": LONG, "weight_decay": 0.5}, "weight_decay=0.1", {"lr": LONG, "weight_decay": 0.1}),
        ({"lr": LONG, "weight_decay": 0.5}, f"{CLEAR_WORD}weight_decay=0.1", {"lr": LONG, "weight_decay": 0.1}),
        ({"lr": LONG, "weight_decay": 0.5}, f"{BACKSPACE}4", {"lr": LONG, "weight_decay": 0.4}),
        ({"betas": [0.9, LONG]}, "", {"betas": [0.9, LONG]}),
        ({"betas": [0.9, LONG]}, "[0.8, 0.99]", {"betas": [0.8, 0.99]}),
        ({"betas": [0.9, LONG]}, "betas=[0.8, 0.99] lr=1e-3", {"betas": [0.8, 0.99], "lr": 0.001}),
    ],
)
def test_what_is_typed_replaces_what_is_offered(
    make: Callable[..., Person], asked: dict[str, Any], keys: str, runs: dict[str, object]
) -> None:
    person = make()
    record = person.rules.ask(**asked)
    person.look()
    person.press(f"e{keys}{ENTER}")
    decided = person.record(record)
    assert decided.state is State.QUEUED, person.desk.said
    assert decided.command.arguments() == {"lr_sets": "effective", "other": {}, **runs}
    assert decided.verdict is not None
    assert decided.verdict.decision == ("edited" if keys else "approved")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_offered_value_is_short_and_marked_until_a_key_is_pressed(make: Callable[..., Person], width: int) -> None:
    person = make()
    person.rules.ask(lr=LONG)
    person.look()
    person.press("e")

    def shown() -> str:
        assert person.desk.asked is not None
        file = StringIO()
        page = Console(file=file, force_terminal=True, width=width, color_system="standard")
        page.print(*_prompt(person.desk.asked, width), sep="\n")
        return file.getvalue()

    assert "run it with lr=" in shown()
    assert "\x1b[7m0.0123457\x1b" in shown()
    assert "Ctrl-U" in shown()
    person.press("7")
    assert "\x1b[7m" not in shown()
    assert "0.0123457" not in shown()


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_id": "true", "branch_name": "a"},
        {"text": "the data = new; lr=3"},
        {"text": "12"},
        {"text": 'a "quoted" \u00fcmlaut'},
        {"candidates": [{"kind": "update_optimizer", "lr": 1e-3}], "steps": 20},
        {"name": "label_smoothing", "value": True},
        {"values": {"weights": {"wiki text": 0.9, "b": 0.1}}},
    ],
)
def test_what_is_offered_is_read_as_what_was_asked(arguments: dict[str, object]) -> None:
    kinds = {"checkpoint_id": "load_checkpoint", "text": "add_note", "candidates": "probe", "name": "set_knob"}
    kind = next((kinds[name] for name in arguments if name in kinds), "update_dataset")
    raw = {"command": {"kind": kind, **arguments}, "author": AGENT}
    command = Proposal.model_validate(raw).command
    editable = Editable(command)
    read = editable.read(editable.offered)
    assert with_arguments(command, read) == command


def test_always_lets_the_next_of_its_kind_pass(make: Callable[..., Person]) -> None:
    person = make()
    person.rules.ask(lr=0.1)
    person.look()
    person.press("a")
    assert person.rules.ask(lr=0.05).state is State.QUEUED


def test_a_key_meant_for_what_stood_there_before_is_not_taken(make: Callable[..., Person]) -> None:
    person = make()
    first, second = person.rules.ask(lr=0.1), person.rules.ask(weight_decay=0.2)
    person.look()
    person.press("yy")
    assert person.record(first).state is State.QUEUED
    person.desk.refresh("y")  # the second has just appeared
    assert person.record(second).state is State.PROPOSED
    person.look()
    person.press("y")
    assert person.record(second).state is State.QUEUED


def test_a_request_that_ends_meanwhile_leaves_the_screen_with_what_was_typed_for_it(
    make: Callable[..., Person],
) -> None:
    person = make()
    asked = person.rules.ask(lr=0.1)
    person.look()
    person.press("nbecau")
    person.rules.decide(asked, "approve")
    person.look()
    assert person.desk.asked is None
    assert "is gone" in person.desk.said


def test_two_people_at_once_one_is_told(make: Callable[..., Person]) -> None:
    person = make()
    asked = person.rules.ask(lr=0.1)
    person.look()
    person.press("")
    person.rules.decide(asked, "reject")
    person.press("y")
    assert "rejected, decided by operator:anna" in person.desk.said
    assert person.record(asked).state is State.REJECTED


@pytest.mark.parametrize("line", ["", "lr", "lr=", "=3", "lr 3", "lr= 3"])
def test_a_line_that_changes_nothing_is_refused(line: str) -> None:
    with pytest.raises(UserError, match=r"lr=0\.001"):
        read_texts(line)


def test_a_name_or_key_that_stands_twice_is_refused(make: Callable[..., Person]) -> None:
    person = make()
    person.rules.ask(lr=0.1)
    person.look()
    person.press(f"elr=0.1 lr=0.2{ENTER}")
    assert "given twice" in person.desk.said
    person.press(f'{CLEAR}other={{"a": 1, "a": 2}}{ENTER}')
    assert "stands twice" in person.desk.said


@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (60, 24), (40, 12)])
def test_the_screen_shows_the_request_and_what_it_rests_on(
    make: Callable[..., Person], width: int, height: int
) -> None:
    person = make(approval=[{**ASK, "training": "pause"}], usd_per_hour=36)
    raw = {"command": {"kind": "update_optimizer", "lr": 0.1}, "author": AGENT, "rationale": HOSTILE}
    person.rules.control.submit("r1", Proposal.model_validate({**raw, "based_on_step": 98}))
    person.look()
    now_s = person.rules.now_s + 50
    quiet = Console(file=StringIO(), force_terminal=True, width=width, height=height)
    feed = RunFeed(person.rules.log.folder, clock=lambda: now_s)
    live = LiveScreen(quiet, feed, "train.py", "http://127.0.0.1:1", clock=lambda: now_s, approvals=person.desk)
    live.refresh()
    frame = live.frame()
    live.close()
    page = Console(file=StringIO(), record=True, width=width, height=height, force_terminal=True)
    page.print(frame)
    shown = page.export_text()
    assert len(shown.splitlines()) < height
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    for expected in ("model: update_optimizer lr 0.1", " y ", " n ", " e ", " a "):
        assert expected in " ".join(shown.split()) or expected in shown, shown
    if height >= 24:
        for expected in ("lr 0.01 -> 0.1  (x10)", "10 s left", "not done", "is held", "$0.5", "step 98"):
            assert expected in " ".join(shown.split()).replace("  ", " ") or expected in shown, shown


# -- a real terminal ---------------------------------------------------------------------------------------------------


ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the controlling terminal, as a terminal emulator does, and becomes the program."""


class Terminal:
    """`agenttune run` on a terminal of its own, with everything that it wrote there."""

    def __init__(self, project: Project) -> None:
        self._master, child = pty.openpty()
        self.shown = ""
        process = subprocess.Popen(
            [sys.executable, "-c", ON_ITS_TERMINAL, sys.executable, "-m", "agenttune", "run", "config.yaml"],
            cwd=project.folder,
            env={**environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
            stdin=child,
            stdout=child,
            stderr=child,
            text=True,
        )
        os.close(child)
        self.launched = Launched(process, project.runs_dir)
        project.launched.append(self.launched)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal's other side is closed
            while data := os.read(self._master, 65536):
                self.shown += data.decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())


@pytest.fixture
def terminal(project: Project) -> Iterator[Terminal]:
    project.write(args="[]", more="gate: {approval: [{name: ask, approvers: [human], timeout_s: 600}]}\n")
    terminal = Terminal(project)
    terminal.launched.wait_for_step(1)
    yield terminal
    terminal.launched.process.terminate()


def test_a_persons_path_in_a_real_terminal(terminal: Terminal, project: Project) -> None:
    control = LocalControl(project.runs_dir)
    run_id = terminal.launched.info().run_id
    wait_for("a server", lambda: find_server(project.runs_dir))
    server = find_server(project.runs_dir)
    assert server is not None

    def ask(**arguments: object) -> str:
        raw = {"command": {"kind": "update_optimizer", **arguments}, "author": AGENT, "rationale": "it is flat"}
        with HttpControl(server.url) as agent:
            return agent.submit(run_id, Proposal.model_validate(raw)).command_id

    def answered(command_id: str, keys: str) -> CommandRecord:
        wait_for("the request on the screen", lambda: command_id[:8] in terminal.shown)
        time.sleep(1.5 * ARM_S)  # a person's pause: keys are not taken before
        terminal.type(keys)
        wait_for("a decision", lambda: control.command(run_id, command_id).state is not State.PROPOSED)
        return control.command(run_id, command_id)

    edited = answered(ask(lr=0.2 + 1e-12), "e0.7\x155\x7f0.5\r")
    assert edited.command.arguments()["lr"] == 0.5
    refused = answered(ask(weight_decay=0.5), "n\x1b[Atoo much\r")
    assert refused.verdict is not None
    assert refused.verdict.reason == "too much"
    always = answered(ask(lr=0.3), "a")
    assert always.state is State.QUEUED
    assert control.command(run_id, ask(lr=0.4)).state is State.QUEUED
    author = Author(principal="operator", name="test")
    control.submit(run_id, Proposal.model_validate({"command": {"kind": "stop_training"}, "author": author}))
    assert terminal.launched.process.wait(60) == 0


def test_keys_leave_the_terminal_as_it_was() -> None:
    import termios

    master, child = pty.openpty()
    before = termios.tcgetattr(child)
    with os.fdopen(child, "r", closefd=True) as terminal:
        keys = Keys(terminal)
        assert keys.read() == ""  # in the background: this process does not own that terminal
        assert termios.tcgetattr(child) == before
        keys.close()
        assert termios.tcgetattr(child) == before
    os.close(master)
