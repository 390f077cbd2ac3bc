"""The written report of a run: Markdown, one HTML file, and the log as JSON lines."""

from agenttune.reporting.fold import read_journal
from agenttune.reporting.html import html
from agenttune.reporting.jsonl import jsonl, read_jsonl
from agenttune.reporting.markdown import markdown

__all__ = ["html", "jsonl", "markdown", "read_journal", "read_jsonl"]
