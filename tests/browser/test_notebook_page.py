"""What `agenttune.show` puts into a notebook, in a real browser: the live page, signed in, and a picture without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agenttune
from agenttune.control.discovery import ServerAddress, ensure_server
from agenttune.dashboard.build import BUILT
from tests.browser.test_local_page import Elsewhere, elsewhere
from tests.browser.visits import DESKTOP, Visit
from tests.report.conftest import eventful
from tests.server.conftest import stop

__all__ = ["elsewhere"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]
UNSTYLED = """() => [...document.querySelectorAll('.agenttune svg *')]
  .filter(drawn => getComputedStyle(drawn).fill === 'rgb(0, 0, 0)' && !['title', 'g'].includes(drawn.tagName))
  .map(drawn => drawn.outerHTML.slice(0, 80))"""


@pytest.fixture
def window(browser: Any) -> Iterator[Visit]:
    made = Visit(browser, **DESKTOP)
    yield made
    made.context.close()


def notebook(elsewhere: Elsewhere, runs_dir: Path, run_id: str) -> None:
    """A notebook's page, with the output of one cell."""
    output = agenttune.show(run_id, runs_dir=runs_dir)._repr_html_()
    elsewhere.page = f"<!doctype html><title>notebook</title><body>{output}</body>"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_page_is_live_and_signed_in_under_both_names_of_this_machine(
    server: tuple[Path, ServerAddress], elsewhere: Elsewhere, window: Visit, host: str
) -> None:
    run_id = f"night-{time.time_ns()}"
    eventful(server[0], run_id).close()
    notebook(elsewhere, server[0], run_id)
    wanted = f"http://{host}:{server[1].url.rpartition(':')[2]}/runs/{run_id}"
    with window.page.expect_event("framenavigated", lambda frame: frame.url == wanted) as navigated:
        window.open(f"http://{host}:{elsewhere.port}/")
    page = navigated.value
    page.get_by_role("tab", name="Overview").wait_for()
    page.get_by_role("button", name="Sign out").wait_for()
    assert page.evaluate("() => fetch('/api/v1/me').then(answer => answer.json())")["role"] == "operator"
    assert [frame.url for frame in window.page.frames[1:]] == [wanted]
    assert not window.page.locator(".agenttune").first.is_visible()


def test_with_the_server_gone_a_picture_with_all_its_colours_stands_there(
    browser: Any, elsewhere: Elsewhere, window: Visit, tmp_path: Path
) -> None:
    """Seen before: a black triangle over the curves, as the axis had no style."""
    address = ensure_server(tmp_path, port=0)
    eventful(tmp_path).close()
    notebook(elsewhere, tmp_path, "night")
    stop(address)
    window.open(f"http://localhost:{elsewhere.port}/")
    window.page.locator(".agenttune svg").first.wait_for()
    assert window.page.locator(".agenttune figure").count() == 3
    assert window.page.locator(".agenttune .mark.kept .shape").first.bounding_box()["width"] > 5
    assert window.page.evaluate(UNSTYLED) == []
    box = window.page.locator("figure").last.bounding_box()
    link = window.page.get_by_role("link", name="night in a tab of its own").bounding_box()
    assert box["y"] + box["height"] <= link["y"], "the picture lies over what follows"
