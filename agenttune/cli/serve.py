"""The control server by itself."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from agenttune.cli.app import RunsDir, app, runs_dir_of

LocalRole = Literal["agent", "viewer", "none"]


@app.command()
def serve(
    runs_dir: RunsDir = None,
    host: Annotated[str, typer.Option(help="Address to bind; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. Default: 7007 or the next free one.")
    ] = None,
    linger_s: Annotated[
        float | None, typer.Option(min=0, help="End after so many idle seconds; default: never.")
    ] = None,
    local_role: Annotated[LocalRole, typer.Option(help="As whom a local program acts that sends no token.")] = "agent",
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A page of another server that may use this one, as http://localhost:5173.")
    ] = None,
) -> None:
    """Serve a folder of runs; the owner's token is taken from AGENTTUNE_TOKEN."""
    from agenttune.control.discovery import TOKEN_ENV
    from agenttune.server.process import serve as serve_runs

    def say(url: str) -> None:
        typer.echo(f"control server at {url}, Ctrl-C ends it")

    token = os.environ.get(TOKEN_ENV)
    serve_runs(
        runs_dir_of(runs_dir),
        host,
        port,
        token,
        linger_s,
        on_ready=say,
        local_role=local_role,
        allowed_origins=allow_origin or (),
    )
