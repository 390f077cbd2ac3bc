"""Record the terminal picture of the README: run `agenttune run config.yaml` in tmux and draw what it shows as SVG.

    python docs/picture.py docs/terminal.svg --after-s 45

Needs tmux and, as `agenttune` itself, rich.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 110, 34
SESSION = "agenttune-picture"


def tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", *arguments], check=True, capture_output=True, text=True).stdout


def record(command: str, after_s: float) -> str:
    """The screen, with its colours, `after_s` seconds after the command was typed."""
    tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(LINES))
    try:
        tmux("send-keys", "-t", SESSION, command, "Enter")
        time.sleep(after_s)
        screen = tmux("capture-pane", "-e", "-p", "-t", SESSION)
        tmux("send-keys", "-t", SESSION, "C-c")
        time.sleep(10)
        # Not the prompt, which tells of this machine: only what was typed and what came of it.
        return f"$ agenttune run config.yaml{screen.partition(command)[2]}"
    finally:
        tmux("kill-session", "-t", SESSION)


def draw(screen: str, target: Path) -> None:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(screen.rstrip()))
        console.save_svg(str(target), title="agenttune run config.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--after-s", type=float, default=45.0)
    parser.add_argument("--command", default=f"{Path(sys.executable).parent}/agenttune run config.yaml")
    arguments = parser.parse_args()
    draw(record(arguments.command, arguments.after_s), arguments.target)


if __name__ == "__main__":
    main()
