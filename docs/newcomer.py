"""Does what the README's first page says, in an empty folder, and puts what was really shown there into the README.

python -m docs.newcomer

The output of a run differs from one to the next, so no test makes it again; `tests/docs/test_walkthrough.py` checks the
script, the config file and the commands against the code, and runs them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- run: begin -->\n", "<!-- run: end -->\n"
SHOWN_FOLDER = "/home/you/demo"
COLUMNS = "100"
PROGRESS = re.compile(r"step \d+/\d+, |waiting for the first step")
"""Lines that only say how far it is, which the README leaves out and says so."""
REPEATED = re.compile(r"Course of the run\n\n(?: •.*\n)+\n")
"""What the lines above have told already: left out too."""


def shown(command: list[str], folder: Path) -> str:
    """What a command prints, with the folder under a name that means nothing."""
    env = {**os.environ, "COLUMNS": COLUMNS, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    lines = [line.rstrip().replace(str(folder), SHOWN_FOLDER) for line in done.stdout.splitlines()]
    return REPEATED.sub("", "".join(f"{line}\n" for line in lines if not PROGRESS.match(line)))


def block(command: str, output: str) -> str:
    return f"```console\n$ {command}\n{output}```\n"


def with_block(readme: str, text: str) -> str:
    """The README with another text between the marks."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + text + END + rest.split(END)[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        shown(["agenttune", "init", "--example"], folder)
        text = block("agenttune run", shown(["agenttune", "run"], folder))
    README.write_text(with_block(README.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
