"""The dashboard where something is wrong: a server that goes and comes back, a run that is gone, names that attack."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ServerAddress, ensure_server
from agenttune.control.page_link import page_link
from agenttune.dashboard.build import BUILT
from agenttune.protocol.events import (
    CheckpointSaved,
    DatasetRead,
    Evaluated,
    ModelRead,
    NoteAdded,
    RunStarted,
    StatusChanged,
)
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import ModuleInfo, ParameterInfo, RunInfo
from agenttune.store.run_log import RunLog
from tests.browser.desk import HOSTILE, INVISIBLE, Desk
from tests.browser.training import until
from tests.browser.visits import DESKTOP, PHONE, Visit
from tests.server.conftest import stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]
TABS = ["", "metrics", "agent", "approvals", "controls", "model", "data", "checkpoints", "log"]
LONG = "x" * 10_000
OLDER = Path(__file__).parents[1] / "data" / "before" / "2026-11-27" / "by_hand.db.gz"
LIVE = "live"
BEHIND = "behind"


@pytest.fixture
def desktop(browser: Any) -> Iterator[Visit]:
    """A window that may complain: where the server is away, the browser itself says so in its console."""
    made = Visit(browser, **DESKTOP)
    yield made
    made.context.close()


def enter(desk: Desk, visit: Visit, tab: str = "") -> Any:
    link = page_link(desk.url, desk.runs_dir, desk.run_id)[0]
    visit.open(link if not tab else link.replace("?key=", f"/{tab}?key="))
    return visit.page


def settle(page: Any) -> None:
    page.locator("main :is(h1, h2, table, p, input)").first.wait_for()
    page.wait_for_function("() => !document.querySelector('main :is([aria-label=Loading], [data-coming])')")


def test_after_a_restart_of_the_server_the_page_catches_up_without_reload(
    browser: Any, desktop: Visit, tmp_path: Path
) -> None:
    address = ensure_server(tmp_path, port=0)
    desk = Desk(tmp_path, address.url, "one")
    try:
        page = enter(desk, desktop, "log")
        page.get_by_role("status").get_by_text(LIVE, exact=True).wait_for()
        page.evaluate("() => { window.isTheSamePage = true; }")
        stop(address)
        page.get_by_role("status").get_by_text(BEHIND, exact=True).wait_for()
        seq = desk.log.append(NoteAdded(text="written while the server was away", author="anna"))[-1]
        again = ensure_server(tmp_path, port=int(address.url.rpartition(":")[2]))
        try:
            page.get_by_role("status").get_by_text(LIVE, exact=True).wait_for()
            page.locator(f"#entry-{seq}").get_by_text("written while the server was away").wait_for()
            assert page.evaluate("() => window.isTheSamePage")
        finally:
            stop(again)
        for tab in TABS:  # with the server away, each page says so, and none waits for ever
            page.get_by_role("tab").nth(TABS.index(tab)).click()
            until(lambda: "does not answer" in desktop.words or page.get_by_text(BEHIND, exact=True).count(), "a word")
            page.wait_for_function("() => !document.querySelector('main [aria-label=Loading]')")
    finally:
        desk.close()
        stop(address)


def test_a_page_first_looked_at_while_the_server_is_away_says_so_and_comes(desktop: Visit, tmp_path: Path) -> None:
    """Seen before: a spinner without end for all runs."""
    address = ensure_server(tmp_path, port=0)
    desk = Desk(tmp_path, address.url, "one")
    try:
        page = enter(desk, desktop)
        page.get_by_role("status").get_by_text(LIVE, exact=True).wait_for()
        stop(address)
        page.get_by_role("tab", name="Log").click()
        page.get_by_text("If the server does not answer, it comes once it is back").wait_for()
        page.get_by_role("link", name="Runs", exact=True).click()
        page.locator("main p:visible").get_by_text("it comes once it is back").wait_for()
        page.go_back()
        again = ensure_server(tmp_path, port=int(address.url.rpartition(":")[2]))
        try:
            row = page.get_by_role("option").first
            row.wait_for()
            assert row.evaluate("row => getComputedStyle(row).display") == "flex", "without its styles"
        finally:
            stop(again)
    finally:
        desk.close()
        stop(address)


def test_a_run_that_is_deleted_under_the_page_is_told_of(
    server: tuple[Path, ServerAddress], desk: Desk, desktop: Visit
) -> None:
    page = enter(desk, desktop, "model")
    page.get_by_text("has not told of its model").wait_for()
    shutil.rmtree(desk.runs_dir / desk.run_id)
    page.get_by_text("This run is not there").wait_for()
    assert "was deleted, or this server does not know it" in desktop.words
    page.get_by_role("link", name="All runs", exact=True).click()
    page.get_by_role("heading").first.wait_for()


def test_a_run_that_ends_under_the_page_is_told_of_without_reload(desk: Desk, desktop: Visit) -> None:
    page = enter(desk, desktop)
    page.get_by_role("status").get_by_text(LIVE, exact=True).wait_for()
    page.evaluate("() => { window.isTheSamePage = true; }")
    desk.log.append(StatusChanged(status="failed", reason="the disk is full"), step=121)
    page.get_by_text("the disk is full").first.wait_for()
    page.locator("main").get_by_text("failed", exact=True).first.wait_for()
    page.get_by_role("status").get_by_text(LIVE, exact=True).wait_for(state="detached")
    page.get_by_role("tab", name="Controls").click()
    settle(page)
    assert page.evaluate("() => window.isTheSamePage")


def test_an_answer_that_arrives_after_the_run_has_ended_is_told_of(desk: Desk, desktop: Visit) -> None:
    """The run ends while the answer is on its way."""
    record = desk.ask("the loss is flat")
    page = enter(desk, desktop, "approvals")

    def end_first(route: Any) -> None:
        if route.request.method == "POST":
            desk.log.append(StatusChanged(status="finished", reason=""), step=130)
        route.continue_()

    page.route(f"**/approvals/{record.command_id}", end_first)
    page.get_by_role("article").get_by_role("button", name="Approve").click()
    page.get_by_text("Your answer came too late").wait_for()
    page.get_by_text("Nothing waits for a decision. The run is finished, at step 130.").wait_for()
    assert desk.state(record) not in ("approved", "applied")


@pytest.fixture
def hostile(server: tuple[Path, ServerAddress]) -> Iterator[str]:
    """A run all of whose names were chosen by somebody who means harm."""
    run_id = f"hostile-{time.time_ns()}"
    info = RunInfo(
        run_id=run_id, name=HOSTILE, status="running", created_at_s=time.time(), goal_metric=HOSTILE, tags=["<b>x"]
    )
    log = RunLog.create(server[0] / run_id, info)
    parameters = [
        ParameterInfo(name=HOSTILE, value=0.5, type="float"),
        ParameterInfo(name=LONG, value=HOSTILE, type="str"),
    ]
    layer = ModuleInfo(
        name=HOSTILE, type=HOSTILE, parameters=4, trainable=0, operations=[HOSTILE], hyperparameters=parameters
    )
    model = ModuleInfo(name="", type=LONG, parameters=4, trainable=4, children=[layer])
    log.append(
        RunStarted(framework=HOSTILE, pid=1, max_steps=10, capabilities=[]),
        ModelRead(model=model),
        DatasetRead(
            type=HOSTILE,
            interactive=True,
            runtime={"weights": {HOSTILE: 0.5, LONG: 0.5}, HOSTILE: HOSTILE},
            initialization={LONG: [HOSTILE]},
        ),
        CheckpointSaved(checkpoint_id=HOSTILE, path=HOSTILE, tag=HOSTILE, metric="NaN"),
        NoteAdded(text=HOSTILE, author=HOSTILE),
        Evaluated(metrics={HOSTILE: 1.0, LONG: "NaN"}),
        step=1,
        branch="<i>branch",
    )
    values = {HOSTILE: 1.0, LONG: 2.0, f"loss/{HOSTILE}": 3.0}
    log.append_points([Point(step=step, at_s=time.time(), values=values) for step in (1, 2, 3)])
    yield run_id
    log.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_names_of_others_are_text_on_every_page(
    server: tuple[Path, ServerAddress], hostile: str, browser: Any, size: dict[str, Any]
) -> None:
    visit = Visit(browser, **size)
    page = visit.page
    visit.open(page_link(server[1].url, server[0], hostile)[0])
    for tab in TABS:
        visit.open(f"{server[1].url}/runs/{hostile}/{tab}")
        settle(page)
        assert visit.spill_px() == 0, tab
        assert page.locator("img[src*=evil], link[href*=evil], a[href^=javascript], svg[onload]").count() == 0, tab
    visit.open(f"{server[1].url}/")
    settle(page)
    assert page.get_by_text("<script>alert(1)</script>").count() >= 1
    assert {host for host in visit.hosts if host not in ("127.0.0.1", "blob", "data")} == set()
    assert "dialog" not in " ".join(visit.complaints)
    visit.context.close()
    visit.assert_quiet()


def test_right_to_left_marks_turn_nothing_around(
    server: tuple[Path, ServerAddress], hostile: str, desktop: Visit
) -> None:
    page = desktop.page
    desktop.open(page_link(server[1].url, server[0], hostile)[0].replace("?key=", "/log?key="))
    page.get_by_role("option").first.wait_for()
    assert page.evaluate(
        "marks => [...document.querySelectorAll('main *')].every(e => e.children.length || "
        "![...marks].some(m => e.textContent.includes(m)) || e.closest('bdi, code, pre, title, script'))",
        "\u202e\u2066",
    ), INVISIBLE


def test_a_finished_run_looks_the_same_from_the_file_alone(desktop: Visit, tmp_path: Path) -> None:
    """Copied to another machine, where nobody trains, each page shows what it showed."""
    here, there = tmp_path / "here", tmp_path / "there"
    address = ensure_server(here, port=0)
    desk = Desk(here, address.url, "one")
    shown: list[dict[str, str]] = []
    try:
        desk.log.append(NoteAdded(text="the last word", author="anna"), step=120)
        desk.log.update_info(status="finished", step=120, ended_at_s=time.time())
        shown.append(_read(desktop, desk.url, here))
    finally:
        desk.close()
        stop(address)
    shutil.copytree(here / "one", there / "one")
    second = ensure_server(there, port=0)
    try:
        shown.append(_read(desktop, second.url, there))
    finally:
        stop(second)
    for tab in TABS:
        assert shown[0][tab] == shown[1][tab], tab
    assert "the last word" in shown[0]["log"]


def test_a_log_of_an_older_version_has_something_to_say_on_every_page(
    server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    folder = server[0] / "older"
    folder.mkdir()
    (folder / "log.db").write_bytes(gzip.decompress(OLDER.read_bytes()))
    desktop.open(page_link(server[1].url, server[0], "older")[0])
    for tab in TABS:
        desktop.open(f"{server[1].url}/runs/older/{tab}")
        settle(desktop.page)
        assert desktop.page.get_by_text("This could not be shown").count() == 0, tab
        assert len(desktop.page.get_by_role("tabpanel").first.inner_text()) > 20, tab
    desktop.assert_quiet()


def _at_rest(page: Any) -> str:
    """The words of a page once they stay as they are."""
    before = ""
    while (now := str(page.evaluate(_WITHOUT_TIMES))) != before:
        before = now
        page.wait_for_timeout(700)
    return now


_WITHOUT_TIMES = """() => {
  const main = document.querySelector('main').cloneNode(true);
  main.querySelectorAll('time, style').forEach(e => e.remove());
  return main.textContent;
}"""


def _read(visit: Visit, url: str, runs_dir: Path) -> dict[str, str]:
    """The words of every page, without how long ago things were."""
    visit.open(page_link(url, runs_dir, "one")[0])
    words = {}
    for tab in TABS:
        visit.open(f"{url}/runs/one/{tab}")
        settle(visit.page)
        kept = _at_rest(visit.page)
        words[tab] = kept.replace(url, "").replace(str(runs_dir), "")
    return words
