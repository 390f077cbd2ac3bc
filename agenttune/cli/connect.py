"""The way of the command line to the runs: their folder, or a control server where a URL is given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttune.cli.app import runs_dir_of

if TYPE_CHECKING:
    from agenttune.control import LocalControl
    from agenttune.control.http import HttpControl

Url = Annotated[str, typer.Option("--url", help="Of a control server. Default: the runs folder directly.")]


@contextlib.contextmanager
def open_control(url: str, runs_dir: Path | None, is_owner: bool = True) -> Iterator[LocalControl | HttpControl]:
    """The door to the runs.

    Args:
        url: Of a control server; empty: the folder's files.
        runs_dir: The folder of runs.
        is_owner: Whether to act as the operator where the folder is ours, rather than with the environment's token.
    """
    if not url:
        from agenttune.control import LocalControl

        yield LocalControl(runs_dir_of(runs_dir))
        return
    from agenttune.control.discovery import TOKEN_ENV
    from agenttune.control.http import HttpControl
    from agenttune.control.owner_token import OwnerToken

    with HttpControl(url, OwnerToken(url, runs_dir) if is_owner else os.environ.get(TOKEN_ENV)) as control:
        yield control


def choose_run(control: LocalControl | HttpControl, run: str) -> str:
    """The run that is meant, and that can be acted on: `latest` is the newest that still trains, or else the newest."""
    from agenttune.control.control import newest_live, run_named
    from agenttune.control.http import HttpControl

    runs, where = control.runs(), control.url if isinstance(control, HttpControl) else control.runs_dir
    return run_named(run, [info.run_id for info in runs], newest_live(runs), where)
