"""The page behind the address that `agenttune run` shows: its person decides there, and no other page does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agenttune.protocol.proposals import CommandRecord
from tests.browser.desk import HOSTILE, Desk
from tests.browser.visits import DESKTOP, PHONE, Visit

pytestmark = pytest.mark.browser


def enter(desk: Desk, visit: Visit) -> None:
    """Follow the address in the terminal."""
    assert visit.open(f"{desk.local}?key={desk.key()}") == 200


def article(visit: Visit, kind: str) -> Any:
    return visit.page.get_by_role("article", name=kind)


def test_the_key_becomes_a_cookie_and_leaves_the_address(desk: Desk, visit: Visit) -> None:
    key = desk.key()
    assert visit.open(f"{desk.local}?key={key}") == 200
    assert visit.page.url == desk.local
    cookie = next(iter(visit.context.cookies()))
    assert (cookie["value"], cookie["httpOnly"], cookie["path"]) == (key, True, f"/local/{desk.run_id}")
    assert key not in visit.page.content()
    assert visit.page.evaluate("() => document.cookie") == ""
    assert visit.page.evaluate("() => history.length") <= 2
    assert f"Nothing waits for a decision. The run is running, at step {120}." in visit.words
    assert visit.page.reload().status == 200


def test_all_that_waits_is_listed_and_decided_one_by_one(desk: Desk, visit: Visit) -> None:
    rate, stop, layer = (
        desk.ask("the loss is flat", lr=0.02),
        desk.ask("it diverged", kind="stop_training"),
        desk.ask(HOSTILE, kind="model_layer_operation", layer_name="h.1", operation_name="reset_parameters"),
    )
    enter(desk, visit)
    assert "3 requests wait, the oldest first" in visit.words
    assert visit.spill_px() == 0
    kinds = ["update_optimizer", "stop_training", "model_layer_operation"]
    headings = visit.page.get_by_role("heading", level=1).all_inner_texts()
    assert [kind for kind, heading in zip(kinds, headings, strict=True) if kind in heading] == kinds
    _decide(visit, "stop_training", "Reject", "it is only a spike")
    assert visit.title == "Rejected: stop_training"
    assert (desk.verdict(stop).decision, desk.verdict(stop).reason) == ("rejected", "it is only a spike")
    _back(visit)
    assert "2 requests wait" in visit.words
    _decide(visit, "update_optimizer", "Approve")
    assert desk.verdict(rate).decision == "approved"
    assert desk.verdict(rate).decided_by.startswith("operator:terminal via terminal (")
    assert desk.state(layer) == "proposed"
    _back(visit)
    _decide(visit, "model_layer_operation", "Reject")
    _back(visit)
    assert "Nothing waits for a decision" in visit.words


def _decide(visit: Visit, kind: str, verdict: str, reason: str = "") -> None:
    article(visit, kind).get_by_label("Reason").fill(reason)
    with visit.page.expect_navigation():
        article(visit, kind).get_by_role("button", name=verdict).click()


def _back(visit: Visit) -> None:
    with visit.page.expect_navigation():
        visit.page.get_by_role("link", name="What else waits").click()


def test_a_wrong_edit_keeps_what_was_typed_and_can_be_mended(desk: Desk, visit: Visit) -> None:
    record, other = desk.ask(lr=0.02), desk.ask(kind="stop_training")
    enter(desk, visit)
    first = article(visit, "update_optimizer")
    first.get_by_text("Run it with other values").click()
    first.get_by_label("lr", exact=True).fill("0.5")
    first.get_by_label("Reason").fill("go slower")
    visit.press("Run with these values")
    assert "lr 0.5 is outside" in visit.page.get_by_role("alert").inner_text()
    assert "nearest allowed: lr 0.05" in visit.page.get_by_role("alert").inner_text()
    assert (desk.state(record), desk.state(other)) == ("proposed", "proposed")
    assert visit.page.get_by_role("article").count() == 1
    visit.page.get_by_label("lr", exact=True).fill("0.05")
    visit.press("Run with these values")
    assert visit.title == "Edited and approved: update_optimizer"
    verdict = desk.verdict(record)
    assert (verdict.decision, verdict.reason) == ("edited", "go slower")
    assert verdict.edited is not None
    assert verdict.edited.arguments()["lr"] == 0.05
    _back(visit)
    assert visit.page.url == desk.local
    assert desk.state(other) == "proposed"


@pytest.mark.parametrize("verdict", ["Approve", "Reject", "Run with these values"])
def test_whoever_is_slower_is_told_who_was_first(desk: Desk, visit: Visit, verdict: str) -> None:
    record = desk.ask(lr=0.02)
    enter(desk, visit)
    visit.page.get_by_text("Run it with other values").click()
    desk.decide(record, "reject", "no")
    visit.press(verdict)
    assert visit.title == "This was decided already"
    assert "operator:anna" in visit.words
    assert desk.verdict(record).decided_by == "operator:anna"


@pytest.mark.parametrize("kind", ["no key", "a wrong key", "a key of another run"])
def test_without_its_key_a_page_says_what_to_do_and_shows_nothing(desk: Desk, visit: Visit, kind: str) -> None:
    record = desk.ask("the loss is flat")
    key = {"no key": "", "a wrong key": "?key=att_wrong", "a key of another run": f"x?key={desk.key()}"}[kind]
    assert visit.open(desk.local + key) in (401, 403)
    assert "agenttune run" in visit.words or "agenttune open" in visit.words
    assert visit.page.get_by_role("heading", level=1).count() == 1, "this is a page for people"
    assert "flat" not in visit.words
    assert not {"form", "button"} & set(visit.tags)
    assert visit.context.cookies() == []
    assert desk.state(record) == "proposed"


# -- pages of others ---------------------------------------------------------------------------------------------------


class Elsewhere:
    """A server of somebody else on this machine, whose page is what a test makes it."""

    def __init__(self) -> None:
        self.page = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer.page.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def form(self, action: str, fields: dict[str, str], more: str = "") -> None:
        """The page is a form, ready to be sent."""
        inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
        self.page = f'<form method="post" action="{action}"{more}>{inputs}<button>Win a prize</button></form>'


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    made.http.shutdown()
    made.http.server_close()


def _fields(record: CommandRecord, verdict: str = "approve") -> dict[str, str]:
    """As if the attacker knew all that the page knows."""
    assert record.request is not None
    return {"verdict": verdict, "reason": "", "digest": record.request.digest}


@pytest.mark.parametrize(
    ("host", "more"),
    [("127.0.0.1", ""), ("localhost", ""), ("127.0.0.1", ' rel="noreferrer"'), ("127.0.0.1", ' enctype="text/plain"')],
)
def test_a_form_on_another_page_decides_nothing(
    desk: Desk, visit: Visit, elsewhere: Elsewhere, host: str, more: str
) -> None:
    """From another port of this machine the browser sends the cookie along: only the Origin tells."""
    record = desk.ask()
    enter(desk, visit)
    before = desk.log.last_seq()
    elsewhere.form(f"{desk.local}/{record.command_id}", _fields(record), more)
    visit.open(f"http://{host}:{elsewhere.port}/")
    visit.press("Win a prize")
    assert "Approved" not in visit.words
    assert (desk.state(record), desk.log.last_seq()) == ("proposed", before)
    enter(desk, visit)
    visit.press("Approve")
    assert desk.state(record) == "queued"


@pytest.mark.parametrize("page", ["local", "link"])
def test_no_page_can_frame_it(desk: Desk, browser: Any, elsewhere: Elsewhere, page: str) -> None:
    visit = Visit(browser, **DESKTOP)
    record = desk.ask()
    enter(desk, visit)
    elsewhere.page = f'<iframe src="{desk.local if page == "local" else desk.link(record)}"></iframe>'
    visit.open(f"http://127.0.0.1:{elsewhere.port}/")
    assert visit.page.frames[1].get_by_role("button").count() == 0
    assert any("frame" in complaint for complaint in visit.complaints)
    visit.context.close()


def test_the_address_works_from_a_terminal_that_is_itself_a_page(
    desk: Desk, visit: Visit, elsewhere: Elsewhere
) -> None:
    """Notebooks and web editors show terminals; a link in them is a link of another site."""
    desk.ask()
    elsewhere.page = f'<a href="{desk.local}?key={desk.key()}">open</a>'
    visit.open(f"http://localhost:{elsewhere.port}/")
    with visit.page.expect_navigation():
        visit.page.get_by_role("link", name="open").click()
    assert visit.page.url == desk.local
    assert visit.page.get_by_role("button", name="Approve").count() == 1


# -- hands and eyes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_hit_by_day_and_by_night(desk: Desk, browser: Any, scheme: str) -> None:
    visit = Visit(browser, **PHONE, color_scheme=scheme)
    desk.ask(lr=0.02)
    desk.ask(kind="stop_training")
    enter(desk, visit)
    assert visit.hard_to_read() == []
    assert visit.hard_to_hit() == []
    _decide(visit, "stop_training", "Reject")
    assert visit.hard_to_read() == []
    assert visit.hard_to_hit() == []
    visit.context.close()
