"""The report of a run: in the terminal, as Markdown, as one HTML file; and the log as JSON lines. Only reads."""

from agenttune.views.report.html import html
from agenttune.views.report.journal import read_journal
from agenttune.views.report.jsonl import jsonl, read_jsonl
from agenttune.views.report.markdown import markdown
from agenttune.views.report.terminal import print_report, print_summary, report_command

__all__ = ["html", "jsonl", "markdown", "print_report", "print_summary", "read_journal", "read_jsonl", "report_command"]
