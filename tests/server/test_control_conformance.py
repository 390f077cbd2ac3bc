"""The loop, the page and the command line must not notice whether a server is in between."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from agenttune.control import AgentRecord, Control, LocalControl
from agenttune.control.discovery import ServerAddress
from agenttune.control.http import HttpControl
from agenttune.control.owner_token import OwnerToken
from agenttune.control.reader import ControlReader, settled
from agenttune.errors import CommandIdReused, RunEnded, SystemFault, UnknownCommandId, UnknownRun, UserError
from agenttune.llm.tools.run_metrics import run_curve, run_series
from agenttune.protocol.decision import Approval
from agenttune.protocol.events import (
    BranchStarted,
    CheckpointDeleted,
    CheckpointSaved,
    DatasetRead,
    Decided,
    Found,
    Logged,
    ModelRead,
    NoteAdded,
    PolicyAttached,
    PolicyDetached,
    StatusChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, Usage
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, Author, Change, Proposal, State
from agenttune.protocol.reads import (
    QUERIES,
    ApprovalQuery,
    BranchesQuery,
    CheckpointsQuery,
    CommandQuery,
    CommandsQuery,
    CurveQuery,
    CurvesQuery,
    Dataset,
    DatasetQuery,
    DecisionQuery,
    EventsQuery,
    HistoryQuery,
    KnobsQuery,
    Model,
    ModelCallsQuery,
    ModelQuery,
    PointsQuery,
    RunQuery,
    RunReader,
    SeriesQuery,
    TranscriptQuery,
)
from agenttune.protocol.run_info import ModuleInfo
from agenttune.replay import ReplayControl
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run

AnyControl = LocalControl | HttpControl
_names = (f"run{i}" for i in itertools.count())


@pytest.fixture(params=["local", "http"])
def control(request: pytest.FixtureRequest, shared_runs: Path, shared_server: ServerAddress) -> AnyControl:
    if request.param == "local":
        return LocalControl(shared_runs)
    return HttpControl(shared_server.url, OwnerToken(shared_server.url))


@pytest.fixture
def log(shared_runs: Path, new_run: Callable[..., RunLog]) -> RunLog:
    return new_run(shared_runs, next(_names))


def lower_rate(lr: float = 5e-4, command_id: str = "c1", **fields: object) -> Proposal:
    command = {"kind": "update_optimizer", "lr": lr}
    body = {"command": command, "command_id": command_id, "author": Author(principal="agent", name="rules"), **fields}
    return Proposal.model_validate(body)


def test_both_are_controls(control: AnyControl) -> None:
    checked: Control = control
    assert checked is control


def test_runs_come_newest_first(control: AnyControl, log: RunLog, shared_runs: Path) -> None:
    runs = control.runs()
    assert runs[0].run_id == log.folder.name
    assert runs == LocalControl(shared_runs).runs()
    assert [r.created_at_s for r in runs] == sorted((r.created_at_s for r in runs), reverse=True)


def test_a_run_is_described(control: AnyControl, log: RunLog) -> None:
    info = control.info(log.folder.name)
    assert (info.status, info.step, info.max_steps) == ("running", 100, 1000)
    assert info.path == str(log.folder)


@pytest.mark.parametrize("run_id", ["nope", "..", ".", "a/b", "x" * 5000, "ü", "%2e%2e"])
def test_an_unknown_run_is_named(control: AnyControl, log: RunLog, run_id: str) -> None:
    if isinstance(control, LocalControl) and len(run_id) > 255:
        pytest.skip("no file system takes such a name")
    with pytest.raises(UserError):
        control.info(run_id)


def test_an_unknown_run_lists_the_newest(control: AnyControl, log: RunLog) -> None:
    with pytest.raises(UnknownRun) as caught:
        control.observe("nope")
    assert caught.value.field == "run_id"
    assert isinstance(caught.value.allowed, list)
    assert log.folder.name in caught.value.allowed


def test_an_approved_command_is_queued_for_the_trainer(control: AnyControl, log: RunLog) -> None:
    record = control.submit(log.folder.name, lower_rate(rationale="too high", based_on_step=99))
    assert (record.state, record.submitted_step, record.proposal.rationale) == (State.QUEUED, 100, "too high")
    assert [queued.command_id for queued in log.commands(State.QUEUED)] == ["c1"]
    assert control.command(log.folder.name, "c1") == record == log.command("c1")


def test_the_same_id_gets_the_same_answer(control: AnyControl, log: RunLog) -> None:
    first = control.submit(log.folder.name, lower_rate())
    log.acknowledge("c1", Ack(outcome="applied", step=101))
    again = control.submit(log.folder.name, lower_rate())
    assert again.submitted_seq == first.submitted_seq
    assert again.state == State.APPLIED
    assert len(log.commands()) == 1


def test_an_id_means_one_command(control: AnyControl, log: RunLog) -> None:
    control.submit(log.folder.name, lower_rate(5e-4))
    with pytest.raises(CommandIdReused) as caught:
        control.submit(log.folder.name, lower_rate(6e-4))
    assert caught.value.field == "command_id"
    assert len(log.commands()) == 1


def test_the_gate_refuses_and_says_what_would_pass(control: AnyControl, log: RunLog) -> None:
    record = control.submit(log.folder.name, lower_rate(lr=1.0))
    assert record.state == State.REJECTED
    assert record.verdict is not None
    assert record.verdict.nearest_allowed == {"lr": 1e-2}
    assert log.commands(State.QUEUED) == []


def test_a_command_for_a_world_gone_by_expires(control: AnyControl, log: RunLog) -> None:
    assert control.submit(log.folder.name, lower_rate(valid_until_step=99)).state == State.EXPIRED


def test_what_asks_always_waits_wherever_it_comes_in(control: AnyControl, log: RunLog) -> None:
    record = control.submit(log.folder.name, lower_rate(ask_always=True))
    assert record.state == State.PROPOSED
    assert record.request is not None
    assert (record.request.asked, record.proposal.ask_always) == ("human", True)
    assert log.commands(State.QUEUED) == []


def test_a_dry_run_judges_and_leaves_no_trace(control: AnyControl, log: RunLog) -> None:
    before = log.last_seq()
    assert control.dry_run(log.folder.name, lower_rate()).decision == "approved"
    assert control.dry_run(log.folder.name, lower_rate(lr=1.0)).decision == "rejected"
    assert (log.last_seq(), log.commands()) == (before, [])


def test_an_ended_run_takes_no_commands_but_answers_for_old_ones(control: AnyControl, log: RunLog) -> None:
    control.submit(log.folder.name, lower_rate())
    log.append(StatusChanged(status="finished"), step=100)
    with pytest.raises(RunEnded, match="finished"):
        control.submit(log.folder.name, lower_rate(command_id="c2"))
    assert control.submit(log.folder.name, lower_rate()).state == State.EXPIRED
    assert control.commands(log.folder.name) == log.commands()


def test_an_unknown_command_is_named(control: AnyControl, log: RunLog) -> None:
    with pytest.raises(UnknownCommandId, match="nope"):
        control.command(log.folder.name, "nope")


def test_commands_are_the_newest_oldest_first(control: AnyControl, log: RunLog) -> None:
    for i in range(5):
        control.submit(log.folder.name, lower_rate(command_id=f"c{i}", lr=1.0 if i == 3 else 5e-4))
    run_id = log.folder.name
    assert [r.command_id for r in control.commands(run_id, limit=2)] == ["c3", "c4"]
    assert [r.command_id for r in control.commands(run_id, [State.REJECTED])] == ["c3"]
    assert [r.command_id for r in control.commands(run_id, [State.REJECTED, State.QUEUED], 4)] == [
        *("c1", "c2", "c3", "c4")
    ]


def test_events_follow_a_cursor(control: AnyControl, log: RunLog) -> None:
    log.append(*(NoteAdded(text=str(i), author="me") for i in range(30)), step=5)
    run_id = log.folder.name
    assert control.events(run_id) == log.events()
    assert [e.seq for e in control.events(run_id, since=10, limit=7)] == list(range(11, 18))
    assert {e.body.kind for e in control.events(run_id, kinds=["run_started", "knobs_read"])} == {
        *("run_started", "knobs_read")
    }
    assert control.events(run_id, since=log.last_seq()) == []
    assert control.events(run_id, since=10**9) == []


def test_more_events_than_a_page_come_whole(control: AnyControl, log: RunLog) -> None:
    log.append(*(NoteAdded(text="x", author="me") for _ in range(10_500)))
    assert [e.seq for e in control.events(log.folder.name, limit=20_000)] == list(range(1, log.last_seq() + 1))


def test_waiting_ends_with_the_first_event_of_the_kind(control: AnyControl, log: RunLog, shared_runs: Path) -> None:
    def write() -> None:
        trainer = RunLog.open(log.folder)
        trainer.append_points([Point(step=101, at_s=time.time(), values={"loss": 0.5})])
        trainer.append(Logged(metrics={"loss": 0.5}))
        trainer.append(NoteAdded(text="now", author="me"))
        trainer.close()

    timer = threading.Timer(0.2, write)
    timer.start()
    found = control.events(log.folder.name, since=log.last_seq(), wait_s=30, kinds=["note_added"])
    timer.join()
    assert [e.body.text for e in found if isinstance(e.body, NoteAdded)] == ["now"]


def test_waiting_for_nothing_ends(control: AnyControl, log: RunLog) -> None:
    assert control.events(log.folder.name, since=log.last_seq(), wait_s=0.1) == []


def test_an_agent_records_what_it_saw_and_decided(control: AnyControl, log: RunLog) -> None:
    finding = Finding(kind="divergence", severity="critical", metric="loss", step=90, summary="up", evidence={"x": 1.5})
    bodies: list[AgentRecord] = [
        PolicyAttached(policy="guardian", details={"rules": ["a"]}),
        Found(finding=finding),
        Decided(policy="guardian", woken_by="finding", command_ids=["c1"], reason="halve"),
        PolicyDetached(policy="guardian"),
    ]
    begin = log.last_seq()
    assert [control.record(log.folder.name, body, step=90) for body in bodies] == list(range(begin + 1, begin + 5))
    assert [e.body for e in log.events(begin)] == bodies
    assert {e.step for e in log.events(begin)} == {90}


def test_an_observation_carries_nan_honestly(control: AnyControl, log: RunLog) -> None:
    log.append_points([Point(step=101, at_s=time.time(), values={"loss": math.nan, "step_grad_norm": math.inf})])
    seen = control.observe(log.folder.name)
    assert math.isnan(seen.series["loss"].values[-1])
    assert seen.series["step_grad_norm"].values == [math.inf]
    assert (seen.step, seen.last_seq) == (101, log.last_seq())


def test_metrics_and_knobs_are_the_same_on_both_sides(control: AnyControl, log: RunLog, shared_runs: Path) -> None:
    local, run_id = LocalControl(shared_runs), log.folder.name
    assert control.read(run_id, SeriesQuery()) == local.read(run_id, SeriesQuery())
    downsampled = CurveQuery(name="train/loss", max_points=10)
    assert control.read(run_id, downsampled) == local.read(run_id, downsampled)
    assert control.read(run_id, CurveQuery(name="loss", first_step=10, last_step=12)).steps == [10, 11, 12]
    assert [p.point_id for p in control.read(run_id, PointsQuery(since=40, limit=3)).points] == [41, 42, 43]
    assert control.read(run_id, KnobsQuery()) == local.read(run_id, KnobsQuery())
    assert [b.name for b in control.read(run_id, BranchesQuery()).branches] == ["main"]


def test_an_unknown_metric_lists_those_there_are(control: AnyControl, log: RunLog) -> None:
    with pytest.raises(UserError) as caught:
        control.read(log.folder.name, CurveQuery(name="accuracy"))
    assert caught.value.allowed == ["loss", "train/loss"]


def test_history_tells_what_was_tried_and_what_came_of_it(control: AnyControl, log: RunLog) -> None:
    run_id = log.folder.name
    for i in range(3):
        control.submit(run_id, lower_rate(command_id=f"c{i}", lr=1.0 if i == 2 else 5e-4))
    change = Change(name="lr", previous=1e-3, requested=5e-4, effective=5e-4)
    log.acknowledge("c1", Ack(outcome="applied", step=100, changes=[change]))
    log.append_points([Point(step=101, at_s=time.time(), values={"loss": 0.5})])
    tried = control.read(run_id, HistoryQuery(limit=2)).history
    assert [(row.command_id, row.state) for row in tried] == [("c1", State.APPLIED), ("c2", State.REJECTED)]
    assert tried[0].metric_before is not None
    assert tried[0].metric_after is not None
    assert (tried[0].metric_before.value, tried[0].metric_after.value) == (0.01, 0.5)
    assert [row.command_id for row in control.read(run_id, HistoryQuery()).history] == ["c0", "c1", "c2"]


def test_calls_of_models_come_without_what_was_said(control: AnyControl, log: RunLog) -> None:
    said = ChatMessage(role="user", content="x" * 1000)
    call = ModelCalled(
        policy="llm",
        purpose="decide",
        model="m",
        endpoint="http://127.0.0.1:1",
        protocol="tools",
        messages=[said],
        answer=said,
        usage=Usage(input_tokens=7, output_tokens=3),
        usd=0.25,
    )
    log.append(*(call.model_copy(update={"attempts": i}) for i in range(1, 251)))
    calls = control.read(log.folder.name, ModelCallsQuery()).calls
    assert [c.attempts for c in calls] == list(range(1, 251))
    assert calls[0] == call.model_copy(update={"messages": [], "answer": None})


def test_model_and_dataset_are_as_last_read(control: AnyControl, log: RunLog) -> None:
    run_id = log.folder.name
    assert control.read(run_id, ModelQuery()) == Model()
    assert control.read(run_id, DatasetQuery()) == Dataset()
    inner = ModuleInfo(name="fc", type="Linear", parameters=6, trainable=6)
    root = ModuleInfo(name="", type="Net", parameters=6, trainable=6, children=[inner])
    dataset = DatasetRead(type="Corpus", size=10, interactive=False)
    log.append(ModelRead(model=root), dataset)
    assert control.read(run_id, ModelQuery()).model == root
    assert control.read(run_id, ModelQuery(layer="fc")).model == inner
    assert control.read(run_id, DatasetQuery()).dataset == dataset
    with pytest.raises(UserError, match="no layer 'nope'") as caught:
        control.read(run_id, ModelQuery(layer="nope"))
    assert caught.value.allowed == ["fc"]


def test_norms_are_measured_by_the_trainer_or_not_at_all(control: AnyControl, log: RunLog) -> None:
    run_id = log.folder.name

    def trainer() -> None:
        mine = RunLog.open(log.folder)
        while not (queued := mine.commands(State.QUEUED)):
            time.sleep(0.01)
        measured = ModuleInfo(name="", type="Net", parameters=6, trainable=6, weight_norm=1.5)
        result = measured.model_dump(mode="json")
        mine.acknowledge(queued[0].command_id, Ack(outcome="applied", step=100, result=result))
        mine.close()

    thread = threading.Thread(target=trainer)
    thread.start()
    measured = control.read(run_id, ModelQuery(norms=True, wait_s=30)).model
    thread.join()
    assert measured is not None
    assert measured.weight_norm == 1.5
    with pytest.raises(SystemFault, match="did not measure within"):
        control.read(run_id, ModelQuery(norms=True, wait_s=0.1))


def test_a_command_is_followed_to_its_ack(control: AnyControl, log: RunLog) -> None:
    run_id = log.folder.name
    record = control.submit(run_id, lower_rate())
    assert settled(control, run_id, record, 0.05).ack is None

    def acknowledge() -> None:
        mine = RunLog.open(log.folder)
        mine.acknowledge("c1", Ack(outcome="applied", step=101))
        mine.close()

    timer = threading.Timer(0.2, acknowledge)
    timer.start()
    assert settled(control, run_id, record, 30).state is State.APPLIED
    timer.join()


def test_a_reader_sees_the_steps_that_the_run_stands_on(control: AnyControl, log: RunLog) -> None:
    log.append(BranchStarted(name="retry", parent="main", from_step=60, checkpoint_id="k"), step=60, branch="retry")
    points = [Point(step=i, at_s=time.time(), values={"loss": 9.0}, branch="retry") for i in range(61, 71)]
    log.append_points(points)
    reader: RunReader = ControlReader(control, log.folder.name)
    curve = run_curve(reader, "loss", first_step=59)
    assert curve.steps == [59, 60, *range(61, 71)]
    assert curve.mean[-1] == 9.0
    assert {s.name: s.last_step for s in run_series(reader)}["loss"] == 70
    assert len(run_curve(reader, "loss", max_points=10).steps) <= 10
    with pytest.raises(UserError, match="accuracy"):
        run_curve(reader, "accuracy")


ARGUMENTS: dict[type[RunQuery[Any]], list[dict[str, Any]]] = {
    CurveQuery: [{"name": "loss"}, {"name": "train/loss", "first_step": 10, "last_step": 90, "max_points": 7}],
    PointsQuery: [{}, {"since": 40, "limit": 3}],
    SeriesQuery: [{}, {"branch": "retry"}],
    ModelQuery: [{}, {"layer": "fc"}],
    HistoryQuery: [{}, {"limit": 1}],
    EventsQuery: [{}, {"since": 3, "limit": 2}, {"kinds": ["found", "acked"]}],
    CommandsQuery: [{}, {"state": [State.REJECTED], "limit": 1}],
    CommandQuery: [{"command_id": "c0"}, {"command_id": "c1", "wait_s": 0.05}],
    CurvesQuery: [{"name": ["loss"]}, {"name": ["loss", "train/loss"], "axis": "epoch", "max_points": 7}],
    ApprovalQuery: [{"command_id": "c0"}],
    DecisionQuery: [{"command_id": "c0"}],
    TranscriptQuery: [{"seq": 9}],
}
"""Of each read in the table; none named: without any."""
ASKED = [query(**given) for query in QUERIES for given in ARGUMENTS.get(query, [{}])]


@pytest.fixture(scope="module")
def told(shared_runs: Path, shared_server: ServerAddress) -> Path:
    """A run of which there is something to tell for every read."""
    folder = make_run(shared_runs, "told").folder
    log = RunLog.open(folder)
    inner = ModuleInfo(name="fc", type="Linear", parameters=6, trainable=6)
    root = ModuleInfo(name="", type="Net", parameters=6, trainable=6, weight_norm=math.nan, children=[inner])
    kept = CheckpointSaved(checkpoint_id="k", path="/k", metric=math.inf, is_before=True)
    gone = CheckpointSaved(checkpoint_id="g", path="/g", command_id="c0")
    log.append(ModelRead(model=root), DatasetRead(type="Corpus", size=10, interactive=False), kept, gone, step=50)
    log.append(CheckpointDeleted(checkpoint_id="g", reason="cap"), step=60)
    log.append(BranchStarted(name="retry", parent="main", from_step=60, checkpoint_id="k"), step=60, branch="retry")
    log.append_points([Point(step=61, at_s=2.0, values={"loss": math.nan}, branch="retry")])
    log.append(ModelCalled(policy="llm", purpose="decide", model="m", endpoint="e", protocol="tools", usd=0.25))
    control = LocalControl(shared_runs)
    for number, lr in enumerate((5e-4, 1.0)):
        control.submit("told", lower_rate(lr, f"c{number}"))
    change = Change(name="lr", previous=1e-3, requested=5e-4, effective=5e-4)
    log.acknowledge("c0", Ack(outcome="applied", step=61, changes=[change]))
    log.close()
    return folder


def of_no_time(answer: BaseModel) -> str:
    """As it goes over the wire; an observation and a request say when they were read."""
    when = {"at_s": 0.0} if isinstance(answer, Observation) else {"now_s": 0.0} if isinstance(answer, Approval) else {}
    return answer.model_copy(update=when).model_dump_json()


@pytest.mark.parametrize("query", ASKED, ids=repr)
def test_every_read_has_the_same_answer_wherever_it_is_asked(
    query: RunQuery[Any], told: Path, shared_server: ServerAddress
) -> None:
    local = LocalControl(told.parent)
    remote = HttpControl(shared_server.url, OwnerToken(shared_server.url))
    here = local.read("told", query)
    assert isinstance(here, query.answer_type())
    elsewhere = [
        remote.read("told", query),
        ControlReader(local, "told", is_operators=True).read(query),
        ControlReader(remote, "told", is_operators=True).read(query),
        ReplayControl(told.parent, time.time, window_steps=10).read("told", query),
    ]
    assert [of_no_time(answer) for answer in elsewhere] == [of_no_time(here)] * 4
    remote.close()


def test_every_read_has_a_route_with_its_fields_and_no_others(shared_server: ServerAddress) -> None:
    paths = httpx.get(f"{shared_server.url}/api/v1/openapi.json").json()["paths"]
    for query in QUERIES:
        route = paths[f"/api/v1/runs/{{run_id}}{query.path}".replace(":path", "")]["get"]
        assert {p["name"] for p in route["parameters"]} == {"run_id", *query.model_fields}
        assert route["description"].split() == (query.__doc__ or "").split()


def test_an_agents_reader_leaves_out_what_lay_there_before_the_run(told: Path) -> None:
    control = LocalControl(told.parent)
    own, all_of_them = (ControlReader(control, "told", is_operators) for is_operators in (False, True))
    assert own.read(CheckpointsQuery()).checkpoints == []
    assert [saved.checkpoint_id for saved in all_of_them.read(CheckpointsQuery()).checkpoints] == ["k"]
