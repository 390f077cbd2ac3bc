"""An agent beside a run that somebody else started."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from agenttune.cli.app import app, stop_on_signals


@app.command()
def attach(
    url: Annotated[str, typer.Argument(help="Of the control server, such as http://127.0.0.1:7007.")],
    run: Annotated[str, typer.Option("--run", help="Id of the run.")],
    policy: Annotated[str, typer.Option("--policy", help="Name or path of a policy.")] = "guardian",
    config: Annotated[Path | None, typer.Option("--config", help="Config file for `wake` and `server`.")] = None,
) -> None:
    """Put an agent beside a run until the run ends; Ctrl-C takes it away again."""
    from agenttune.client import HttpControl
    from agenttune.config import AttachSettings, load_config
    from agenttune.loop import AgentLoop
    from agenttune.policy.base import PolicyContext
    from agenttune.policy.load import open_policy

    settings = AttachSettings() if config is None else load_config(config)
    token = os.environ.get(settings.server.token_env)
    context = PolicyContext(
        project=config.resolve().parent if config else None,
        goal=settings.goal,
        llm=settings.llm,
        budgets=settings.budgets,
    )
    loaded = open_policy(policy, context)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    stop = threading.Event()
    got = stop_on_signals(stop)
    with HttpControl(url, token) as control:
        AgentLoop(control, run, loaded.policy, settings.wake, details=loaded.details).run(stop)
    if signal.SIGINT in got:
        raise typer.Exit(128 + signal.SIGINT)
