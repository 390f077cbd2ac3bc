"""Where a report goes: to the screen, into a pipe, or into a file that appears whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console

from agenttune.errors import StoreFault, SystemFault, UserError
from agenttune.store.run_log import RunLog

FORMATS = ("terminal", "markdown", "html", "jsonl")
OF_SUFFIX = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "jsonl",
    ".txt": "terminal",
}
FILE_COLUMNS = 120
"""Width of a terminal report that goes into a file."""


def chosen_format(asked: str, output: Path | None, as_json: bool, since: int | None) -> str:
    """The format that the options ask for; `json` is the summary for machines.

    Raises:
        UserError: The options contradict each other, or the output's suffix says nothing.
    """
    if asked and asked not in FORMATS:
        raise UserError(f"--format {asked}: give one of {', '.join(FORMATS)}", field="format", allowed=list(FORMATS))
    if as_json and asked:
        raise UserError(f"--json and --format {asked} are two formats; give one", field="format")
    found = "json" if as_json else asked or _of_suffix(output)
    if since is not None and found != "jsonl":
        raise UserError(f"--since works with --format jsonl only, not {found}", field="since")
    if found == "html" and output is None and sys.stdout.isatty():
        raise UserError(
            "an HTML page is nothing for a terminal; name a file: agenttune report --output report.html", field="output"
        )
    return found


def _of_suffix(output: Path | None) -> str:
    if output is None:
        return "terminal"
    if output.suffix.lower() not in OF_SUFFIX:
        known = ", ".join(OF_SUFFIX)
        raise UserError(
            f"{output}: its suffix does not say what to write; use one of {known}, or --format", field="output"
        )
    return OF_SUFFIX[output.suffix.lower()]


def write(log: RunLog, chosen: str, output: Path | None, force: bool, since: int) -> None:
    """Write a run's report.

    Raises:
        UserError: The output is there already, or lies nowhere.
        StoreFault: The log cannot be read.
        SystemFault: The file cannot be written.
    """
    with _reading(log.folder):
        if output is None:
            _to_screen(log, chosen, since)
        else:
            with _file(output, force) as stream:
                _write_all(stream, log, chosen, since)
            Console(stderr=True).print(f"wrote {output}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """A damaged file shows wherever it is read."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreFault(f"the log in {folder}: {error}") from error


def _to_screen(log: RunLog, chosen: str, since: int) -> None:
    try:
        _write_all(sys.stdout, log, chosen, since)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_all(stream: IO[str], log: RunLog, chosen: str, since: int) -> None:
    if chosen == "terminal":
        _print(stream, log)
        return
    for part in _parts(log, chosen, since):
        stream.write(part + "\n")


def _print(stream: IO[str], log: RunLog) -> None:
    from agenttune.views.report import print_report, read_journal

    console = Console() if stream is sys.stdout else Console(file=stream, width=FILE_COLUMNS)
    print_report(console, read_journal(log))


def _parts(log: RunLog, chosen: str, since: int) -> Iterable[str]:
    from agenttune.store.journal.run_summary import summarize
    from agenttune.views.report import html, jsonl, markdown, read_journal

    if chosen == "jsonl":
        return jsonl(log, since)
    if chosen == "json":
        return [summarize(log).model_dump_json(indent=2)]
    journal = read_journal(log)
    return [(html(log, journal) if chosen == "html" else markdown(journal)).rstrip("\n")]


@contextmanager
def _file(output: Path, force: bool) -> Iterator[IO[str]]:
    """A file beside the output, renamed to it at the end."""
    if output.exists() and not force:
        raise UserError(f"{output} exists; give another --output, or --force to overwrite it", field="output")
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"{output}: name a file in a folder that exists", field="output")
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            yield stream
        aside.replace(output)
    except OSError as error:
        raise SystemFault(f"{output} could not be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
