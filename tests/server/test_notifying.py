"""Whoever is asked hears of it once, also when a channel or server fails for a while; no password is written down."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from agenttune.config import NotifySettings, load_config
from agenttune.control import ApprovalDecision, LocalControl
from agenttune.control.http import HttpControl
from agenttune.errors import ConfigError, UserError
from agenttune.gate.approval_description import describe
from agenttune.launch import make_plan
from agenttune.protocol.deadlines import BootTime
from agenttune.protocol.events import KnobsRead, Notified, Settled, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, ApprovalRequest, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.server.notify.channels import open_channels
from agenttune.server.notify.notices import approval_notice, plain
from agenttune.server.notify.notifier import MOST_PER_MINUTE, RETRY_AFTER_S, Notifier
from agenttune.server.pages.signed_links import Link, find_key, read
from agenttune.store.run_log import RunLog
from tests.server.conftest import StartServer, make_run, stop
from tests.server.receiving import Receiver, receiving

AGENT = Author(principal="agent", name="model")
ANNA = Author(principal="operator", name="anna")
ASK = {"name": "ask", "approvers": ["human"], "timeout_s": 3600}
ALL = ["approval", "reverted", "ended"]
URLS = "AGENTTUNE_NOTIFY_URLS"
PASSWORD = "s3cret-pass"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with receiving() as made:
        yield made


class Desk:
    """A run whose agent has to ask, and a notifier with clocks to turn."""

    def __init__(self, runs_dir: Path, urls: str, gate: dict[str, Any] | None = None, **notify: Any) -> None:
        self.unix_s, self.tick_s, self.urls = 1_000_000.0, 0.0, urls
        self.runs_dir = runs_dir
        rules = {
            "gate": {"approval": [ASK], "max_per_minute": 10_000, **(gate or {})},
            "notify": NotifySettings.model_validate({"on": ALL, **notify}).model_dump(mode="json"),
        }
        info = RunInfo(run_id="r1", name="r1", status="running", created_at_s=1.0, max_steps=1000, rules=rules)
        self.log = RunLog.create(runs_dir / "r1", info)
        rate = KnobState(name="lr", base=0.01, effective=0.01, command="update_optimizer")
        self.log.append(KnobsRead(knobs=[rate]), step=100)
        self.log.append_points([Point(step=100, at_s=self.unix_s, values={"step_loss": 1.0})])
        self.control = LocalControl(runs_dir, clock=lambda: self.unix_s, boot=lambda: BootTime("first", self.unix_s))
        self.notifier = self.server()

    def server(self, **environment: str) -> Notifier:
        """As a server that starts has it."""
        return Notifier(
            LocalControl(self.runs_dir, clock=lambda: self.unix_s, boot=lambda: BootTime("first", self.unix_s)),
            "http://127.0.0.1:7007",
            environment or {URLS: self.urls},
            lambda: self.tick_s,
        )

    def ask(self, rationale: str = "the loss is flat", **fields: Any) -> CommandRecord:
        raw = {"kind": "update_optimizer", **(fields or {"lr": 0.02})}
        return self.control.submit(
            "r1", Proposal.model_validate({"command": raw, "author": AGENT, "rationale": rationale})
        )

    def work(self, after_s: float = 0.0) -> None:
        self.tick_s += after_s
        self.notifier.look()
        self.notifier.deliver()

    def told(self) -> list[tuple[str, str | None, Notified]]:
        events = self.log.events(kinds=["notified"])
        return [(e.body.what, e.command_id, e.body) for e in events if isinstance(e.body, Notified)]


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_request_is_told_once_with_all_that_a_decision_needs(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url, links=True, public_url="https://my-tunnel.example/at/", link_minutes=10)
    record = desk.ask("flat [click](https://evil.example) <b>@everyone</b>\x1b[31m\u202e")
    for _ in range(3):
        desk.work()
    message = receiver.message()
    assert receiver.taken.empty()
    assert message["title"] == "Approve update_optimizer in r1?"
    body = message["message"]
    for words in (
        *("model (agent) asks for update_optimizer (risk: tune) in run r1", "lr: 0.01 -> 0.02", "step 100"),
        *("If nobody answers by 1970-01-12 14:46:40 UTC (in 1 h 00 min), it is not done", "Training goes on"),
        f"agenttune approve show {record.command_id} --run r1 --url http://127.0.0.1:7007",
        'Reason: "flat (click)(https : //evil.example) ‹b› at everyone‹/b›(31m"',
    ):
        assert words in body, words
    link = re.search(r"https://my-tunnel\.example/at/links/(\S+)", body)
    assert link is not None
    key = find_key(tmp_path)
    assert key is not None
    assert read(link[1], key) == Link(
        run_id="r1", command_id=record.command_id, digest=record.proposal.digest(), expires_at_s=desk.unix_s + 600
    )
    assert desk.told() == [("approval", record.command_id, Notified(what="approval", channels=1, ok=True))]


def test_what_a_model_decides_or_nobody_waits_for_is_not_told(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url, {"approval": [{"name": "all", "approvers": ["auto"]}]})
    desk.ask()
    desk.work()
    other = Desk(tmp_path / "b", receiver.url)
    record = other.ask(lr=0.03)
    assert record.request is not None
    no = ApprovalDecision(verdict="reject", digest=record.request.digest, author=ANNA)
    other.notifier.look()
    other.control.decide("r1", record.command_id, no)  # between finding and sending
    other.notifier.deliver()
    assert receiver.taken.empty()
    assert (desk.told(), other.told(), other.notifier.busy) == ([], [], False)


def test_a_revert_and_the_end_are_told(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url, {"approval": []})
    record = desk.ask()
    desk.log.acknowledge(record.command_id, Ack(outcome="applied", step=101))
    settled = Settled(outcome="reverted", reason="it got worse", forecast=1.0, found=float("nan"), metric="step_loss")
    desk.log.settle(record.command_id, settled, 150, "main")
    desk.work()
    reverted = receiver.message()["message"]
    assert "update_optimizer by model was undone at step 150" in reverted
    assert "step_loss was going to 1 and went to NaN" in reverted
    desk.log.append(StatusChanged(status="failed", reason="out of memory"), step=160)
    desk.unix_s = desk.log.info().ended_at_s or 0.0
    desk.work()
    ended = receiver.message()
    assert ended["title"] == "Run r1 failed"
    assert "failed at step 160 of 1000\nout of memory" in ended["message"]
    assert [what for what, _, _ in desk.told()] == ["reverted", "ended"]
    desk.notifier = desk.server()
    desk.work()
    assert receiver.taken.empty()


def test_a_remark_of_a_rule_is_told_with_what_was_tried_and_what_it_did(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url, {"approval": []}, on=["noted"])
    losses = [1.0 + 0.01 * (step % 3) for step in range(101, 201)]
    points = [Point(step=101 + i, at_s=desk.unix_s, values={"step_loss": loss}) for i, loss in enumerate(losses)]
    desk.log.append_points(points)
    cut, note = desk.ask(lr=0.001), desk.ask("nothing: the loss stays", kind="add_note", text="the rate is not it")
    change = Change(name="lr", previous=0.01, requested=0.001, effective=0.001)
    desk.log.acknowledge(cut.command_id, Ack(outcome="applied", step=140, changes=[change]))
    desk.work()
    assert receiver.taken.empty()
    desk.log.acknowledge(note.command_id, Ack(outcome="applied", step=200))
    desk.work()
    message = receiver.message()
    assert message["title"] == "Note on r1: the rate is not it"
    body = message["message"]
    for words in ("model notes: the rate is not it", "Why: nothing: the loss stays", "lr 0.01 -", "effect not clear"):
        assert words in body, words
    desk.work()
    assert receiver.taken.empty()


def test_old_news_is_none(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url)
    desk.log.append(StatusChanged(status="finished"), step=160)
    desk.unix_s = (desk.log.info().ended_at_s or 0.0) + 2 * 86_400
    desk.work()
    assert (receiver.taken.empty(), desk.told()) == (True, [])


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_channel_that_fails_is_tried_again_and_the_others_are_not_bothered(tmp_path: Path) -> None:
    with receiving() as good, receiving() as bad:
        bad.script = [503, 500]
        desk = Desk(tmp_path, f"{good.url} {bad.url}")
        record = desk.ask()
        desk.work()
        desk.work(RETRY_AFTER_S[0] - 0.1)
        assert (bad.refused, desk.told()) == (1, [])
        desk.work(0.2)
        assert bad.refused == 2
        desk.work(RETRY_AFTER_S[1])
        assert bad.message()["message"] == good.message()["message"]
        assert good.taken.empty()
    assert desk.told() == [("approval", record.command_id, Notified(what="approval", channels=2, ok=True, attempts=3))]


def test_a_channel_that_stays_away_is_recorded_as_failed_without_its_address(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.script = [500] * 10
    desk = Desk(tmp_path, receiver.url)
    desk.ask()
    for pause_s in (0.0, *RETRY_AFTER_S, 1e4):
        desk.work(pause_s)
    assert receiver.refused == len(RETRY_AFTER_S) + 1
    (what, _, body), *rest = desk.told()
    assert (what, rest, body.ok, body.channels, body.attempts) == ("approval", [], False, 0, 5)
    assert "JSON did not take it" in body.error
    desk.notifier = desk.server()
    desk.work()
    assert receiver.refused == len(RETRY_AFTER_S) + 1
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path


def test_a_server_that_starts_again_tells_what_was_not_told_and_nothing_twice(
    tmp_path: Path, receiver: Receiver
) -> None:
    desk = Desk(tmp_path, receiver.url)
    first = desk.ask()
    desk.work()
    assert first.command_id in receiver.message()["message"]
    receiver.script = [500]
    second = desk.ask(weight_decay=0.5)
    desk.work()
    desk.notifier = desk.server()
    desk.work()
    assert second.command_id in receiver.message()["message"]
    assert receiver.taken.empty()
    assert [command_id for _, command_id, _ in desk.told()] == [first.command_id, second.command_id]


def test_a_server_without_the_variable_says_so_once(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url)
    desk.ask()
    for _ in range(3):
        desk.notifier = desk.server(OTHER="1")
        desk.work()
    (what, command_id, body), *rest = desk.told()
    assert (what, command_id, body.ok, rest) == ("setup", None, False, [])
    assert f"set {URLS}" in body.error
    desk.notifier = desk.server()
    desk.work()
    assert receiver.message()["title"].startswith("Approve")


def test_a_mad_agent_does_not_flood_people_and_the_end_still_passes(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url, {"repeat_cooldown_steps": 0})
    knobs = [KnobState(name=f"k{number}", effective=0.0) for number in range(3 * MOST_PER_MINUTE)]
    desk.log.append(KnobsRead(knobs=[*desk.log.info().knobs, *knobs]))
    for number in range(3 * MOST_PER_MINUTE):
        desk.ask(kind="set_knob", name=f"k{number}", value=1.0) if number else desk.ask()
    desk.work()
    assert receiver.taken.qsize() == MOST_PER_MINUTE
    desk.work(61.0)
    assert receiver.taken.qsize() == 2 * MOST_PER_MINUTE
    desk.log.append(StatusChanged(status="finished"), step=160)
    desk.unix_s = desk.log.info().ended_at_s or 0.0
    desk.work()
    assert receiver.taken.qsize() == 2 * MOST_PER_MINUTE + 1


def test_others_hear_also_when_one_log_cannot_be_read(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver.url)
    (tmp_path / "a-broken").mkdir()
    (tmp_path / "a-broken" / "log.db").write_bytes(b"no database" * 1000)
    desk.ask()
    desk.work()
    assert receiver.message()["title"].startswith("Approve")


@pytest.mark.parametrize(
    "text", ["[a](http://b)", "<@everyone>", "<!channel>", "`x`", "a\u202eb\x1b[2J", "a\nb\u2028c"]
)
def test_foreign_text_in_a_message_is_no_markup(text: str) -> None:
    shown = plain(text)
    assert not set("<>[]`@|\x1b\u202e\u2028\n") & set(shown)
    assert "://" not in shown


def test_a_message_is_bounded_however_long_the_texts_are(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "json://127.0.0.1")
    desk.log.append(KnobsRead(knobs=[KnobState(name="n" * 100, effective="")]))
    record = desk.ask("http://x " * 440, kind="set_knob", name="n" * 100, value="v" * 200)
    request: ApprovalRequest | None = record.request
    assert request is not None
    asked = describe(record, request, desk.control.info("r1"), desk.unix_s)
    notice = approval_notice(asked, "r" * 250, "http://127.0.0.1:7007", "https://x/links/" + "t" * 800)
    assert len(notice.title) <= 120
    assert len(notice.body) < 4000


@pytest.mark.parametrize(
    ("approvers", "on_timeout", "runs"),
    [(["human"], "approve", True), (["human"], "reject", False), (["model", "human"], "approve", False)],
)
def test_what_silence_does_is_said(tmp_path: Path, approvers: list[str], on_timeout: str, runs: bool) -> None:
    desk = Desk(tmp_path, "json://127.0.0.1")
    record = desk.ask()
    assert record.request is not None
    request = record.request.model_copy(update={"approvers": approvers, "on_timeout": on_timeout})
    said = describe(record, request, desk.control.info("r1"), desk.unix_s).silence
    assert ("it is approved" in said, "it is not done" in said) == (runs, not runs)


# -- settings ----------------------------------------------------------------------------------------------------------

RUN = "run:\n  script: train.py\n"


def config(tmp_path: Path, text: str) -> Path:
    (tmp_path / "train.py").write_text("")
    path = tmp_path / "config.yaml"
    path.write_text(RUN + text)
    return path


def test_on_may_be_written_bare(tmp_path: Path) -> None:
    settings = load_config(config(tmp_path, "notify:\n  on: [approval]\n  links: true\n")).notify
    assert (settings.on, settings.links, settings.url_env) == (["approval"], True, URLS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notify:\n  on: [aproval]\n", "notify.on"),
        ("notify:\n  on: [ended]\n  links: true\n", "add it to 'on'"),
        ("notify:\n  public_url: https://user:pw@host\n", "is no address"),
        ("notify:\n  public_url: javascript:alert(1)\n", "is no address"),
        ("notify:\n  public_url: https://host/?a=b\n", "is no address"),
        ("notify:\n  url_env: json://user:pw@host\n", "notify.url_env"),
        ("notify:\n  link_minutes: 0\n", "notify.link_minutes"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(config(tmp_path, text))


def test_a_run_that_could_tell_nobody_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(tmp_path, "notify:\n  on: [approval]\npolicy: noop\n")
    monkeypatch.delenv(URLS, raising=False)
    with pytest.raises(ConfigError, match=f"set {URLS}"):
        make_plan(path)
    monkeypatch.setenv(URLS, " , ")
    with pytest.raises(ConfigError, match=f"set {URLS}"):
        make_plan(path)
    monkeypatch.setenv(URLS, f"json://127.0.0.1 nonsense://user:{PASSWORD}@host")
    with pytest.raises(ConfigError, match="URL 2 of 2") as caught:
        make_plan(path)
    assert PASSWORD not in str(caught.value)
    monkeypatch.setenv(URLS, "json://127.0.0.1")
    assert make_plan(path).config.notify.on == ["approval"]
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match="pip install"):
        make_plan(path)


def test_urls_are_told_apart() -> None:
    urls = "json://a.example/x,json://b.example\n ntfys://topic-one , mailto://u:p@c.example?to=x@y.example,z@y.example"
    assert [channel.name for channel in open_channels("U", {"U": urls})] == ["JSON", "JSON", "ntfy", "E-Mail"]
    with pytest.raises(UserError, match="URL 2 of 2"):
        open_channels("U", {"U": "json://a.example not-a-url"})


# -- a real server -----------------------------------------------------------------------------------------------------


def test_from_the_message_to_the_click_across_a_restart(
    tmp_path: Path, receiver: Receiver, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URLS, receiver.url)
    monkeypatch.setenv("AGENTTUNE_TOKEN", "a-servers-token")
    rules = {"gate": {"approval": [ASK]}, "notify": {"on": ALL, "links": True}}
    log = make_run(tmp_path, rules=rules)
    server = start_server(tmp_path)
    proposal = Proposal.model_validate({"command": {"kind": "stop_training"}, "author": AGENT, "rationale": "done"})
    HttpControl(server.url, "a-servers-token").submit("one", proposal)
    found = re.search(r"http://127\.0\.0\.1:\d+/links/\S+", receiver.message()["message"])
    assert found is not None
    assert httpx.get(found[0]).status_code == 200
    stop(server)
    server = start_server(tmp_path, port=int(server.url.rpartition(":")[2]))
    with httpx.Client(trust_env=False) as browser:
        shown = browser.get(f"{found[0]}?plain", headers={"Host": "my-tunnel.example"})
        assert (shown.status_code, "stop_training" in shown.text) == (200, True)
        assert log.command(proposal.command_id).state is State.PROPOSED
        form = {"verdict": "approve", "reason": ""}
        assert browser.post(found[0], data=form, headers={"Origin": "null"}).status_code == 200
        assert browser.post(found[0], data=form).status_code == 409
        assert browser.get(f"{server.url}/api/v1/runs").status_code == 401
        assert browser.get(f"{server.url}/local/one").status_code in (401, 403)
    assert log.command(proposal.command_id).state is State.QUEUED
    # The launcher ends its server with the run: the last message goes out all the same.
    log.append(StatusChanged(status="finished"), step=100)
    psutil.Process(server.pid).send_signal(signal.SIGTERM)
    assert receiver.message()["title"] == "Run one finished"
    assert receiver.taken.empty()
