"""The report in the terminal: the Markdown one in brief, laid out by rich."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableBodyElement, TableElement
from rich.table import Column, Table
from rich.text import Text

from agenttune.protocol.text import clean
from agenttune.store.run_log import LOG_NAME
from agenttune.views.report.journal import Journal
from agenttune.views.report.markdown import BRIEF, markdown, parser

STYLES = {
    "kept": "green",
    "reverted": "yellow",
    "refused": "red",
    "failed": "red",
    "expired": "dim",
    "waiting": "magenta",
}
"""Of the headings of decisions, by their first word."""
PATH_CHARACTERS = 5000
"""Longer than any path (4096 on Linux)."""
DEFAULT_RUNS_DIR = "runs"


def report_command(run_id: str, runs_dir: Path) -> str:
    """The command that shows a run's report, as it can be typed in the current folder."""
    if runs_dir.resolve() == Path(DEFAULT_RUNS_DIR).resolve():
        return f"agenttune report {shlex.quote(run_id)}"
    return f"agenttune report {shlex.quote(run_id)} --runs-dir {shlex.quote(str(runs_dir))}"


def print_report(console: Console, journal: Journal) -> None:
    """Show a report, and where the log lies, which is a matter of this machine only."""
    print_summary(console, journal)
    path = str(Path(journal.summary.run.path).resolve() / LOG_NAME)
    console.print(Text.assemble("\n", ("log ", "dim"), clean(path, PATH_CHARACTERS)), soft_wrap=True)


def print_summary(console: Console, journal: Journal) -> None:
    """Show a report alone, as of a log that is about to be removed."""
    print_markdown(console, markdown(journal, BRIEF))


def print_markdown(console: Console, text: str) -> None:
    """Show Markdown of this room's making."""
    console.print(_Shown(text), crop=False, highlight=False)


class _Heading(Heading):
    """On the left, in the colour of its outcome, right above what it is about."""

    new_line = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colour = STYLES.get(self.text.plain.partition(",")[0], "") if self.tag == "h3" else ""
        yield Text(self.text.plain, style=f"bold {colour}", overflow="fold")


class _Table(TableElement):
    """Labels, and facts beside them, folded under their beginning; or what a head says."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heads = [cell for cell in self.header.row.cells if cell.content] if self.header and self.header.row else []
        if heads:
            table = Table(*(Column(cell.content, justify=cell.justify, overflow="fold") for cell in heads))
        else:
            table = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 1, 0, 0))
        for row in self.body.rows if self.body is not None else ():
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class _Rows(TableBodyElement):
    """Without the empty line that rich puts before the table."""

    new_line = False


class _Whole(CodeBlock):
    """What is made to be copied is not cut into lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(str(self.text).rstrip(), no_wrap=True, overflow="ignore")


class _Shown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "table_open": _Table,
        "tbody_open": _Rows,
        "code_block": _Whole,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = parser().parse(text)
