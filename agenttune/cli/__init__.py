"""The command line, a file a theme. Starts fast: torch is never loaded here, and other parts where they are needed.

It knows every room but the inside of `trainer/`, and decides nothing by itself.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from agenttune.cli import (
    approve,
    attach,
    bench,
    bench_lists,
    bench_report,
    demo,
    estimate,
    init,
    learn,
    open_page,
    plugins,
    replay,
    run,
    serve,
    shell_tools,
    show,
    tokens,
)
from agenttune.cli.app import app
from agenttune.errors import AgenttuneError, UserError
from agenttune.protocol.text import clean

__all__ = [
    "app",
    "approve",
    "attach",
    "bench",
    "bench_lists",
    "bench_report",
    "demo",
    "estimate",
    "init",
    "learn",
    "main",
    "open_page",
    "plugins",
    "replay",
    "run",
    "serve",
    "shell_tools",
    "show",
    "tokens",
]

USER_ERROR, FAULT = 2, 1
"""Exit codes: the request was wrong; the machine or another process failed."""


def main() -> NoReturn:
    """Runs a command and turns expected errors into one line and an exit code."""
    try:
        app()
    except AgenttuneError as error:
        Console(stderr=True).print(
            Text(f"error: {clean(str(error), 40_000, lines=True)}"), soft_wrap=True, highlight=False
        )
        sys.exit(USER_ERROR if isinstance(error, UserError) else FAULT)
    sys.exit(0)
