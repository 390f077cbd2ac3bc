"""`agenttune bench report`: what the results of suites say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agenttune.cli.bench import RESULTS, bench

if TYPE_CHECKING:
    from agenttune.bench.cell import CellResult

EXTRA = "pip install 'agenttune-toolkit[bench]'"


@bench.command()
def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RESULTS]...", help="Folders of results, reported together; default: the newest."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report. Default: report, in the first of the results.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the report's files.")] = "report",
    title: Annotated[str, typer.Option(help="Of the report. Default: the names of the results.")] = "",
    made_by: Annotated[
        str, typer.Option("--made-by", metavar="COMMANDS", help="To be told: what made the results. Default: this one.")
    ] = "",
) -> None:
    """Write what results say: Markdown with pictures, and one HTML page."""
    need_extra()
    from agenttune.bench.catalog import tasks_of
    from agenttune.bench.report import kept_run, write_report

    folders = results or [newest()]
    place = {result.cell.key: (folder, result) for folder in folders for result in read(folder)}

    def run_folder(result: CellResult) -> Path | None:
        return kept_run(place[result.cell.key][0], result)

    found = write_report(
        [result for _, result in place.values()],
        out or folders[0] / "report",
        name,
        title or ", ".join(folder.name for folder in folders),
        made_by or f"agenttune bench report {' '.join(map(str, folders))}",
        run_folder,
        tasks_of(result for _, result in place.values()),
    )
    typer.echo("\n".join(f"wrote {path}" for path in found))


@bench.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A contender, or a folder of results.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one, or another folder.")],
    results: Annotated[
        Path | None, typer.Option("--results", help="Of two contenders: the folder of results. Default: the newest.")
    ] = None,
    contender: Annotated[
        str, typer.Option("--contender", help="Of two folders: whose cells. Default: all that are in both.")
    ] = "",
) -> None:
    """Compare two contenders, or the same ones in two folders of results, pair by pair."""
    need_extra()
    from agenttune.bench.catalog import tasks_of
    from agenttune.bench.compare import compare as compared
    from agenttune.bench.compare import comparison_page, contenders_of_both
    from agenttune.bench.report import print_page
    from agenttune.bench.store import STORE_NAME

    folders = [Path(name) for name in (first, second) if (Path(name) / STORE_NAME).is_file()]
    if len(folders) == 2:
        sides = read(folders[0]), read(folders[1])
        tasks = tasks_of([*sides[0], *sides[1]])
        names = [contender] if contender else contenders_of_both(*sides)
        pages = [
            comparison_page(compared(*sides, (name, name), (f"{name} in {first}", f"{name} in {second}"), tasks))
            for name in names
        ]
    else:
        found = read(results or newest())
        pages = [comparison_page(compared(found, found, (first, second), tasks=tasks_of(found)))]
    for page in pages:
        print_page(Console(), page)


@bench.command()
def score(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="A folder of runs.")] = Path("runs"),
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = RESULTS / "score",
    name: Annotated[str, typer.Option(help="Of the report's files.")] = "report",
) -> None:
    """Measure real runs, with and without a policy, as the benchmark measures its own."""
    need_extra()
    from agenttune.bench.faults import AS_IT_WAS
    from agenttune.bench.report import benchmark_page, print_page, write_report
    from agenttune.bench.score import score_runs

    found = score_runs(runs)
    title, command, kinds = str(runs), f"agenttune bench score {runs}", {AS_IT_WAS.name: AS_IT_WAS}
    print_page(
        Console(),
        benchmark_page(found.results, title, command, found.tasks, kinds, notes=found.notes),
        ["Leaderboard", "Raw values"],
    )
    written = write_report(
        found.results,
        out,
        name,
        title,
        command,
        lambda result: found.folders[result.cell.key],
        found.tasks,
        kinds,
        found.notes,
    )
    typer.echo("\n".join(f"wrote {path}" for path in written))


def read(folder: Path) -> list[CellResult]:
    """Raises UserError where there are no results."""
    from agenttune.bench.store import read_results

    return read_results(folder)


def newest() -> Path:
    """The folder of results that was written to last.

    Raises:
        UserError: There is none.
    """
    from agenttune.bench.store import STORE_NAME
    from agenttune.errors import UserError

    known = sorted(RESULTS.glob(f"*/{STORE_NAME}"), key=lambda path: path.stat().st_mtime)
    if not known:
        raise UserError(f"no results in {RESULTS} yet; make some with: agenttune bench suites/NAME.yaml")
    return known[-1].parent


def need_extra() -> None:
    """Raises UserError where the packages of the extra are not there."""
    from importlib.util import find_spec

    from agenttune.errors import UserError

    missing = [package for package in ("scipy", "matplotlib") if find_spec(package) is None]
    if missing:
        raise UserError(f"reports of the benchmark need {' and '.join(missing)}: {EXTRA}")
