"""A client of the seed reads what it always read, in the same shapes and order of keys."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from agenttune.control.discovery import ServerAddress
from agenttune.protocol.events import CheckpointDeleted, DatasetRead, StatusChanged
from tests.server.conftest import make_run
from tests.v1_compat.client import V1Client
from tests.v1_compat.conftest import NAN, Trainer


def keys(body: Any) -> list[str]:
    return list(body)


def test_info_says_how_the_run_stands(client: V1Client, trainer: Trainer) -> None:
    info = client.get("info")
    assert keys(info) == ["start_time", "status", "run_name"]
    assert (info["status"], info["run_name"]) == ("running", trainer.log.info().name)
    assert info["start_time"] == trainer.log.info().started_at_s
    trainer.log.append(StatusChanged(status="paused"), step=1)
    assert client.get("info")["status"] == "paused"


def test_the_optimizer_is_read_with_its_base_rate(client: V1Client) -> None:
    found = client.get("optimizer_info")
    assert keys(found) == ["optimizer_name", "lr", "betas", "eps", "weight_decay", "amsgrad"]
    assert found == {
        "optimizer_name": "AdamW",
        "lr": 1e-3,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
        "amsgrad": False,
    }


def test_the_dataset_is_read(client: V1Client, trainer: Trainer) -> None:
    found = client.get("dataset_info")
    assert keys(found) == ["initialization_parameters", "interactive_parameters"]
    assert found["initialization_parameters"] == {"part": "train", "limit": 0, "note": "hello"}
    assert found["interactive_parameters"] == {"noise": 0.0, "mix": [0.9, 0.1], "tag": "t"}
    trainer.log.append(DatasetRead(type="list", interactive=False))
    assert client.get("dataset_info") == {"initialization_parameters": {}, "interactive_parameters": {}}


def test_the_model_is_a_tree(client: V1Client) -> None:
    root = client.get("model_info")
    assert keys(root) == ["name", "children", "module_type", "operators", "hyperparameters"]
    assert (root["name"], root["module_type"]) == ("Model", "Net")
    first, drop = root["children"]
    assert first["operators"] == [{"name": "reset_parameters", "signature": []}]
    signature = [{"name": "requires_grad", "type": "bool", "value": "True"}]
    assert drop["operators"] == [{"name": "requires_grad_", "signature": signature}]
    assert drop["hyperparameters"] == [{"name": "p", "value": 0.1, "type": "float"}]


def test_checkpoints_are_those_that_exist_by_step(client: V1Client, trainer: Trainer) -> None:
    trainer.step = 20
    trainer.save("later")
    trainer.step = 10
    trainer.save("earlier")
    trainer.save("deleted")
    trainer.log.append(CheckpointDeleted(checkpoint_id="deleted", reason="cap"), step=10)
    found = client.get("checkpoints")
    assert keys(found[0]) == ["checkpoint_dir", "global_step", "time", "uuid", "branch_id"]
    assert [(c["uuid"], c["global_step"], c["branch_id"]) for c in found] == [
        ("earlier", 10, "main"),
        ("later", 20, "main"),
    ]
    assert found[0]["checkpoint_dir"] == "/out/earlier"


def test_logs_come_by_branch(client: V1Client, trainer: Trainer) -> None:
    trainer.row(loss=2.0, learning_rate=1e-3)
    trainer.evaluation(eval_loss=2.5)
    trainer.save("c")
    assert client.post("load_checkpoint", {"uuid": "c", "branch_name": "b1"})[1] == {"status": "success"}
    trainer.jump(0, "b1", "c")
    trainer.row(loss=NAN)
    found = client.get("logs")
    assert keys(found) == ["local_step", "branched_logs", "current_branch", "branch_info", "branch_tree"]
    assert (found["local_step"], found["current_branch"]) == (3, "b1")
    main = found["branched_logs"]["main"]
    assert keys(main[0]) == ["local_step", "wall_time", "metrics"]
    assert main[0]["metrics"] == {"loss": 2.0, "learning_rate": 1e-3, "global_step": 1}
    assert [p["local_step"] for p in main] == [1, 2]
    [last] = found["branched_logs"]["b1"]
    assert (last["local_step"], last["metrics"]) == (3, {"global_step": 1})
    assert keys(found["branch_info"]["b1"]) == ["id", "wall_time", "parent"]
    assert (found["branch_info"]["main"]["parent"], found["branch_info"]["b1"]["parent"]) == (None, "main")
    assert found["branch_tree"] == {"main": ["b1"]}


def test_the_newest_live_run_is_meant_unless_one_is_named(
    server: ServerAddress, trainer: Trainer, client: V1Client
) -> None:
    """A run that has ended since must not hide the one in progress."""
    ended = make_run(trainer.log.folder.parent, "newer", steps=0)
    ended.append(StatusChanged(status="finished"), step=9)
    assert client.get("info")["run_name"] == trainer.log.info().name
    named = httpx.get(f"{server.url}/api/get_info/?run=newer").json()
    assert (named["run_name"], named["status"]) == ("newer", "finished")
    with V1Client(server.url, "?run=newer") as late:
        assert late.rest() == []
        assert late.close_code == 1012


@pytest.mark.parametrize("run", ["nope", "x" * 3000, ".."])
def test_a_run_that_does_not_exist_is_named(server: ServerAddress, trainer: Trainer, run: str) -> None:
    response = httpx.get(f"{server.url}/api/get_info/", params={"run": run})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "UnknownRun")
    with pytest.raises(InvalidStatus):
        connect(f"{server.url.replace('http', 'ws')}/ws/message/?run={run}")


def test_no_other_page_gets_in(server: ServerAddress, trainer: Trainer) -> None:
    """The seed let every page of the web steer the run."""
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [
        httpx.options(f"{server.url}/api/command/", headers=headers),
        httpx.get(f"{server.url}/api/get_info/", headers=headers),
        httpx.post(f"{server.url}/api/command/", headers=headers, json={}),
    ]
    assert [a.status_code for a in answers] == [403, 403, 403]
    assert not [name for a in answers for name in a.headers if name.startswith("access-control")]
    with pytest.raises(InvalidStatus):
        connect(server.url.replace("http", "ws") + "/ws/message/", origin=Origin("http://evil.example"))


BODY = {"command": "do_evaluate", "args": "", "time": 1.0, "uuid": "u", "status": "requested"}


@pytest.mark.parametrize(
    ("content", "kind", "place"),
    [
        (json.dumps({k: v for k, v in BODY.items() if k != "status"}), "missing", ["body", "status"]),
        (json.dumps(BODY | {"args": {"lr": 1}}), "string_type", ["body", "args"]),
        (json.dumps(BODY | {"uuid": 5}), "string_type", ["body", "uuid"]),
        (json.dumps(BODY | {"time": "now"}), "float_parsing", ["body", "time"]),
        (json.dumps(BODY | {"time": "NaN"}), "finite_number", ["body", "time"]),
        ("{lr: 1}", "json_invalid", ["body", 0]),
        ('{"time": NaN}', "json_invalid", ["body", 0]),
        ("[1]", "model_attributes_type", ["body"]),
        ("", "json_invalid", ["body", 0]),
    ],
)
def test_a_bad_body_is_answered_as_the_seed_did(
    server: ServerAddress, trainer: Trainer, content: str, kind: str, place: list[Any]
) -> None:
    response = httpx.post(f"{server.url}/api/command/", content=content, headers={"Content-Type": "application/json"})
    [detail] = response.json()["detail"]
    assert (response.status_code, detail["type"], detail["loc"]) == (422, kind, place)
    assert {"type", "loc", "msg", "input"} <= set(detail)


def test_a_form_is_no_command(server: ServerAddress, trainer: Trainer) -> None:
    plain = {"Content-Type": "text/plain"}
    response = httpx.post(f"{server.url}/api/command/", content=json.dumps(BODY), headers=plain)
    assert (response.status_code, response.json()["detail"][0]["type"]) == (422, "model_attributes_type")
    assert httpx.post(f"{server.url}/api/command/", content=b"x" * 2_000_000, headers=plain).status_code == 413


def test_a_numeric_text_is_a_time_and_more_fields_do_no_harm(client: V1Client, server: ServerAddress) -> None:
    body = BODY | {"time": "1795342750994", "more": [1]}
    assert httpx.post(f"{server.url}/api/command/", json=body).json() == {"status": "success"}
    assert client.next()["time"] == 1795342750994.0


@pytest.mark.parametrize("name", ["nope", "log_update", "checkpoint_info_update", "update_schedule", "reset_layer", ""])
def test_an_unknown_command_is_refused(client: V1Client, trainer: Trainer, name: str) -> None:
    assert client.post(name)[1] == {"status": "error", "message": "Unknown command type"}
    assert trainer.log.commands() == []


def test_wrong_methods_are_told_the_right_one(server: ServerAddress, trainer: Trainer) -> None:
    response = httpx.post(f"{server.url}/api/get_info/")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")
