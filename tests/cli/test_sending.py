"""Steering from the shell: the same commands, the same gate, and an exit code that tells what came of it."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from agenttune.cli.shell_tools import _command
from agenttune.control import LocalControl
from agenttune.control.discovery import ServerAddress
from agenttune.control.owner_token import user_name
from agenttune.errors import UserError
from agenttune.llm.tools.read_tools import reads_by_word
from agenttune.protocol.commands import BY_KIND, COMMAND_KINDS
from agenttune.protocol.proposals import Ack, Change, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.cli.conftest import agenttune
from tests.policy.conftest import SteeredRun, Valley
from tests.server.conftest import stop
from tests.warm import serve


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Path]:
    """A folder whose `runs` has a live run, trained on a thread."""
    end, ready = threading.Event(), threading.Event()

    def train() -> None:
        run = SteeredRun(tmp_path / "runs", Valley(lr=0.1, max_steps=1_000_000))
        run.step()
        ready.set()
        while not end.wait(0.01):
            run.step()
        run.close()

    thread = threading.Thread(target=train)
    thread.start()
    assert ready.wait(30)
    yield tmp_path
    end.set()
    thread.join()


@pytest.fixture
def server(live: Path) -> Iterator[ServerAddress]:
    address = serve(live / "runs")
    yield address
    stop(address)


def test_a_rate_is_sent_and_acknowledged(live: Path) -> None:
    sent = agenttune("send", "latest", "update_optimizer", "--lr", "5e-2", "--reason", "too high", "--json", cwd=live)
    assert sent.code == 0, sent.err
    record = json.loads(sent.out)
    assert (record["state"], record["ack"]["changes"][0]["effective"]) == ("applied", 0.05)
    assert record["proposal"]["author"] == {"principal": "operator", "name": user_name(), "via": ""}
    assert record["proposal"]["rationale"] == "too high"
    words = agenttune("send", "r", "update_optimizer", "--lr", ".02", "--valid-until-step", "1000000", cwd=live)
    assert words.code == 0
    assert words.out.startswith("applied at step ")
    assert "lr 0.05 -> 0.02" in words.out


def test_a_refusal_has_its_own_exit_code(live: Path) -> None:
    sent = agenttune("send", "latest", "update_optimizer", "--lr", "99", cwd=live)
    assert sent.code == 2
    assert 'nearest allowed: {"lr": 10.0}' in sent.out
    asked = agenttune("send", "latest", "update_optimizer", "--lr", "99", "--dry-run", "--json", cwd=live)
    assert (asked.code, json.loads(asked.out)["decision"]) == (2, "rejected")
    assert len(LocalControl(live / "runs").commands("r1")) == 1


def test_a_new_schedule_is_answered_in_words(tmp_path: Path) -> None:
    plan = {"previous": "LambdaLR", "requested": {"shape": "cosine"}, "effective": {"shape": "cosine", "final": 0.1}}
    told = Change(name="schedule", previous="linear", requested="cosine", effective="cosine from 1e-3 to 1e-4")
    ack = Ack(outcome="applied", step=7, changes=[told], result={"schedule": plan, "trials": [{"loss": 0.123456789}]})
    runs = tmp_path / "runs"
    run = RunInfo(run_id="r1", name="r1", status="running", created_at_s=time.time(), max_steps=100)
    RunLog.create(runs / "r1", run).close()
    thread = threading.Thread(target=answer, args=(runs / "r1", ack))
    thread.start()
    sent = agenttune("send", "latest", "update_schedule", "--shape", "cosine", cwd=tmp_path)
    thread.join()
    assert sent.code == 0, sent.err
    assert "schedule linear -> cosine from 1e-3 to 1e-4" in sent.out
    assert "loss 0.123456789" in sent.out, "other tables are told"
    assert "{" not in sent.out, "nothing as Python or JSON writes it"


@pytest.mark.parametrize("outcome", ["failed", "expired"])
def test_what_became_of_a_command_is_said_once(tmp_path: Path, outcome: Literal["failed", "expired"]) -> None:
    runs = tmp_path / "runs"
    run = RunInfo(run_id="r1", name="r1", status="running", created_at_s=time.time(), max_steps=100)
    RunLog.create(runs / "r1", run).close()
    ack = Ack(outcome=outcome, step=7, message="a layer cannot be frozen here")
    thread = threading.Thread(target=answer, args=(runs / "r1", ack))
    thread.start()
    sent = agenttune("send", "latest", "update_schedule", "--shape", "cosine", cwd=tmp_path)
    thread.join()
    assert sent.out.strip() == f"{outcome} at step 7: a layer cannot be frozen here"


def answer(folder: Path, ack: Ack) -> None:
    """As a trainer does, once a command is queued."""
    log = RunLog.open(folder)
    for _ in range(3000):
        if queued := log.commands(State.QUEUED):
            log.acknowledge(queued[0].command_id, ack)
            break
        time.sleep(0.01)
    log.close()


def test_json_goes_through_a_server_too(live: Path, server: ServerAddress) -> None:
    text = '{"kind": "update_optimizer", "lr": 0.03}'
    sent = agenttune("send", "latest", text, "--url", server.url, cwd=live)
    assert sent.code == 0, sent.err
    assert "-> 0.03" in sent.out
    shown = agenttune("show", "latest", "history", "--url", server.url, "--json", cwd=live)
    assert json.loads(shown.out)["history"][0]["state"] == "applied"


def test_a_command_comes_from_standard_input(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"kind": "update_optimizer", "lr": 0.04}'))
    sent = agenttune("send", "latest", "-", cwd=live)
    assert sent.code == 0, sent.err


def test_nobody_answers_and_the_command_waits(live: Path) -> None:
    (live / "still").mkdir()
    SteeredRun(live / "still" / "runs", Valley(lr=0.1)).close()
    sent = agenttune("send", "latest", "update_optimizer", "--lr", "0.05", "--wait-s", "0.1", cwd=live / "still")
    assert (sent.code, sent.out.split(":")[0].strip()) == (0, "queued")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("latest", "update_optimiser"), "unknown command 'update_optimiser'"),
        (("latest", "update_optimizer", "--learning-rate", "1"), "--learning-rate"),
        (("latest", "update_optimizer", "--lr", "low"), "lr: must be a valid number"),
        (("latest", "update_optimizer", "--lr", "NaN"), "finite"),
        (("latest", "update_optimizer", "--betas", "0.9,0.99"), "is no JSON"),
        (("latest", "update_optimizer"), "nothing to change"),
        (("nope", "pause_training"), "no run 'nope' in runs; there are: r1"),
        (("latest", '{"kind": "set_knob", "name": 3}'), "set_knob.name"),
        (("latest", "{"), "no JSON object"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_sent(live: Path, args: tuple[str, ...], said: str) -> None:
    sent = agenttune("send", *args, cwd=live)
    assert sent.code == 2
    assert said in sent.err
    assert len(sent.err.splitlines()) == 1
    assert LocalControl(live / "runs").commands("r1") == []


@pytest.mark.parametrize("kind", COMMAND_KINDS)
def test_every_command_can_be_typed(kind: str) -> None:
    example, typed = dict(BY_KIND[kind].example), []
    del example["kind"]
    for name, value in example.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{option}" if value else f"--no-{option}")
        else:
            typed += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
    assert _command(kind, typed) == BY_KIND[kind].model_validate(BY_KIND[kind].example)


def test_options_are_documented(tmp_path: Path) -> None:
    shown = agenttune("send", "latest", "update_optimizer", "--help", cwd=tmp_path)
    assert shown.code == 0
    assert "--weight-decay" in shown.out
    listed = agenttune("send", "--help", cwd=tmp_path)
    assert listed.code == 0
    assert all(kind in listed.out for kind in COMMAND_KINDS)
    assert "--dry-run" in listed.out
    missing = agenttune("send", cwd=tmp_path)
    assert missing.code == 2
    assert "--max-points" in agenttune("show", "latest", "metrics", "--help", cwd=tmp_path).out


def test_every_read_tool_can_be_shown(live: Path) -> None:
    assert ", ".join(reads_by_word()) in agenttune("show", "--help", cwd=live).out
    for what in reads_by_word():
        shown = agenttune("show", "latest", what, cwd=live)
        assert shown.code == 0, shown.err
        assert shown.out.strip()
    rows = agenttune("show", "latest", "metrics", "--metric", "step_loss", "--max-points", "3", "--json", cwd=live)
    assert 1 <= len(json.loads(rows.out)["rows"]) <= 3
    unknown = agenttune("show", "latest", "weather", cwd=live)
    assert unknown.code == 2
    assert "there are: metrics" in unknown.err


def test_foreign_text_cannot_move_the_cursor(live: Path) -> None:
    hostile = "\x1b[2J[red]gone\u202e"
    sent = agenttune(
        "send", "latest", json.dumps({"kind": "update_optimizer", "lr": 99.0}), "--reason", hostile, cwd=live
    )
    assert sent.code == 2
    shown = agenttune("show", "latest", "history", cwd=live)
    assert "[red]gone" in shown.out
    assert "\x1b" not in shown.out
    assert "\u202e" not in shown.out


def test_help_names_the_commands_of_the_parser() -> None:
    with pytest.raises(UserError, match="takes no options"), contextlib.redirect_stderr(io.StringIO()):
        _command('{"kind": "pause_training"}', ["--lr", "1"])
