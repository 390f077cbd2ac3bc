"""Pictures of the dashboard for the README, from a real run: `python -m benchmarks.screenshots [--runs-dir DIR]`.

Without `--runs-dir`, the example of `config.yaml` trains first, with its learning rate that is far too high and the
rules beside it: some minutes. Wants the dashboard built (`make page`) and a Chromium (`make test-e2e`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from agenttune.control.discovery import ensure_server
from agenttune.control.page_link import page_link
from agenttune.dashboard.build import is_current
from agenttune.store.run_log import list_runs
from benchmarks.dashboard import chromium
from benchmarks.page import BENCHMARKS

DOCS = BENCHMARKS.parent / "docs"
MOST_BYTES = 150_000
SETTLE_MS = 1500
"""For curves to be drawn after their data are there (guess)."""
DESK = {"viewport": {"width": 1200, "height": 760}}
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}


class Picture(NamedTuple):
    """A file in `docs/`, and what it shows."""

    name: str
    tab: str
    scheme: str
    size: dict[str, Any]


PICTURES = (
    Picture("dashboard-light.png", "", "light", DESK),
    Picture("dashboard-dark.png", "", "dark", DESK),
    Picture("dashboard-phone.png", "", "dark", PHONE),
    Picture("dashboard-checkpoints.png", "checkpoints", "light", DESK),
)


def train(runs_dir: Path) -> None:
    """The example, as a newcomer runs it."""
    command = [sys.executable, "-m", "agenttune", "run", "config.yaml", "--runs-dir", str(runs_dir)]
    subprocess.run(command, cwd=BENCHMARKS.parent, check=True)


def take(runs_dir: Path, run_id: str) -> None:
    """All pictures of one run.

    Raises:
        SystemExit: One is larger than a README should load.
    """
    server = ensure_server(runs_dir, port=0)
    with chromium() as browser:
        for name, tab, scheme, size in PICTURES:
            context = browser.new_context(color_scheme=scheme, reduced_motion="reduce", **size)
            page = context.new_page()
            page.goto(page_link(server.url, runs_dir, run_id)[0])
            page.goto(f"{server.url}/runs/{run_id}/{tab}")
            page.locator("canvas, .react-flow__node").first.wait_for()
            page.wait_for_timeout(SETTLE_MS)
            page.screenshot(path=DOCS / name)
            context.close()
            taken = (DOCS / name).stat().st_size
            print(f"{DOCS / name}: {taken / 1000:.0f} kB")
            if taken > MOST_BYTES:
                raise SystemExit(f"{name} is larger than {MOST_BYTES / 1000:.0f} kB: take a smaller part of the page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs-dir", type=Path, help="a folder with a run that is there already; its newest is taken")
    runs_dir = parser.parse_args().runs_dir
    if not is_current():
        raise SystemExit("the page is not built, or not of these sources: make page")
    with tempfile.TemporaryDirectory() as folder:
        if runs_dir is None:
            runs_dir = Path(folder) / "runs"
            train(runs_dir)
        take(runs_dir.resolve(), list_runs(runs_dir)[0].run_id)


if __name__ == "__main__":
    main()
