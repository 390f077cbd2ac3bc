"""The card behind a signed link: it gets the one request and decides on it, and every fault is a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from agenttune.control.discovery import ServerAddress
from agenttune.protocol.events import BranchStarted, StatusChanged
from agenttune.protocol.proposals import CommandRecord
from agenttune.server.app import create_app
from tests import warm
from tests.browser.desk import Desk
from tests.server.conftest import stop

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServerAddress]]:
    """A server process that nobody is known to."""
    runs_dir = tmp_path_factory.mktemp("runs")
    address = warm.serve(runs_dir, local_role="none")
    yield runs_dir, address
    stop(address)


@pytest.fixture
def desk(server: tuple[Path, ServerAddress], request: pytest.FixtureRequest) -> Iterator[Desk]:
    made = Desk(server[0], server[1].url, f"run-{abs(hash(request.node.name))}")
    yield made
    made.close()


def asked(link: str) -> httpx.Response:
    return httpx.get(f"{link}/request")


def send(link: str, verdict: str = "approve", **more: Any) -> httpx.Response:
    return httpx.post(f"{link}/decision", json={"verdict": verdict, **more})


def preview(link: str, lr: float = 0.015) -> httpx.Response:
    return httpx.post(f"{link}/preview", json={"command": {"kind": "update_optimizer", "lr": lr}})


def sentence(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


# -- what it gets and may do -------------------------------------------------------------------------------------------


def test_the_card_gets_its_request_and_nothing_else_of_the_run(desk: Desk) -> None:
    record, other = desk.ask("the loss is flat", lr=0.02), desk.ask("a secret of another", kind="stop_training")
    answer = asked(desk.link(record))
    assert answer.status_code == 200
    told = answer.json()
    approval = told["approval"]
    assert approval["record"]["proposal"]["rationale"] == "the loss is flat"
    assert [curve["metric"] for curve in approval["curves"]] == ["eval_loss", "step_loss"]
    assert approval["curves"][0]["is_goal"]
    assert approval["curves"][0]["before"][-1]["step"] == approval["record"]["request"]["step"] == 120
    assert approval["usd_per_hour"] == 2.5
    assert approval["record"]["request"]["requested_at_s"] <= approval["now_s"] <= told["ends_at_s"]
    assert set(told["command"]["json_schema"]["properties"]) == {"kind", "lr"}
    assert told["bounds"] == {"lr": [1e-6, 0.05]}
    assert [knob["name"] for knob in told["knobs"]] == ["lr"]
    for secret in (other.command_id, "a secret of another", '"rules"', '"approval": [', "att_"):
        assert secret not in answer.text
    assert httpx.get(f"{desk.url}/api/v1/runs/{desk.run_id}").status_code == 401


def test_looking_decides_nothing_and_one_decision_is_final(desk: Desk) -> None:
    record = desk.ask()
    link, before = desk.link(record), desk.log.last_seq()
    for _ in range(3):
        assert asked(link).status_code == 200
    assert desk.log.last_seq() == before
    done = send(link, "approve", reason="go on")
    assert (done.status_code, done.json()["state"]) == (200, "queued")
    verdict = desk.verdict(record)
    assert (verdict.decision, verdict.decided_by, verdict.reason) == ("approved", "operator:link", "go on")
    for late in (send(link, "reject"), asked(link)):
        assert late.status_code == 409
        assert "update_optimizer was approved by operator:link" in sentence(late)


def test_an_edit_is_previewed_by_what_holds_the_agent_and_then_runs(desk: Desk) -> None:
    record = desk.ask(lr=0.02)
    link = desk.link(record)
    good, bad = preview(link, 0.015).json(), preview(link, 0.5).json()
    assert (good["decision"], good["differences"][0]["before"], good["differences"][0]["after"]) == (
        "approved",
        0.01,
        0.015,
    )
    assert (bad["decision"], "outside" in bad["reason"]) == ("rejected", True)
    refused = send(link, "edit", command={"kind": "update_optimizer", "lr": 0.5})
    assert (refused.status_code, "nearest allowed: lr 0.05" in sentence(refused)) == (422, True)
    assert desk.state(record) == "proposed"
    assert send(link, "edit", command={"kind": "update_optimizer", "lr": 0.015}).status_code == 200
    assert desk.verdict(record).edited == record.proposal.command.model_copy(update={"lr": 0.015})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"verdict": "edit", "command": {"kind": "stop_training"}}, 422),
        ({"verdict": "edit", "command": {"kind": "update_optimizer", "lr": 0.02, "weight_decay": 0.1}}, 422),
        ({"verdict": "approve", "always": True}, 422),
        ({"verdict": "escalate"}, 422),
        ({"verdict": "edit"}, 422),
        ({"verdict": "approve", "digest": "0"}, 422),
        ({"verdict": "approve", "reason": "a" * 2001}, 422),
        ({}, 422),
    ],
)
def test_a_link_does_no_more_than_its_request(desk: Desk, body: dict[str, Any], status: int) -> None:
    record = desk.ask(lr=0.02)
    answer = httpx.post(f"{desk.link(record)}/decision", json=body)
    assert (answer.status_code, desk.state(record)) == (status, "proposed")
    assert sentence(answer)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"verdict": "approve"', JSON, 400),
        (b'{"verdict": "approve", "verdict": "reject"}', JSON, 400),
        (b'{"verdict": "edit", "command": {"kind": "update_optimizer", "lr": NaN}}', JSON, 400),
        (b"verdict=approve", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b'{"verdict": "approve"}', {"Content-Type": "text/plain"}, 415),  # what a form of another page can send
        (b'{"verdict": "approve"}', JSON | {"Sec-Fetch-Site": "cross-site"}, 403),
        (b'{"verdict": "approve"}', JSON | {"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_what_is_no_decision_of_its_own_page_decides_nothing(
    desk: Desk, content: bytes, headers: dict[str, str], status: int
) -> None:
    record = desk.ask()
    link = desk.link(record)
    answer = httpx.post(f"{link}/decision", content=content, headers=headers)
    assert (answer.status_code, desk.state(record)) == (status, "proposed")
    assert httpx.post(f"{link}/decision?x=1", json={"verdict": "approve"}).status_code == 422
    assert desk.state(record) == "proposed"
    # Behind a tunnel that changes the Host, the Origin is another one all the same.
    far = {"Origin": "https://my-tunnel.example", "Host": "127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert httpx.post(f"{link}/decision", json={"verdict": "approve"}, headers=far).status_code == 200


# -- faults, each a sentence -------------------------------------------------------------------------------------------


def withdrawn(desk: Desk, record: CommandRecord) -> None:
    desk.log.append(BranchStarted(name="b2", parent="main", from_step=50), step=50, branch="b2")
    desk.control.pending(desk.run_id)


def ended(desk: Desk, record: CommandRecord) -> None:
    desk.log.append(StatusChanged(status="finished"), step=120)
    desk.control.pending(desk.run_id)


def decided(desk: Desk, record: CommandRecord) -> None:
    desk.decide(record, "reject", "too early")


@pytest.mark.parametrize(
    ("happens", "status", "words"),
    [
        (decided, 409, "update_optimizer was rejected by operator:anna"),
        (withdrawn, 410, "This no longer waits for a decision. update_optimizer was superseded"),
        (ended, 410, "This no longer waits for a decision. update_optimizer is expired."),
    ],
)
def test_what_no_longer_waits_says_what_became_of_it(desk: Desk, happens: Any, status: int, words: str) -> None:
    record = desk.ask()
    link = desk.link(record)
    happens(desk, record)
    before = desk.state(record)
    for answer in (asked(link), send(link), preview(link), httpx.get(link)):
        assert answer.status_code == status
        assert words.split(". ")[-1] in answer.text
    assert desk.state(record) == before


def test_an_expired_link_says_until_when_it_worked_and_the_request_still_waits(desk: Desk) -> None:
    record = desk.ask()
    link = desk.link(record, lasts_s=-1)
    for answer in (asked(link), send(link)):
        assert answer.status_code == 410
        assert sentence(answer).startswith("This link has expired. It worked until ")
    assert desk.state(record) == "proposed"


def test_a_tampered_link_says_nothing_of_any_run(desk: Desk) -> None:
    record = desk.ask()
    link = desk.link(record)
    head, _, mac = link.rpartition(".")
    for wrong in (f"{head}.{mac[::-1]}", link[:-4], f"{desk.url}/links/x", link.replace("/links/", "/links/ey")):
        for answer in (asked(wrong), send(wrong), preview(wrong)):
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "LinkRefused")
            assert sentence(answer) == "This link is not valid. It is incomplete, or was not made by this server."
    for path in ("request/x", "decisions", "../../api/v1/runs", "commands", "request/../../../api/v1/runs"):
        assert httpx.get(f"{link}/{path}").status_code in (401, 404), path
    token = link.rpartition("/")[2]
    bearer = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{desk.url}/api/v1/runs", headers=bearer).status_code == 401
    assert desk.state(record) == "proposed"


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_the_built_one_and_the_form_where_no_scripts_run(desk: Desk, tmp_path: Path) -> None:
    built = tmp_path / "built"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<title>all runs</title>", encoding="utf-8")
    (built / "assets" / "link-a.js").write_text("1", encoding="utf-8")
    app = create_app(desk.runs_dir, local_role="none", built=built)
    record = desk.ask("the loss is flat")
    path = desk.link(record).removeprefix(desk.url)
    with TestClient(app, base_url="https://my-tunnel.example") as browser:
        assert "<form" in browser.get(path).text, "an older build of the page"
        (built / "link.html").write_text('<script src="./assets/link-a.js"></script>', encoding="utf-8")
        page = browser.get(path)
        assert (page.status_code, page.text) == (200, '<script src="./assets/link-a.js"></script>')
        assert browser.get("/links/assets/link-a.js").text == "1"
        assert browser.get("/links/assets/%2e%2e/link.html").status_code == 404
        assert (browser.head(path).status_code, browser.head(path).text) == (200, "")
        headers = page.headers
        assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert "noindex" in headers["x-robots-tag"]
        for part in ("default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"):
            assert part in headers["content-security-policy"]
        assert "<form" in browser.get(f"{path}?plain").text
        done = browser.post(f"{path}?plain", data={"verdict": "reject", "reason": "no"})
        assert (done.status_code, desk.state(record)) == (200, "rejected")
        late = browser.get(path)
        assert (late.status_code, "This no longer waits" in late.text) == (409, True)


def test_the_log_of_the_server_holds_no_link(desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may read that log may not decide."""
    link = desk.link(desk.ask())
    path = link.removeprefix(desk.url)
    (desk.runs_dir / ".links.key").chmod(0o644)
    try:
        with TestClient(create_app(desk.runs_dir), raise_server_exceptions=False) as browser:
            answers = [browser.get(f"{path}/request"), browser.get(path)]
    finally:
        (desk.runs_dir / ".links.key").chmod(0o600)
    assert all(answer.status_code >= 400 for answer in answers)
    assert path not in caplog.text
    assert json.dumps(path) not in caplog.text
