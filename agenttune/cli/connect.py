"""The way of the command line to the runs: their folder, or a control server where a URL is given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttune.cli.app import runs_dir_of
from agenttune.errors import UnknownRun

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
    """The id of the run that is meant: by its id, the id's beginning, or `latest`.

    Raises:
        UnknownRun: None, or more than one.
    """
    from agenttune.control.http import HttpControl
    from agenttune.server.mcp.tools import choose_run as choose

    runs = control.runs()
    if not runs:
        at, hint = (control.url, "") if isinstance(control, HttpControl) else (control.runs_dir, ", or name --runs-dir")
        raise UnknownRun(f"no runs in {at} yet; start one with: agenttune run config.yaml{hint}", field="run")
    return choose(runs, run)
