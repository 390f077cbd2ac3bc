"""Opens the dashboard: a fresh link that signs one browser in, at the control server that is there or is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agenttune.cli.app import RunsDir, app, find_run, runs_dir_of
from agenttune.errors import UserError

if TYPE_CHECKING:
    from agenttune.control.discovery import ServerAddress

LINGER_S = 600.0
"""A server that is started for this ends so long after the last page was closed (guess)."""
Role = Literal["viewer", "agent", "operator"]


@app.command("open")
def open_(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or latest. Default: the list.")] = "",
    only_print: Annotated[bool, typer.Option("--print", help="Print the link, and open nothing.")] = False,
    role: Annotated[Role, typer.Option(help="As whom the browser acts.")] = "operator",
    runs_dir: RunsDir = None,
) -> None:
    """Open the dashboard of a folder of runs, signed in; the link works once, within an hour."""
    from agenttune.control.page_link import open_in_browser, page_link

    folder = runs_dir_of(runs_dir).resolve()
    run_id = find_run(folder, run) if run else ""
    server = _server_of(folder)
    link, token = page_link(server.url, folder, run_id, role)
    if only_print or not open_in_browser(link, token, folder):
        typer.echo(link)
    else:
        typer.echo(f"opened {link.partition('?')[0]} in your browser")


def _server_of(folder: Path) -> ServerAddress:
    from agenttune.control.discovery import ensure_server

    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of runs; name one with --runs-dir", field="runs_dir")
    return ensure_server(folder, linger_s=LINGER_S)
