"""A report's files: Markdown with pictures beside it, the page, and the own reports of the runs that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from agenttune.bench.catalog import TASKS, TaskFacts
from agenttune.bench.cell import CellResult
from agenttune.bench.faults import FAULTS, FaultKind
from agenttune.bench.metrics import CellFigures
from agenttune.bench.report.html import html
from agenttune.bench.report.markdown import markdown
from agenttune.bench.report.page import benchmark_page
from agenttune.bench.report.plots import LIGHT, coloured
from agenttune.errors import SystemFault
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.views.report import html as run_html
from agenttune.views.report import read_journal

GROUND = '<rect width="100%" height="100%" fill="#ffffff"/>'
"""Under a picture in a file, which may be shown on dark."""


def write_report(
    results: Sequence[CellResult],
    folder: Path,
    name: str = "report",
    title: str = "",
    command: str = "",
    run_folder: Callable[[CellResult], Path | None] = lambda result: None,
    tasks: Mapping[str, TaskFacts] = TASKS,
    kinds: Mapping[str, FaultKind] = FAULTS,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write `NAME.md`, `NAME.html`, `NAME-pictures/` and, where logs were kept, `NAME-runs/`; returns the first two.

    Args:
        title, command, tasks, kinds, notes: As in `benchmark_page`.
        run_folder: Where the log of a cell's run was kept; None: it was not.

    Raises:
        UserError: There is nothing to report, as `benchmark_page` has it.
        SystemFault: A file cannot be written.
    """

    def link(f: CellFigures) -> str | None:
        kept = run_folder(f.result)
        if kept is None:
            return None
        place = f"{name}-runs/{f.result.cell.key}.html"
        with closing(RunLog.open_to_read(kept)) as log:
            _write(folder / place, run_html(log, read_journal(log)))
        return place

    page = benchmark_page(results, title or name, command, tasks, kinds, link, notes)
    pictures = f"{name}-pictures"
    for figure in page.figures:
        if not figure.is_extra:
            _write(folder / pictures / f"{figure.name}.svg", _standing_alone(figure.svg))
    found = [folder / f"{name}.md", folder / f"{name}.html"]
    _write(found[0], markdown(page, pictures))
    _write(found[1], html(page))
    return found


def kept_run(store: Path, result: CellResult) -> Path | None:
    """The folder of the log of a cell's run in a folder of results, if it was kept.

    Below it may lie runs that it was made with, as that of the policy which `matched_random` is like.
    """
    runs = store / "runs" / result.cell.key
    found = [path.parent for path in runs.rglob(LOG_NAME)] if runs.is_dir() else []
    return min(found, key=lambda path: (len(path.parts), path), default=None)


def _standing_alone(svg: str) -> str:
    head, _, rest = coloured(svg, LIGHT).partition(">")
    return f"{head}>{GROUND}{rest}\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemFault(f"cannot write {path}: {error}") from error
