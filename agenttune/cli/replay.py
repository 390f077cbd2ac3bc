"""Commands that learn from what is recorded: a run as a schedule, a policy over a run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agenttune.cli.app import Json, RunsDir, app, find_run, runs_dir_of
from agenttune.errors import UnknownRun, UserError

if TYPE_CHECKING:
    from agenttune.config import AttachSettings, Config
    from agenttune.replay import Replayed
    from agenttune.replay.recordings import Recording

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id or its beginning.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write. Default: the terminal.")]


@app.command()
def distill(
    run: RunName,
    output: Output = None,
    branch: Annotated[
        str | None, typer.Option(help="What led to the end of this branch. Default: where the run ended.")
    ] = None,
    tolerance_steps: Annotated[int, typer.Option(min=0, help="Drop an entry that is later than so many steps.")] = 50,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Turn what was applied in a run into a plain schedule: a policy file that needs no model."""
    from agenttune.replay.distill import distill as distill_log
    from agenttune.store.run_log import RunLog

    folder = runs_dir_of(runs_dir)
    log = RunLog.open(folder / find_run(folder, run))
    try:
        distilled = distill_log(log, branch, tolerance_steps)
    finally:
        log.close()
    if output is None:
        typer.echo(distilled.text, nl=False)
        return
    _write(output, distilled.text, force)
    typer.echo(
        f"wrote {output}: {len(distilled.entries)} commands, {len(distilled.left_out)} left out (see its comments)"
    )


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already; choose another name, or overwrite it with --force") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


@app.command()
def replay(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|PATH", help="A run's id, a trainer_state.json, TensorBoard event files, or a folder with them."
        ),
    ],
    policy: Annotated[str, typer.Option("--policy", help="Name or path of a policy.")] = "guardian",
    every: Annotated[
        int | None, typer.Option(min=1, help="Ask it at least every so many steps. Default: wake.every_steps.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Show what was really done within so many steps.")] = 50,
    config: Annotated[Path | None, typer.Option("--config", help="Config file for `goal`, `wake` and `llm`.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=TAG", help="The event files' tag for loss, lr, ...")
    ] = None,
    allow_calls: Annotated[
        bool, typer.Option("--allow-calls", help="Really call the policy's language model, at its price.")
    ] = False,
    from_transcripts: Annotated[
        bool, typer.Option("--from-transcripts", help="Show the run's recorded calls instead; nothing is called.")
    ] = False,
    json_: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Show what a policy would have done in a recorded run, and where."""
    if from_transcripts:
        _transcripts(_path_of(run, runs_dir), json_)
        return
    from agenttune.replay.recordings import read_recording
    from agenttune.replay.replay_screen import print_replay

    recording = read_recording(_path_of(run, runs_dir), _pairs(tag or []))
    with contextlib.redirect_stdout(sys.stderr):  # what a policy of the user's own prints is no part of the answer
        replayed = _replay(recording, policy, _settings(config), config, every, window, allow_calls)
    if json_:
        typer.echo(replayed.outcome.model_dump_json(indent=2))
    else:
        print_replay(Console(), replayed)


def _path_of(name: str, runs_dir: Path | None) -> Path:
    """A run of the runs folder, or else a path."""
    from agenttune.store.run_log import LOG_NAME

    folder, path = runs_dir_of(runs_dir), Path(name).expanduser()
    if path.exists() and not (folder / name / LOG_NAME).is_file():
        return path
    if path.name != name:
        raise UserError(f"no run and no file {name!r}", field="run")
    try:
        return folder / find_run(folder, name)
    except UnknownRun as error:
        raise UnknownRun(f"{error.message}; nor is there a file {name!r}", field="run", allowed=error.allowed) from None


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    wrong = next(("".join(pair) for pair in pairs if not (pair[0] and pair[2])), None)
    if wrong is not None:
        raise UserError(f"--tag {wrong!r}: give it as NAME=TAG, such as loss=my/training_loss", field="tag")
    return {name: value for name, _, value in pairs}


def _settings(config: Path | None) -> AttachSettings | Config:
    from agenttune.config import AttachSettings, load_config

    return AttachSettings() if config is None else load_config(config)


def _replay(
    recording: Recording,
    policy: str,
    settings: AttachSettings | Config,
    config: Path | None,
    every: int | None,
    window: int,
    allow_calls: bool,
) -> Replayed:
    from agenttune.control.reader import ControlReader
    from agenttune.policy.load import context_of
    from agenttune.replay import admit
    from agenttune.replay import replay as replay_recording

    wake = settings.wake if every is None else settings.wake.model_copy(update={"every_steps": every})
    return replay_recording(
        recording,
        lambda control, run_id: admit(
            policy, context_of(settings, config, ControlReader(control, run_id)), allow_calls
        ),
        wake,
        settings.goal,
        window,
    )


def _transcripts(path: Path, json_: bool) -> None:
    from agenttune.replay.replay_screen import print_transcripts
    from agenttune.replay.transcripts import transcripts_of
    from agenttune.store.run_log import LOG_NAME, RunLog

    log = RunLog.open(path.parent if path.name == LOG_NAME else path)
    try:
        found = transcripts_of(log)
    finally:
        log.close()
    if json_:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_transcripts(Console(), found)
