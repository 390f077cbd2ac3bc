"""A token that hangs on a run opens as long as the run lives, whoever was killed meanwhile, and nothing afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from agenttune.control.discovery import ServerAddress
from agenttune.control.tokens import TokenBook, create_token, read_tokens, revoke_token
from agenttune.errors import TokensUnusable, UserError
from agenttune.protocol.events import StatusChanged
from agenttune.protocol.run_info import RunInfo, RunStatus
from agenttune.store.run_ends import LAST_WORDS_S, LOOK_EVERY_S, RunEnds
from agenttune.store.run_log import LOG_NAME, RunLog

PATIENCE_S = 30.0
ENDED: list[RunStatus] = ["finished", "stopped", "failed", "lost"]


class House:
    """A folder of runs, its tokens as a server has them, and a clock to turn."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir, self.passed_s, self.began_s = runs_dir, 0.0, time.time()
        self.ends = RunEnds(runs_dir, lambda: self.began_s + self.passed_s, lambda: self.passed_s)
        self.book = TokenBook(runs_dir, is_over=self.ends)

    def run(self, run_id: str, status: RunStatus = "running", pid: int | None = None) -> RunLog:
        started_s = None if pid is None else 1.0  # no process of today started a second after boot
        info = RunInfo(run_id=run_id, name=run_id, status=status, created_at_s=1.0, pid=pid, pid_started_s=started_s)
        return RunLog.create(self.runs_dir / run_id, info)

    def token(self, run_id: str) -> str:
        return create_token(self.runs_dir, "operator", "ann", [run_id], ends_with_run=run_id, is_over=self.ends)[0]

    def opens(self, text: str) -> bool:
        return self.book.find(text) is not None

    def later(self, seconds: float) -> None:
        self.passed_s += seconds


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("status", ENDED)
def test_a_token_lives_as_long_as_its_run_and_its_last_words(house: House, status: RunStatus) -> None:
    log = house.run("one", "starting")
    text = house.token("one")
    assert house.opens(text)
    log.append(StatusChanged(status="running"))
    house.later(29 * 86_400)  # nobody need be there but the run
    assert house.opens(text)
    log.append(StatusChanged(status=status))
    house.began_s = (log.info().ended_at_s or 0.0) - house.passed_s
    house.later(LAST_WORDS_S - 1)
    assert house.opens(text)  # the agent still has to learn of the end, and to write what it did last
    house.later(1)
    assert not house.opens(text)
    house.later(-3600)  # a clock set back opens nothing again
    assert not house.opens(text)


def test_a_run_whose_process_died_is_over(house: House) -> None:
    log = house.run("one", pid=dead_process())
    text = house.token("one")
    assert house.opens(text)  # written to just now
    house.later(LAST_WORDS_S + 1)
    assert not house.opens(text)
    log.update_info(pid=os.getpid(), pid_started_s=None)  # the script was a wrapper, and the trainer has come up
    house.later(LOOK_EVERY_S)
    assert house.opens(text)


def test_one_run_of_many_ends_alone(house: House) -> None:
    first, _ = house.run("study-1"), house.run("study-2")
    texts = [house.token("study-1"), house.token("study-2")]
    first.append(StatusChanged(status="finished"))
    house.later(LAST_WORDS_S + 1)
    assert [house.opens(text) for text in texts] == [False, True]


def test_a_run_that_was_deleted_is_over_at_once(house: House) -> None:
    house.run("one").close()
    text = house.token("one")
    assert house.opens(text)
    shutil.rmtree(house.runs_dir / "one")
    assert not house.opens(text)


def test_a_log_that_cannot_be_read_opens_nothing_and_says_why(house: House) -> None:
    house.run("one").close()
    text = house.token("one")
    path = house.runs_dir / "one" / LOG_NAME
    path.write_bytes(b"no database" * 100)
    house.later(LOOK_EVERY_S)
    with pytest.raises(TokensUnusable, match="whether the run one is over cannot be told"):
        house.book.find(text)
    assert not house.opens(text[:-1] + ("x" if text[-1] != "x" else "y"))  # who has no token learns nothing of it
    create_token(house.runs_dir, "viewer", "ben", is_over=house.ends)
    assert {t.name for t in read_tokens(house.runs_dir)} == {"ann", "ben"}  # not swept on a guess


def test_what_ended_with_its_run_is_swept_when_the_next_is_made(house: House) -> None:
    first, second = house.run("one"), house.run("two")
    for run_id in ("one", "two"):
        house.token(run_id)
    first.append(StatusChanged(status="finished"))
    house.later(LAST_WORDS_S + 1)
    _, made = create_token(house.runs_dir, "viewer", "ben", is_over=house.ends)
    assert [t.ends_with_run for t in read_tokens(house.runs_dir)] == ["two", ""]
    second.append(StatusChanged(status="failed"))
    house.later(LAST_WORDS_S + 1)
    revoke_token(house.runs_dir, made.id, is_over=house.ends)
    assert read_tokens(house.runs_dir) == []


def test_thirty_days_are_the_end_of_it_whatever_the_log_says(house: House) -> None:
    house.run("one")
    now = [house.began_s]
    book = TokenBook(house.runs_dir, lambda: now[0], house.ends)
    text, _ = create_token(house.runs_dir, "agent", "agent", ["one"], 30 * 86_400.0, lambda: now[0], "one", house.ends)
    now[0] += 30 * 86_400 - 1
    assert book.find(text) is not None
    now[0] += 1
    assert book.find(text) is None


def test_a_key_of_one_run_lets_no_server_listen_to_the_world(house: House) -> None:
    house.run("one")
    house.token("one")
    assert not house.book.has_operator()


@pytest.mark.parametrize("run_id", ["../outside", "..", "a/b", "/etc"])
def test_a_token_hangs_on_a_run_of_the_folder(house: House, run_id: str) -> None:
    with pytest.raises(UserError, match="no id of a run"):
        create_token(house.runs_dir, "agent", "agent", ends_with_run=run_id)
    assert read_tokens(house.runs_dir) == []


def test_the_log_is_not_read_at_every_request(house: House) -> None:
    """A look twice a second while the run lives, and none once it is over."""
    log = house.run("one")
    text = house.token("one")
    assert house.opens(text)
    log.append(StatusChanged(status="finished"))
    log.update_info(ended_at_s=1.0)
    assert house.opens(text)
    house.later(LOOK_EVERY_S)
    assert not house.opens(text)
    log.close()
    (house.runs_dir / "one" / LOG_NAME).write_bytes(b"no database" * 100)
    house.later(10 * LOOK_EVERY_S)
    assert not house.opens(text)  # looked at again, it would have said that the log cannot be read


# -- at a real server --------------------------------------------------------------------------------------------------


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain for {what}"
        time.sleep(0.05)


def ask(url: str, run_id: str, text: str) -> httpx.Response:
    return httpx.get(f"{url}/api/v1/runs/{run_id}", headers={"Authorization": f"Bearer {text}"})


def test_the_server_answers_as_to_a_revoked_token(shared_runs: Path, shared_server: ServerAddress) -> None:
    house, url = House(shared_runs), shared_server.url
    log, other = house.run("r-one"), house.run("r-two")
    text, stays = house.token("r-one"), house.token("r-two")
    revoked, token = create_token(shared_runs, "operator", "ben")
    revoke_token(shared_runs, token.id)
    assert ask(url, "r-one", text).status_code == 200
    link = f"{url}/local/r-one?key={text}"
    assert httpx.get(link).status_code == 303
    log.append(StatusChanged(status="finished"))
    assert ask(url, "r-one", text).json()["status"] == "finished"  # who followed it learns of its end
    log.update_info(ended_at_s=time.time() - LAST_WORDS_S)
    wait_until("the token's end", lambda: ask(url, "r-one", text).status_code == 401)
    assert ask(url, "r-one", text).json() == ask(url, "r-one", revoked).json()
    assert httpx.get(link).status_code == 401
    assert httpx.get(f"{url}/local/r-one", headers={"Cookie": f"agenttune_local={text}"}).status_code == 401
    assert ask(url, "r-two", stays).status_code == 200
    other.close()
    (shared_runs / "r-two" / LOG_NAME).write_bytes(b"no database" * 100)
    wait_until("the damage to be seen", lambda: "cannot be told" in ask(url, "r-two", stays).text)
    refused = ask(url, "r-two", stays)
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "TokensUnusable")
    shutil.rmtree(shared_runs / "r-two")
    assert ask(url, "r-two", stays).status_code == 401
