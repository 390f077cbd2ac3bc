"""The report as Markdown; its pictures are files beside it."""

from __future__ import annotations

from collections.abc import Iterator

from agenttune.bench.report.content import Block, Entry, Figure, FileLink, Page, Table, Trace
from agenttune.views.report.markdown import escaped, table

LONG = 4000


def markdown(page: Page, pictures: str) -> str:
    """The report as one text.

    Args:
        pictures: Folder of the pictures, from where the text stands.
    """
    parts = [f"# {escaped(page.title)}"]
    parts += [f"> **{escaped(warning, LONG)}**" for warning in page.warnings]
    parts.append("\n".join(f"- {escaped(sentence, LONG)}" for sentence in page.says))
    for section in page.sections:
        parts.append(f"## {escaped(section.title)}")
        for block in section.blocks:
            parts += _block(block, page, pictures, section.title)
    return "\n\n".join(filter(None, parts)) + "\n"


def _block(block: Block, page: Page, pictures: str, section: str) -> Iterator[str]:
    if isinstance(block, str):
        yield escaped(block, LONG)
    elif isinstance(block, Table):
        if block.title != section:
            yield f"### {escaped(block.title)}"
        yield escaped(block.about, LONG)
        yield _table(block)
        yield f"<sub>{escaped(page.origin, LONG)}</sub>"
    elif isinstance(block, Trace):
        yield f"### {escaped(block.title)}"
        yield "\n".join(f"    {line}" for line in block.text.splitlines())
    elif isinstance(block, Figure) and not block.is_extra:
        yield f"![{escaped(block.title)}]({pictures}/{block.name}.svg)"
        yield f"*{escaped(block.title)}.* {escaped(block.about, LONG)}"


def _table(found: Table) -> str:
    rule = ("---" if i in found.texts else "---:" for i in range(len(found.columns)))
    head = f"| {' | '.join(map(escaped, found.columns))} |\n| {' | '.join(rule)} |"
    return table(([*map(_entry, row)] for row in found.rows), head)


def _entry(entry: Entry) -> str:
    if isinstance(entry, FileLink):
        return f"[{escaped(entry.text)}]({entry.href})"
    return escaped(entry)
