"""The link to the dashboard: it signs one browser in, once. Only who may write the folder of runs can make one."""

from __future__ import annotations

import contextlib
import html
import os
import sys
import threading
import time
import webbrowser
from pathlib import Path
from urllib.parse import quote

from agenttune.control.owner_token import user_name
from agenttune.control.tokens import Token, create_token, read_tokens
from agenttune.protocol.proposals import Principal

LINK_S = 3600.0
"""How long a link waits to be followed, in seconds, unless it ends with its run (guess)."""
OPENING_S = 20.0
"""By then a browser has read the file that leads it to the page (guess: a cold start on a busy machine)."""
POLL_S = 0.2
WINDOW_ENV = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
"""Environment variables of which one is set where a browser can open a window."""


def page_link(
    url: str,
    runs_dir: Path,
    run_id: str = "",
    role: Principal = "operator",
    lasts_s: float = LINK_S,
    ends_with_run: str = "",
) -> tuple[str, Token]:
    """A link that signs one browser in, once, for all runs of the folder; and the token that it stands for.

    Args:
        url: Of the control server.
        runs_dir: Its folder of runs.
        run_id: The run whose page it opens; empty: the list of runs.
        role: As whom the browser acts.
        lasts_s: Seconds that it waits to be followed.
        ends_with_run: A run whose end ends the link and the browser's sign-in.

    Raises:
        UserError: The folder cannot be written.
        TokensUnusable: Its file of tokens is damaged, or others may read it.
    """
    key, token = create_token(runs_dir, role, user_name(), (), lasts_s, ends_with_run=ends_with_run, once=True)
    page = f"/runs/{quote(run_id)}" if run_id else "/"
    return f"{url}{page}?key={key}", token


def open_in_browser(link: str, token: Token, runs_dir: Path) -> bool:
    """Have the user's browser follow a link; False where there is none that has a window.

    Every user of the machine sees what a browser is started with, so it is given a file that only its owner may read
    and that leads on to the link. Not in a hidden place, as packaged browsers may not look there. It is removed once
    the link was followed, for which the end of this process waits.
    """
    if sys.platform.startswith("linux") and not any(map(os.environ.get, WINDOW_ENV)):
        return False  # a browser that takes over the terminal is not meant
    path, address = runs_dir.resolve() / f"open-{token.id}.html", html.escape(link)
    text = (
        '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="refresh" content="0;url={address}"><a href="{address}">agenttune</a>\n'
    )
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    found = False
    with contextlib.suppress(webbrowser.Error):  # there is none
        found = webbrowser.open(path.as_uri())
    removal = threading.Thread(target=_remove_when_followed, args=(path, token.id, runs_dir if found else None))
    removal.start()
    return found


def _remove_when_followed(path: Path, token_id: str, runs_dir: Path | None) -> None:
    until_s = time.monotonic() + OPENING_S
    try:
        while runs_dir is not None and time.monotonic() < until_s and _waits(runs_dir, token_id):
            time.sleep(POLL_S)
    finally:
        path.unlink(missing_ok=True)


def _waits(runs_dir: Path, token_id: str) -> bool:
    """Whether a link was not followed yet."""
    return any(token.once for token in read_tokens(runs_dir) if token.id == token_id)
