"""The demo: a newcomer sees a rescue, answers the agent, and sees what came of the answer; nothing is trained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agenttune.cli.demo as demo_command
from agenttune.control import LocalControl
from agenttune.control.control import ApprovalDecision
from agenttune.control.discovery import read_note
from agenttune.errors import AgenttuneError, StoreFault
from agenttune.protocol.commands import parse_command
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from agenttune.protocol.reads import AgentQuery, CurveQuery, DecisionQuery
from agenttune.replay import demo_recording
from agenttune.replay.demo_player import RUN_ID, DemoPlayer
from agenttune.replay.demo_recording import DemoRecording, read_demo
from agenttune.store.process_liveness import is_alive
from tests import warm
from tests.cli.conftest import wait_for

PERSON = Author(principal="operator", name="ada")
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def recording() -> DemoRecording:
    return read_demo()


class Watched:
    """A player whose clock goes on by half a second at each look, and the control that a page has."""

    def __init__(self, recording: DemoRecording, runs_dir: Path, at_looks: dict[int, Callable[[], Any]] | None = None):
        self.looks, self.at_looks = 0, at_looks or {}
        self.player = DemoPlayer(recording, runs_dir, 1.0, self.sleep, clock_s=lambda: self.looks / 2)
        self.control = LocalControl(runs_dir)
        self.asked = recording.asked

    def sleep(self, seconds: float) -> bool:
        self.looks += 1
        self.at_looks.get(self.looks, lambda: None)()
        return self.looks > 10_000

    def ask(self, **command: Any) -> str:
        record = self.control.submit(RUN_ID, Proposal(command=parse_command(command), author=PERSON))
        return record.command_id

    def decide(self, verdict: str, **more: Any) -> CommandRecord:
        (record,) = self.control.pending(RUN_ID)
        assert record.request is not None
        given = {"verdict": verdict, "digest": record.request.digest, "author": PERSON, **more}
        return self.control.decide(RUN_ID, self.asked, ApprovalDecision.model_validate(given))


def test_the_recording_is_small_and_holds_nothing_of_the_machine_that_made_it() -> None:
    path = Path(demo_recording.__file__).with_name(demo_recording.FILE)
    assert path.stat().st_size < MOST_BYTES
    text = read_demo().model_dump_json()
    assert "/home/" not in text
    assert "/tmp/" not in text
    assert '"host":""' in text


def test_a_yes_rescues_the_run_and_the_page_can_tell_why_and_that_it_helped(
    recording: DemoRecording, tmp_path: Path
) -> None:
    demo = Watched(recording, tmp_path)
    seen = dict[str, Any]()

    def answer() -> None:
        info = demo.control.info(RUN_ID)
        seen["while it waits"] = (info.status, demo.control.read(RUN_ID, AgentQuery()).doing)
        demo.decide("approve")

    assert demo.player.play(on_asked=answer) == "finished"
    demo.player.close()
    assert seen["while it waits"] == ("paused", "waiting")
    told = demo.control.read(RUN_ID, DecisionQuery(command_id=demo.asked))
    assert told.record.state is State.APPLIED
    assert told.effect.startswith("better")
    assert told.seen.policy == "guardian"
    assert told.seen.findings
    info = demo.control.info(RUN_ID)
    assert (info.branch, info.step) == ("branch-1", 320)
    curve = demo.control.read(RUN_ID, CurveQuery(name="eval_loss", branch="branch-1"))
    assert curve.mean[-1] < 2.5


def test_a_no_shows_what_it_costs(recording: DemoRecording, tmp_path: Path) -> None:
    demo = Watched(recording, tmp_path)
    assert demo.player.play(on_asked=lambda: demo.decide("reject", reason="let it be")) == "finished"
    demo.player.close()
    record = demo.control.command(RUN_ID, demo.asked)
    assert record.verdict is not None
    assert (record.state, record.verdict.reason) == (State.REJECTED, "let it be")
    curve = demo.control.read(RUN_ID, CurveQuery(name="step_loss", max_points=1000))
    assert curve.nonfinite[-1] == 1


def test_what_was_not_recorded_is_refused_in_words(recording: DemoRecording, tmp_path: Path) -> None:
    ids = dict[str, str]()
    looks: dict[int, Callable[[], Any]] = {
        3: lambda: ids.update(lr=demo.ask(kind="update_optimizer", lr=1e-3)),
        5: lambda: ids.update(note=demo.ask(kind="add_note", text="hello")),
    }
    demo = Watched(recording, tmp_path, looks)

    def edit() -> None:
        asked = demo.control.command(RUN_ID, demo.asked).command
        demo.decide("edit", command=asked.model_copy(update={"lr": 0.2}))

    demo.player.play(on_asked=edit)
    demo.player.close()
    states = {name: demo.control.command(RUN_ID, command_id) for name, command_id in ids.items()}
    assert states["note"].state is State.APPLIED
    ack = states["lr"].ack
    assert ack is not None
    assert "this run is a recording" in ack.message
    own = demo.control.command(RUN_ID, demo.asked).ack
    assert own is not None
    assert "not your edit" in own.message


def test_it_is_paused_goes_on_and_is_stopped_from_the_page(recording: DemoRecording, tmp_path: Path) -> None:
    steps = list[int]()
    looks: dict[int, Callable[[], Any]] = {
        5: lambda: demo.ask(kind="pause_training"),
        8: lambda: steps.append(demo.control.info(RUN_ID).step),
        30: lambda: steps.append(demo.control.info(RUN_ID).step),
        31: lambda: demo.ask(kind="resume_training"),
        36: lambda: steps.append(demo.control.info(RUN_ID).step),
        37: lambda: demo.ask(kind="stop_training"),
    }
    demo = Watched(recording, tmp_path, looks)
    assert demo.player.play() == "stopped"
    demo.player.close()
    assert steps[0] == steps[1] < steps[2]


def test_the_command_needs_no_torch_ends_on_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    code = "import sys\nfrom agenttune.cli import main\ntry:\n main()\nfinally:\n print('torch' in sys.modules)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--speed", "100"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(7)]
        assert lines[0].startswith("page    http://127.0.0.1:")
        assert "key=" not in "".join(lines)  # this is a pipe
        assert lines[-1].startswith("The agent asks")
        (folder,) = [path for path in tmp_path.iterdir() if path.name.startswith("agenttune-demo-")]
        note = read_note(folder)
        assert note is not None
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest.strip() == "False"
    assert not folder.exists()
    wait_for("the server's end", lambda: not is_alive(note.pid, note.pid_started_s))


def test_it_names_no_file_that_is_gone_when_one_reads_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agenttune", "demo", "--speed", "100", "--answer", "approve"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with warm.processes():
        said = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, env=environment).stdout
    assert "status: finished" in said
    named = [line for line in said.splitlines() if str(tmp_path) in line]
    assert [line.split()[:2] for line in named] == [["sign", "in"]]  # while it is there


def test_the_page_of_a_demo_that_is_over_stays_until_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_command, "LINGER_S", 0.6)
    # Ten times as long as it is called at, so that a busy machine does not end it.
    server, stop = warm.serve(tmp_path, linger_s=2.0), threading.Event()
    staying = threading.Thread(target=demo_command._stay, args=(server, stop))
    staying.start()
    time.sleep(3.0)
    note = read_note(tmp_path)
    assert note is not None
    assert is_alive(note.pid, note.pid_started_s)
    stop.set()
    staying.join()
    wait_for("the server's end", lambda: not is_alive(note.pid, note.pid_started_s))


def test_an_answer_that_cannot_be_given_ends_the_demo_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / RUN_ID).mkdir()
    (tmp_path / RUN_ID / "log.db").write_bytes(b"no log" * 1000)
    stop, failed = threading.Event(), list[AgenttuneError]()
    demo_command._answer(tmp_path, "asked", "approve", stop, failed)
    assert stop.is_set()
    assert [type(fault) for fault in failed] == [StoreFault]
