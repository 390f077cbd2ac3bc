"""A link decides on one request, once, as it was shown; no other link decides anything, and looking decides nothing."""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.control.tokens import create_token
from agenttune.errors import UserError
from agenttune.protocol.deadlines import BootTime
from agenttune.protocol.events import BranchStarted, KnobsRead, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Author, CommandRecord, Principal, Proposal, State
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.server.app import create_app
from agenttune.server.pages.rendering import message_page
from agenttune.server.pages.signed_links import KEY_FILE, Link, find_key, make_key, read, sign
from agenttune.server.request_context import Context
from agenttune.store.run_log import RunLog

AGENT = Author(principal="agent", name="model")
ANNA = Author(principal="operator", name="anna")
ASK = {"name": "ask", "approvers": ["human"], "timeout_s": 7200}
HOUR_S = 3600.0
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Desk:
    """A run at step 100 whose agent has to ask, its control with a clock to turn, and a browser."""

    def __init__(self, runs_dir: Path, **rule: Any) -> None:
        self.now_s = 1_000_000.0
        self.runs_dir = runs_dir
        gate = {"approval": [{**ASK, **rule}]}
        info = RunInfo(run_id="r1", name="r1", status="running", created_at_s=1.0, max_steps=1000, rules={"gate": gate})
        self.log = RunLog.create(runs_dir / "r1", info)
        rate = KnobState(name="lr", base=0.01, effective=0.01, command="update_optimizer")
        self.log.append(KnobsRead(knobs=[rate]), step=100)
        self.log.append_points(
            [Point(step=i, at_s=self.now_s, values={"step_loss": 3 / i, "eval_loss": 1.0}) for i in range(1, 101)]
        )
        self.control = LocalControl(runs_dir, clock=lambda: self.now_s, boot=lambda: BootTime("first", self.now_s))
        self.app = create_app(runs_dir, token="the-servers-token")
        context: Context = self.app.state.context
        context.control = self.control
        self.browser = TestClient(self.app, base_url="https://my-tunnel.example")

    def ask(self, rationale: str = "the loss is flat", **fields: Any) -> CommandRecord:
        raw = {"kind": "update_optimizer", **(fields or {"lr": 0.02})}
        proposal = Proposal.model_validate({"command": raw, "author": AGENT, "rationale": rationale})
        return self.control.submit("r1", proposal)

    def link(self, record: CommandRecord, **changes: Any) -> str:
        assert record.request is not None
        link = Link(
            run_id="r1",
            command_id=record.command_id,
            digest=record.request.digest,
            expires_at_s=self.now_s + HOUR_S,
        )
        return f"/links/{sign(link.model_copy(update=changes), make_key(self.runs_dir))}"

    def plain(self, record: CommandRecord) -> str:
        """The link to the page without scripts, which is shown by itself where the dashboard is not built."""
        return f"{self.link(record)}?plain"

    def post(self, path: str, verdict: str = "approve", reason: str = "", **headers: str) -> Any:
        return self.browser.post(path, data={"verdict": verdict, "reason": reason}, headers=headers)

    def record(self, record: CommandRecord) -> CommandRecord:
        return self.control.command("r1", record.command_id)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    with made.browser:
        yield made


# -- deciding ----------------------------------------------------------------------------------------------------------


def test_looking_decides_nothing_and_one_click_decides_once(desk: Desk) -> None:
    record = desk.ask()
    link = desk.link(record)
    before = desk.log.last_seq()
    for _ in range(3):  # chat services, mail filters, then the person
        assert desk.browser.get(link).status_code == 200
    assert desk.browser.head(link).status_code == 200
    assert desk.browser.head(link).text == ""
    assert desk.log.last_seq() == before
    done = desk.post(link, "approve", "go on")
    assert (done.status_code, "Approved" in done.text) == (200, True)
    verdict = desk.record(record).verdict
    assert verdict is not None
    assert (verdict.decision, verdict.decided_by, verdict.reason) == ("approved", "operator:link", "go on")
    for again in (desk.post(link, "reject"), desk.post(link), desk.browser.get(link)):
        assert again.status_code == 409
        assert "operator:link" in again.text
    assert desk.record(record).state is State.QUEUED


def test_a_rejection_goes_back_with_its_reason(desk: Desk) -> None:
    record = desk.ask()
    assert desk.post(desk.link(record), "reject", "it is warming up").status_code == 200
    verdict = desk.record(record).verdict
    assert verdict is not None
    assert (verdict.decision, verdict.reason) == ("rejected", "it is warming up")


def test_an_edit_runs_what_was_typed_and_the_log_has_both(desk: Desk) -> None:
    record = desk.ask(lr=0.02, weight_decay=0.1)
    sent = {"verdict": "edit", "reason": "half", "set.lr": " 0.015 ", "set.weight_decay": "0.1"}
    done = desk.browser.post(desk.link(record), data=sent)
    assert (done.status_code, "Edited and approved" in done.text) == (200, True)
    verdict = desk.record(record).verdict
    assert verdict is not None
    assert (verdict.decision, verdict.decided_by, verdict.reason) == ("edited", "operator:link", "half")
    assert verdict.edited == record.proposal.command.model_copy(update={"lr": 0.015})


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"verdict": "edit", "set.lr": "9"}, "outside"),
        ({"verdict": "edit", "set.lr": "-Infinity"}, "finite"),
        ({"verdict": "edit", "set.lr": "<b>"}, "valid number"),
        ({"verdict": "edit", "set.lr": ""}, "lr is empty"),
        ({"verdict": "edit", "set.lr": "0.02"}, "the values that were asked for"),
        ({"verdict": "approve", "set.lr": "0.015"}, "you changed a value"),
        ({"verdict": "edit", "set.weight_decay": "1"}, "not what the page"),
        ({"verdict": "edit", "set.kind": "stop_training"}, "not what the page"),
    ],
)
def test_a_wrong_edit_decides_nothing_and_comes_back_to_be_mended(desk: Desk, sent: dict[str, str], why: str) -> None:
    rules = {"gate": {**desk.log.info().rules["gate"], "bounds": {"lr": [1e-6, 0.5]}}}
    desk.log.update_info(rules=rules)
    record = desk.ask(lr=0.02)
    before = desk.log.last_seq()
    answer = desk.browser.post(desk.link(record), data={**sent, "reason": "my <i>words</i>"})
    page = Page(answer.text)
    assert (answer.status_code, why in page.text, "my <i>words</i>" in page.text) == (422, True, True)
    assert page.tags.count("form") == 1
    if "set.lr" in sent:
        assert ("value", sent["set.lr"]) in page.attributes
    assert (desk.record(record).state, desk.log.last_seq()) == (State.PROPOSED, before)


@pytest.mark.parametrize("origin", ["null", "https://my-tunnel.example", None])
def test_the_form_of_a_page_without_referrer_gets_through(desk: Desk, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert desk.post(desk.link(desk.ask()), "approve", **headers).status_code == 200


def test_two_people_click_at_once_and_one_wins(desk: Desk) -> None:
    record = desk.ask()
    link, start, answers = desk.link(record), threading.Barrier(2), list[int]()

    def click(verdict: str) -> None:
        start.wait()
        answers.append(desk.post(link, verdict).status_code)

    threads = [threading.Thread(target=click, args=(verdict,)) for verdict in ("approve", "reject")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409]
    judged = desk.log.events(kinds=["judged"], command_id=record.command_id)
    assert len(judged) == 1


def test_whoever_comes_after_somebody_else_is_told_so(desk: Desk) -> None:
    record = desk.ask()
    assert record.request is not None
    decision = ApprovalDecision(verdict="reject", digest=record.request.digest, author=ANNA)
    desk.control.decide("r1", record.command_id, decision)
    late = desk.post(desk.link(record))
    assert (late.status_code, "operator:anna" in late.text) == (409, True)
    assert desk.record(record).state is State.REJECTED


# -- what no longer works ----------------------------------------------------------------------------------------------


def test_an_expired_link_decides_nothing_and_the_request_still_waits(desk: Desk) -> None:
    record = desk.ask()
    link = desk.link(record)
    desk.now_s += HOUR_S - 1
    assert desk.browser.get(link).status_code == 200
    desk.now_s += 1
    assert desk.browser.get(link).status_code == 410
    assert desk.post(link).status_code == 410
    assert desk.record(record).state is State.PROPOSED


def test_a_link_works_no_longer_than_its_request_waits(desk: Desk) -> None:
    record = desk.ask()
    link = desk.link(record, expires_at_s=desk.now_s + 100 * HOUR_S)
    desk.now_s += 2 * HOUR_S
    before = desk.log.last_seq()
    assert desk.browser.get(link).status_code == 410
    assert desk.log.last_seq() == before
    assert desk.post(link).status_code == 410
    assert desk.record(record).state is not State.QUEUED


def test_a_link_for_another_request_or_content_decides_nothing(desk: Desk) -> None:
    first, second = desk.ask(), desk.ask(weight_decay=0.5)
    swapped = desk.link(first, command_id=second.command_id)
    for answer in (desk.browser.get(swapped), desk.post(swapped)):
        assert answer.status_code == 409
        assert "weight_decay" not in answer.text
    for gone in (desk.link(first, command_id="nope"), desk.link(first, run_id="nope"), desk.link(first, run_id="../x")):
        assert (desk.browser.get(gone).status_code, desk.post(gone).status_code) == (410, 410)
    assert {desk.record(r).state for r in (first, second)} == {State.PROPOSED}


def test_after_going_back_or_at_the_end_of_the_run_a_link_does_nothing(desk: Desk) -> None:
    first = desk.ask()
    link = desk.link(first)
    desk.log.append(BranchStarted(name="b2", parent="main", from_step=50), step=50, branch="b2")
    assert (desk.browser.get(link).status_code, desk.post(link).status_code) == (410, 410)
    assert desk.record(first).state is State.SUPERSEDED
    second = desk.ask()
    link = desk.link(second)
    desk.log.append(StatusChanged(status="finished"), step=100)
    assert desk.post(link).status_code == 410
    assert desk.record(second).state is State.EXPIRED


def test_what_the_guardrails_refuse_since_is_not_called_approved(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    record = desk.ask()
    link = desk.link(record)
    rules = {**desk.log.info().rules, "gate": {**desk.log.info().rules["gate"], "bounds": {"lr": [1e-6, 0.015]}}}
    desk.log.update_info(rules=rules)
    answer = desk.post(link)
    assert (answer.status_code, "outside" in answer.text, "Approved" in answer.text) == (409, True, False)
    assert desk.record(record).state is State.REJECTED


# -- forgery -----------------------------------------------------------------------------------------------------------


def test_a_forged_link_says_nothing_of_the_run(desk: Desk) -> None:
    record = desk.ask()
    real = desk.link(record)
    assert record.request is not None
    other_key = sign(
        Link(run_id="r1", command_id=record.command_id, digest=record.request.digest, expires_at_s=9e9), b"x" * 32
    )
    payload, mac = real.removeprefix("/links/").rsplit(".", 1)
    forged = [other_key, f"1.{payload}.{mac}", payload, f"{mac}.{payload}", "x", "ä.ö.ü", f"1.{OLD_PAYLOAD}.{mac}"]
    forged += [f"{payload}.{mac}=", f"{payload}!.{mac}", f"{payload}.", "." * 1990, f"{payload}.{mac}" * 20]
    for token in forged:
        for answer in (desk.browser.get(f"/links/{token}"), desk.post(f"/links/{token}")):
            assert answer.status_code == 403, token
            for known in ("r1", "update_optimizer", "0.02", record.command_id, "flat"):
                assert known not in re.sub(r"<style>.*</style>", "", answer.text, flags=re.S), (token, known)
    assert desk.record(record).state is State.PROPOSED


OLD_PAYLOAD = "eyJwdXJwb3NlIjoiZGVjaWRlIn0"
"""As in links of before release 0.2; they have expired since."""
KEY = bytes(range(32))
TOKEN = sign(Link(run_id="run-1", command_id="c" * 32, digest="d" * 64, expires_at_s=1e9), KEY)


@given(place=st.integers(0, 8 * len(TOKEN) - 1))
def test_no_flipped_bit_passes(place: int) -> None:
    raw = bytearray(TOKEN.encode())
    raw[place // 8] ^= 1 << place % 8
    assert read(raw.decode("latin-1"), KEY) is None


@given(token=st.text(max_size=300) | st.from_regex(r"\.?[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{43}", fullmatch=True))
def test_no_made_up_token_passes_or_crashes(token: str) -> None:
    assert read(token, KEY) is None


@given(st.text(min_size=1, max_size=60), st.floats(0, 1e11))
def test_what_was_signed_is_read(run_id: str, at_s: float) -> None:
    run_id = run_id.encode("utf-8", "ignore").decode()
    link = Link(run_id=run_id, command_id="c", digest="d", expires_at_s=at_s)
    token = sign(link, KEY)
    assert read(token, KEY) == link
    assert re.fullmatch(r"[A-Za-z0-9._-]+", token)


def test_the_key_is_its_owners_alone_and_made_once(tmp_path: Path) -> None:
    assert find_key(tmp_path) is None
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(make_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    path = tmp_path / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(UserError, match="others may read"):
        make_key(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="damaged"):
        find_key(tmp_path)


# -- the way in --------------------------------------------------------------------------------------------------------


def test_a_link_opens_nothing_else(desk: Desk) -> None:
    link = desk.link(desk.ask())
    for path in (f"{link}/../../api/v1/runs", "/links/../api/v1/runs", "/links/%2e%2e/api/v1/runs", "/api/v1/runs"):
        assert desk.browser.get(path).status_code in (401, 403, 404), path
    assert desk.browser.get("/api/v1/runs", headers={"Authorization": "Bearer " + link[7:]}).status_code in (401, 403)
    assert desk.browser.put(link).status_code == 405


NO_FORMS: list[tuple[str, dict[str, str]]] = [
    ("verdict=approve&verdict=reject", FORM),
    ("verdict=perhaps", FORM),
    ("reason=yes", FORM),
    ("", FORM),
    ("verdict=approve&command=x", FORM),
    ("verdict=approve&reason=%ff", FORM),
    ("verdict=approve&reason=" + "a" * 2001, FORM),
    ("verdict=approve" + "&a=1" * 50, FORM),
    ('{"verdict": "approve"}', {"Content-Type": "application/json"}),
    ("verdict=approve", {"Content-Type": "text/plain"}),
]


def test_what_is_no_form_decides_nothing(desk: Desk) -> None:
    record = desk.ask()
    for body, headers in NO_FORMS:
        answer = desk.browser.post(desk.link(record), content=body, headers=headers)
        assert (body, answer.status_code, "Nothing was decided" in answer.text) == (body, 400, True)
        assert desk.record(record).state is State.PROPOSED


def test_nobody_keeps_frames_or_indexes_the_page(desk: Desk) -> None:
    record = desk.ask()
    for answer in (desk.browser.get(desk.plain(record)), desk.browser.get("/links/x")):
        headers = answer.headers
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert "noindex" in headers["x-robots-tag"]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy


# -- the page ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><form action=//evil.example>"
    "</textarea></style><!-- {{ 7*7 }} {% raw %} \x1b[31m\x07\x00\u202eesrever\u2066\u200b\ud7ff"
    "&lt;b&gt; <svg/onload=1>"
)


def test_the_page_says_what_is_asked(tmp_path: Path) -> None:
    desk = Desk(tmp_path, training="pause")
    record = desk.ask("the loss is flat since step 60", lr=0.02, weight_decay=0.05)
    desk.now_s += 65
    page = Page(desk.browser.get(desk.plain(record)).text)
    for words in (
        *(
            "model (agent)",
            "update_optimizer",
            "tune",
            "0.01",
            "0.02",
            "weight_decay",
            "not known",
            "the loss is flat since step 60",
        ),
        *("asked at step", "100", "main", "If nobody answers by 1970-01-12 15:46:40 UTC (in 1 h 58 min)"),
        *("it is not done, and recorded as expired", "Training is held meanwhile: 1 min 05 s so far"),
        *("Approve", "Reject", "step_loss", "eval_loss"),
    ):
        assert words in page.text, words
    assert page.tags.count("svg") == 2
    assert page.tags.count("form") == 1


def test_hostile_text_is_only_text(desk: Desk) -> None:
    plain = Page(desk.browser.get(desk.plain(desk.ask("r", weight_decay=0.1))).text)
    text = (HOSTILE * 40)[:4000]
    record = desk.ask(text, lr=0.03)
    html = desk.browser.get(desk.plain(record)).text
    page = Page(html)
    assert page.tags == plain.tags
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    for invisible in "\x1b\x07\x00\u202e\u2066\u200b":
        assert invisible not in html


def test_what_a_page_says_of_an_error_is_only_text() -> None:
    shown = bytes(message_page(404, "Not found", f"no request {HOSTILE}").body).decode()
    assert "<script>" not in shown
    assert not set(shown) & set("\x1b\x07\x00\u202e\u2066\u200b")


HOSTILE_TEXT = st.text(st.sampled_from("<>&\"'{}%#/=ab \n\x00\x1b\u202e\u2028script-!"), max_size=200)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(reason=HOSTILE_TEXT, name=HOSTILE_TEXT.filter(lambda text: len(text) <= 128))
def test_no_text_changes_what_the_page_is_made_of(desk: Desk, reason: str, name: str) -> None:
    proposal = Proposal.model_validate(
        {
            "command": {"kind": "update_optimizer", "lr": 0.02},
            "author": {"principal": "agent", "name": name},
            "rationale": reason,
        }
    )
    desk.log.update_info(rules={"gate": {"approval": [ASK], "repeat_cooldown_steps": 0, "max_per_minute": 10_000}})
    for waiting in desk.control.pending("r1"):
        assert waiting.request is not None
        no = ApprovalDecision(verdict="reject", digest=waiting.request.digest, author=ANNA)
        desk.control.decide("r1", waiting.command_id, no)
    page = Page(desk.browser.get(desk.plain(desk.control.submit("r1", proposal))).text)
    assert [tag for tag in page.tags if tag in ("script", "img", "svg", "form", "button", "style")] == [
        *("style", "svg", "svg", "form", "button", "button", "button")
    ]


# -- the local user interface ------------------------------------------------------------------------------------------


OURS = {"Origin": "http://127.0.0.1"}


def local(desk: Desk, role: Principal | None) -> TestClient:
    """A browser that has opened the link of `agenttune run`; or somebody with another token, or none."""
    browser = TestClient(desk.app, base_url="http://127.0.0.1")
    if role == "operator":
        key, _ = create_token(desk.runs_dir, "operator", "anna", ["r1"])
        assert "key" not in str(browser.get("/local/r1", params={"key": key}).url)
    elif role is not None:
        browser.headers["Authorization"] = f"Bearer {create_token(desk.runs_dir, role, 'other')[0]}"
    return browser


@pytest.mark.parametrize("role", [None, "agent", "viewer"])
def test_the_local_page_is_the_operators(desk: Desk, role: Principal | None) -> None:
    record = desk.ask()
    browser, refusal = local(desk, role), 401 if role is None else 403
    shown = browser.get("/local/r1")
    assert (shown.status_code, "update_optimizer" in shown.text) == (refusal, False)
    sent = {"verdict": "approve", "digest": record.request.digest if record.request else ""}
    assert browser.post(f"/local/r1/{record.command_id}", data=sent, headers=OURS).status_code == refusal
    assert desk.record(record).state is State.PROPOSED


def test_the_local_page_lists_what_waits_and_decides(desk: Desk) -> None:
    first, second = desk.ask(), desk.ask(weight_decay=0.5)
    browser = local(desk, "operator")
    answer = browser.get("/local/r1")
    assert answer.headers["referrer-policy"] == "same-origin"
    page = Page(answer.text)
    actions = [value for name, value in page.attributes if name == "action"]
    assert actions == [f"r1/{first.command_id}", f"r1/{second.command_id}"]
    sent = {"verdict": "approve", "digest": "0" * 64, "reason": ""}
    assert browser.post(f"/local/{actions[0]}", data=sent, headers=OURS).status_code == 409
    sent["digest"] = first.request.digest if first.request else ""
    assert (
        browser.post(f"/local/{actions[0]}", data=sent, headers={**OURS, "Sec-Fetch-Site": "cross-site"}).status_code
        == 403
    )
    assert browser.post(f"/local/{actions[0]}", data=sent).status_code == 403
    assert browser.post(f"/local/{actions[0]}", data=sent, headers={"Origin": "http://evil.example"}).status_code == 403
    assert desk.record(first).state is State.PROPOSED
    done = browser.post(f"/local/{actions[0]}", data=sent, headers=OURS)
    assert (done.status_code, 'href="../r1"' in done.text) == (200, True)
    verdict = desk.record(first).verdict
    assert verdict is not None
    assert verdict.decision == "approved"
    assert verdict.decided_by.startswith("operator:anna via anna (")
    assert browser.post(f"/local/{actions[0]}", data=sent, headers=OURS).status_code == 409
    assert browser.post("/local/r1/nope", data=sent, headers=OURS).status_code == 404
    assert desk.record(second).state is State.PROPOSED
    assert Page(browser.get("/local/r1").text).tags.count("form") == 1
