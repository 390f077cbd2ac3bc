"""Without scripts, too, whoever gets a link sees what is asked, decides by a touch, and is told what came of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from agenttune.protocol.proposals import Author
from tests.browser.desk import EVIL_HOST, HOSTILE, INVISIBLE, Desk
from tests.browser.visits import PHONE, Visit

pytestmark = pytest.mark.browser

FOLD = "Run it with other values"
EDIT = "Run with these values"
EVENT_HANDLERS = (
    "() => [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => /^on/.test(n))"
)


def test_the_page_fits_a_phone_and_says_what_is_asked(desk: Desk, visit: Visit) -> None:
    link = desk.plain_link(desk.ask("the loss is flat since step 60", lr=0.02, weight_decay=0.05))
    assert visit.open(link) == 200
    assert visit.spill_px() == 0
    assert visit.title == "model (agent) asks for update_optimizer tune"
    rows = [" ".join(text.split()) for text in visit.page.get_by_role("row").all_inner_texts()]
    assert rows == ["what before after", "lr 0.01 0.02", "weight_decay not known 0.05"]
    for words in (
        "the loss is flat since step 60",
        "asked at step 120, on what was seen at step 115",
        "it is not done, and recorded as expired",
        "Training goes on meanwhile",
    ):
        assert words in visit.words
    curve = visit.page.get_by_role("img", name="step_loss, steps 1 to 120, between 2.037 and 3.934")
    box = curve.bounding_box()
    assert box["width"] > 250
    assert box["height"] > 100
    assert curve.locator("polyline").bounding_box()["height"] > 80
    first_screen = PHONE["viewport"]["height"]
    for first in ("lr 0.01 0.02", "If nobody answers", "The reason given"):
        place = visit.page.get_by_text(first.split(" 0")[0], exact=first.startswith("lr")).first.bounding_box()
        assert place["y"] < first_screen / 2, first


def test_a_touch_approves_once_and_the_log_says_who(desk: Desk, visit: Visit) -> None:
    record = desk.ask()
    link = desk.plain_link(record)
    for _ in range(2):  # a chat service looked before
        visit.open(link)
    assert desk.state(record) == "proposed"
    visit.press("Approve")
    assert visit.title == "Approved: update_optimizer"
    verdict = desk.verdict(record)
    assert (verdict.decision, verdict.decided_by) == ("approved", "operator:link")
    assert visit.open(link) == 409
    assert visit.title == "This no longer waits for a decision"
    assert "update_optimizer was approved by operator:link" in visit.words
    assert visit.page.get_by_role("button").count() == 0


def test_a_reload_after_a_decision_decides_nothing_more(desk: Desk, visit: Visit) -> None:
    record = desk.ask()
    visit.open(desk.plain_link(record))
    visit.press("Approve")
    visit.page.reload()  # sends the form again
    assert visit.title == "This no longer waits for a decision"
    visit.page.go_back()
    assert len(desk.log.events(kinds=["judged"], command_id=record.command_id)) == 1


def test_a_rejection_takes_its_reason_along(desk: Desk, visit: Visit) -> None:
    record = desk.ask()
    visit.open(desk.plain_link(record))
    visit.page.get_by_label("Reason").fill("it is warming up\nask again at step 500: ü 漢 🙂")
    visit.press("Reject")
    assert visit.title == "Rejected: update_optimizer"
    verdict = desk.verdict(record)
    assert (verdict.decision, verdict.decided_by) == ("rejected", "operator:link")
    assert verdict.reason == "it is warming up\nask again at step 500: ü 漢 🙂"


def test_as_long_a_reason_as_the_field_takes_gets_through(desk: Desk, visit: Visit) -> None:
    record = desk.ask()
    visit.open(desk.plain_link(record))
    visit.page.get_by_label("Reason").fill("a line\n" * 400)
    visit.press("Reject")
    assert desk.verdict(record).reason.startswith("a line\n" * 285)


def test_values_out_of_bounds_decide_nothing_and_can_be_mended(desk: Desk, visit: Visit) -> None:
    record = desk.ask(lr=0.02, weight_decay=0.05)
    link = desk.plain_link(record)
    visit.open(link)
    visit.page.get_by_label("Reason").fill("half of it will do")
    visit.page.get_by_text(FOLD).click()
    rate = visit.page.get_by_label("lr", exact=True)
    for wrong, why in (
        ("0.5", "lr 0.5 is outside [1e-06, 0.05]"),
        ("fast", "must be a valid number (got 'fast')"),
        ("NaN", "must be a finite number"),
        ("", "lr is empty"),
        ("0.02", "these are the values that were asked for"),
    ):
        rate.fill(wrong)
        visit.press(EDIT)
        alert = str(visit.page.get_by_role("alert").inner_text())
        assert alert.startswith("Nothing was decided:"), wrong
        assert why in alert
        assert rate.input_value() == wrong
        assert visit.page.get_by_label("Reason").input_value() == "half of it will do"
        assert visit.page.get_by_role("alert").bounding_box()["y"] < PHONE["viewport"]["height"], (
            "scrolled out of sight"
        )
        assert visit.spill_px() == 0
        assert desk.state(record) == "proposed"
    rate.fill("0.015")
    rate.press("Enter")
    visit.page.get_by_role("heading", name="Edited and approved: update_optimizer").wait_for()
    assert "It goes to the trainer now with lr 0.015, weight_decay 0.05." in visit.words
    verdict = desk.verdict(record)
    assert (verdict.decision, verdict.decided_by, verdict.reason) == ("edited", "operator:link", "half of it will do")
    assert verdict.edited is not None
    assert verdict.edited.arguments() == {"lr": 0.015, "lr_sets": "effective", "weight_decay": 0.05, "other": {}}
    assert visit.open(link) == 409
    assert "was edited by operator:link" in visit.words


def test_approve_never_passes_over_a_value_that_was_changed(desk: Desk, visit: Visit) -> None:
    record = desk.ask(lr=0.02)
    visit.open(desk.plain_link(record))
    visit.page.get_by_text(FOLD).click()
    visit.page.get_by_label("lr", exact=True).fill("0.015")
    visit.press("Approve")
    assert "you changed a value" in visit.page.get_by_role("alert").inner_text()
    assert desk.state(record) == "proposed"
    visit.press("Reject")
    assert desk.state(record) == "rejected"


@pytest.mark.parametrize("kind", ["expired", "forged", "cut short"])
def test_a_link_that_is_not_valid_says_so_and_offers_nothing(desk: Desk, visit: Visit, kind: str) -> None:
    record = desk.ask()
    if kind == "expired":
        status = visit.open(desk.link(record, lasts_s=-1))
        assert (status, visit.title) == (410, "This link has expired")
        assert "agenttune approve list" in visit.words
    else:
        link = desk.link(record)
        status = visit.open(link[:-9] if kind == "cut short" else link.replace("/links/", "/links/ey"))
        assert (status, visit.title) == (403, "This link is not valid")
        assert "lr" not in visit.words.split()
    assert not {"form", "button", "input", "textarea", "a"} & set(visit.tags)
    assert visit.spill_px() == 0
    assert desk.state(record) == "proposed"


def test_a_link_that_expires_while_it_is_looked_at_decides_nothing(desk: Desk, visit: Visit) -> None:
    record = desk.ask()
    visit.open(desk.plain_link(record))
    expired = desk.plain_link(record, lasts_s=-1)
    visit.page.locator("form").evaluate("(form, to) => form.setAttribute('action', to)", expired)
    visit.press("Approve")
    assert visit.title == "This link has expired"
    assert desk.state(record) == "proposed"


# -- hostile text ------------------------------------------------------------------------------------------------------


def asked_in(desk: Desk, words: str, lr: float) -> list[str]:
    """Links to two requests whose every foreign text says that."""
    author = Author(principal="agent", name=words[:120])
    layer = {"kind": "model_layer_operation", "operation_name": "reset_parameters", "layer_name": f"h.1{words}"[:200]}
    return [desk.plain_link(desk.ask(words, author, lr=lr)), desk.plain_link(desk.ask(words, author, **layer))]


@pytest.mark.parametrize("with_scripts", [True, False])
def test_hostile_text_is_only_read(desk: Desk, browser: Any, with_scripts: bool) -> None:
    visit = Visit(browser, **PHONE, java_script_enabled=with_scripts)
    tags = [visit.tags for link in asked_in(desk, "harmless", 0.02) if visit.open(link) == 200]
    for link, expected in zip(asked_in(desk, HOSTILE, 0.03), tags, strict=True):
        assert visit.open(link) == 200
        assert visit.tags == expected
        assert visit.page.evaluate(EVENT_HANDLERS) == []
        assert visit.spill_px() == 0
        assert "<script>alert(1)</script>" in visit.words
        text = visit.page.content()
        assert not [character for character in INVISIBLE if character in text]
    assert visit.hosts == {"127.0.0.1"}
    assert not any(EVIL_HOST in urlsplit(address).netloc for address in visit.asked)
    visit.assert_quiet()
    visit.context.close()


def test_everything_works_without_scripts(desk: Desk, browser: Any) -> None:
    visit = Visit(browser, **PHONE, java_script_enabled=False)
    record = desk.ask(lr=0.02)
    visit.open(desk.plain_link(record))
    visit.page.get_by_text(FOLD).click()
    visit.page.get_by_label("lr", exact=True).fill("7")
    visit.press(EDIT)
    assert "outside" in visit.page.get_by_role("alert").inner_text()
    visit.page.get_by_label("lr", exact=True).fill("0.01")
    visit.press(EDIT)
    assert visit.title == "Edited and approved: update_optimizer"
    assert desk.verdict(record).decision == "edited"
    visit.context.close()


# -- hands and eyes ----------------------------------------------------------------------------------------------------


def test_a_keyboard_reaches_everything_in_order_and_shows_where_it_is(desk: Desk, visit: Visit) -> None:
    record = desk.ask(lr=0.02)
    visit.open(desk.plain_link(record))
    reached = [_tab(visit) for _ in range(4)]
    assert reached == ["reason", FOLD, "Approve", "Reject"]
    visit.page.get_by_text(FOLD).focus()
    visit.page.keyboard.press("Enter")
    assert [_tab(visit) for _ in range(4)] == ["set.lr", EDIT, "Approve", "Reject"]
    with visit.page.expect_navigation():
        visit.page.keyboard.press("Space")
    assert desk.state(record) == "rejected"


def _tab(visit: Visit) -> str:
    """Where the next press of the key leads; the place is marked there."""
    visit.page.keyboard.press("Tab")
    name, outline_px = visit.page.evaluate(
        "() => { const at = document.activeElement, style = getComputedStyle(at), is = style.outlineStyle !== 'none';"
        " return [at.textContent.trim() || at.name, is ? parseFloat(style.outlineWidth) : 0]; }"
    )
    assert outline_px >= 2, name
    return "reason" if str(name).startswith("Reason") else str(name)


def test_what_can_be_used_has_a_name(desk: Desk, visit: Visit) -> None:
    visit.open(desk.plain_link(desk.ask(lr=0.02, weight_decay=0.05)))
    visit.page.get_by_text(FOLD).click()
    page = visit.page
    assert page.get_by_role("textbox", name="Reason, if you want to give one").count() == 1
    for name in ("lr", "weight_decay"):
        assert page.get_by_role("textbox", name=name, exact=True).count() == 1
    assert [page.get_by_role("button", name=n, exact=True).count() for n in ("Approve", "Reject", EDIT)] == [1, 1, 1]
    assert page.get_by_role("article", name="model (agent) asks for update_optimizer").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_hit_by_day_and_by_night(desk: Desk, browser: Any, scheme: str) -> None:
    visit = Visit(browser, **PHONE, color_scheme=scheme)
    for kind in ("update_optimizer", "stop_training"):
        fields: dict[str, Any] = {"lr": 0.02} if kind == "update_optimizer" else {}
        record = desk.ask("because", kind=kind, **fields)
        visit.open(desk.plain_link(record))
        visit.page.get_by_text(FOLD).click()
        assert len(visit.texts()) > 25
        assert visit.hard_to_read() == []
        assert visit.hard_to_hit() == []
        visit.press(EDIT)
        assert visit.hard_to_read() == []
        visit.press("Approve")
        assert visit.hard_to_read() == []
    light_ground = visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light_ground == (scheme == "light")
    visit.context.close()
