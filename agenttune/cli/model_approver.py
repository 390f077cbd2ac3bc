"""The approver `model` as a process of its own beside a run."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Annotated

import typer

from agenttune.cli.app import RunsDir, app, find_run, stop_on_signals
from agenttune.errors import ConfigError


@app.command()
def review(
    config: Annotated[Path, typer.Option("--config", help="Config file with `gate.reviewer` and `llm`.")],
    run: Annotated[str, typer.Option("--run", help="Id of the run. Default: the newest.")] = "",
    runs_dir: RunsDir = None,
    resume: Annotated[bool, typer.Option("--resume", hidden=True, help="Started again; changes nothing.")] = False,
) -> None:
    """Have a language model decide on commands that wait for the approver `model`, until the run ends."""
    from agenttune.agent.model_approver import ReviewLoop
    from agenttune.config import load_config
    from agenttune.control import LocalControl
    from agenttune.control.reader import ControlReader
    from agenttune.policy.base import PolicyContext
    from agenttune.policy.llm.reviewer import Reviewer

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings, folder = load_config(config), config.resolve().parent
    runs = (folder / settings.store.runs_dir) if runs_dir is None else runs_dir
    run_id, control = find_run(runs, run), LocalControl(runs.resolve())
    reader = ControlReader(control, run_id)
    context = PolicyContext(folder, settings.goal, settings.llm, settings.budgets, reader)
    reviewer = Reviewer("gate", settings.gate.reviewer, context)
    if reviewer.why_not:
        raise ConfigError(f"{config}: {reviewer.why_not}", field="gate.reviewer")
    stop = threading.Event()
    got = stop_on_signals(stop)
    ReviewLoop(control, run_id, reviewer).run(stop)
    if got:
        raise typer.Exit(128 + got[0])
