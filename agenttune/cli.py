"""The command line. Starts fast: torch is never loaded here, and the server's parts only where they are needed."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from agenttune import __version__
from agenttune.errors import AgenttuneError, UnknownRun, UserError

USER_ERROR, FAULT = 2, 1
"""Exit codes: the request was wrong; the machine or another process failed."""

app = typer.Typer(
    help="An agent beside your training run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
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


def main() -> NoReturn:
    """Entry point: runs a command and turns expected errors into one line and an exit code."""
    try:
        app()
    except AgenttuneError as error:
        Console(stderr=True).print(Text(f"error: {_safe(str(error))}"), soft_wrap=True, highlight=False)
        sys.exit(USER_ERROR if isinstance(error, UserError) else FAULT)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def _safe(message: str) -> str:
    """A message may quote files and other processes; its line breaks stay, nothing else that moves the cursor."""
    from agenttune.terminal import clean

    return "\n".join(clean(line, 4000) for line in message.splitlines())


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"agenttune {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _root(version: Version = False) -> None:
    """An agent beside your training run."""


@app.command()
def run(config: ConfigPath = Path("config.yaml"), runs_dir: RunsDir = None) -> None:
    """Run a training script with an agent beside it."""
    from agenttune.launch import launch, make_plan

    raise typer.Exit(launch(make_plan(config, runs_dir), Console(), Console(stderr=True)))


@app.command()
def check(config: ConfigPath = Path("config.yaml"), runs_dir: RunsDir = None) -> None:
    """Check a config file, its policy and its script without running anything."""
    from agenttune.launch import make_plan

    plan = make_plan(config, runs_dir)
    goal = plan.config.goal
    typer.echo(f"{config}: fine\nwould run  {plan.subject}\nin         {plan.folder}")
    typer.echo(f"goal       {goal.direction} {goal.metric}\npolicy     {plan.config.policy}")
    typer.echo(f"logs in    {plan.runs_dir}")


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

    folder = _runs_dir(runs_dir)
    log = RunLog.open(folder / _find_run(folder, run))
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

    found = list_runs(_runs_dir(runs_dir))
    if json_:
        typer.echo(json.dumps([info.model_dump(mode="json") for info in found], indent=2))
    elif found:
        print_runs(Console(), found)
    else:
        typer.echo(f"no runs in {_runs_dir(runs_dir)} yet; start one with: agenttune run config.yaml")


def _runs_dir(given: Path | None) -> Path:
    return Path("runs") if given is None else given


def _find_run(folder: Path, name: str) -> str:
    """The run that a user means: the newest, an id, or the beginning of exactly one id."""
    from agenttune.store import LOG_NAME, list_runs

    if name and Path(name).name == name and (folder / name / LOG_NAME).is_file():
        return name  # whole, so that a log which cannot be read says why
    ids = [info.run_id for info in list_runs(folder)]
    matches = [i for i in ids if i.startswith(name)]
    if len(matches) == 1 or (matches and not name):
        return matches[0]
    if matches:
        problem = f"{len(matches)} runs begin with {name!r}: {', '.join(matches[:10])}"
    elif ids:
        problem = f"no run {name!r} in {folder}; there are: {', '.join(ids[:10])}"
    else:
        problem = f"no runs in {folder} yet; start one with: agenttune run config.yaml"
    raise UnknownRun(problem, field="run", allowed=ids[:10])


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("config.yaml"),
    script: Annotated[str | None, typer.Option(help="Your training script. Default: the shipped example.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write a config file in which every key is documented."""
    from agenttune.launch import EXAMPLE, config_text

    values = EXAMPLE if script is None else {**EXAMPLE, "run": {"script": script}}
    path = path / "config.yaml" if path.is_dir() else path
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(config_text(values))
    except FileExistsError:
        raise UserError(f"{path} exists already; choose another name, or overwrite it with --force") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}; check it with: agenttune check {path}")


@app.command()
def schema(
    commands: Annotated[bool, typer.Option("--commands", help="The commands' schemas instead, by kind.")] = False,
) -> None:
    """Print the JSON schema of the config file."""
    from agenttune.config import Config
    from agenttune.surface import COMMAND_SURFACES

    content = {s.kind: s.json_schema for s in COMMAND_SURFACES} if commands else Config.model_json_schema()
    typer.echo(json.dumps(content, indent=2))


@app.command()
def serve(
    runs_dir: RunsDir = None,
    host: Annotated[str, typer.Option(help="Address to bind; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7007,
    linger_s: Annotated[
        float | None, typer.Option(min=0, help="End after so many idle seconds; default: never.")
    ] = None,
) -> None:
    """Serve a folder of runs; the token is taken from AGENTTUNE_TOKEN."""
    from agenttune import server
    from agenttune.serving import TOKEN_ENV

    def say(url: str) -> None:
        typer.echo(f"control server at {url}, Ctrl-C ends it")

    token = os.environ.get(TOKEN_ENV)
    server.serve(_runs_dir(runs_dir), host, port, token, linger_s, on_ready=say)


@app.command()
def attach(
    url: Annotated[str, typer.Argument(help="Of the control server, such as http://127.0.0.1:7007.")],
    run: Annotated[str, typer.Option("--run", help="Id of the run.")],
    policy: Annotated[str, typer.Option("--policy", help="Name or path of a policy.")] = "guardian",
    config: Annotated[Path | None, typer.Option("--config", help="Config file for `wake` and `server`.")] = None,
) -> None:
    """Put an agent beside a run until the run ends; Ctrl-C takes it away again."""
    from agenttune.client import HttpControl
    from agenttune.config import ServerSettings, WakeSettings, load_config
    from agenttune.loop import AgentLoop
    from agenttune.policy.load import open_policy

    settings = None if config is None else load_config(config)
    wake = settings.wake if settings else WakeSettings()
    token = os.environ.get((settings.server if settings else ServerSettings()).token_env)
    loaded = open_policy(policy, config.resolve().parent if config else None)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    stop = threading.Event()
    got = _stop_on_signals(stop)
    with HttpControl(url, token) as control:
        AgentLoop(control, run, loaded.policy, wake, details=loaded.details).run(stop)
    if signal.SIGINT in got:
        raise typer.Exit(128 + signal.SIGINT)


def _stop_on_signals(stop: threading.Event) -> list[int]:
    """Set `stop` on Ctrl-C and SIGTERM; returns the list that collects the signals."""
    got: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        got.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, take)
    return got
