"""Reads pages as a browser and a Markdown viewer would."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from markdown_it import MarkdownIt

ALLOWED = frozenset(
    {"html", "head", "meta", "title", "style", "body", "header", "footer", "section", "figure", "figcaption", "div"}
    | {"h1", "h2", "h3", "h4", "p", "dl", "dt", "dd", "ul", "li", "span", "b", "code", "article", "details", "summary"}
    | {"svg", "path", "text", "circle", "rect", "g", "a"}
)
"""What the page's own template is made of: nothing that loads, runs or leads out."""
MARKDOWN = frozenset({"table", "thead", "tbody", "tr", "th", "td", "blockquote", "strong", "pre"})
"""And what the Markdown in it is made of."""
VOID = frozenset({"meta"})


@dataclass
class Page(HTMLParser):
    """The elements of a page, its links, and its text."""

    text: str
    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.unclosed.append(tag)
        self._read(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._read(attrs)

    def _read(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src"):
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name == "class":
                self.classes.append(value or "")
            elif name == "d":
                self.paths.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def rendered(markdown: str) -> Page:
    """Markdown as a viewer with tables shows it; raw HTML passes, as it does in the most careless of them."""
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    return Page(page.replace("<hr />", ""))
