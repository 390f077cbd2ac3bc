"""The report that was mailed to somebody: a file, without a network, on a desk, a phone or paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttune.views.report import html, read_journal
from tests.browser.visits import DESKTOP, PHONE, Text, Visit
from tests.report.conftest import EVIL, eventful

pytestmark = pytest.mark.browser

LEAST_AXIS_PX = 12
"""Of numbers at a curve, as drawn (a guess)."""
CURVE_HEIGHT = "() => [...document.querySelectorAll('.line.on')].map(line => line.getBoundingClientRect().height)"
AXIS_PX = """() => [...document.querySelectorAll('figure text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width / 900)"""
OVERLAPS = """() => [...document.querySelectorAll('figure svg')].map(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
  const edge = svg.getBoundingClientRect();
  const cut = boxes.filter(b => b.left < edge.left || b.right > edge.right).length;
  const hit = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return cut + boxes.filter((a, i) => boxes.slice(i + 1).some(b => hit(a, b))).length;
})"""
MARK = "a.mark[href='#{anchor}'] .hit"


def write(folder: Path, words: str) -> str:
    """The report of an eventful night; its address as a file."""
    folder.mkdir()
    night = eventful(folder / "runs", words=words)
    path = folder / "night.html"
    path.write_text(html(night.log, read_journal(night.log)), encoding="utf-8")
    night.close()
    return path.as_uri()


@pytest.fixture(scope="module")
def report(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("report") / "plain", "the loss jumped")


@pytest.fixture(scope="module")
def hostile_report(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("report") / "hostile", EVIL)


@pytest.fixture
def desk_visit(browser: Any) -> Any:
    visit = Visit(browser, **DESKTOP, offline=True)
    yield visit
    visit.context.close()
    visit.assert_quiet()
    assert visit.hosts == {"file"}


def test_curves_and_marks_are_drawn(report: str, desk_visit: Visit) -> None:
    desk_visit.open(report)
    assert desk_visit.page.get_by_role("img").count() == 3
    heights = desk_visit.page.evaluate(CURVE_HEIGHT)
    assert len(heights) >= 4
    assert max(heights) > 10
    for outcome in ("kept", "reverted", "expired", "refused", "failed", "waiting"):
        box = desk_visit.page.locator(f"a.mark.{outcome} .shape").first.bounding_box()
        assert box["width"] > 5, outcome
    rate = desk_visit.page.get_by_role("img", name="Learning rate")
    ground, top = rate.bounding_box(), rate.locator(".line.on").first.bounding_box()
    assert ground["y"] < top["y"] < ground["y"] + ground["height"]
    assert desk_visit.page.locator(".nan").first.bounding_box()["width"] > 5


@pytest.mark.parametrize("outcome", ["kept", "reverted", "failed"])
def test_a_click_on_a_mark_leads_to_its_decision(report: str, desk_visit: Visit, outcome: str) -> None:
    desk_visit.open(report)
    page = desk_visit.page
    page.locator(f"a.mark.{outcome} .hit").first.click()
    decision = page.locator("article:target")
    assert decision.locator(".badge").inner_text() == outcome
    box = decision.bounding_box()
    assert -1 <= box["y"] < DESKTOP["viewport"]["height"] - 100
    assert page.url.startswith("file://")


def test_a_keyboard_reaches_marks_and_folds(report: str, desk_visit: Visit) -> None:
    desk_visit.open(report)
    page = desk_visit.page
    page.keyboard.press("Tab")
    ring = page.evaluate("() => getComputedStyle(document.activeElement.querySelector('.hit')).stroke")
    assert ring not in ("none", "rgba(0, 0, 0, 0)")
    page.keyboard.press("Enter")
    assert page.locator("article:target .badge").inner_text() == "kept"
    fold = page.locator("details")
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.locator("table").first.is_visible()


def test_hostile_text_is_only_read(report: str, hostile_report: str, desk_visit: Visit) -> None:
    desk_visit.open(report)
    tags = desk_visit.tags
    desk_visit.open(hostile_report)
    assert desk_visit.tags == tags
    desk_visit.page.locator("summary").click()
    assert "<script>alert(1)</script>" in desk_visit.words
    assert desk_visit.page.evaluate("() => [...document.links].map(a => a.getAttribute('href')[0])") == []
    for link in desk_visit.page.locator("a").all():
        assert link.get_attribute("href").startswith("#")
    assert desk_visit.spill_px() == 0


def test_it_fits_a_phone(report: str, hostile_report: str, visit: Visit) -> None:
    for address in (report, hostile_report):
        visit.open(address)
        visit.page.locator("summary").click()
        assert visit.spill_px() == 0
        assert min(visit.page.evaluate(AXIS_PX)) >= LEAST_AXIS_PX
        assert visit.page.evaluate(OVERLAPS) == [0, 0, 0]
    visit.page.locator("a.mark.kept .hit").first.tap()
    assert visit.page.locator("article:target .badge").inner_text() == "kept"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_can_be_read_by_day_and_by_night(report: str, browser: Any, screen: dict[str, Any], scheme: str) -> None:
    visit = Visit(browser, **screen, color_scheme=scheme, offline=True)
    visit.open(report)
    visit.page.locator("summary").click()
    assert len(visit.texts()) > 150
    assert [text for text in visit.hard_to_read() if not _is_axis(text)] == []
    assert visit.page.evaluate(OVERLAPS) == [0, 0, 0]
    visit.assert_quiet()
    visit.context.close()


def _is_axis(text: Text) -> bool:
    """Numbers at a curve are as large as it is drawn, which is measured by itself."""
    return text.contrast >= 4.5 and text.words.replace(".", "").isdigit()


def test_it_prints(report: str, desk_visit: Visit) -> None:
    desk_visit.open(report)
    paper = desk_visit.page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    pages = paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ")
    assert 2 <= pages <= 8, pages
