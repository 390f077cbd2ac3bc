"""Tokens from the shell, and those that `agenttune run` makes for its own processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from agenttune.control import LocalControl
from agenttune.control.discovery import LOCK_FILE, ServerAddress, find_server
from agenttune.control.tokens import TOKENS_FILE, TokenBook, read_tokens
from agenttune.store.run_ends import LAST_WORDS_S
from agenttune.store.run_log import RunLog
from tests.cli.conftest import Launched, Project, agenttune, environment, wait_for
from tests.server.conftest import make_run


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


def end_on_a_terminal(launched: Launched, terminal: int) -> None:
    """Ctrl-C, and read what it says until its end."""
    launched.send(signal.SIGINT)
    with contextlib.suppress(OSError):  # what a terminal says when its last program has gone
        while os.read(terminal, 65536):
            pass
    launched.process.wait(60)
    os.close(terminal)


def test_a_run_gives_its_agent_and_its_terminal_a_token_each(project: Project) -> None:
    """The agent never holds the owner's token; the link works once, while the run lives; nothing is left of either."""
    project.write(args="[]")
    launched, terminal = start_on_a_terminal(project, AGENTTUNE_TOKEN="the-owners-own")
    launched.wait_for_event("policy_attached")  # with its token: the server wants one
    run_id = launched.info().run_id
    environ = environ_of(launched, "attach")
    assert "the-owners-own" not in environ.values()
    shown, link = b"", None
    while link is None:
        shown += os.read(terminal, 65536)
        link = re.search(rb"http://[\w.:]+/runs/[\w.-]+\?key=att_[0-9a-f]{12}_[\w-]{43}", shown)
    url, key = link.group().decode(), link.group().decode().partition("key=")[2]
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run_id}")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert httpx.get(url).status_code == 401, "once"
    server = find_server(project.runs_dir)
    assert server is not None
    path = f"{server.url}/api/v1/runs/{run_id}/approvals/c1"
    body = {"verdict": "reject", "digest": "0" * 64}
    as_agent = httpx.post(path, json=body, headers={"Authorization": f"Bearer {environ['AGENTTUNE_TOKEN']}"})
    by_key = httpx.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    as_operator = httpx.post(path, json=body, headers={"Cookie": cookie, "Origin": server.url})
    assert (as_agent.status_code, by_key.status_code, as_operator.status_code) == (403, 401, 404)
    end_on_a_terminal(launched, terminal)
    assert read_tokens(project.runs_dir) == []
    secrets = [key.encode(), cookie.partition("=")[2].encode(), environ["AGENTTUNE_TOKEN"].encode(), b"the-owners-own"]
    for file in (f for f in project.runs_dir.rglob("*") if f.is_file()):
        assert not [s for s in secrets if s in file.read_bytes()], file


def test_a_killed_launcher_leaves_tokens_that_end_with_the_run(project: Project) -> None:
    """Training and agent go on, and need theirs; a key that outlived the run would be an operator's, left about."""
    project.write(args="[]")
    launched = project.start(fresh=True)
    launched.wait_for_event("policy_attached")
    text, run_id = environ_of(launched, "attach")["AGENTTUNE_TOKEN"], launched.info().run_id
    server = find_server(project.runs_dir)
    assert server is not None
    launched.process.kill()
    launched.process.communicate(timeout=60)

    def answer() -> int:
        path = f"{server.url}/api/v1/runs/{run_id}"
        return httpx.get(path, headers={"Authorization": f"Bearer {text}"}).status_code

    try:
        assert answer() == 200
        assert f"ends with its run {run_id}" in agenttune("token", "list", cwd=project.folder).out
        launched.stop_training()
        launched.wait_for_event("policy_detached")  # what the agent wrote last still came through
        with contextlib.closing(RunLog.open(project.runs_dir / run_id)) as log:
            log.update_info(ended_at_s=time.time() - LAST_WORDS_S)
        wait_for("the token's end", lambda: answer() == 401)
        listed = agenttune("token", "list", cwd=project.folder).out
        assert listed.count(f"has ended with its run {run_id}") == 1
        agenttune("token", "create", "--role", "viewer", "--name", "next", cwd=project.folder)
        assert [token.name for token in read_tokens(project.runs_dir)] == ["next"]
    finally:
        os.kill(server.pid, signal.SIGTERM)


def test_a_launcher_killed_before_its_script_began_leaves_no_run_that_seems_to_start(project: Project) -> None:
    """Nobody else would ever say that it is lost, and its tokens would stay good for a month."""
    project.runs_dir.mkdir()
    with (project.runs_dir / LOCK_FILE).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # so that it waits for the server, and never comes to its script
        launched = project.start()
        info = launched.info()
        assert (info.status, info.pid) == ("starting", launched.process.pid)
        launched.process.kill()
        launched.process.communicate(timeout=60)
    assert LocalControl(project.runs_dir).info(info.run_id).status == "lost"


def test_no_process_inherits_a_secret_that_is_not_its_own(project: Project) -> None:
    """A tracker in the script may upload its whole environment."""
    model = "{model: m, base_url: 'http://127.0.0.1:9/v1', api_key_env: MODEL_KEY}"
    gate = f"gate: {{approval: [{{approvers: [model]}}], reviewer: {model}}}\nllm: {model}\n"
    project.write(args="[]", more=gate)
    text = (project.folder / "config.yaml").read_text()
    text = text.replace("server: {port: 0}", "server: {port: 0, token_env: OURS}\nnotify: {url_env: CHANNELS}")
    (project.folder / "config.yaml").write_text(text.replace("name: demo}", "name: demo, env: {MINE: m}}"))
    secrets = {"AGENTTUNE_TOKEN": "another", "OURS": "the-owners", "CHANNELS": "ntfy://us", "MODEL_KEY": "sk-1"}
    launched, terminal = start_on_a_terminal(project, **secrets, TRACKER_KEY="theirs")
    try:
        launched.wait_for_event("policy_attached")
        held = {word: environ_of(launched, word) for word in ("fake_trainer", "attach", "review", "agenttune.server")}
    finally:
        end_on_a_terminal(launched, terminal)
    kept = {word: {n for n, value in secrets.items() if env.get(n) == value} for word, env in held.items()}
    assert kept == {
        "fake_trainer": {"MODEL_KEY"},  # many a script asks a model of its own by the same key
        "attach": {"MODEL_KEY"},
        "review": {"MODEL_KEY"},
        "agenttune.server": {"OURS", "CHANNELS"},
    }
    script = held["fake_trainer"]
    assert (script["MINE"], script["TRACKER_KEY"], script["AGENTTUNE_RUNS_DIR"]) == (
        "m",
        "theirs",
        str(project.runs_dir),
    )
    assert "OURS" not in script
    assert held["attach"]["OURS"].startswith("att_")


def test_no_key_is_written_into_a_file_or_a_pipe(project: Project) -> None:
    launched = project.start()
    wait_for("its agent's token", lambda: len(read_tokens(project.runs_dir)) == 1)
    result = launched.end()
    assert result.code == 0, result.err
    assert "att_" not in result.out + result.err
    assert read_tokens(project.runs_dir) == []


# -- the dashboard's link ----------------------------------------------------------------------------------------------


def serving(folder: Path) -> ServerAddress:
    server = find_server(folder / "runs")
    assert server is not None
    return server


def test_open_prints_a_fresh_link_to_a_run_and_starts_a_server_for_it(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "one", steps=1).close()
    printed = agenttune("open", "latest", "--print", cwd=tmp_path)
    server = serving(tmp_path)
    try:
        assert printed.out.startswith(f"{server.url}/runs/one?key=att_")
        assert "a link, not followed yet" in agenttune("token", "list", cwd=tmp_path).out
        assert httpx.get(printed.out.strip()).headers["location"] == "/runs/one"
        assert "not followed" not in agenttune("token", "list", cwd=tmp_path).out
        viewers = agenttune("open", "--role", "viewer", "--print", cwd=tmp_path).out.strip()
        with httpx.Client(follow_redirects=True) as browser:
            assert browser.get(viewers).status_code == 200
            assert browser.get(f"{server.url}/api/v1/me").json()["role"] == "viewer"
    finally:
        os.kill(server.pid, signal.SIGTERM)


def test_open_says_what_is_wrong_without_runs(tmp_path: Path) -> None:
    none = agenttune("open", "--print", cwd=tmp_path)
    assert (none.code, "is no folder of runs" in none.err, "--runs-dir" in none.err) == (2, True, True)
    make_run(tmp_path / "runs", "one", steps=1).close()
    other = agenttune("open", "two", "--print", cwd=tmp_path)
    assert (other.code, "one" in other.err) == (2, True)


def test_a_browser_is_led_to_the_page_without_its_key_on_the_command_line(tmp_path: Path) -> None:
    """Every user of a machine sees what others start."""
    make_run(tmp_path / "runs", "one", steps=1).close()
    script, browser = tmp_path / "follow.py", tmp_path / "browser.sh"
    script.write_text(
        "import os, re, stat, sys, urllib.request\n"
        "path = sys.argv[1].removeprefix('file://')\n"
        "assert stat.S_IMODE(os.stat(path).st_mode) == 0o600\n"
        "urllib.request.urlopen(re.search('url=([^\"]+)', open(path).read())[1])\n"
    )
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/given\nexec {sys.executable} {script} "$1"\n')
    browser.chmod(0o755)
    command, env = [sys.executable, "-m", "agenttune", "open"], {**environment(), "BROWSER": str(browser)}
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    os.kill(serving(tmp_path).pid, signal.SIGTERM)
    assert said.stdout.startswith("opened http://127.0.0.1:"), said.stderr
    assert "key" not in said.stdout + (tmp_path / "given").read_text()
    [token] = read_tokens(tmp_path / "runs")
    assert not token.once, "it was followed"
    assert list((tmp_path / "runs").glob("*.html")) == []
