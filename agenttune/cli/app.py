"""The command line's root, and the options and lookups that its commands share."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agenttune import __version__

ORDER = (
    "demo",
    "init",
    "policies",
    "check",
    "estimate",
    "run",
    "open",
    "runs",
    "report",
    "approve",
    "send",
    "show",
    "attach",
    "swap",
    "detach",
)
"""Of the help: as a newcomer needs them; the others come after."""


class InOrder(TyperGroup):
    """A group that lists its commands in that order."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


app = typer.Typer(
    cls=InOrder,
    help="An agent beside your training run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Path of the config file.")]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir", envvar="AGENTTUNE_RUNS_DIR", help="Folder of runs. Default: the config file's, or runs."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"agenttune {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _root(version: Version = False) -> None:
    """An agent beside your training run."""


def runs_dir_of(given: Path | None) -> Path:
    return Path("runs") if given is None else given


def find_run(folder: Path, name: str) -> str:
    """The recorded run that is meant, also one whose log cannot be read, so that whoever opens it says why."""
    from agenttune.control.control import LATEST, run_named
    from agenttune.store.run_catalog import RunCatalog
    from agenttune.store.run_folders import newest_names

    newest = RunCatalog(folder).newest() if name in ("", LATEST) else None
    return run_named(name, newest_names(folder), newest, folder)


def stop_on_signals(stop: threading.Event) -> list[int]:
    """Set `stop` on Ctrl-C and SIGTERM; returns the list that collects the signals.

    Another thread sets it: the handler runs in the middle of whatever the main thread does, and where that is a
    `stop.wait` that holds its lock, setting it here would wait for that lock for ever.
    """
    got: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        got.append(number)
        threading.Thread(target=stop.set, name="agenttune-signal", daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, take)
    return got
