"""What a person sees in the terminal while a run lives, and the keys they press there.

There are two ways to follow a run: a live screen, or plain lines where there is no screen.
"""

from pathlib import Path
from typing import Protocol

from rich.console import Console

from agenttune.views.terminal.approval_keys import ApprovalPrompt
from agenttune.views.terminal.keys import keys_of
from agenttune.views.terminal.plain import PlainLines
from agenttune.views.terminal.run_feed import RunFeed
from agenttune.views.terminal.runs_table import print_runs
from agenttune.views.terminal.screen import LiveScreen

__all__ = ["ApprovalPrompt", "LiveScreen", "PlainLines", "View", "print_runs", "view_for"]


class View(Protocol):
    """Shows a run until it is closed."""

    @property
    def patience_s(self) -> float:
        """How long to wait before the next refresh, in seconds."""

    def refresh(self) -> None:
        """Read the log and show what is new."""

    def notice(self, text: str) -> None:
        """Show a line that is not in the log, such as that a process was restarted."""

    def close(self) -> None:
        """Show the last state and give the terminal back."""


def view_for(
    console: Console, folder: Path, subject: str, url: str, approvals: ApprovalPrompt | None = None, above: str = ""
) -> View:
    """A live screen on a terminal, plain lines anywhere else.

    Args:
        console: Where to show it.
        folder: Of the run.
        subject: What runs, such as the script with its arguments.
        url: Of the control server.
        approvals: What waits for a person, who answers with keys on a live screen.
        above: The line printed just before, which a live screen leaves in sight while there is room.
    """
    feed = RunFeed(folder)
    if console.is_terminal and not console.is_dumb_terminal:
        keys = keys_of() if approvals is not None else None
        return LiveScreen(console, feed, subject, url, approvals=approvals, keys=keys, above=above)
    return PlainLines(console, feed, subject, url)
