"""Tokens: what is kept of them, what opens and what does not, whatever else writes the file or dies over it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.control.tokens import LOCK_FILE, TOKENS_FILE, TokenBook, covers, create_token, read_tokens, revoke_token
from agenttune.errors import TokensUnusable, UserError

SPAWN = multiprocessing.get_context("spawn")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_file_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    text, token = create_token(tmp_path, "agent", "ann", ["mnist-*"], 60.0)
    path = tmp_path / TOKENS_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    prefix, token_id, secret = text.split("_", 2)
    assert (prefix, token_id) == ("att", token.id)
    assert len(secret) >= 43  # 256 bits
    assert secret not in path.read_text()
    assert json.loads(path.read_text())["tokens"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert not [left for left in tmp_path.iterdir() if left.name not in (TOKENS_FILE, LOCK_FILE)]


def test_a_token_opens_until_it_is_revoked_or_its_time_is_up(tmp_path: Path) -> None:
    clock = Clock()
    book = TokenBook(tmp_path, clock)
    assert book.find("att_000000000000_x") is None
    text, token = create_token(tmp_path, "operator", "ann", lasts_s=60.0, clock=clock)
    assert book.find(text) == token  # the book was open before the token was made
    assert book.has_operator()
    clock.now_s += 59.9
    assert book.counts(token.id)
    clock.now_s += 0.1
    assert book.find(text) is None
    assert not book.counts(token.id)
    assert not book.has_operator()
    for_ever, kept = create_token(tmp_path, "viewer", "ben", clock=clock)
    assert read_tokens(tmp_path) == [kept]  # the expired one was swept
    assert book.find(for_ever) == kept
    assert not book.has_operator()
    revoke_token(tmp_path, for_ever)  # by its text too
    assert book.find(for_ever) is None
    with pytest.raises(UserError, match="there are: none"):
        revoke_token(tmp_path, kept.id)


@given(noise=st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_other_text_opens(tmp_path_factory: pytest.TempPathFactory, noise: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "noise"
    if not folder.exists():
        create_token(folder, "operator", "ann")
    [token] = read_tokens(folder)
    book = TokenBook(folder)
    for text in (noise, f"att_{noise}", f"att_{token.id}_{noise}", f"att_{token.id}_{token.sha256}"):
        assert book.find(text) is None


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (b"", 0o600),
        (b"{", 0o600),
        (b"\xff\xfe", 0o600),
        (b'{"tokens": [{"id": "000000000000"}]}', 0o600),
        (b'{"tokens": [], "more": 1}', 0o600),
        (b'{"tokens": []}', 0o640),
        (b'{"tokens": []}', 0o604),
        (b'{"tokens": []}', 0o620),
    ],
)
def test_a_damaged_or_shared_file_closes(tmp_path: Path, content: bytes, mode: int) -> None:
    text, _ = create_token(tmp_path, "operator", "ann")
    book = TokenBook(tmp_path)
    assert book.find(text) is not None
    path = tmp_path / TOKENS_FILE
    path.write_bytes(content)
    path.chmod(mode)
    works: list[Callable[[], object]] = [
        lambda: book.find(text),
        book.has_operator,
        lambda: create_token(tmp_path, "viewer", "ben"),
        lambda: read_tokens(tmp_path),
    ]
    for work in works:
        with pytest.raises(TokensUnusable, match=TOKENS_FILE):
            work()
    assert path.read_bytes() == content  # nothing was made of it
    path.unlink()
    assert book.find(text) is None
    assert book.find(create_token(tmp_path, "viewer", "ben")[0]) is not None


def test_a_file_that_others_may_read_closes_though_its_content_is_the_same(tmp_path: Path) -> None:
    text, token = create_token(tmp_path, "operator", "ann")
    book = TokenBook(tmp_path)
    assert book.find(text) == token
    (tmp_path / TOKENS_FILE).chmod(0o644)
    with pytest.raises(TokensUnusable, match="mode 644"):
        book.find(text)
    (tmp_path / TOKENS_FILE).chmod(0o600)
    assert book.find(text) == token


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    text, _ = create_token(elsewhere, "operator", "ann")
    (tmp_path / TOKENS_FILE).symlink_to(elsewhere / TOKENS_FILE)
    with pytest.raises(TokensUnusable):
        TokenBook(tmp_path).find(text)
    with pytest.raises(TokensUnusable):
        create_token(tmp_path, "viewer", "ben")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_closes(tmp_path: Path) -> None:
    text, _ = create_token(tmp_path, "operator", "ann")
    os.chown(tmp_path / TOKENS_FILE, 4242, 4242)
    with pytest.raises(TokensUnusable, match="belongs to user 4242"):
        TokenBook(tmp_path).find(text)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\x1b[31m", "x" * 65])
def test_a_name_is_one_plain_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="printable"):
        create_token(tmp_path, "viewer", name)
    assert not (tmp_path / TOKENS_FILE).exists()


def test_a_trainers_token_names_its_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the run"):
        create_token(tmp_path, "trainer", "ann")
    assert create_token(tmp_path, "trainer", "ann", ["one"])[1].runs == ("one",)


@pytest.mark.parametrize(
    ("patterns", "run_id", "expected"),
    [
        ((), "x", True),
        (("a-*",), "a-1", True),
        (("a-*", "b"), "b", True),
        (("a-*",), "A-1", False),
        (("b",), "bb", False),
    ],
)
def test_patterns_cover_runs(patterns: tuple[str, ...], run_id: str, expected: bool) -> None:
    assert covers(patterns, run_id) is expected


def _busy(folder: str, name: str, rounds: int) -> None:
    """Makes tokens, and revokes every second one that it made."""
    for index in range(rounds):
        _, token = create_token(Path(folder), "viewer", f"{name}-{index}")
        if index % 2:
            revoke_token(Path(folder), token.id)


def test_nothing_is_lost_between_processes_that_write_at_once(tmp_path: Path) -> None:
    workers = [SPAWN.Process(target=_busy, args=(str(tmp_path), f"p{n}", 12)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    names = {token.name for token in read_tokens(tmp_path)}
    assert names == {f"p{n}-{index}" for n in range(3) for index in range(0, 12, 2)}


def _die_at_rename(folder: str) -> None:
    """Killed when the new file is written aside and not yet in place."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = os.rename = die  # type: ignore[assignment]
    Path.replace = die  # type: ignore[method-assign, assignment]
    create_token(Path(folder), "operator", "never")


def test_a_process_killed_over_the_file_leaves_it_whole_and_unlocked(tmp_path: Path) -> None:
    text, token = create_token(tmp_path, "agent", "ann")
    worker = SPAWN.Process(target=_die_at_rename, args=(str(tmp_path),))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert [left.name for left in tmp_path.iterdir() if left.name.startswith(f".{TOKENS_FILE}")]
    assert TokenBook(tmp_path).find(text) == token
    assert {t.name for t in read_tokens(tmp_path)} == {"ann"}
    create_token(tmp_path, "viewer", "next")  # is not held up by the lock, and tidies up
    assert {t.name for t in read_tokens(tmp_path)} == {"ann", "next"}
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(f".{TOKENS_FILE}")]
