"""A real browser, a real server process, and runs that ask a person.

The browser belongs to one test file: while Playwright runs, its event loop is the thread's, and tests of other files
that run coroutines could not.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ServerAddress, ensure_server
from tests.browser.desk import Desk
from tests.browser.visits import PHONE, Visit
from tests.server.conftest import stop

SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOW = "make test-e2e installs playwright; a browser: playwright install chromium, or your system's Chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window: Playwright's own, or the system's."""
    driver = pytest.importorskip("playwright.sync_api", reason=f"no playwright: {HOW}", exc_type=ImportError)
    with driver.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if os.path.exists(own) else next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)
        if path is None:
            pytest.skip(f"no Chromium on this machine: {HOW}")
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServerAddress]]:
    """A folder of runs, and the process that serves it; none where there is no browser."""
    runs_dir = tmp_path_factory.mktemp("runs")
    address = ensure_server(runs_dir, port=0)
    yield runs_dir, address
    stop(address)


@pytest.fixture
def desk(server: tuple[Path, ServerAddress]) -> Iterator[Desk]:
    """A run whose agent asks before each change; one of its own for each test."""
    runs_dir, address = server
    made = Desk(runs_dir, address.url, f"run-{time.time_ns()}")
    yield made
    made.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """A phone that opens pages, and notes what they do."""
    made = Visit(browser, **PHONE)
    yield made
    made.context.close()
    made.assert_quiet()
