"""Commands about a config file: run it, check it, write one, print its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agenttune.cli.app import ConfigPath, RunsDir, app
from agenttune.errors import ConfigError, UserError

Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="STUDY", help="Continue this study of several rounds, by its id's beginning."),
]

Open = Annotated[bool, typer.Option("--open", help="Open the dashboard in your browser.")]


@app.command()
def run(
    config: ConfigPath = Path("config.yaml"), runs_dir: RunsDir = None, resume: Resume = None, open_: Open = False
) -> None:
    """Run a training script with an agent beside it; several times with `rounds` in the config file."""
    from agenttune.launch import launch, make_plan

    plan = make_plan(config, runs_dir)
    if plan.config.rounds.count:
        from agenttune.launch.study.study import run_study

        raise typer.Exit(run_study(plan, Console(), Console(stderr=True), resume, open_))
    if resume is not None:
        raise UserError(f"--resume continues a study, and rounds.count is 0 in {config}", field="resume")
    raise typer.Exit(launch(plan, Console(), Console(stderr=True), open_))


@app.command()
def check(config: ConfigPath = Path("config.yaml"), runs_dir: RunsDir = None) -> None:
    """Check a config file, its policy and its script without running anything."""
    from agenttune.launch import make_plan
    from agenttune.launch.supervisor import check_runs_dir

    plan = make_plan(config, runs_dir)
    check_runs_dir(plan.runs_dir)
    if plan.broken_plugins:
        raise ConfigError(f"{config}: {'; '.join(plan.broken_plugins)}")
    goal = plan.config.goal
    typer.echo(f"{config}: fine\nwould run  {plan.subject}\nin         {plan.folder}")
    typer.echo(f"goal       {goal.direction} {goal.metric}\npolicy     {plan.config.policy}")
    if plan.notice:
        typer.echo(f"note       {plan.notice}")
    if plan.config.notify.on:
        typer.echo(f"notify     {', '.join(plan.config.notify.on)}")
    typer.echo(f"logs in    {plan.runs_dir}")


@app.command()
def schema(
    commands: Annotated[bool, typer.Option("--commands", help="The commands' schemas instead, by kind.")] = False,
) -> None:
    """Print the JSON schema of the config file."""
    from agenttune.config import Config
    from agenttune.protocol.command_schemas import schemas_by_kind

    content = {kind: s.json_schema for kind, s in schemas_by_kind().items()} if commands else Config.model_json_schema()
    typer.echo(json.dumps(content, indent=2))
