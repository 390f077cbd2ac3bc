"""Every page of the dashboard, light and dark, on a desk and on a phone: axe finds no serious fault, nothing spills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ServerAddress
from agenttune.dashboard.build import BUILT
from tests.browser.axe import faults
from tests.browser.training import Training
from tests.browser.visits import DESKTOP, PHONE, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]
TABS = ["", "metrics", "agent", "approvals", "controls", "model", "data", "checkpoints", "log"]


@pytest.fixture(scope="module")
def training(server: tuple[Path, ServerAddress]) -> Iterator[Training]:
    """With something on every page: a request that waits, and one that was answered."""
    made = Training(server[0], "tiny-run")
    made.reach(30)
    made.ask(kind="save_checkpoint", tag="before")
    made.ask("the loss is flat")
    yield made
    made.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_no_page_has_a_serious_fault(
    training: Training, server: tuple[Path, ServerAddress], browser: Any, scheme: str, size: str
) -> None:
    visit = Visit(browser, color_scheme=scheme, reduced_motion="reduce", **(PHONE if size == "phone" else DESKTOP))
    url = server[1].url
    visit.open(training.link(url))
    run_page = visit.page.url
    wrong: dict[str, object] = {}
    for address in [url, f"{url}/compare?runs={training.run_id}", *(f"{run_page}/{tab}" for tab in TABS)]:
        visit.open(address)
        settle(visit.page)
        found = faults(visit.page)
        spill, titles = visit.spill_px(), visit.page.get_by_role("heading", level=1).count()
        if found or spill or titles > 1:
            wrong[address] = found, spill, titles
    visit.context.close()
    assert wrong == {}
    visit.assert_quiet()


def settle(page: Any) -> None:
    """Wait until what was asked for is shown."""
    page.locator("main :is(h1, h2, table, p, input)").first.wait_for()
    page.wait_for_function("() => !document.querySelector('main :is([aria-label=Loading], [data-coming])')")
    page.wait_for_timeout(400)  # for pictures that draw after their data; axe judges whatever is there
