"""The link to the dashboard in a real browser: it signs in, once, and what came with it acts for our own page only."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.control.page_link import page_link
from agenttune.control.tokens import create_token, revoke_token
from tests.browser.desk import Desk
from tests.browser.test_local_page import Elsewhere, elsewhere
from tests.browser.visits import DESKTOP, PHONE, Visit

__all__ = ["elsewhere"]
pytestmark = pytest.mark.browser
ME = "() => fetch('/api/v1/me').then(answer => answer.json())"
SEND = """run => fetch(`/api/v1/runs/${run}/commands`, {method: 'POST', headers: {'Content-Type': 'application/json'},
  body: JSON.stringify({command: {kind: 'add_note', text: 'from the page'}})})
  .then(answer => answer.json()).then(record => record.proposal.author.principal)"""
STREAM = """run => new Promise(done => {
  const socket = new WebSocket(`ws://${location.host}/api/v1/runs/${run}/events/live`);
  socket.onmessage = () => { done('open'); socket.close(); };
  socket.onerror = () => done('refused');
})"""
FETCH_ELSEWHERE = """url => fetch(url, {method: 'POST', credentials: 'include', mode: 'no-cors', body: '{}'})
  .then(() => 'sent', () => 'refused')"""


def follow(desk: Desk, visit: Visit) -> str:
    link, _ = page_link(desk.url, desk.runs_dir, desk.run_id)
    assert visit.open(link) == 200
    return link


def test_a_link_signs_in_and_leaves_nothing_in_the_address(desk: Desk, visit: Visit) -> None:
    link = follow(desk, visit)
    key = link.partition("key=")[2]
    assert "key" not in visit.page.url
    assert visit.page.url.startswith(f"{desk.url}/runs/{desk.run_id}")
    assert visit.page.evaluate("() => document.cookie") == ""
    assert visit.page.evaluate("() => JSON.stringify([localStorage, sessionStorage])").count("att_") == 0
    [cookie] = visit.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert cookie["value"] != key
    visit.page.reload()
    assert visit.page.evaluate(ME)["role"] == "operator"
    assert visit.open(link) == 200, "followed again in the same browser"
    assert "key" not in visit.page.url


def test_the_page_acts_and_follows_by_its_cookie(desk: Desk, visit: Visit) -> None:
    """Also though its documents send no referrer: a browser then leaves the Origin out of some requests."""
    assert visit.open(f"{desk.url}/runs/{desk.run_id}") == 200
    assert visit.page.evaluate(ME)["via"] == "local"
    assert visit.page.evaluate(SEND, desk.run_id) == "agent"
    follow(desk, visit)
    assert visit.page.evaluate(SEND, desk.run_id) == "operator"
    assert visit.page.evaluate(STREAM, desk.run_id) == "open"


def test_another_browser_is_told_how_to_get_a_link_of_its_own(desk: Desk, visit: Visit, browser: Any) -> None:
    link = follow(desk, visit)
    other = Visit(browser, **PHONE)
    assert other.open(link) == 401
    assert other.title == "This link signs nobody in"
    assert f"agenttune open {desk.run_id}" in other.words
    assert other.hard_to_read() == []
    with other.page.expect_navigation():
        other.page.get_by_role("link").click()
    assert other.page.evaluate(ME)["via"] == "local"
    other.context.close()


def test_pages_of_other_ports_act_as_nobody(desk: Desk, visit: Visit, elsewhere: Elsewhere) -> None:
    """They are of the same site, so the browser sends the cookie along."""
    follow(desk, visit)
    before = desk.log.last_seq()
    elsewhere.page = f'<img src="{desk.url}/api/v1/runs/{desk.run_id}/model?norms=true">'
    quiet = len(visit.complaints)
    visit.open(f"http://127.0.0.1:{elsewhere.port}/")
    visit.page.evaluate(FETCH_ELSEWHERE, f"{desk.url}/api/v1/runs/{desk.run_id}/commands")
    assert visit.page.evaluate(STREAM.replace("${location.host}", desk.url[7:]), desk.run_id) == "refused"
    del visit.complaints[quiet:]  # that the browser was refused is what is wanted
    operators = [
        record for record in desk.control.commands(desk.run_id) if record.proposal.author.principal == "operator"
    ]
    assert operators == []
    assert desk.log.last_seq() >= before


def test_a_terminal_that_is_itself_a_page_leads_there(desk: Desk, visit: Visit, elsewhere: Elsewhere) -> None:
    """Notebooks and web editors show terminals; the cookie is not sent with such a navigation, and is afterwards."""
    link, _ = page_link(desk.url, desk.runs_dir, desk.run_id)
    elsewhere.page = f'<a href="{link}">open</a>'
    visit.open(f"http://localhost:{elsewhere.port}/")
    with visit.page.expect_navigation():
        visit.page.get_by_role("link", name="open").click()
    assert visit.page.url.startswith(f"{desk.url}/runs/{desk.run_id}")
    assert visit.page.evaluate(ME)["role"] == "operator"


def test_a_revoked_sign_in_is_said_and_leaves_the_local_role(desk: Desk, visit: Visit) -> None:
    link, token = page_link(desk.url, desk.runs_dir, desk.run_id)
    visit.open(link)
    revoke_token(desk.runs_dir, token.id)
    visit.page.reload()
    told = visit.page.evaluate(ME)
    assert (told["role"], "agenttune open" in told["notice"]) == ("agent", True)


def test_a_notebook_of_this_machine_may_show_the_page_in_a_frame(
    desk: Desk, browser: Any, elsewhere: Elsewhere
) -> None:
    visit = Visit(browser, **DESKTOP)
    text, _ = create_token(desk.runs_dir, "viewer", "notebook")
    assert text
    elsewhere.page = f'<iframe src="{desk.url}/runs/{desk.run_id}"></iframe>'
    visit.open(f"http://localhost:{elsewhere.port}/")
    visit.page.wait_for_timeout(100)
    assert visit.page.frames[1].url.startswith(desk.url)
    assert visit.page.frames[1].title() != ""
    assert not [complaint for complaint in visit.complaints if "frame-ancestors" in complaint]
    visit.context.close()
