"""Processes beside a run that can be started by hand: the control server, and the approver `model`."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from agenttune.cli.app import RunsDir, app, find_run, runs_dir_of, stop_on_signals
from agenttune.errors import ConfigError

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


@app.command()
def review(
    config: Annotated[Path, typer.Option("--config", help="Config file with `gate.reviewer` and `llm`.")],
    run: Annotated[str, typer.Option("--run", help="Id of the run. Default: the newest.")] = "",
    runs_dir: RunsDir = None,
    resume: Annotated[bool, typer.Option("--resume", hidden=True, help="Started again; changes nothing.")] = False,
) -> None:
    """Have a language model decide on commands that wait for the approver `model`, until the run ends."""
    from agenttune.agent.model_approver import ReviewLoop
    from agenttune.config import load_config
    from agenttune.control import LocalControl
    from agenttune.control.reader import ControlReader
    from agenttune.policy.base import PolicyContext
    from agenttune.policy.llm.reviewer import Reviewer

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings, folder = load_config(config), config.resolve().parent
    runs = (folder / settings.store.runs_dir) if runs_dir is None else runs_dir
    run_id, control = find_run(runs, run), LocalControl(runs.resolve())
    reader = ControlReader(control, run_id)
    context = PolicyContext(folder, settings.goal, settings.llm, settings.budgets, reader)
    reviewer = Reviewer("gate", settings.gate.reviewer, context)
    if reviewer.why_not:
        raise ConfigError(f"{config}: {reviewer.why_not}", field="gate.reviewer")
    stop = threading.Event()
    got = stop_on_signals(stop)
    ReviewLoop(control, run_id, reviewer).run(stop)
    if got:
        raise typer.Exit(128 + got[0])
