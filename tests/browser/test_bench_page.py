"""The page of a benchmark, as a file without a network: on a desk and a phone, by day and by night."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.bench.report import benchmark_page, html
from tests.bench.made_results import KINDS, LEVELS, TASKS, suite
from tests.browser.visits import DESKTOP, PHONE, Visit

pytestmark = pytest.mark.browser
LEAST_CONTRAST = 4.5
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = suite(LEVELS | {EVIL: 0.6}, 5, ["healthy", "lr_x30"], ["digits", "valley"])
    path = tmp_path_factory.mktemp("bench") / "report.html"
    path.write_text(html(benchmark_page(results, EVIL, "", TASKS, KINDS)), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_can_be_read(report: str, browser: Any, screen: dict[str, Any], scheme: str) -> None:
    visit = Visit(browser, **screen, color_scheme=scheme, offline=True)
    visit.open(report)
    for summary in visit.page.locator("summary").all():
        summary.click()
    assert visit.spill_px() == 0
    assert "script" not in visit.tags
    assert "img" not in visit.tags
    texts = visit.texts()
    assert len(texts) > 200
    assert [text for text in texts if text.contrast < LEAST_CONTRAST and not _is_on_a_tile(text.words)] == []
    assert visit.hosts == {"file"}
    visit.assert_quiet()
    visit.context.close()


def _is_on_a_tile(words: str) -> bool:
    """Figures of a heat map lie on tiles, light by day and by night; they are measured against the page."""
    return words.replace(".", "").replace("-", "").replace("+", "").replace("%", "").strip().isdigit()
