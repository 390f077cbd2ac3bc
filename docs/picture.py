"""Makes a picture of what a terminal shows: `tmux capture-pane -ep | python docs/picture.py docs/approval.svg`."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 112
FETCHED_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich's SVG fetches a font from a content network; the reader's own fixed-width font does as well."""


def picture(ansi: str, title: str) -> str:
    """An SVG of terminal output, which loads nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in ansi.rstrip().splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    return FETCHED_FONT.sub("", console.export_svg(title=title, unique_id="agenttune"))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(sys.stdin.read(), "agenttune run config.yaml"), encoding="utf-8")
