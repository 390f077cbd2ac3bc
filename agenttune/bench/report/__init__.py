"""The report of a benchmark: what its results say, as Markdown with pictures and as one self-contained page."""

from agenttune.bench.report.content import Page
from agenttune.bench.report.html import html
from agenttune.bench.report.markdown import markdown
from agenttune.bench.report.page import benchmark_page
from agenttune.bench.report.report_files import kept_run, write_report
from agenttune.bench.report.terminal import print_page

__all__ = ["Page", "benchmark_page", "html", "kept_run", "markdown", "print_page", "write_report"]
