"""Tokens from the shell, and those that `agenttune run` makes for its own processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from agenttune.serving import find_server
from agenttune.tokens import TOKENS_FILE, TokenBook, read_tokens
from tests.cli.conftest import Launched, Project, agenttune, environment, wait_for


def test_a_token_is_printed_once_listed_and_revoked(tmp_path: Path) -> None:
    made = agenttune("token", "create", "--role", "viewer", "--name", "ann", "--run", "a-*", "--run", "b", cwd=tmp_path)
    text = made.out.strip()
    assert re.fullmatch(r"att_[0-9a-f]{12}_[\w-]{43}", text)
    assert "viewer, a-*, b, until" in made.err
    token = TokenBook(tmp_path / "runs").find(text)
    assert token is not None
    assert token.expires_at_s == pytest.approx(token.created_at_s + 30 * 86_400)
    listed = agenttune("token", "list", cwd=tmp_path).out
    assert (token.id in listed, "ann" in listed, text in listed) == (True, True, False)
    [row] = json.loads(agenttune("token", "list", "--json", cwd=tmp_path).out)
    assert (row["role"], row["runs"], "sha256" in row) == ("viewer", ["a-*", "b"], False)
    assert f"revoked {token.id}" in agenttune("token", "revoke", token.id, cwd=tmp_path).out
    assert "no tokens" in agenttune("token", "list", cwd=tmp_path).out
    again = agenttune("token", "revoke", token.id, cwd=tmp_path)
    assert (again.code, "there are: none" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--role", "king", "--name", "x"), "'viewer', 'agent', 'operator', 'trainer'"),
        (("--role", "agent", "--name", ""), "printable"),
        (("--role", "agent", "--name", "x", "--expires", "soon"), "such as 30d, or never"),
        (("--role", "agent", "--name", "x", "--expires", "0d"), "such as 30d, or never"),
        (("--role", "trainer", "--name", "x"), "--run"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = agenttune("token", "create", *words, cwd=tmp_path)
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "runs" / TOKENS_FILE).exists()


def test_a_token_for_ever_must_be_asked_for(tmp_path: Path) -> None:
    agenttune("token", "create", "--role", "viewer", "--name", "x", "--expires", "never", cwd=tmp_path)
    assert read_tokens(tmp_path / "runs")[0].expires_at_s is None


def test_a_shared_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    agenttune("token", "create", "--role", "viewer", "--name", "x", cwd=tmp_path)
    (tmp_path / "runs" / TOKENS_FILE).chmod(0o644)
    result = agenttune("token", "list", cwd=tmp_path)
    assert (result.code, "make it 600" in result.err) == (1, True)


def environ_of(launched: Launched, word: str) -> dict[str, str]:
    return launched.child(word).environ()


def start_on_a_terminal(project: Project, **more: str) -> tuple[Launched, int]:
    """`agenttune run` on a terminal of its own; returns it with the terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agenttune", "run", "config.yaml"],
        cwd=project.folder,
        env={**environment(), "TERM": "xterm", "COLUMNS": "300", "LINES": "40", **more},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    project.launched.append(Launched(process, project.runs_dir))
    return project.launched[-1], ours


def test_a_run_gives_its_agent_and_its_terminal_a_token_each(project: Project) -> None:
    """The agent never holds the owner's token; the link is good for this run, and nothing is left of either."""
    project.write(args="[]")
    launched, terminal = start_on_a_terminal(project, AGENTTUNE_TOKEN="the-owners-own")
    launched.wait_for_event("policy_attached")  # with its token: the server wants one
    run_id = launched.info().run_id
    environ = environ_of(launched, "attach")
    assert "the-owners-own" not in environ.values()
    shown, link = b"", None
    while link is None:
        shown += os.read(terminal, 65536)
        link = re.search(rb"http://[\w.:]+/local/[\w.-]+\?key=att_[0-9a-f]{12}_[\w-]{43}", shown)
    url, key = link.group().decode(), link.group().decode().partition("key=")[2]
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/local/{run_id}")
    server = find_server(project.runs_dir)
    assert server is not None
    path = f"{server.url}/api/v1/runs/{run_id}/approvals/c1"
    body = {"verdict": "reject", "digest": "0" * 64}
    as_agent = httpx.post(path, json=body, headers={"Authorization": f"Bearer {environ['AGENTTUNE_TOKEN']}"})
    as_operator = httpx.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert (as_agent.status_code, as_operator.status_code) == (403, 404)
    launched.send(signal.SIGINT)
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # what a terminal says when its last program has gone
    launched.process.wait(60)
    os.close(terminal)
    assert read_tokens(project.runs_dir) == []
    secrets = [key.encode(), environ["AGENTTUNE_TOKEN"].encode(), b"the-owners-own"]
    for file in (f for f in project.runs_dir.rglob("*") if f.is_file()):
        assert not [s for s in secrets if s in file.read_bytes()], file


def test_no_key_is_written_into_a_file_or_a_pipe(project: Project) -> None:
    launched = project.start()
    wait_for("both tokens", lambda: len(read_tokens(project.runs_dir)) == 2)
    result = launched.end()
    assert result.code == 0, result.err
    assert "att_" not in result.out + result.err
    assert read_tokens(project.runs_dir) == []
