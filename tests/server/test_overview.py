"""The list of runs, and the reads by which a page shows one: cheap, searchable, and in both directions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control import LocalControl
from agenttune.control.discovery import ServerAddress
from agenttune.control.http import HttpControl
from agenttune.control.owner_token import OwnerToken
from agenttune.errors import UserError
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.events import Evaluated, FindingJudged, Found, PolicyAttached, StatusChanged, TagsChanged
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, Usage
from agenttune.protocol.overview import SPARK_POINTS, OverviewQuery
from agenttune.protocol.proposals import ApprovalRequest, Author, Proposal
from agenttune.protocol.reads import EventCountsQuery, EventsQuery
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run


def _evaluate(log: RunLog, count: int) -> None:
    for i in range(1, count + 1):
        log.append(Evaluated(metrics={"eval_loss": 1 + 1 / i if i != 40 else 0.5}), step=10 * i)


def _call(text: str, usd: float | None = 0.25) -> ModelCalled:
    return ModelCalled(
        policy="llm",
        purpose="decide",
        model="m",
        endpoint="http://h",
        protocol="tools",
        messages=[ChatMessage(role="user", content=text)],
        usage=Usage(input_tokens=100, output_tokens=20),
        usd=usd,
    )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunLog]:
    log = make_run(tmp_path, "one", steps=200)
    yield log
    log.close()


def test_a_row_tells_whether_a_run_is_well_and_whether_it_waits_for_anybody(run: RunLog, tmp_path: Path) -> None:
    _evaluate(run, 100)
    run.append(PolicyAttached(policy="guardian"), _call("secret"), _call("secret"), step=50)
    proposal = Proposal(command=UpdateOptimizer(lr=1e-4), author=Author(principal="agent", name="a"))
    now_s = time.time()
    request = ApprovalRequest(
        digest=proposal.digest(),
        rule="r",
        approvers=["human"],
        requested_at_s=now_s,
        expires_at_s=now_s + 600,
        step=1,
    )
    run.submit(proposal, request)
    row = LocalControl(tmp_path).overview(OverviewQuery()).runs[0]
    assert (row.run_id, row.status, row.step, row.max_steps, row.policy, row.waiting) == (
        "one",
        "running",
        200,
        1000,
        "guardian",
        1,
    )
    goal = row.goal
    assert (goal.metric, goal.newest, goal.best, goal.best_step) == ("eval_loss", 1.01, 0.5, 400)
    assert len(goal.spark) == len(goal.spark_steps) <= SPARK_POINTS
    assert goal.spark[-1] == 1.01
    assert row.spent.calls == 2
    assert row.spent.tokens == 240
    assert row.spent.usd == 0.5
    assert row.time_left_s is not None
    assert row.time_left_s > 0


def test_a_row_goes_on_with_its_run_and_an_unknown_price_makes_no_sum(run: RunLog, tmp_path: Path) -> None:
    control = LocalControl(tmp_path)
    first = control.overview(OverviewQuery()).runs[0]
    assert first.goal.metric == "loss"
    assert not first.goal.is_goal
    assert first.goal.best is None
    _evaluate(run, 3)
    run.append(_call("a", usd=None), step=10)
    second = control.overview(OverviewQuery()).runs[0]
    assert second.goal.metric == "eval_loss"
    assert second.goal.newest_step == 30
    assert second.spent.usd is None
    assert second.spent.tokens == 120
    run.append(StatusChanged(status="finished"), step=200)
    assert control.overview(OverviewQuery()).runs[0].status == "finished"


def test_runs_are_found_by_words_status_and_tags(tmp_path: Path) -> None:
    for name in ("alpha", "beta", "gamma"):
        make_run(tmp_path, name, steps=1).close()
    control = LocalControl(tmp_path)
    control.record("beta", TagsChanged(tags=["long run", "paper"], author="ada"))
    control.record("gamma", TagsChanged(tags=["paper"], author="ada"))

    def names(**asked: Any) -> set[str]:
        return {row.run_id for row in control.overview(OverviewQuery(**asked)).runs}

    assert names(search="RUN paper") == {"beta"}
    assert names(tag=["paper"]) == {"beta", "gamma"}
    assert names(status=["finished"]) == set()
    page = control.overview(OverviewQuery(limit=1, offset=1))
    assert [row.run_id for row in page.runs] == ["beta"]
    assert page.total == 3
    assert page.tags == {"paper": 2, "long run": 1}
    assert page.statuses == {"running": 3}


def test_a_thousand_runs_stay_quick_and_one_that_was_deleted_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        make_run(tmp_path, f"r{i}", steps=1).close()
    control = LocalControl(tmp_path)
    control.overview(OverviewQuery())
    opened: list[str] = []
    log = control.log

    def opening(run_id: str) -> RunLog:
        opened.append(run_id)
        return log(run_id)

    control.log = opening  # type: ignore[method-assign]
    control.overview(OverviewQuery())
    assert opened == []  # nothing was written since: no log is read again
    for path in (tmp_path / "r1").iterdir():
        path.unlink()
    assert {row.run_id for row in control.overview(OverviewQuery()).runs} == {"r0", "r2"}


def test_a_log_is_read_from_its_end_by_kind_step_and_text(run: RunLog, tmp_path: Path) -> None:
    _evaluate(run, 50)
    control = LocalControl(tmp_path)
    page = control.read("one", EventsQuery(before=10**9, limit=5))
    assert [event.step for event in page.events] == [460, 470, 480, 490, 500]
    older = control.read("one", EventsQuery(before=page.previous, limit=2))
    assert [event.step for event in older.events] == [440, 450]
    assert [e.step for e in control.read("one", EventsQuery(first_step=100, last_step=120)).events] == [100, 110, 120]
    assert [e.step for e in control.read("one", EventsQuery(search="0.5")).events] == [400]
    assert control.read("one", EventsQuery(search="100%")).events == []
    counts = control.read("one", EventCountsQuery())
    assert counts.kinds["evaluated"] == 50
    assert counts.last_seq == sum(counts.kinds.values())


def test_what_was_said_to_models_is_neither_sent_nor_found_where_it_is_not_asked_for(
    run: RunLog, tmp_path: Path
) -> None:
    run.append(_call("the password is tulip"), step=10)
    control = LocalControl(tmp_path)
    query = EventsQuery(kinds=["model_called"])
    body = control.read("one", query.model_copy(update={"texts": False})).events[0].body
    assert isinstance(body, ModelCalled)
    assert body.messages == []
    assert body.usd == 0.25
    assert "tulip" in control.read("one", query).events[0].model_dump_json()
    assert control.read("one", EventsQuery(search="tulip")).events == []


def test_a_finding_is_judged_by_a_person_and_only_a_finding(run: RunLog, tmp_path: Path) -> None:
    finding = Finding(kind="spike", severity="warning", metric="loss", step=10, summary="up")
    (seq,) = run.append(Found(finding=finding), step=10)
    control = LocalControl(tmp_path)
    control.record("one", FindingJudged(finding_seq=seq, right=False, text="a bad batch", author="ada"))
    with pytest.raises(UserError, match=f"no finding; the newest are: {seq}"):
        control.record("one", FindingJudged(finding_seq=seq + 1, right=True))


def test_over_http_the_list_takes_the_same_questions(shared_server: ServerAddress, shared_runs: Path) -> None:
    make_run(shared_runs, "listed", steps=5).close()
    with HttpControl(shared_server.url, OwnerToken(shared_server.url)) as control:
        control.record("listed", TagsChanged(tags=["mine"], author="ada"))
        found = control.overview(OverviewQuery(search="mine", status=["running"], tag=["mine"]))
        assert [row.tags for row in found.runs] == [["mine"]]
        with pytest.raises(UserError, match="tags"):
            control.record("listed", TagsChanged.model_construct(kind="tags_changed", tags=["a,b"], author=""))
