"""The overview of a run in a real browser: what waits, what was asked for, and why."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.control.page_link import page_link
from agenttune.dashboard.build import BUILT
from agenttune.protocol.events import BranchStarted, CheckpointSaved, Decided, Found
from agenttune.protocol.findings import Finding
from tests.browser.desk import Desk
from tests.browser.training import until
from tests.browser.visits import Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]


_UNSEEN_NODES = """
const Real = window.ResizeObserver;
window.ResizeObserver = class extends Real {
  observe(target, options) { if (!target.classList.contains("react-flow__node")) super.observe(target, options); }
};
"""
"""As if a graph's nodes were drawn anew before their observer has spoken, which then says nothing more."""


def marks(page: Any) -> Any:
    return page.get_by_role("toolbar", name="Commands along the run").get_by_role("button")


def test_a_mark_tells_its_decision_and_the_address_keeps_it(desk: Desk, visit: Visit) -> None:
    record = desk.ask("the loss is flat since step 60")
    page = visit.page
    visit.open(f"{desk.url}/runs/{desk.run_id}")
    page.get_by_text("One request waits for your decision").wait_for()
    marks(page).first.focus()
    page.keyboard.press("Enter")
    story = page.get_by_role("region", name="Decision")
    story.get_by_text("the loss is flat since step 60").first.wait_for()
    assert f"decision={record.command_id}" in page.url
    page.reload()
    page.get_by_role("region", name="Decision").get_by_text("Nobody has decided yet").wait_for()
    assert visit.spill_px() == 0


def test_runs_are_chosen_and_compared(desk: Desk, visit: Visit) -> None:
    page = visit.page
    visit.open(f"{desk.url}/?q={desk.run_id}")
    page.get_by_role("checkbox", name=f"Choose {desk.run_id} to compare").check()
    page.get_by_role("link", name="Look at its curves").click()
    page.get_by_role("heading", name="Compare", level=1).wait_for()
    page.get_by_role("group", name="eval_loss of 1 runs over step").wait_for()
    assert visit.spill_px() == 0


def enter(desk: Desk, visit: Visit, tab: str = "") -> Any:
    """Sign in, and look at a page of the run."""
    visit.open(page_link(desk.url, desk.runs_dir, desk.run_id)[0])
    visit.open(f"{desk.url}/runs/{desk.run_id}/{tab}")
    return visit.page


def test_a_run_is_tagged_in_the_list_and_found_by_its_tag(desk: Desk, visit: Visit) -> None:
    enter(desk, visit)
    page = visit.page
    visit.open(f"{desk.url}/?q={desk.run_id}")
    page.get_by_role("button", name=f"tag… {desk.run_id}").click()
    page.get_by_role("dialog").locator("input:visible").fill("keep this")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert desk.log.info().tags == ["keep this"]
    visit.open(f"{desk.url}/?tag=keep%20this")
    page.get_by_role("link", name=desk.run_id, exact=True).wait_for()
    assert visit.spill_px() == 0


def test_change_opens_the_form_of_that_value_and_nothing_is_asked_before(desk: Desk, visit: Visit) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page = enter(desk, visit, "controls")
    page.get_by_role("button", name="Change lr").click()
    form = page.get_by_role("dialog", name="Change lr")
    page.wait_for_timeout(800)  # longer than a form waits before it asks the gate
    assert [url for url in asked if "/commands" in url] == []
    form.get_by_label("New value").fill("2e-3")
    form.get_by_text("0.002").first.wait_for()
    form.get_by_role("button", name="Send").click()
    form.wait_for(state="hidden")
    assert [record.command.arguments()["lr"] for record in desk.log.commands()] == [0.002]
    visit.assert_quiet()


def test_a_long_night_fits_on_the_page(desk: Desk, visit: Visit) -> None:
    """Sixty checkpoints on twelve branches, and hundreds of looks: the newest is readable, a finding stands once."""
    branch = "main"
    desk.log.append(BranchStarted(name=branch), step=0)
    for number in range(60):
        step = 121 + number
        saved = CheckpointSaved(checkpoint_id=f"c{number}", path="", keep_in="memory")
        desk.log.append(saved, *[Decided(policy="p", woken_by="schedule", reason="calm")] * 5, step=step, branch=branch)
        if number % 5 == 4:
            begun = BranchStarted(name=f"b{number}", parent=branch, from_step=step, checkpoint_id=f"c{number}")
            desk.log.append(begun, step=step, branch=f"b{number}")
            branch = f"b{number}"
    finding = Finding(kind="spike", severity="warning", metric="step_loss", step=180, summary="a jump in the night")
    desk.log.append(Found(finding=finding), step=180, branch=branch)
    page = enter(desk, visit, "agent")
    page.get_by_text("a jump in the night").wait_for()
    assert page.get_by_text("a jump in the night").count() == 1
    assert page.evaluate("document.documentElement.scrollHeight") < 4000
    assert visit.spill_px() == 0
    visit.open(f"{desk.url}/runs/{desk.run_id}/checkpoints")
    newest = page.locator(".react-flow__node", has_text="now")
    newest.wait_for()

    def is_readable() -> bool:
        box, graph = newest.bounding_box(), page.locator(".react-flow").bounding_box()
        if box is None or graph is None:  # drawn anew this moment
            return False
        is_inside = graph["x"] <= box["x"] <= graph["x"] + graph["width"] - box["width"]
        return bool(is_inside and box["width"] > 100)

    until(is_readable, "the newest checkpoint lies within the graph, at a size that can be read")
    assert page.locator(".react-flow__node").count() < 60


def test_the_graph_of_checkpoints_needs_no_measuring(desk: Desk, visit: Visit) -> None:
    """Nodes, their edges and "All of it" are there at once, and stay while a run saves one checkpoint after another."""
    visit.context.add_init_script(_UNSEEN_NODES)
    page = enter(desk, visit, "checkpoints")
    nodes = page.locator(".react-flow__node")
    for number in range(3):
        saved = CheckpointSaved(checkpoint_id=f"seen{number}", tag=f"seen{number}", path="", keep_in="memory")
        desk.log.append(saved, step=900 + number)
        nodes.get_by_text(f"seen{number}").wait_for()
        assert all(node.is_visible() for node in nodes.all())
        assert page.locator(".react-flow__edge-path").count() >= number + 1
    page.get_by_role("button", name="All of it").click()

    def is_all_within() -> bool:
        graph = page.locator(".react-flow").bounding_box()
        boxes = [node.bounding_box() for node in nodes.all()]
        return all(b and graph["x"] <= b["x"] and b["x"] + b["width"] <= graph["x"] + graph["width"] + 1 for b in boxes)

    until(is_all_within, "the whole graph lies within its frame")
    visit.assert_quiet()
