"""Draws the rooms of the package as the import contract has them: each row may import from the rows below it only."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agenttune"
WIDTH, GAP, PAD, LINE, TOP = 980, 10, 10, 15, 34
"""Pixels: the picture's width, between boxes, inside a box, of a line of text, of a row without text."""
CHARACTER = 6.1
"""Pixels of an average character at this size of letters (guess)."""


def rows() -> list[list[str]]:
    """Rooms by layer, the highest first; siblings share a row."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [layers] = re.findall(r"^layers = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    found = [re.findall(r"agenttune\.(\w+)", row) for row in re.findall(r'"([^"]+)"', layers)]
    return [[room for room in row if room != "__main__"] for row in found]


def summary(room: str) -> str:
    """The first sentence of a room's own description."""
    home = PACKAGE / room / "__init__.py"
    source = home if home.exists() else PACKAGE / f"{room}.py"
    said = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    first = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", first)[0].rstrip(".")


def inner(room: str) -> str:
    """The folders inside a room."""
    folders = sorted(p.name for p in (PACKAGE / room).glob("*/") if (p / "__init__.py").exists())
    return " ".join(f"{name}/" for name in folders)


def rooms_picture() -> str:
    """An SVG that needs nothing else."""
    boxes: list[str] = []
    y = GAP
    for row in rows():
        width = (WIDTH - GAP * (len(row) + 1)) // len(row)
        texts = [_lines(room, width) for room in row]
        height = TOP + LINE * max(map(len, texts))
        for place, (room, lines) in enumerate(zip(row, texts, strict=True)):
            boxes += _box(room, lines, GAP + place * (width + GAP), y, width, height)
        y += height + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11.5">'
    )
    paper = f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, "<title>Rooms: imports point down only</title>", paper, *boxes, "</svg>"]) + "\n"


def _lines(room: str, width: int) -> list[str]:
    fits = int((width - 2 * PAD) / CHARACTER)
    return [*textwrap.wrap(summary(room), fits), *textwrap.wrap(inner(room), fits)]


def _box(room: str, lines: list[str], x: int, y: int, width: int, height: int) -> Iterator[str]:
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="#f4f6f8" stroke="#8a97a5"/>'
    yield f'<text x="{x + PAD}" y="{y + 20}" font-weight="bold" font-size="13.5">{room}</text>'
    for place, line in enumerate(lines):
        yield f'<text x="{x + PAD}" y="{y + 38 + place * LINE}" fill="#333333">{escape(line)}</text>'
