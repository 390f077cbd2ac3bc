"""The card behind a signed link, on a phone: the same as in the run's queue, and every fault is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ensure_server
from agenttune.control.page_link import page_link
from agenttune.dashboard.build import BUILT
from tests.browser.axe import faults
from tests.browser.desk import HOSTILE, INVISIBLE, Desk
from tests.browser.visits import PHONE, Visit
from tests.server.conftest import stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "link.html").exists(), reason="the page is not built: make page"),
]
DAY_MS = 86_400_000


def card(visit: Visit) -> Any:
    return visit.page.get_by_role("article")


def until_shown(visit: Visit, words: str) -> None:
    visit.page.get_by_text(words).first.wait_for()


def test_a_touch_approves_and_a_second_tab_hears_of_it(desk: Desk, visit: Visit) -> None:
    record = desk.ask("the loss is flat since step 60", lr=0.02)
    link = desk.link(record)
    assert visit.open(link) == 200
    until_shown(visit, "the loss is flat since step 60")
    visit.page.get_by_role("img", name="eval_loss up to the change at step 120").wait_for()
    other = visit.context.new_page()
    other.goto(link)
    other.get_by_role("button", name="Approve").wait_for()
    visit.page.bring_to_front()
    visit.page.get_by_label("Reason").fill("go on")
    visit.page.get_by_role("button", name="Approve").click()
    until_shown(visit, "update optimizer was approved by operator:link: go on")
    verdict = desk.verdict(record)
    assert (verdict.decision, verdict.decided_by, verdict.reason) == ("approved", "operator:link", "go on")
    other.get_by_text("update_optimizer was approved by operator:link").wait_for()
    assert other.get_by_role("button").count() == 0
    assert visit.open(link) == 409  # what was decided is told without scripts, too
    assert visit.context.cookies() == []
    assert {address.split("/")[3] for address in visit.asked} == {"links"}, "all that a tunnel lets through"


def test_whoever_is_slower_is_told_who_was_first(desk: Desk, visit: Visit) -> None:
    record = desk.ask(lr=0.02)
    visit.open(desk.link(record))
    button = visit.page.get_by_role("button", name="Reject")
    button.wait_for()
    visit.page.route("**/request", lambda route: route.abort())  # it has not heard yet
    desk.decide(record, "approve", "go")
    visit.page.unroute("**/request")
    button.click()
    until_shown(visit, "update_optimizer was approved by operator:anna")
    assert desk.verdict(record).decided_by == "operator:anna"


def test_an_edit_shows_what_it_comes_to_and_runs(desk: Desk, visit: Visit) -> None:
    record = desk.ask(lr=0.02)
    visit.open(desk.link(record))
    card(visit).get_by_role("button", name="Edit…").click()
    rate = card(visit).get_by_label("lr", exact=True)
    rate.fill("0.5")
    until_shown(visit, "must be at most 0.05")
    rate.fill("0.015")
    card(visit).get_by_text("Would be let through").wait_for()
    card(visit).get_by_role("cell", name="0.015 (×1.5)").wait_for()
    card(visit).get_by_role("button", name="Run with these values").click()
    until_shown(visit, "update optimizer was edited by operator:link")
    edited = desk.verdict(record).edited
    assert edited is not None
    assert edited.arguments()["lr"] == 0.015


@pytest.mark.parametrize("ahead_ms", [DAY_MS, -DAY_MS])
def test_the_countdown_goes_by_the_servers_clock(desk: Desk, visit: Visit, ahead_ms: int) -> None:
    """A phone whose clock is a day ahead would call every request overdue, one that is behind none."""
    visit.context.add_init_script(f"const now = Date.now; Date.now = () => now() + {ahead_ms};")
    record = desk.ask(lr=0.02)
    visit.open(desk.link(record))
    until_shown(visit, "recorded as expired in 29 min")
    visit.open(page_link(desk.url, desk.runs_dir, desk.run_id, "operator")[0].replace("?key=", "/approvals?key="))
    until_shown(visit, "recorded as expired in 29 min")


def test_a_server_that_is_away_is_told_and_waited_for(browser: Any, tmp_path: Path) -> None:
    address = ensure_server(tmp_path, port=0)
    port = int(address.url.rpartition(":")[2])
    desk = Desk(tmp_path, address.url, "one")
    visit = Visit(browser, **PHONE)
    visit.open(desk.link(desk.ask()))
    visit.page.get_by_role("button", name="Approve").wait_for()
    stop(address)
    until_shown(visit, "The control server does not answer.")
    assert visit.page.get_by_role("button", name="Approve").is_disabled()
    again = ensure_server(tmp_path, port=port)
    visit.page.get_by_text("The control server does not answer.").wait_for(state="detached")
    visit.page.get_by_role("button", name="Approve").click()
    until_shown(visit, "was approved by operator:link")
    visit.context.close()
    stop(again)
    desk.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_hit_by_day_and_by_night(desk: Desk, browser: Any, scheme: str) -> None:
    visit = Visit(browser, color_scheme=scheme, reduced_motion="reduce", **PHONE)
    visit.open(desk.link(desk.ask(HOSTILE, lr=0.02)))
    visit.page.get_by_role("button", name="Edit…").wait_for()
    visit.page.locator("canvas").first.wait_for()
    assert (faults(visit.page), visit.spill_px()) == ([], 0)
    small = [hit for hit in visit.hard_to_hit() if any(name in str(hit) for name in ("Approve", "Edit…", "Reject"))]
    assert small == []
    assert "<script>alert(1)</script>" in visit.words
    assert not set(INVISIBLE) & set(visit.words)
    visit.page.get_by_role("button", name="Edit…").click()
    card(visit).get_by_text("Would be let through").wait_for()
    assert (faults(visit.page), visit.spill_px()) == ([], 0)
    visit.page.get_by_role("button", name="Leave the values").click()
    visit.page.get_by_role("button", name="Reject").click()
    until_shown(visit, "was rejected by operator:link")
    assert faults(visit.page) == []
    visit.context.close()
    visit.assert_quiet()
