"""What a person sees in the terminal: a run while it lives, and the report afterwards."""

from agenttune.terminal.desk import Desk
from agenttune.terminal.live import LiveScreen
from agenttune.terminal.plain import PlainLines
from agenttune.terminal.report import print_report, report_command
from agenttune.terminal.runs import print_runs
from agenttune.terminal.text import clean
from agenttune.terminal.view import View, view_for

__all__ = [
    "Desk",
    "LiveScreen",
    "PlainLines",
    "View",
    "clean",
    "print_report",
    "print_runs",
    "report_command",
    "view_for",
]
