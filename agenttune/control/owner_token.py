"""Acting as the owner of a runs folder from any shell of the same user, without having to carry a token there.

Whoever may write the folder as the user whose server it is could write its logs too, and is trusted: for them a token
is made that lasts some minutes, or for an agent of theirs, as long as its run. A program that can merely reach the port
has no such way.
"""

from __future__ import annotations

import contextlib
import getpass
import glob
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from agenttune.control.discovery import SERVER_FILE, TOKEN_ENV, ask_health, read_note
from agenttune.control.tokens import MAX_NAME, create_token, revoke_token
from agenttune.errors import UserError
from agenttune.store.process_liveness import is_alive

LAUNCHER = "agenttune run"
"""As whom the launcher asks for what its own terminal wants, such as a stop at Ctrl-C."""
LASTS_S = 300.0
"""Long enough for a command and its answer (guess); longer work has it made anew."""
MARGIN_S = 60.0
"""Made anew when so little is left: no request may outlive it (they wait 60 s at most)."""
AGENT_LASTS_S = 30 * 86_400.0
"""No agent stays longer, whatever its run's log says (guess)."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def user_name() -> str:
    """Whom the log shall name."""
    try:
        return getpass.getuser()[:MAX_NAME]
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "operator"


class OwnerToken:
    """Gives the operator token for a server: that of the environment, else one made for the occasion.

    None where neither can be had; the server then takes who asks for whom it takes everybody without a token.

    Args:
        url: Of the control server.
        runs_dir: Its folder, if known; else the server is asked, then `AGENTTUNE_RUNS_DIR` and `runs` are tried.
        token_env: Environment variable that holds the owner's token, if there is one.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        url: str,
        runs_dir: Path | None = None,
        token_env: str = TOKEN_ENV,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url, self._given, self._clock = url, runs_dir, clock
        self._environment = os.environ.get(token_env)
        self._folder: Path | None = None
        self._text: str | None = None
        self._until_s = 0.0

    def __call__(self) -> str | None:
        """Raises TokensUnusable if the folder is ours but its tokens are damaged."""
        if self._environment:
            return self._environment
        if self._clock() >= self._until_s:
            self._folder = self._folder or _our_folder(self._url, self._given)
            if self._folder is None:
                return None
            self._text, _ = create_token(self._folder, "operator", user_name(), (), LASTS_S, self._clock)
            self._until_s = self._clock() + LASTS_S - MARGIN_S
        return self._text


@contextlib.contextmanager
def agent_token(url: str, run_id: str, token_env: str = TOKEN_ENV) -> Iterator[str | None]:
    """The token of a run's own agent: that of the environment, else one made for the occasion, which ends with it.

    None where neither can be had: the server then takes the agent for anybody.

    Raises:
        TokensUnusable: The folder is ours but its tokens are damaged.
    """
    given = os.environ.get(token_env)
    folder = None if given else _our_folder(url)
    if folder is None:
        yield given or None
        return
    pattern = glob.escape(run_id)
    text, token = create_token(folder, "agent", "agent", [pattern], AGENT_LASTS_S, ends_with_run=run_id)
    try:
        yield text
    finally:
        with contextlib.suppress(UserError):  # it is gone already: the run is over
            revoke_token(folder, token.id)


def _our_folder(url: str, given: Path | None = None) -> Path | None:
    """The folder of the server at `url`, if it is ours: the one given, else as the server says, else the usual one."""
    if given is not None:
        folders = [given]
    else:
        told = (ask_health(url) or {}).get("runs_dir")
        folders = [*([Path(told)] if told else []), Path(os.environ.get("AGENTTUNE_RUNS_DIR") or "runs")]
    return next((folder for folder in folders if _is_ours(folder, url)), None)


def _is_ours(folder: Path, url: str) -> bool:
    """Whether a folder is ours, and its server the one at `url`.

    What the server says of itself does not count: a stranger's program on that port could name our folder to be sent a
    token that is good at our own server. The note in the folder does.
    """
    note = read_note(folder)
    if note is None or not _is_same_place(note.url, url) or not is_alive(note.pid, note.pid_started_s):
        return False
    try:
        is_mine = (folder / SERVER_FILE).stat().st_uid == os.geteuid()
    except FileNotFoundError:  # the server has ended since
        return False
    return is_mine and os.access(folder, os.W_OK)


def _is_same_place(one: str, other: str) -> bool:
    first, second = urlsplit(one), urlsplit(other)
    are_local = first.hostname in LOOPBACK and second.hostname in LOOPBACK
    return first.port == second.port and (are_local or first.hostname == second.hostname)
