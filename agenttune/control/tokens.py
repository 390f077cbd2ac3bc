"""Bearer tokens of a runs folder: who has which role, for which runs, until when or until which run is over.

`tokens.json` holds SHA-256 of every secret, never a secret. A fast hash is right for these: a slow one makes it dear to
guess what a person has thought up, but nobody guesses 256 random bits at any speed, and each request hashes once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agenttune.errors import StoreFault, TokensUnusable, Unauthorized, UserError
from agenttune.protocol.proposals import Principal
from agenttune.store.run_ends import RunEnds

TOKENS_FILE = "tokens.json"
LOCK_FILE = ".tokens.lock"
PREFIX = "att"
"""Begins each token's text, so that people and scanners of secrets know one when they see it."""
ID_BYTES, SECRET_BYTES = 6, 32
SESSION_S = 7 * 86_400.0
"""How long a browser that has followed a link stays signed in, in seconds (guess: a week of training)."""
NOBODYS = hashlib.sha256(b"").hexdigest()
"""What the secret of an unknown id is compared with: it costs the same as a known one."""
MAX_NAME, MAX_PATTERN = 64, 200
PRIVATE = 0o600
Clock = Callable[[], float]
IsOver = Callable[[str], bool]
"""Whether the run of this id is over, as `RunEnds` tells; raises StoreFault where that cannot be told."""


def _one_line(name: str, text: str, most: int) -> str:
    if not text.strip() or not text.isprintable() or len(text) > most:
        raise ValueError(f"{name} is one line of 1 to {most} printable characters, not {text!r:.80}")
    return text


class Token(BaseModel):
    """What is known of a token.

    Attributes:
        runs: Patterns of run ids, such as `mnist-*`; empty for all runs.
        ends_with_run: It counts no longer once this run is over; empty if it hangs on none.
        once: It is the key of a link, which opens nothing but is exchanged for a secret of a browser's, once.
        expires_at_s: Unix time; None for never.
        sha256: Of its secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    id: str = Field(pattern=rf"^[0-9a-f]{{{2 * ID_BYTES}}}$")
    role: Principal
    name: str
    runs: tuple[str, ...] = ()
    ends_with_run: str = ""
    once: bool = False
    created_at_s: float
    expires_at_s: float | None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return _one_line("a token's name", name, MAX_NAME)

    @field_validator("runs")
    @classmethod
    def _are_patterns(cls, runs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_one_line("a pattern of runs", pattern, MAX_PATTERN) for pattern in runs)

    @field_validator("ends_with_run")
    @classmethod
    def _is_a_folder(cls, run_id: str) -> str:
        if run_id and (Path(run_id).name != run_id or run_id == ".."):
            raise ValueError(f"{run_id!r:.80} is no id of a run")
        return run_id

    @property
    def label(self) -> str:
        """For logs: its name and id."""
        return f"{self.name} ({self.id})"

    def is_live(self, now_s: float) -> bool:
        """Whether its time is not up; its run is another matter."""
        return self.expires_at_s is None or now_s < self.expires_at_s


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: list[Token] = []


def covers(patterns: Collection[str], run_id: str) -> bool:
    """Whether a token for these runs is good for one of them."""
    return not patterns or any(fnmatchcase(run_id, pattern) for pattern in patterns)


def create_token(
    runs_dir: Path,
    role: Principal,
    name: str,
    runs: Sequence[str] = (),
    lasts_s: float | None = None,
    clock: Clock = time.time,
    ends_with_run: str = "",
    is_over: IsOver | None = None,
    once: bool = False,
) -> tuple[str, Token]:
    """Make a token; its text is told here and never again.

    Args:
        runs_dir: The folder of runs; made if missing.
        role: What its holder may do.
        name: For people and for the log.
        runs: Patterns of run ids that it is good for; none: all.
        lasts_s: Seconds until it expires; None for never.
        clock: Unix time in seconds.
        ends_with_run: A run whose end ends the token too.
        is_over: Which runs are over, whose tokens are swept; default: what their logs tell.
        once: Whether it is the key of a link, for `exchange_key`.

    Raises:
        UserError: A bad name or pattern, or a folder that cannot be written.
        TokensUnusable: The file of tokens is damaged, or others may read it.
    """
    if role == "trainer" and not runs:
        raise UserError("a trainer's token is for its own run: name the run, with --run", field="run")
    secret, now_s = secrets.token_urlsafe(SECRET_BYTES), clock()
    known: dict[str, object] = {"id": secrets.token_hex(ID_BYTES), "role": role, "name": name, "runs": tuple(runs)}
    known |= {"ends_with_run": ends_with_run, "once": once}
    ends_s = None if lasts_s is None else now_s + lasts_s
    try:
        token = Token.model_validate({**known, "created_at_s": now_s, "expires_at_s": ends_s, "sha256": _hash(secret)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(first["msg"].removeprefix("Value error, "), field=str(first["loc"][0])) from None
    with _changing(runs_dir, now_s, is_over or RunEnds(runs_dir)) as tokens:
        tokens.append(token)
    return f"{PREFIX}_{token.id}_{secret}", token


def exchange_key(
    runs_dir: Path, text: str, clock: Clock = time.time, is_over: IsOver | None = None
) -> tuple[str, Token]:
    """Take the key of a link, which works once, for a secret that a browser keeps for a week.

    The token stays the same one, so that who revokes the link's also signs that browser out.

    Args:
        runs_dir: The folder of runs.
        text: The key.
        clock: Unix time in seconds.
        is_over: As for `create_token`.

    Raises:
        Unauthorized: The key was used already, or does not count (any longer).
        TokensUnusable: As for `create_token`.
    """
    token_id, given = _parts(text)
    now_s, over = clock(), is_over or RunEnds(runs_dir)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    with _changing(runs_dir, now_s, over) as tokens:
        token = next((token for token in tokens if token.id == token_id and not _has_ended(token, now_s, over)), None)
        is_same = token is not None and hmac.compare_digest(_hash(given), token.sha256)
        if token is not None and not token.once and not is_same:
            raise Unauthorized("this link was used already, and works once", field="key")
        if token is None or not (token.once and is_same):
            raise Unauthorized("this link does not count (any longer)", field="key")
        session = {"once": False, "sha256": _hash(secret), "expires_at_s": now_s + SESSION_S}
        tokens[tokens.index(token)] = token.model_copy(update=session)
    return f"{PREFIX}_{token.id}_{secret}", token.model_copy(update=session)


def revoke_token(runs_dir: Path, token_id: str, clock: Clock = time.time, is_over: IsOver | None = None) -> Token:
    """Make a token worthless at once.

    Args:
        runs_dir: The folder of runs.
        token_id: Its id, or its whole text.
        clock: Unix time in seconds.
        is_over: As for `create_token`.

    Raises:
        UserError: There is none of that id.
        TokensUnusable: As for `create_token`.
    """
    token_id = _parts(token_id)[0] or token_id
    with _changing(runs_dir, clock(), is_over or RunEnds(runs_dir)) as tokens:
        found = [token for token in tokens if token.id == token_id]
        if not found:
            ids = [token.id for token in tokens]
            listed = ", ".join(ids) or "none"
            raise UserError(f"no token {token_id!r:.40} in {runs_dir}; there are: {listed}", field="id", allowed=ids)
        tokens.remove(found[0])
    return found[0]


def read_tokens(runs_dir: Path) -> list[Token]:
    """All tokens of a runs folder, also those that have expired since the last change.

    Raises:
        TokensUnusable: The file is damaged, or others than its owner may read or write it.
    """
    path = runs_dir / TOKENS_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from None
    with open(descriptor, "rb") as file:
        _refuse_if_shared(path, os.fstat(descriptor))
        try:
            return _File.model_validate_json(file.read()).tokens
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise _unusable(path, f"is damaged ({where}: {first['msg']})") from None


def _refuse_if_shared(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(path, "is no plain file")
    if found.st_uid != os.geteuid():
        raise _unusable(path, f"belongs to user {found.st_uid}, not to user {os.geteuid()} who reads it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise _unusable(path, f"may be read or written by others (mode {mode:o}; make it 600 once you trust it)")


def _unusable(path: Path, problem: str) -> TokensUnusable:
    return TokensUnusable(f"{path} {problem}; no token counts until it is mended, or deleted to begin anew")


class TokenBook:
    """The tokens of a runs folder as they stand now: each look takes in what was changed since the last.

    Args:
        runs_dir: The folder of runs.
        clock: Unix time in seconds.
        is_over: Which runs are over; default: what their logs tell.

    Raises:
        TokensUnusable: Any method, as for `read_tokens`; or it cannot be told whether a token's run is over.
    """

    def __init__(self, runs_dir: Path, clock: Clock = time.time, is_over: IsOver | None = None) -> None:
        self._runs_dir, self._clock, self._is_over = runs_dir, clock, is_over or RunEnds(runs_dir)
        self._seen: tuple[int, ...] | None = None
        self._known: dict[str, Token] = {}

    def find(self, text: str) -> Token | None:
        """The token of this text, if it is one and still counts."""
        token_id, secret = _parts(text)
        token = self._tokens().get(token_id)
        is_same = hmac.compare_digest(_hash(secret), NOBODYS if token is None else token.sha256)
        return token if token is not None and is_same and not token.once and self.is_good(token) else None

    def exchange(self, key: str) -> tuple[str, Token]:
        """A browser's secret for the key of a link; as `exchange_key`."""
        return exchange_key(self._runs_dir, key, self._clock, self._is_over)

    def counts(self, token_id: str) -> bool:
        """Whether a token that was found before still counts."""
        token = self._tokens().get(token_id)
        return token is not None and self.is_good(token)

    def is_good(self, token: Token) -> bool:
        """Whether neither a token's time is up nor its run over."""
        if not token.is_live(self._clock()):
            return False
        if not token.ends_with_run:
            return True
        try:
            return not self._is_over(token.ends_with_run)
        except StoreFault as fault:
            problem = f"whether the run {token.ends_with_run} is over cannot be told"
            raise TokensUnusable(f"{problem}, so its tokens do not count: {fault}") from None

    def has_operator(self) -> bool:
        """Whether there is a live token with which somebody could do everything, whatever becomes of a run."""
        now_s = self._clock()
        lasting = [token for token in self._tokens().values() if not (token.ends_with_run or token.once)]
        return any(token.role == "operator" and token.is_live(now_s) for token in lasting)

    def _tokens(self) -> dict[str, Token]:
        try:
            now = os.stat(self._runs_dir / TOKENS_FILE, follow_symlinks=False)
            # A change of mode or owner moves the change time, so that it is looked at again.
            seen: tuple[int, ...] = (now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_size)
        except FileNotFoundError:
            seen = ()
        except OSError as error:
            raise _unusable(self._runs_dir / TOKENS_FILE, f"cannot be read ({error.strerror})") from None
        if seen != self._seen:
            self._seen = None
            self._known = {token.id: token for token in read_tokens(self._runs_dir)}
            self._seen = seen
        return self._known


def _parts(text: str) -> tuple[str, str]:
    """Id and secret of a token's text; empty ones of any other text."""
    prefix, _, rest = text.partition("_")
    token_id, _, secret = rest.partition("_")
    return (token_id, secret) if prefix == PREFIX and secret else ("", "")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


@contextlib.contextmanager
def _changing(runs_dir: Path, now_s: float, is_over: IsOver) -> Iterator[list[Token]]:
    """The tokens, to be changed in place while nobody else changes them; those that ended are swept."""
    path = runs_dir / TOKENS_FILE
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(runs_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        problem = f"cannot write tokens into {runs_dir}: {error.strerror}"
        raise UserError(problem, field="store.runs_dir") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it if this process dies
        tokens = read_tokens(runs_dir)
        yield tokens
        _replace(path, _File(tokens=[token for token in tokens if not _has_ended(token, now_s, is_over)]))
    finally:
        os.close(lock)


def _has_ended(token: Token, now_s: float, is_over: IsOver) -> bool:
    if not token.is_live(now_s):
        return True
    if not token.ends_with_run:
        return False
    try:
        return is_over(token.ends_with_run)
    except StoreFault:  # it opens nothing as long as that is so, and is swept when it can be told
        return False


def _replace(path: Path, content: _File) -> None:
    """Write aside and rename: whoever reads, or is left by a crash, has the old file or the new one."""
    for left in path.parent.glob(f".{TOKENS_FILE}.*"):
        left.unlink(missing_ok=True)  # of a process that died while it wrote; the lock is ours
    aside = path.with_name(f".{TOKENS_FILE}.{os.getpid()}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE), "wb") as file:
            # What is left out has its default: a server of before, which knows no links, still reads the file.
            file.write(content.model_dump_json(indent=1, exclude_defaults=True).encode())
            file.flush()
            os.fsync(file.fileno())  # what was revoked stays so after a power cut
        aside.replace(path)
    except OSError as error:
        raise TokensUnusable(f"cannot write {path}: {error.strerror}; nothing has changed") from None
