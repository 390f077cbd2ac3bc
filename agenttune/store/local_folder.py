"""Where the logs of runs are kept when the folder of runs lies on a network file system, which SQLite cannot use."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from agenttune.store.sqlite_file import network_kind

PARENTS = ("/var/tmp", tempfile.gettempdir())
"""Local on nearly every cluster; the first survives a restart of the machine."""
SIGN = "agenttune-runs-are-elsewhere.txt"
"""A note in the folder that was asked for; it tells where the logs are."""


def local_runs_dir(
    runs_dir: Path, kind_of: Callable[[Path], str] = network_kind, parents: tuple[str, ...] = PARENTS
) -> tuple[Path, str]:
    """A folder of runs that a log can be in, and what there is to say of it.

    Args:
        runs_dir: The folder that was asked for, absolute; it need not exist.
        kind_of: The network file system that a folder is on; empty for none.
        parents: Folders on a local disk, the best one first.

    Returns:
        The folder itself and nothing to say; for one on a network file system, always the same local folder of this
        user. That too where no parent is local: opening the log then says what is wrong.
    """
    kind = kind_of(runs_dir)
    if not kind:
        return runs_dir, ""
    parent = next((Path(name) for name in parents if os.access(name, os.W_OK) and not kind_of(Path(name))), None)
    if parent is None:
        return runs_dir, ""
    folder = parent / f"agenttune-{_user()}" / f"runs-{hashlib.sha256(str(runs_dir).encode()).hexdigest()[:12]}"
    _make_private(folder)
    words = (
        f"{runs_dir} is on a network file system ({kind}), where SQLite's WAL mode is unsafe: logs are kept in "
        f"{folder} on this machine ({os.uname().nodename}); name it as store.runs_dir, AGENTTUNE_RUNS_DIR or --runs-dir"
    )
    _leave_sign(runs_dir, words)
    return folder, words


def _make_private(folder: Path) -> None:
    """Make a folder that nobody else can write to: others may write to the one above it."""
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if folder.parent.is_symlink() or folder.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder.parent} belongs to another user; remove it or set store.runs_dir")
    folder.mkdir(mode=0o700, exist_ok=True)


def _leave_sign(runs_dir: Path, words: str) -> None:
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        (runs_dir / SIGN).write_text(words + "\n", encoding="utf-8")
    except OSError:  # it is a help only, and the words are told in the program's log too
        return


def _user(environ: Mapping[str, str] = os.environ) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name is known for the number, as in some containers
        return environ.get("USER") or str(os.getuid())
