"""The report as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from agenttune.bench.report.content import CODE, Block, Figure, FileLink, Page, Table, Trace
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
    environment.filters["prose"] = _prose
    # matplotlib escapes the texts that it draws; the rest of a drawing is its own.
    environment.filters["drawn"] = lambda figure: Markup(themed(figure.svg, figure.name))
    return environment.get_template("bench.html.j2").render(page=page)


def _prose(text: str) -> Markup:
    """Text that is shown as it is, but for code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def _kind(block: Block) -> str:
    kinds = {Table: "table", Figure: "figure", Trace: "trace"}
    return kinds.get(type(block), "text")
