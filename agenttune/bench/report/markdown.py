"""The report as Markdown; its pictures are files beside it."""

from __future__ import annotations

from collections.abc import Iterator

from agenttune.bench.report.content import CODE, Block, Entry, Figure, FileLink, Page, Table, Trace
from agenttune.protocol.text import clean
from agenttune.views.report.markdown import escaped, table

LONG = 4000


def markdown(page: Page, pictures: str) -> str:
    """The report as one text.

    Args:
        pictures: Folder of the pictures, from where the text stands.
    """
    parts = [f"# {escaped(page.title)}"]
    parts += [f"> **{_prose(warning)}**" for warning in page.warnings]
    parts.append("\n".join(f"- {_prose(sentence)}" for sentence in page.says))
    for section in page.sections:
        parts.append(f"## {escaped(section.title)}")
        for block in section.blocks:
            parts += _block(block, page, pictures, section.title)
    return "\n\n".join(filter(None, parts)) + "\n"


def _block(block: Block, page: Page, pictures: str, section: str) -> Iterator[str]:
    if isinstance(block, str):
        yield _prose(block)
    elif isinstance(block, Table):
        if block.title != section:
            yield f"### {escaped(block.title)}"
        yield _prose(block.about)
        yield _table(block)
        yield f"<sub>{escaped(page.origin, LONG)}</sub>"
    elif isinstance(block, Trace):
        yield f"### {escaped(block.title)}"
        yield "\n".join(f"    {line}" for line in block.text.splitlines())
    elif isinstance(block, Figure) and not block.is_extra:
        yield f"![{escaped(block.title)}]({pictures}/{block.name}.svg)"
        yield f"*{escaped(block.title)}.* {_prose(block.about)}"


def _table(found: Table) -> str:
    rule = ("---" if i in found.texts else "---:" for i in range(len(found.columns)))
    head = f"| {' | '.join(map(escaped, found.columns))} |\n| {' | '.join(rule)} |"
    return table(([*map(_entry, row)] for row in found.rows), head)


def _entry(entry: Entry) -> str:
    if isinstance(entry, FileLink):
        return f"[{escaped(entry.text)}]({entry.href})"
    return _prose(entry)


def _prose(text: str) -> str:
    """Text that is shown as it is, but for code."""
    parts = CODE.split(clean(text, LONG))
    return "".join(f"`{part}`" if number % 2 else _between(part) for number, part in enumerate(parts))


def _between(part: str) -> str:
    """A part of a text, with the blanks at its ends."""
    shown = escaped(part, LONG)
    return f"{' ' * part.startswith(' ')}{shown}{' ' * part.endswith(' ')}" if shown else part
