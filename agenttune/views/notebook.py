"""A run in a notebook: the dashboard's page of it, and a picture in its place where that cannot be reached."""

from __future__ import annotations

import contextlib
import html
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agenttune.control.control import LATEST, run_named
from agenttune.control.discovery import ensure_server
from agenttune.control.page_link import page_link
from agenttune.errors import AgenttuneError
from agenttune.protocol.text import clean
from agenttune.store.run_catalog import RunCatalog
from agenttune.store.run_folders import newest_names
from agenttune.store.run_log import RunLog, run_folder
from agenttune.views.report.html import picture, picture_style
from agenttune.views.report.journal import Journal, read_journal

RUNS_DIR_ENV = "AGENTTUNE_RUNS_DIR"
LINGER_S = 600.0
"""A server that is started for a notebook ends so long after its last page was closed (guess)."""
LINK_S = 60.0
"""A browser follows the link as soon as the output is shown; the notebook's file keeps it, where it must be of no use
(guess)."""
HEIGHT = 720
STYLE = """
.agenttune{--line:#8886;--dim:#7a828c;--blue:#3b7ddd;--green:#2a9d5c;--red:#d9482f;--amber:#b07a1a;--violet:#8a5fc0;
 font:13px/1.5 system-ui,sans-serif}
.agenttune figure{margin:8px 0}.agenttune svg{display:block;max-width:900px;width:100%;height:auto}
"""
"""Colours that can be seen on light and on dark ground, within this output only: a notebook's own rules stay."""


def show(run: str = LATEST, runs_dir: Path | str | None = None, height: int = HEIGHT) -> RunOutput:
    """Show a run in a notebook: as the last line of a cell, or with `display(...)`.

    The page comes from the control server of the folder of runs, which is started where there is none. It is the
    dashboard itself, live and signed in, for who sits at this machine and opened the notebook as `localhost` or as
    `127.0.0.1`. Where it cannot be reached, and when the
    notebook is opened later, a picture of the run as it was stands in its place.

    Args:
        run: Its id, the beginning of one, or `latest`.
        runs_dir: The folder of runs; default: `AGENTTUNE_RUNS_DIR`, else `runs`.
        height: Of the page, in pixels.

    Raises:
        UnknownRun: There is none of that name; names those there are.
    """
    folder = Path(runs_dir or os.environ.get(RUNS_DIR_ENV) or "runs").absolute()
    newest = RunCatalog(folder).newest() if run in ("", LATEST) else None
    run_id = run_named(run, newest_names(folder), newest, folder)
    run_folder(folder, run_id)
    return RunOutput(folder, run_id, height)


class RunOutput:
    """A run as a notebook shows it.

    Args:
        runs_dir: The folder of runs.
        run_id: The run.
        height: Of the page, in pixels.
    """

    def __init__(self, runs_dir: Path, run_id: str, height: int) -> None:
        self.runs_dir, self.run_id, self.height = runs_dir, run_id, height

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook takes: HTML, and plain text for those that show no HTML."""
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def _repr_html_(self) -> str:
        still = self.picture()
        try:
            server = ensure_server(self.runs_dir, linger_s=LINGER_S)
            link, _ = page_link(server.url, self.runs_dir, self.run_id, lasts_s=LINK_S)
        except AgenttuneError as error:
            why = f"The page of this run cannot be shown: {clean(str(error), 500)}"
            return f'<div class="agenttune"><p>{html.escape(why)}</p>{still}</div>'
        page = f"{server.url}/runs/{quote(self.run_id)}"
        # A notebook is opened at one or the other name of this machine, which to a browser are two sites. The server
        # refuses a link in a frame of the other one, without using up its key.
        other_name = link.replace("//127.0.0.1:", "//localhost:")
        framed = self._frame(link, self._frame(other_name, still) if other_name != link else still)
        return (
            f'{framed}<p style="font:13px system-ui,sans-serif"><a href="{html.escape(page)}" target="_blank" '
            f'rel="noopener">{html.escape(clean(self.run_id, 200))} in a tab of its own</a></p>'
        )

    def _frame(self, link: str, instead: str) -> str:
        """The page in an object, and no iframe: what stands in it is shown where the page does not come."""
        return (
            f'<object class="agenttune-page" data="{html.escape(link)}" type="text/html" width="100%" '
            f'height="{self.height}">{instead}</object>'
        )

    def __repr__(self) -> str:
        summary = self._journal.summary
        score = "" if summary.score is None else f", {summary.score.metric} {summary.score.last.value:.6g}"
        return f"run {clean(self.run_id, 200)}: {summary.run.status} at step {summary.run.step}{score}"

    def picture(self) -> str:
        """The curves of the run as it is now, with a mark for each decision: HTML that needs nothing else."""
        with self._log() as log:
            drawn = picture(log, self._journal)
        style = STYLE + picture_style("agenttune")
        return f'<div class="agenttune"><style>{style}</style><p>{html.escape(repr(self))}</p>{drawn}</div>'

    @cached_property
    def _journal(self) -> Journal:
        with self._log() as log:
            return read_journal(log)

    @contextlib.contextmanager
    def _log(self) -> Iterator[RunLog]:
        with contextlib.closing(RunLog.open_to_read(self.runs_dir / self.run_id)) as log:
            yield log
