"""The first command of a newcomer: a config file for the script that is there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttune.cli.app import app
from agenttune.errors import UserError

if TYPE_CHECKING:
    from agenttune.launch.first_config import FoundScript


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("config.yaml"),
    script: Annotated[str | None, typer.Option(help="Your training script. Default: the one that is found.")] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Also write a small training script to start from.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Write every key, with its meaning and default.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the config file if it exists.")] = False,
) -> None:
    """Write a config file for the training script in this folder."""
    from agenttune.launch import EXAMPLE, config_text
    from agenttune.launch.first_config import EXAMPLE_NAME, EXAMPLE_SCRIPT, first_config, first_values

    path = path / "config.yaml" if path.is_dir() else path
    folder = path.parent
    if path.exists() and not force:
        raise UserError(f"{path} exists already; choose another name, or overwrite it with --force")
    if example:
        _write(folder / (script or EXAMPLE_NAME), EXAMPLE_SCRIPT, force=False)
        script = script or EXAMPLE_NAME
    chosen = _named(script, folder) if script is not None else _found(folder)
    _write(path, config_text({**EXAMPLE, **first_values(chosen)}) if full else first_config(chosen), force)
    if not chosen.is_open:
        typer.echo(
            f"note: {chosen.name} does not seem to open its training to an agent; change one line, from\n"
            "  trainer = Trainer(...)  to  trainer = agenttune.make_interactive(Trainer)(...)"
        )
    where = "" if path == Path("config.yaml") else f" {path}"
    typer.echo(f"next: agenttune check{where}, then: agenttune run{where}")


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already; leave out --example to use it, or name another --script") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}")


def _named(script: str, folder: Path) -> FoundScript:
    """The script that was named, whatever is in it."""
    from agenttune.launch.first_config import FoundScript, read_script
    from agenttune.protocol.invalid_values import did_you_mean

    if not (folder / script).is_file():
        near = did_you_mean(Path(script).name, sorted(path.name for path in folder.glob("*.py")))
        raise UserError(f"there is no file {folder / script}{near}", field="script")
    return read_script(folder / script, folder) or FoundScript(script, is_open=False, evaluates=False)


def _found(folder: Path) -> FoundScript:
    """The one training script of a folder; where there are several or none, whoever sits at the terminal is asked."""
    from agenttune.launch.first_config import find_scripts

    scripts = find_scripts(folder)
    if len(scripts) == 1:
        return scripts[0]
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _asked(scripts, folder)
    if scripts:
        names = ", ".join(script.name for script in scripts)
        raise UserError(f"several training scripts are here: {names}; name one with --script", field="script")
    raise UserError(
        f"no training script is in {folder.resolve()} (a Python file with a Trainer or agenttune.session); name yours: "
        "agenttune init --script train.py, or start from a small one: agenttune init --example",
        field="script",
    )


def _asked(scripts: Sequence[FoundScript], folder: Path) -> FoundScript:
    if scripts:
        typer.echo("several training scripts are here: " + ", ".join(script.name for script in scripts))
        return _named(typer.prompt("which one", default=scripts[0].name), folder)
    typer.echo("no training script is here; agenttune init --example writes a small one to start from")
    return _named(typer.prompt("path of your training script"), folder)
