"""The list of all runs, where it is long and where the window is narrow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ensure_server
from agenttune.control.page_link import page_link
from agenttune.dashboard.build import BUILT
from agenttune.protocol.events import RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.browser.desk import Desk
from tests.browser.visits import DESKTOP, PHONE, Visit
from tests.server.conftest import stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]
RUNS = 120
WAITS = "asks"


def add_finished(runs_dir: Path, name: str, created_at_s: float) -> None:
    info = RunInfo(run_id=name, name=name, status="running", created_at_s=created_at_s, max_steps=4)
    with contextlib.closing(RunLog.create(runs_dir / name, info)) as log:
        log.append(RunStarted(framework="test", pid=1, max_steps=4, capabilities=[]), step=0)
        log.append_points([Point(step=step, at_s=time.time(), values={"loss": 4.0 / step}) for step in (1, 2, 3)])
        log.append(StatusChanged(status="finished", reason=""), step=3)


@pytest.fixture(scope="module")
def runs(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Many finished runs, and the newest of all, whose agent asks a person."""
    runs_dir = tmp_path_factory.mktemp("many")
    for number in reversed(range(RUNS - 1)):  # the list begins with what was written last
        add_finished(runs_dir, f"run-{number:03d}", time.time() - 60 - number)
    address = ensure_server(runs_dir, port=0)
    desk = Desk(runs_dir, address.url, WAITS)
    desk.ask("the loss is flat")
    yield runs_dir, address.url
    desk.close()
    stop(address)


def opened(browser: Any, runs: tuple[Path, str], size: dict[str, Any]) -> Visit:
    runs_dir, url = runs
    visit = Visit(browser, **size)
    visit.open(page_link(url, runs_dir, WAITS)[0])
    visit.open(f"{url}/")
    visit.page.get_by_role("link", name="run-000", exact=True).wait_for()
    return visit


def test_only_runs_in_sight_are_in_the_page_and_the_last_is_found_by_scrolling(
    browser: Any, runs: tuple[Path, str]
) -> None:
    visit = opened(browser, runs, DESKTOP)
    page = visit.page
    table = page.get_by_role("table", name="Runs")
    assert table.get_attribute("aria-rowcount") == str(RUNS + 1)
    assert page.get_by_role("row").count() < RUNS / 2
    page.get_by_role("region", name="Runs").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    last = page.get_by_role("row", name=f"run-{RUNS - 2:03d}")
    last.wait_for()
    assert last.get_attribute("aria-rowindex") == str(RUNS + 1)
    assert page.get_by_role("row").count() < RUNS / 2
    assert page.get_by_role("columnheader", name="Progress").is_visible()
    visit.context.close()
    visit.assert_quiet()


def test_on_a_phone_a_run_tells_how_it_stands_and_that_it_waits_without_a_look_aside(
    browser: Any, runs: tuple[Path, str]
) -> None:
    visit = opened(browser, runs, PHONE)
    page = visit.page
    card = page.get_by_role("row", name=WAITS)
    width = PHONE["viewport"]["width"]
    for part in (
        card.get_by_role("link", name=WAITS, exact=True),
        card.get_by_text("running", exact=True),
        card.get_by_role("link", name="1 request"),
        card.get_by_role("progressbar"),
        card.get_by_text("ago").or_(card.get_by_text("just now")),
    ):
        place = part.bounding_box()
        assert 0 <= place["x"] < place["x"] + place["width"] <= width, place
    assert visit.spill_px() == 0
    assert page.get_by_role("region", name="Runs").evaluate("box => box.scrollWidth - box.clientWidth") == 0
    second, third = (page.get_by_role("row", name=f"run-00{i}").bounding_box() for i in (0, 1))
    assert second["y"] + second["height"] <= third["y"] + 0.5
    visit.context.close()
    visit.assert_quiet()


def test_who_is_at_a_run_stays_at_it_when_a_newer_one_comes_above(browser: Any, runs: tuple[Path, str]) -> None:
    visit = opened(browser, runs, DESKTOP)
    page = visit.page
    page.get_by_role("checkbox", name="Choose run-000 to compare").focus()
    add_finished(runs[0], "newer", time.time())
    page.get_by_role("link", name="newer", exact=True).wait_for()
    page.keyboard.press("Space")
    page.get_by_role("link", name="Look at its curves").wait_for()
    assert page.get_by_role("checkbox", name="Choose run-000 to compare").is_checked()
    visit.context.close()
    visit.assert_quiet()
