"""`agenttune learn`: the learned policy goes on learning from one's own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agenttune.cli.app import app
from agenttune.errors import UserError


@app.command()
def learn(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="A folder of runs, such as runs/; it stays as it is.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File of the new weights.")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights to begin with. Default: those that ship.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Refine the learned policy on the changes in your own runs whose effect was measured."""
    from agenttune.policy.learned.learned_file import shipped_weights
    from agenttune.replay.learning.refine import refine

    if not runs.is_dir():
        raise UserError(f"no folder {runs}; give one of runs, such as runs/", field="runs")
    if output.exists() and not force:
        raise UserError(f"{output} exists already; choose another name, or overwrite it with --force")
    if not output.parent.is_dir():
        raise UserError(f"{output} cannot be written: there is no folder {output.parent}")
    refined = refine(runs, weights or shipped_weights(), output)
    typer.echo(f"learned from {refined.found.told}")
    typer.echo(
        f"wrote {output}: on these rows its error is {refined.after:.3f}, before it was {refined.before:.3f} "
        "(it has seen them: judge it on other runs, with `agenttune bench` or `agenttune replay`)"
    )
    typer.echo(f"use it by a policy file with `type: learned` and `weights: {output}`")
