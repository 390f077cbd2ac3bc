"""What a run consists of: its model, its dataset, its checkpoints, its branches."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from agenttune.control import LocalControl
from agenttune.control.discovery import ServerAddress
from agenttune.control.http import HttpControl
from agenttune.errors import RunEnded, SystemFault, UserError
from agenttune.protocol.events import (
    BranchStarted,
    CheckpointDeleted,
    CheckpointSaved,
    DatasetRead,
    ModelRead,
    StatusChanged,
)
from agenttune.protocol.proposals import Ack, State
from agenttune.protocol.reads import CheckpointsQuery, DatasetQuery, ModelQuery
from agenttune.protocol.run_info import ModuleInfo
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run

_names = (f"run{i}" for i in itertools.count())
LAYER = ModuleInfo(name="body.first", type="Linear", parameters=6, trainable=6, weight_norm=float("nan"))
BODY = ModuleInfo(name="body", type="Sequential", parameters=6, trainable=6, children=[LAYER])
MODEL = ModuleInfo(name="", type="Net", parameters=6, trainable=6, children=[BODY])


@pytest.fixture
def log(shared_runs: Path) -> RunLog:
    return make_run(shared_runs, next(_names))


@pytest.fixture
def control(shared_server: ServerAddress) -> HttpControl:
    return HttpControl(shared_server.url)


def get(server: ServerAddress, log: RunLog, what: str, **parameters: Any) -> Any:
    response = httpx.get(f"{server.url}/api/v1/runs/{log.folder.name}/{what}", params=parameters, timeout=40)
    assert response.status_code == 200, response.text
    return response.json()


def test_nothing_is_known_before_the_trainer_tells(
    shared_server: ServerAddress, log: RunLog, control: HttpControl
) -> None:
    assert get(shared_server, log, "model")["model"] is None
    assert get(shared_server, log, "dataset")["dataset"] is None
    assert control.read(log.folder.name, ModelQuery()).model is None
    assert control.read(log.folder.name, DatasetQuery()).dataset is None
    assert get(shared_server, log, "checkpoints") == {"checkpoints": []}
    root: dict[str, Any] = {
        "name": "main",
        "parent": None,
        "from_step": 0,
        "checkpoint_id": None,
        "is_current": True,
        "children": [],
    }
    assert get(shared_server, log, "branches")["tree"] == [root]


def test_the_newest_reading_counts(shared_server: ServerAddress, log: RunLog, control: HttpControl) -> None:
    log.append(ModelRead(model=LAYER), DatasetRead(type="Old", interactive=False), step=0)
    read = DatasetRead(type="Texts", size=9, interactive=True, runtime={"noise": 0.1})
    log.append(ModelRead(model=MODEL), read, step=7)
    found = get(shared_server, log, "model")
    assert (found["step"], found["model"]["type"]) == (7, "Net")
    assert found["model"]["children"][0]["children"][0]["weight_norm"] == "NaN"
    dataset = get(shared_server, log, "dataset")
    assert (dataset["step"], dataset["dataset"]["runtime"]) == (7, {"noise": 0.1})
    assert control.read(log.folder.name, DatasetQuery()).dataset == read


def test_one_layer_can_be_read(control: HttpControl, log: RunLog) -> None:
    log.append(ModelRead(model=MODEL), step=0)
    layer = control.read(log.folder.name, ModelQuery(layer="body.first")).model
    assert layer is not None
    assert (layer.type, layer.parameters) == ("Linear", 6)
    for wrong, known in [("body.nope", ["body.first"]), ("nope", ["body"]), ("body.first.x.y", [])]:
        with pytest.raises(UserError, match=wrong) as caught:
            control.read(log.folder.name, ModelQuery(layer=wrong))
        assert (caught.value.field, caught.value.allowed) == ("layer", known)


def measure(log: RunLog, ack: Ack) -> threading.Thread:
    """A trainer that answers the first command."""

    def work() -> None:
        mine = RunLog.open(log.folder)
        while not (queued := mine.commands(State.QUEUED)):
            time.sleep(0.01)
        mine.acknowledge(queued[0].command_id, ack)
        mine.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_norms_are_asked_of_the_trainer(control: HttpControl, log: RunLog) -> None:
    measured = LAYER.model_copy(update={"weight_norm": 2.5, "grad_norm": 0.5})
    thread = measure(log, Ack(outcome="applied", step=5, result=measured.model_dump(mode="json")))
    found = control.read(log.folder.name, ModelQuery(norms=True, layer="body.first", wait_s=30)).model
    thread.join()
    assert found == measured
    [record] = log.commands()
    assert record.proposal.command.arguments() == {"layer_name": "body.first", "norms": True}
    assert record.proposal.author.principal == "viewer"


def test_a_trainer_that_cannot_measure_says_why(control: HttpControl, log: RunLog) -> None:
    thread = measure(log, Ack(outcome="failed", step=5, message="no layer 'x'"))
    with pytest.raises(UserError, match="no layer 'x'"):
        control.read(log.folder.name, ModelQuery(norms=True, layer="x", wait_s=30))
    thread.join()


def test_norms_do_not_wait_for_ever(control: HttpControl, log: RunLog) -> None:
    with pytest.raises(SystemFault, match="did not measure"):
        control.read(log.folder.name, ModelQuery(norms=True, wait_s=0.1))
    log.append(StatusChanged(status="finished"), step=100)
    with pytest.raises(RunEnded):
        control.read(log.folder.name, ModelQuery(norms=True))


def test_checkpoints_that_are_gone_are_not_listed(
    shared_server: ServerAddress, shared_runs: Path, log: RunLog, control: HttpControl
) -> None:
    best = CheckpointSaved(
        checkpoint_id="b", path="/b", tag="best", size_bytes=1234, metric=0.5, pinned=True, command_id="c1"
    )
    log.append(CheckpointSaved(checkpoint_id="a", path="/a"), best, step=10, branch="b1")
    log.append(CheckpointSaved(checkpoint_id="m", path="", keep_in="memory"), step=11)
    log.append(CheckpointDeleted(checkpoint_id="a", reason="cap"), step=12)
    found = get(shared_server, log, "checkpoints")["checkpoints"]
    assert [c["checkpoint_id"] for c in found] == ["b", "m"]
    wanted = {"step": 10, "branch": "b1", "size_bytes": 1234, "metric": 0.5, "pinned": True, "keep_in": "disk"}
    assert {key: found[0][key] for key in wanted} == wanted
    assert (found[1]["keep_in"], found[1]["path"], found[1]["metric"]) == ("memory", "", None)
    run_id = log.folder.name
    listed = control.read(run_id, CheckpointsQuery())
    assert listed == LocalControl(shared_runs).read(run_id, CheckpointsQuery())
    assert len(listed.checkpoints) == 2


def test_branches_are_a_tree(shared_server: ServerAddress, log: RunLog) -> None:
    for name, parent in [("b1", "main"), ("b2", "main"), ("b11", "b1")]:
        log.append(BranchStarted(name=name, parent=parent, from_step=30, checkpoint_id=f"c-{name}"), branch=name)
    found = get(shared_server, log, "branches")
    assert [b["name"] for b in found["branches"]] == ["main", "b1", "b2", "b11"]
    assert found["current"] == "b11"
    [main] = found["tree"]
    b1, b2 = main["children"]
    assert ([b["name"] for b in b1["children"]], b2["children"]) == (["b11"], [])
    assert (b1["from_step"], b1["checkpoint_id"], b1["children"][0]["is_current"]) == (30, "c-b1", True)


@pytest.mark.parametrize(
    "path", ["model?norms=x", "model?nrms=true", "model?wait_s=61", "dataset?x=1", "model?layer=" + "x" * 600]
)
def test_bad_questions_are_refused(shared_server: ServerAddress, log: RunLog, path: str) -> None:
    response = httpx.get(f"{shared_server.url}/api/v1/runs/{log.folder.name}/{path}")
    assert (response.status_code, response.json()["error"]["type"]) == (422, "UserError")
