"""What a person sees in the terminal while a run lives, and the keys they press there."""

from agenttune.views.terminal.approval_keys import ApprovalPrompt
from agenttune.views.terminal.plain import PlainLines
from agenttune.views.terminal.runs_table import print_runs
from agenttune.views.terminal.screen import LiveScreen
from agenttune.views.terminal.view import View, view_for

__all__ = [
    "ApprovalPrompt",
    "LiveScreen",
    "PlainLines",
    "View",
    "print_runs",
    "view_for",
]
