"""The queue of requests in the dashboard: who may decide, who is told of a new request, what an edit comes to."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.control.page_link import page_link
from agenttune.dashboard.build import BUILT
from agenttune.protocol.proposals import Principal
from tests.browser.desk import Desk
from tests.browser.visits import DESKTOP, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]
OUT_OF_SIGHT = """
window.told = [];
Object.defineProperty(document, 'hidden', {get: () => true});
const Real = window.Notification;
window.Notification = class extends Real {
  constructor(title, options) { super(title, options); window.told.push([Real.permission, title, options.body]); }
};
"""


def enter(desk: Desk, visit: Visit, role: Principal = "operator") -> Any:
    link = page_link(desk.url, desk.runs_dir, desk.run_id, role)[0]
    visit.open(link.replace("?key=", "/approvals?key="))
    return visit.page


def test_a_viewer_sees_what_waits_and_why_others_decide(desk: Desk, browser: Any) -> None:
    visit = Visit(browser, **DESKTOP)
    record = desk.ask("the loss is flat")
    page = enter(desk, visit, "viewer")
    card = page.get_by_role("article")
    card.get_by_text("the role operator is wanted; you are signed in as viewer").wait_for()
    for name in ("Approve", "Edit…", "Reject", "Escalate"):
        assert card.get_by_role("button", name=name).is_disabled()
    page.keyboard.press("a")
    assert desk.state(record) == "proposed"
    visit.context.close()
    visit.assert_quiet()


def test_a_request_is_told_of_while_the_page_is_out_of_sight_and_counted_in_its_title(desk: Desk, browser: Any) -> None:
    visit = Visit(browser, permissions=["notifications"], **DESKTOP)
    visit.context.add_init_script(OUT_OF_SIGHT)
    page = enter(desk, visit)
    page.get_by_text("Nothing waits for a decision.").wait_for()
    page.get_by_text("This browser tells you of new requests.").wait_for()
    desk.ask("the loss is flat")
    page.wait_for_function("() => window.told.length > 0")
    told = ["granted", f"A decision waits: {desk.run_id}", "model asks for update optimizer"]
    assert page.evaluate("() => window.told") == [told]
    page.wait_for_function("() => document.title.startsWith('(1) ')")
    page.goto(desk.url)
    page.wait_for_function("() => /^\\(\\d+\\) Runs/.test(document.title)")
    visit.context.close()
    visit.assert_quiet()


def test_an_edit_of_one_group_and_of_a_schedule_shows_what_it_comes_to(desk: Desk, browser: Any) -> None:
    visit = Visit(browser, **DESKTOP)
    group = desk.ask("only the first group", lr=0.02, param_group=0)
    page = enter(desk, visit)
    card = page.get_by_role("article").first
    card.get_by_role("button", name="Edit…").wait_for()
    page.keyboard.press("e")
    card.get_by_label("lr", exact=True).fill("0.015")
    card.get_by_text("Would be let through").wait_for()
    card.get_by_role("button", name="Run with these values").click()
    page.get_by_text("update optimizer was edited by operator:").first.wait_for()
    edited = desk.verdict(group).edited
    assert edited is not None
    assert (edited.arguments()["lr"], edited.arguments()["param_group"]) == (0.015, 0)

    course = desk.ask("decay to the end", kind="update_schedule", shape="linear", final_lr=0.001)
    card.get_by_text("asks for update schedule").wait_for()
    card.get_by_role("button", name="Edit…").click()
    card.get_by_label("final_lr", exact=True).fill("0.0001")
    card.get_by_text("Would be").first.wait_for()
    card.get_by_role("button", name="Run with these values").click()
    page.get_by_text("update schedule was edited by operator:").first.wait_for()
    changed = desk.verdict(course).edited
    assert changed is not None
    assert (changed.arguments()["shape"], changed.arguments()["final_lr"]) == ("linear", 0.0001)
    visit.context.close()
    visit.assert_quiet()
