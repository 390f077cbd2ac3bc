"""A person decides from another shell, or a script over HTTP; whoever comes second is told so."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from agenttune.control.owner_token import user_name
from agenttune.protocol.proposals import State
from tests.cli.conftest import Result, agenttune
from tests.core.test_approval import ASK, Desk
from tests.warm import serve


class Shell:
    """A desk whose clock is the real one, behind a real server, and commands that go there."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.desk = Desk(folder / "runs", approval=[{**ASK, "timeout_s": 600}], bounds={"lr": [1e-6, 0.5]})
        self.desk.now_s = time.time()

    def run(self, *words: str) -> Result:
        return agenttune("approve", *words, "--url", self.url, cwd=self.folder)

    def run_here(self, *words: str) -> Result:
        """In the folder, without a server."""
        return agenttune("approve", *words, cwd=self.folder)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "runs").mkdir()
    address = serve(tmp_path / "runs")
    yield Shell(tmp_path, address.url)
    psutil.Process(address.pid).terminate()


def test_a_persons_path(shell: Shell) -> None:
    assert shell.run("list").out.strip() == "nothing waits for a decision"
    first = shell.desk.ask(lr=0.1)
    second = shell.desk.ask(kind="do_evaluate")
    third = shell.desk.ask(weight_decay=0.2)
    listed = shell.run("list").out
    assert listed.count("model: ") == 3
    assert "model: update_optimizer lr 0.1" in listed
    shown = shell.run("show", first.command_id[:8]).out
    assert "change: lr 0.01 -> 0.1  (x10)" in shown
    assert "it is not done, and recorded as expired" in shown
    assert "rule ask, asked: human" in shown
    assert shell.run("yes", first.command_id).out.strip() == "queued"
    refused = shell.run("no", second.command_id, "--reason", "it takes an hour")
    assert refused.out.strip() == "rejected: it takes an hour"
    wrong = shell.run("edit", third.command_id, '{"weight_decay": -1}')
    assert wrong.code == 2
    assert "greater than or equal to 0" in wrong.err
    edited = shell.run("edit", third.command_id, '{"weight_decay": 0.15}')
    assert edited.out.strip() == "update_optimizer weight_decay 0.15: queued"
    assert shell.desk.control.command("r1", third.command_id).command.arguments() == {
        "lr_sets": "effective",
        "weight_decay": 0.15,
        "other": {},
    }
    late = shell.run("yes", first.command_id)
    assert late.code == 2
    assert "nothing waits" in late.err


def test_the_one_that_waits_needs_no_id(shell: Shell) -> None:
    for words in (["yes"], ["no"], ["escalate"], ["show"], ["edit", '{"lr": 0.1}']):
        none = shell.run(*words)
        assert (none.code, "nothing waits" in none.err) == (2, True)
    first = shell.desk.ask(lr=0.1)
    assert "change: lr 0.01 -> 0.1" in shell.run("show").out
    second = shell.desk.ask(weight_decay=0.2)
    two = shell.run("yes")
    assert two.code == 2
    assert "2 commands wait; name one by its id" in two.err
    assert first.command_id[:8] in two.err
    assert second.command_id[:8] in two.err
    assert shell.run("yes", first.command_id[:8]).out.strip() == "queued"
    edited = shell.run("edit", '{"weight_decay": 0.15}')
    assert edited.out.strip() == "update_optimizer weight_decay 0.15: queued"
    assert shell.desk.control.command("r1", second.command_id).command.arguments()["weight_decay"] == 0.15
    shell.desk.ask(kind="do_evaluate")
    late = shell.run("no", "--reason", "late")
    assert late.out.strip() == "do_evaluate: rejected: late"
    assert "model: do_evaluate" in late.err
    assert "because: no reason given" in late.err


class Terminal(io.StringIO):
    """Standard input of a person who answers so."""

    def isatty(self) -> bool:
        return True


def test_who_names_no_id_sees_what_is_decided_and_is_asked_at_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = shell.desk.ask(lr=0.1)
    assert gone.command_id[:8] in shell.run("list").out
    shell.desk.decide(gone, "reject")
    waits = shell.desk.ask(kind="do_evaluate")  # not what the person was shown
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    kept = shell.run("yes")
    assert kept.code == 2
    assert "model: do_evaluate" in kept.err
    assert "approve? [y/N]" in kept.err
    assert "nothing was decided; name the one that is meant by its id" in kept.err
    assert waits.command_id[:8] in kept.err.splitlines()[-1]
    assert shell.desk.state(waits) is State.PROPOSED
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert shell.run("yes").out.strip() == "do_evaluate: queued"
    edited = shell.desk.ask(weight_decay=0.2)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert "edit as update_optimizer weight_decay 0.15? [y/N]" in shell.run("edit", '{"weight_decay": 0.15}').err
    assert shell.desk.state(edited) is State.QUEUED
    named = shell.desk.ask(lr=0.05)
    monkeypatch.setattr("sys.stdin", Terminal(""))  # nobody is asked who has named it
    assert shell.run("no", named.command_id[:8]).out.strip() == "rejected"


def test_always_and_never_from_a_shell(shell: Shell) -> None:
    first = shell.desk.ask(lr=0.1)
    assert shell.run("yes", first.command_id, "--always").out.strip() == "queued"
    assert shell.desk.ask(lr=0.05).state is State.QUEUED
    assert "always approved: update_optimizer under ask, by operator:" in shell.run("list").out
    assert shell.run("never", "update_optimizer").out.strip() == "update_optimizer under ask waits for a person again"
    again = shell.desk.ask(lr=0.02)
    assert again.state is State.PROPOSED
    assert shell.run("never", "update_optimizer").code == 2
    passed_on = shell.run("escalate", again.command_id, "--reason", "not mine")
    assert passed_on.out.startswith("rejected: nobody decided (operator:")


def test_without_a_url_the_folder_is_asked_whether_or_not_a_server_runs(shell: Shell) -> None:
    first, second = shell.desk.ask(lr=0.1), shell.desk.ask(kind="do_evaluate")
    assert shell.run_here("list").out.count("model: ") == 2
    assert shell.run_here("yes", first.command_id, "--run", "r").out.strip() == "queued"
    wrong = shell.run_here("edit", second.command_id, "[1]")
    assert wrong.code == 2
    assert "a JSON object" in wrong.err
    assert shell.run_here("no", second.command_id, "--reason", "later").out.strip() == "rejected: later"
    by = shell.desk.control.command("r1", second.command_id).verdict
    assert by is not None
    assert by.decided_by == f"operator:{user_name()}"
    elsewhere = agenttune("approve", "list", cwd=shell.folder / "runs")
    assert elsewhere.code == 2
    assert "no runs in runs yet" in elsewhere.err
    assert "--runs-dir" in elsewhere.err


def test_a_user_without_a_name_decides_too(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    asked = shell.desk.ask(lr=0.1)
    assert shell.run_here("yes", asked.command_id).out.strip() == "queued"


def test_json_for_machines(shell: Shell) -> None:
    asked = shell.desk.ask(lr=0.1)
    (row,) = json.loads(shell.run("list", "--json").out)
    assert row["request"]["digest"] == asked.proposal.digest()


def test_over_http(shell: Shell) -> None:
    asked = shell.desk.ask(lr=0.1)
    path = f"{shell.url}/api/v1/runs/latest/approvals"
    (waiting,) = httpx.get(path).json()["commands"]
    digest = waiting["request"]["digest"]
    nobody = httpx.post(f"{path}/{asked.command_id}", json={"verdict": "approve", "digest": digest})
    assert nobody.status_code == 403
    assert "agenttune token create --role operator" in nobody.json()["error"]["message"]
    made = agenttune("token", "create", "--role", "operator", "--name", "a page", cwd=shell.folder)
    operator = {"Authorization": f"Bearer {made.out.strip()}"}
    wrong = httpx.post(f"{path}/{asked.command_id}", json={"verdict": "approve", "digest": "0" * 64}, headers=operator)
    assert wrong.status_code == 422
    assert "bound to another command" in wrong.json()["error"]["message"]
    body = {"verdict": "approve", "digest": digest, "name": "anna"}
    assert httpx.post(f"{path}/{asked.command_id}", json=body, headers=operator).json()["state"] == "queued"
    second = httpx.post(
        f"{path}/{asked.command_id}", json={**body, "verdict": "reject", "name": "ben"}, headers=operator
    )
    assert second.status_code == 409
    assert "decided by operator:anna via a page (" in second.json()["error"]["message"]
    assert httpx.post(f"{path}/nobody", json=body, headers=operator).status_code == 404
    assert shell.desk.state(asked) is State.QUEUED


def test_the_server_ends_what_nobody_decided(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    address = serve(tmp_path / "runs")
    try:
        desk = Desk(tmp_path / "runs", approval=[{**ASK, "timeout_s": 1.0}])
        desk.now_s = time.time()
        asked = desk.ask(lr=0.1)
        deadline = time.monotonic() + 30
        while desk.state(asked) is State.PROPOSED and time.monotonic() < deadline:
            time.sleep(0.1)
        assert desk.state(asked) is State.EXPIRED
    finally:
        psutil.Process(address.pid).terminate()
