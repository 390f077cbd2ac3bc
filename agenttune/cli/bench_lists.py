"""`agenttune bench list` and `grid`: what there is to compare, and the best constant rate of a task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agenttune.cli.app import Json
from agenttune.cli.bench import bench

if TYPE_CHECKING:
    from agenttune.bench.grid import GridPoint

SECTIONS = ("suites", "tasks", "faults", "contenders", "policies")


@bench.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="[WHAT]", help=f"One of {', '.join(SECTIONS)}; default: all.")] = "",
    json_: Json = False,
) -> None:
    """List what a suite can name: tasks, faults, contenders, policies; and the suites there are."""
    from agenttune.errors import UserError

    if what and what not in SECTIONS:
        raise UserError(f"no list of {what!r}; give one of {', '.join(SECTIONS)}", field="what", allowed=SECTIONS)
    found = {section: dict(_entries(section)) for section in SECTIONS if what in ("", section)}
    if json_:
        import json

        typer.echo(json.dumps(found, indent=2))
        return
    console = Console()
    for section, entries in found.items():
        console.print(f"[bold]{section}[/bold]")
        width = max(map(len, entries), default=0)
        for name, about in entries.items():
            console.print(f"  {name:<{width}}  {about}", highlight=False, markup=False, soft_wrap=True)


def _entries(section: str) -> Iterator[tuple[str, str]]:
    if section == "suites":
        yield from _suites()
    elif section == "tasks":
        from agenttune.bench.catalog import TASKS

        yield from ((f.name, f"{f.about}; {f.recipe.steps} steps") for f in TASKS.values())
    elif section == "faults":
        from agenttune.bench.faults import FAULTS

        yield from ((kind.name, kind.about) for kind in FAULTS.values())
    elif section == "contenders":
        from agenttune.bench.contenders.shipped import contenders

        yield from ((c.name, f"{c.about} ({c.role})") for c in contenders().values())
    else:
        yield from _policies()


def _suites() -> Iterator[tuple[str, str]]:
    from agenttune.bench.suite import FOLDER, SuiteFile
    from agenttune.config import load_yaml
    from agenttune.config.resources import find_resource, list_resources
    from agenttune.errors import ConfigError

    for name in list_resources(FOLDER):
        try:
            yield name, load_yaml(find_resource(FOLDER, name), SuiteFile).about
        except ConfigError as error:
            yield name, f"cannot be used: {error.message.splitlines()[0]}"


def _policies() -> Iterator[tuple[str, str]]:
    from agenttune.config import PolicyFile, load_yaml
    from agenttune.config.resources import find_resource, list_resources

    class About(PolicyFile):
        model_config = PolicyFile.model_config | {"extra": "ignore"}

    for name in list_resources("policies"):
        yield name, load_yaml(find_resource("policies", name), About).description


@bench.command()
def grid(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of a task.")],
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds.")] = 3,
    test: Annotated[bool, typer.Option("--test", help="Of the test range.")] = False,
    decades: Annotated[float, typer.Option(min=0, help="So far from the task's rate, to both sides.")] = 1.5,
    per_decade: Annotated[int, typer.Option(min=1, help="So many rates in each.")] = 2,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the figures there, as JSON.")] = None,
) -> None:
    """Find a task's best constant rate by trying, without any fault: what its catalogue entry should say."""
    from agenttune.bench.catalog import task_facts
    from agenttune.bench.faults import DEVELOPMENT_SEEDS, TEST_SEEDS
    from agenttune.bench.grid import rates_around, search

    facts = task_facts(task)
    chosen = (TEST_SEEDS if test else DEVELOPMENT_SEEDS)[:seeds]
    typer.echo(f"{facts.name}: {facts.metric} after {facts.recipe.steps} steps, {seeds} seeds each")
    found = search(
        facts,
        rates_around(facts.recipe.lr, decades, per_decade),
        chosen,
        "test" if test else "development",
        on_point=_tell_point,
    )
    best = found.best(facts)
    edge = "; it is the last of the grid, so try more --decades" if found.is_at_edge(facts) else ""
    typer.echo(f"best: {best.lr:g}{edge} (the task says {facts.recipe.lr:g})")
    if output is not None:
        output.write_text(found.model_dump_json(indent=2), encoding="utf-8")
        typer.echo(f"wrote {output}")


def _tell_point(point: GridPoint) -> None:
    finals = "  ".join(f"{final:.4g}" for final in point.finals)
    typer.echo(f"  lr {point.lr:<9g} {finals}   {point.steps_per_s:.0f} steps/s")
