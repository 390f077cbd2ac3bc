"""What came of several runs in a row."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from agenttune.cli.app import Json, RunsDir, app, runs_dir_of


@app.command()
def rounds(
    study: Annotated[
        str, typer.Argument(metavar="[STUDY]", help="A study's id or its beginning; default: the newest.")
    ] = "",
    json_: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Show a study: the scores of its rounds, what was planned, and what was learned."""
    from agenttune.launch.study.report import print_study
    from agenttune.launch.study.study import read_study
    from agenttune.launch.study.study_log import find_study

    found = read_study(find_study(runs_dir_of(runs_dir), study))
    if json_:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_study(Console(), found, reflections=True)
