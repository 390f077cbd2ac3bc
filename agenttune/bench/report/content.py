"""What a report is made of, before it is Markdown or a page.

Texts are plain, with code between backticks: whoever writes them out escapes the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class FileLink(NamedTuple):
    """Text in a table that leads to a file beside the report."""

    text: str
    href: str


Entry = str | FileLink

CODE = re.compile(r"`([^`|]+)`")
"""What stands between backticks in a text; no bar, which would end a cell of a Markdown table."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Heads; the first column is the row's name.
        about: What its figures mean.
        texts: Columns that hold words, which are set at the left.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    about: str = ""
    texts: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: Of its file, without a suffix.
        svg: With `plots.INK` and its like in place of colours that a page chooses by day and by night.
        is_wide: It needs the whole width of a page.
        is_extra: Left out of Markdown, which would be too long with it.
    """

    name: str
    title: str
    svg: str
    about: str = ""
    is_wide: bool = True
    is_extra: bool = False


@dataclass(frozen=True)
class Trace:
    """Text of a program, shown as it is: the traceback of a failed cell."""

    title: str
    text: str


Block = Table | Figure | Trace | str
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of a report. `is_folded`: for whoever wants to know more."""

    title: str
    blocks: Sequence[Block]
    is_folded: bool = False

    @property
    def anchor(self) -> str:
        return "-".join(word for word in "".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        warnings: What a reader must know before anything else, in large letters.
        says: The result in sentences.
        origin: Under every table: seeds, versions, machine, commit, checksums.
    """

    title: str
    says: Sequence[str]
    sections: Sequence[Section]
    origin: str
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
