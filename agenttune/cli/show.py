"""Commands that show what is recorded."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agenttune.cli.app import Json, RunsDir, app, find_run, runs_dir_of

if TYPE_CHECKING:
    from agenttune.control import LocalControl
    from agenttune.protocol.overview import GoalOverview


Format = Annotated[
    str,
    typer.Option("--format", help="terminal, markdown, html or jsonl. Default: by the output's suffix, else terminal."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of the screen.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]
Since = Annotated[int | None, typer.Option("--since", metavar="SEQ", help="jsonl: only events after this one.")]


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run's id or its beginning; default: the newest.")] = "",
    format_: Format = "",
    output: Output = None,
    force: Force = False,
    since: Since = None,
    json_: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Show what a run reached, what was changed in it, and why; or write it as Markdown, HTML or JSON lines."""
    from agenttune.cli.report_output import chosen_format, write
    from agenttune.store.run_log import RunLog

    chosen = chosen_format(format_, output, json_, since)
    folder = runs_dir_of(runs_dir)
    with closing(RunLog.open_to_read(folder / find_run(folder, run))) as log:
        write(log, chosen, output, force, since or 0)


def _goals(control: LocalControl) -> dict[str, GoalOverview]:
    """The goal metric of each run as it stands."""
    from agenttune.protocol.overview import OverviewQuery

    found: dict[str, GoalOverview] = {}
    while page := control.overview(OverviewQuery(offset=len(found))).runs:
        found |= {row.run_id: row.goal for row in page}
    return found


@app.command()
def runs(json_: Json = False, runs_dir: RunsDir = None) -> None:
    """List the runs, newest first."""
    from agenttune.control import LocalControl
    from agenttune.views.terminal import print_runs

    control = LocalControl(runs_dir_of(runs_dir))
    found = control.runs()  # which tells of live runs whether their process still is
    if json_:
        typer.echo(json.dumps([info.model_dump(mode="json") for info in found], indent=2))
    elif found:
        goals = _goals(control)
        print_runs(Console(), [(info, goals.get(info.run_id)) for info in found])
    else:
        typer.echo(f"no runs in {runs_dir_of(runs_dir)} yet; start one with: agenttune run config.yaml")


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
