"""`agenttune bench`: runs a suite, and what is made of its results."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from agenttune.cli.app import app

if TYPE_CHECKING:
    from agenttune.bench.backends.backend import Backend
    from agenttune.bench.runner import Progress
    from agenttune.bench.store import Store
    from agenttune.bench.suite import Suite

RESULTS = Path("bench-results")
SOME_FAILED = 1
"""Exit code of a suite that was done, with failed cells: as a test runner's."""
LINE_EVERY_S = 30.0
"""Where nobody watches, progress is a line as often as this."""


class RunsByDefault(TyperGroup):
    """A group in which `agenttune bench SUITE` is `agenttune bench run SUITE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


bench = typer.Typer(cls=RunsByDefault, help="Compare tuner policies on tasks with faults.", no_args_is_help=True)
app.add_typer(bench, name="bench")

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="Path of a suite file, or the name of one.")]


@bench.command()
def run(
    suite: SuiteName,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results. Default: bench-results/NAME of the suite.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="One more contender: a policy's name, file, or ./mine.py:Mine. Repeatable."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="So many seeds instead of the suite's.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Use the test range, which is for final claims.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Worker processes; 0: none, and nothing ends what hangs. Default: a core each."),
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help="local, or ray for a cluster.")] = "local",
    only: Annotated[
        str,
        typer.Option("--only", metavar="PATTERN", help="Only the cells whose task/fault/contender/seed fits."),
    ] = "",
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep each run's log, for its own report.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do cells again that had failed.")] = False,
    limit_s: Annotated[
        float | None, typer.Option(min=1, help="Wall time of one cell in seconds. Default: the suite's limit_s.")
    ] = None,
) -> None:
    """Run a suite, or go on with it: what is done already stays done.

    Exit code: 0 every cell came to a result; 1 some failed, which counts against their contenders; 2 the
    suite is wrong, and nothing ran; 130 it was interrupted.
    """
    from agenttune.bench.suite import load_suite

    loaded = load_suite(suite, test, seeds, policy or [])
    _run(loaded, out or _folder_of(loaded), workers, backend, only, keep_runs, retry_failed, limit_s)


def _folder_of(suite: Suite) -> Path:
    return RESULTS / (f"{suite.name}-test" if suite.split == "test" else suite.name)


def _run(
    suite: Suite,
    out: Path,
    workers: int | None,
    backend: str,
    only: str,
    keep_runs: bool,
    retry_failed: bool,
    limit_s: float | None,
) -> None:
    from agenttune.bench.cells import cells_of
    from agenttune.bench.runner import Runner
    from agenttune.bench.runner import only as chosen
    from agenttune.bench.store import Store
    from agenttune.errors import ConfigError

    cells = cells_of(suite)
    wanted = chosen(cells, only) if only else cells
    if not wanted:
        raise ConfigError(f"--only {only!r}: no cell fits; they are called such as {_example(suite)}", field="only")
    console = Console(stderr=True)
    with Store(out) as store, _ended_by_sigterm():
        store.refuse_other_split(suite.split)
        _tell_aside(console, store, cells)
        if suite.left_out:
            console.print(f"left out where the task is a script of yours: {', '.join(suite.left_out)}", soft_wrap=True)
        if retry_failed:
            keys = {cell.key for cell in wanted}
            store.forget([key for key, state in store.done().items() if state == "failed" and key in keys])
        made = _backend(backend, workers)
        try:
            with _progress(console, suite.name) as tell:
                limit = limit_s or suite.file.limit_s
                ended = Runner(store, made, suite.project, limit, keep_runs, tell).run(wanted)
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on where it was ({out})")
            raise
        finally:
            made.close()
    failures = f", {ended.failed} of them failed" if ended.failed else ""
    words = f"{ended.done} cells{failures}; results in {out}; report: agenttune bench report {out}"
    console.print(words, soft_wrap=True)
    if ended.failed:
        raise typer.Exit(SOME_FAILED)


def _example(suite: Suite) -> str:
    return f"{suite.scenarios[0].name}/{suite.contenders[0].name}/{suite.seeds[0]}"


def _tell_aside(console: Console, store: Store, cells: list[Any]) -> None:
    aside = store.align(cells)
    if aside.changed:
        console.print(f"{aside.changed} results are set aside: their policy, task, settings or code has changed since")
    if aside.dropped:
        console.print(f"{aside.dropped} results are set aside: the suite no longer has their scenario")
    if aside.returned:
        console.print(f"{aside.returned} results that were set aside count again")


def _backend(name: str, workers: int | None) -> Backend:
    from agenttune.errors import ConfigError

    if name == "local" and workers == 0:
        from agenttune.bench.backends.backend import InProcess

        return InProcess()
    if name == "local":
        from agenttune.bench.backends.local import Local

        return Local(workers)
    if name == "ray":
        from agenttune.bench.backends.ray_cluster import RayCluster

        return RayCluster(workers)
    raise ConfigError(f"--backend {name}: give local or ray", field="backend", allowed=["local", "ray"])


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A SIGTERM ends the run as Ctrl-C does, so that no worker is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress(console: Console, name: str) -> Iterator[Callable[[Progress], None]]:
    """Progress with the time that is left: a bar on a terminal, else a line now and then."""
    if not console.is_terminal:
        yield _Lines(console, name)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Bar(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(name, total=None, note="")

        def tell(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.done, note=_note(progress))

        yield tell


def _note(progress: Progress) -> str:
    notes = [f"{progress.failed} failed"] if progress.failed else []
    return ", ".join(notes + ([f"{progress.taken} with another runner"] if progress.taken else []))


class _Lines:
    """Progress for a file: a line at the start, and one every half minute."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name
        self._started, self._told, self._before, self._last = time.monotonic(), 0.0, -1, -1

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._before < 0:
            self._before = progress.done
        elif progress.done == self._last or (now - self._told < LINE_EVERY_S and progress.done < progress.total):
            return
        self._told, self._last = now, progress.done
        new, left = progress.done - self._before, progress.total - progress.done
        words = [f"{self._name}: {progress.done} of {progress.total} cells", _note(progress)]
        if new and left:
            words.append(f"about {(now - self._started) / new * left / 60:.1f} min left")
        self._console.print(", ".join(filter(None, words)), soft_wrap=True)
        sys.stderr.flush()
