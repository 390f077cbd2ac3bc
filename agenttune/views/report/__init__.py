"""The report of a run: in the terminal, as Markdown, as one HTML file; and the log as JSON lines. Only reads."""

from agenttune.views.report.decision_journal import read_journal
from agenttune.views.report.html import html
from agenttune.views.report.jsonl import jsonl, read_jsonl
from agenttune.views.report.markdown import markdown

__all__ = ["html", "jsonl", "markdown", "read_journal", "read_jsonl"]
