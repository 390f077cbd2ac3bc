"""Commands that show what is recorded."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from agenttune.cli.app import Json, RunsDir, app, find_run, runs_dir_of


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run's id or its beginning; default: the newest.")] = "",
    json_: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Show what a run reached, what was changed in it, and why."""
    from agenttune.journal import summarize
    from agenttune.store import RunLog
    from agenttune.terminal import print_report

    folder = runs_dir_of(runs_dir)
    log = RunLog.open(folder / find_run(folder, run))
    try:
        summary = summarize(log)
    finally:
        log.close()
    if json_:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        print_report(Console(), summary)


@app.command()
def runs(json_: Json = False, runs_dir: RunsDir = None) -> None:
    """List the runs, newest first."""
    from agenttune.store import list_runs
    from agenttune.terminal import print_runs

    found = list_runs(runs_dir_of(runs_dir))
    if json_:
        typer.echo(json.dumps([info.model_dump(mode="json") for info in found], indent=2))
    elif found:
        print_runs(Console(), found)
    else:
        typer.echo(f"no runs in {runs_dir_of(runs_dir)} yet; start one with: agenttune run config.yaml")
