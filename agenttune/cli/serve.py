"""Processes beside a run that can be started by hand: the control server, and the approvers that are no person."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agenttune.cli.app import RunsDir, app, find_run, runs_dir_of, stop_on_signals
from agenttune.errors import ConfigError

if TYPE_CHECKING:
    from agenttune.config import Config
    from agenttune.control import LocalControl
    from agenttune.gate import Approver

REVIEW_POLL_S = 0.5
"""How often it looks whether there is something to tell, and whether the run is over (guess)."""
LAST_MESSAGE_S = 4.0
"""How long the last messages may take; the launcher allows 5 s."""
LocalRole = Literal["agent", "viewer", "none"]


@app.command()
def serve(
    runs_dir: RunsDir = None,
    host: Annotated[str, typer.Option(help="Address to bind; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. Default: 7007 or the next free one.")
    ] = None,
    linger_s: Annotated[
        float | None, typer.Option(min=0, help="End after so many idle seconds; default: never.")
    ] = None,
    local_role: Annotated[LocalRole, typer.Option(help="As whom a local program acts that sends no token.")] = "agent",
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A page of another server that may use this one, as http://localhost:5173.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the dashboard in your browser.")] = False,
) -> None:
    """Serve a folder of runs; the owner's token is taken from AGENTTUNE_TOKEN."""
    from agenttune.control.discovery import TOKEN_ENV
    from agenttune.control.page_link import open_in_browser, page_link
    from agenttune.server.process import serve as serve_runs

    folder = runs_dir_of(runs_dir)

    def say(url: str) -> None:
        typer.echo(f"control server at {url}, Ctrl-C ends it")
        if sys.stdout.isatty():  # a file or a pipe is no place for a key
            typer.echo(f"page  {page_link(url, folder)[0]}")
        if open_ and not open_in_browser(*page_link(url, folder), folder):
            typer.echo("no browser was found to open the page with; agenttune open --print prints its link")

    token = os.environ.get(TOKEN_ENV)
    serve_runs(
        folder,
        host,
        port,
        token,
        linger_s,
        on_ready=say,
        local_role=local_role,
        allowed_origins=allow_origin or (),
    )


@app.command()
def review(
    config: Annotated[Path, typer.Option("--config", help="Config file with `gate`, `llm` and `notify`.")],
    run: Annotated[str, typer.Option("--run", help="Id of the run. Default: the newest.")] = "",
    url: Annotated[str, typer.Option("--url", help="Of the control server, for messages.")] = "",
    runs_dir: RunsDir = None,
    resume: Annotated[bool, typer.Option("--resume", hidden=True, help="Started again; changes nothing.")] = False,
) -> None:
    """Have a language model and approvers of your own decide, and your own channels tell people, until the run ends."""
    from agenttune.config import load_config
    from agenttune.control import LocalControl
    from agenttune.server.notify.channels import all_channels
    from agenttune.server.notify.notifier import Notifier

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings, folder = load_config(config), config.resolve().parent
    runs = ((folder / settings.store.runs_dir) if runs_dir is None else runs_dir).resolve()
    run_id, control = find_run(runs, run), LocalControl(runs)
    stop, failed = threading.Event(), list[BaseException]()
    got = stop_on_signals(stop)
    for name, approver in _approvers(settings, config, control, run_id).items():
        # Each with a control and a thread of its own: one that hangs keeps no other from deciding.
        loop = (LocalControl(runs), run_id, approver, name, stop, failed)
        threading.Thread(target=_decide, args=loop, name=f"approver {name}", daemon=True).start()
    notifier = None
    if settings.notify.channels:
        notifier = Notifier(control, url, run_id=run_id, channels=lambda: all_channels(settings.notify, config))
        notifier.start()
    while not stop.is_set() and control.info(run_id).is_live:
        if notifier is not None:
            notifier.look()
        stop.wait(REVIEW_POLL_S)
    if notifier is not None:
        notifier.close(LAST_MESSAGE_S)
    if failed:
        raise failed[0]
    if got:
        raise typer.Exit(128 + got[0])


def _approvers(settings: Config, config: Path, control: LocalControl, run_id: str) -> dict[str, Approver]:
    """Who decides in this process: the user's own approvers, and the model where there is one."""
    from agenttune.agent.model_approver import ModelApprover, open_approvers
    from agenttune.control.reader import ControlReader
    from agenttune.policy.llm.reviewer import Reviewer
    from agenttune.policy.load import context_of

    approvers = open_approvers(settings.gate.approvers, config)
    context = context_of(settings.model_copy(update={"detectors": []}), config, ControlReader(control, run_id))
    reviewer = Reviewer("gate", settings.gate.reviewer, context)
    if not reviewer.why_not:
        approvers["model"] = ModelApprover(reviewer)
    elif settings.gate.asks_model or not (approvers or settings.notify.channels):
        raise ConfigError(f"{config}: {reviewer.why_not}", field="gate.reviewer")
    return approvers


def _decide(
    control: LocalControl,
    run_id: str,
    approver: Approver,
    name: str,
    stop: threading.Event,
    failed: list[BaseException],
) -> None:
    """One approver's thread; an error that is not its own ends the process, which is then started again."""
    from agenttune.agent.model_approver import ReviewLoop

    try:
        ReviewLoop(control, run_id, approver, name).run(stop)
    except BaseException as error:
        failed.append(error)
        stop.set()
