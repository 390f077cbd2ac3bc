"""The report as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agenttune.bench.report.content import Block, Figure, FileLink, Page, Table, Trace
from agenttune.bench.report.plots import themed


def html(page: Page) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("agenttune.bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["link"] = lambda entry: isinstance(entry, FileLink)
    environment.filters["kind"] = _kind
    # matplotlib escapes the texts that it draws; the rest of a drawing is its own.
    environment.filters["drawn"] = lambda figure: Markup(themed(figure.svg, figure.name))
    return environment.get_template("bench.html.j2").render(page=page)


def _kind(block: Block) -> str:
    kinds = {Table: "table", Figure: "figure", Trace: "trace"}
    return kinds.get(type(block), "text")
