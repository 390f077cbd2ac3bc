"""A report's sentences and tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from agenttune.bench.report.content import FileLink, Page, Table


def print_page(console: Console, page: Page, sections: Iterable[str] | None = None) -> None:
    """Show a report.

    Args:
        sections: Titles of those whose tables are shown; default: all.
    """
    console.print(Text(page.title, style="bold"))
    for warning in page.warnings:
        console.print(Text(warning, style="bold red"))
    for sentence in page.says:
        console.print(Text(sentence), soft_wrap=True)
    shown = None if sections is None else set(sections)
    for section in page.sections:
        if shown is None or section.title in shown:
            for block in section.blocks:
                if isinstance(block, Table):
                    _print_table(console, block, page.origin)


def _print_table(console: Console, table: Table, origin: str) -> None:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(table.columns):
        grid.add_column(Text(column), justify="left" if i in table.texts else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(entry.text if isinstance(entry, FileLink) else entry) for entry in row))
    console.print(grid)
    for words in (table.about, origin):
        console.print(Text(words, style="dim"))
