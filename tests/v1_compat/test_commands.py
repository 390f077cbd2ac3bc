"""A client of the seed steers: what it asks reaches the trainer, and it hears the truth under its own uuid."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.protocol.commands import parse_command
from agenttune.protocol.events import BranchStarted, CheckpointSaved, Evaluated, ModelRead, StatusChanged
from agenttune.protocol.proposals import Author, Change, Proposal, Record, State, Verdict
from tests.v1_compat.client import V1Client, args_of
from tests.v1_compat.conftest import DATASET, MODEL, Trainer

LAYER = {"layer_name": "drop"}


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ("update_optimizer", {"lr": {"name": "lr", "value": 1e-4}}, {"lr": 1e-4, "lr_sets": "base"}),
        ("update_optimizer", {"lr": {"value": "3e-4"}}, {"lr": 3e-4, "lr_sets": "base"}),
        ("update_optimizer", {"lr": 1e-4, "weight_decay": 0.01}, {"lr": 1e-4, "lr_sets": "base", "weight_decay": 0.01}),
        ("update_optimizer", {"weight_decay": {"value": "0"}}, {"weight_decay": 0.0}),
        ("update_optimizer", {"betas": {"value": "(0.8, 0.95)"}}, {"betas": [0.8, 0.95]}),
        ("update_optimizer", {"betas": {"value": [0.8, 0.95]}}, {"betas": [0.8, 0.95]}),
        ("update_optimizer", {"amsgrad": {"value": "True"}}, {"other": {"amsgrad": True}}),
        ("update_optimizer", {"amsgrad": {"value": False}}, {"other": {"amsgrad": False}}),
        ("update_optimizer", {"foo": 1}, {"other": {"foo": 1.0}}),
        ("save_checkpoint", "", {}),
        ("save_checkpoint", "ignored", {}),
        ("save_checkpoint", None, {}),
        ("pause_training", "{}", {}),
        ("resume_training", "", {}),
        ("stop_training", "", {"save": False}),
        ("do_evaluate", "", {}),
        ("load_checkpoint", {"uuid": "c1", "branch_name": "b1"}, {"checkpoint_id": "c1", "branch_name": "b1"}),
        ("load_checkpoint", {"uuid": "c1", "branch_name": None}, {"checkpoint_id": "c1"}),
        ("load_checkpoint", {"uuid": "c1"}, {"checkpoint_id": "c1"}),
        ("update_dataset", {"limit": "640", "note": "5"}, {"values": {"limit": 640, "note": "5"}}),
        ("update_dataset", {"source": ["a", "b"]}, {"values": {"source": ["a", "b"]}}),
        ("update_dataset_runtime_hyperparameters", {"noise": "0.5"}, {"values": {"noise": 0.5}}),
        ("update_dataset_runtime_hyperparameters", {"mix": "0.5, 0.5"}, {"values": {"mix": [0.5, 0.5]}}),
        ("update_dataset_runtime_hyperparameters", {"mix": ["0.5", " .5 "]}, {"values": {"mix": [0.5, 0.5]}}),
        ("update_dataset_runtime_hyperparameters", {"mix": '["0.5", 1]'}, {"values": {"mix": [0.5, 1]}}),
        ("update_optimizer", {"betas": {"value": ["0.8", "0.95"]}}, {"betas": [0.8, 0.95]}),
        (
            "model_layer_operation",
            {"layer_name": "f1", "operation_name": "reset_parameters"},
            {"layer_name": "f1", "operation_name": "reset_parameters", "params": {}},
        ),
        (
            "model_layer_operation",
            {"layer_name": "f1", "operation_name": "reset_parameters", "params": None},
            {"layer_name": "f1", "operation_name": "reset_parameters", "params": {}},
        ),
        (
            "model_layer_operation",
            LAYER | {"operation_name": "requires_grad_", "params": {"requires_grad": "False"}},
            LAYER | {"operation_name": "requires_grad_", "params": {"requires_grad": False}},
        ),
        (
            "model_layer_parameter_update",
            LAYER | {"param_name": "p", "value": 0.4},
            LAYER | {"param_name": "p", "value": 0.4},
        ),
        (
            "model_layer_parameter_update",
            LAYER | {"param_name": "p", "value": "0"},
            LAYER | {"param_name": "p", "value": 0},
        ),
    ],
)
def test_a_command_reaches_the_trainer_as_meant(
    client: V1Client, trainer: Trainer, command: str, args: Any, expected: dict[str, Any]
) -> None:
    if command == "load_checkpoint":  # one that does not exist is refused
        trainer.save("c1")
        assert client.next()["command"] == "checkpoint_info_update"
    identity, answer = client.post(command, args)
    assert answer == {"status": "success"}
    pending = client.next()
    assert list(pending) == ["command", "args", "time", "uuid", "status"]
    assert (pending["command"], pending["uuid"], pending["status"]) == (command, identity, "pending")
    record = trainer.queued()
    assert record.proposal.command == parse_command({"kind": command, **expected})
    assert (record.proposal.author.principal, record.proposal.author.name) == ("agent", "seed client")


@pytest.mark.parametrize(
    ("command", "args", "reason"),
    [
        ("update_optimizer", "{lr: 1}", "not valid JSON"),
        ("update_optimizer", '{"lr": 1e-4, "lr": 2e-4}', "twice"),
        ("update_optimizer", '{"lr": {"value": 1e-4, "value": 2e-4}}', "twice"),
        ("update_dataset", '{"limit": 5, "limit": 6}', "twice"),
        ("update_optimizer", "", "not valid JSON"),
        ("update_optimizer", None, "not valid JSON"),
        ("update_optimizer", [1], "JSON object"),
        ("update_optimizer", {}, "nothing to change"),
        ("update_optimizer", {"lr": {"value": "abc"}}, "lr is float"),
        ("update_optimizer", {"lr": {"value": None}}, "null"),
        ("update_optimizer", {"lr": {}}, "no value"),
        ("update_optimizer", '{"lr": NaN}', "finite"),
        ("update_optimizer", {"lr": "nan"}, "finite"),
        ("update_optimizer", {"lr": -1e-3}, "greater than or equal to 0"),
        ("update_optimizer", {"lr": 1e9}, "less than or equal to 100"),
        ("update_optimizer", {"lr": True}, "lr"),
        ("update_optimizer", {"eps": -1}, "eps"),
        ("update_optimizer", {"betas": {"value": [0.9]}}, "betas"),
        ("update_optimizer", {"betas": {"value": [2, -1]}}, "betas"),
        ("update_optimizer", {"amsgrad": "maybe"}, "amsgrad is bool"),
        ("load_checkpoint", "nope", "not valid JSON"),
        ("load_checkpoint", {"branch_name": "b"}, "args.uuid is missing"),
        ("load_checkpoint", {"uuid": "c", "branch_name": "../../evil"}, "branch_name"),
        ("load_checkpoint", {"uuid": 5}, "checkpoint_id"),
        ("update_dataset", "nope", "not valid JSON"),
        ("update_dataset", {}, "values"),
        ("update_dataset", {"limit": "many"}, "limit is int"),
        ("update_dataset_runtime_hyperparameters", {"noise": "loud"}, "noise is float"),
        ("update_dataset_runtime_hyperparameters", {"mix": ["0.5", "loud"]}, "mix[1] is float"),
        ("model_layer_operation", {"layer_name": "f1"}, "operation_name is missing"),
        ("model_layer_parameter_update", LAYER | {"param_name": "p"}, "value is missing"),
        ("model_layer_parameter_update", LAYER | {"param_name": "p", "value": None}, "value"),
        ("model_layer_parameter_update", LAYER | {"param_name": "p", "value": "abc"}, "p is float"),
    ],
)
def test_args_that_cannot_be_are_refused_with_the_reason(
    client: V1Client, trainer: Trainer, command: str, args: Any, reason: str
) -> None:
    """Half of these ended the seed's training."""
    identity, answer = client.post(command, args)
    assert answer["status"] == "error"
    assert reason in answer["message"]
    pending, failed = client.next(), client.next()
    assert (pending["status"], pending["uuid"]) == ("pending", identity)
    assert list(failed) == ["status", "command", "args", "uuid", "time", "message"]
    assert (failed["status"], failed["uuid"], failed["message"]) == ("failed", identity, answer["message"])
    assert failed["args"] == pending["args"]
    assert trainer.log.commands() == []


def test_the_gate_is_the_same(client: V1Client, trainer: Trainer) -> None:
    identity, answer = client.post("update_optimizer", {"lr": {"value": 1.0}})
    assert answer["status"] == "error"
    assert "outside" in answer["message"]
    assert client.next()["status"] == "pending"
    failed = client.next()
    assert (failed["status"], failed["uuid"], failed["message"]) == ("failed", identity, answer["message"])
    assert trainer.log.commands(State.QUEUED) == []


def test_success_comes_after_the_trainer_said_so(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("update_optimizer", {"lr": {"name": "lr", "value": 1e-4}})
    assert client.next()["status"] == "pending"
    trainer.row(loss=1.0)
    assert client.next()["command"] == "log_update"
    trainer.apply(changes=(Change(name="lr", previous=5e-4, requested=1e-4, effective=5e-5, base=1e-4),))
    done = client.next()
    assert list(done) == ["status", "command", "args", "uuid", "time"]
    assert (done["status"], done["command"], done["uuid"]) == ("success", "update_optimizer", identity)
    assert args_of(done)["lr"]["value"] == 1e-4


def test_the_form_of_the_readme_is_answered_in_the_form_that_the_page_reads(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("update_optimizer", {"lr": 1e-4})
    trainer.apply(changes=(Change(name="lr", previous=5e-4, requested=1e-4, effective=5e-5, base=1e-4),))
    assert args_of(client.outcome(identity)) == {"lr": {"name": "lr", "value": 1e-4}}


def test_a_failure_is_a_failure_and_says_why(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("update_optimizer", {"foo": {"value": 1}})
    trainer.fail("AdamW has no hyperparameter 'foo'")
    failed = client.outcome(identity)
    assert (failed["status"], failed["message"]) == ("failed", "AdamW has no hyperparameter 'foo'")


def test_a_save_is_followed_by_its_checkpoint(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("save_checkpoint")
    trainer.row(loss=1.0)
    trainer.apply(CheckpointSaved(checkpoint_id="c9", path="/out/9"))
    assert client.outcome(identity)["command"] == "save_checkpoint"
    update = client.next()
    assert (update["status"], update["command"]) == ("success", "checkpoint_info_update")
    told = args_of(update)
    assert list(told) == ["checkpoint_dir", "global_step", "time", "uuid", "branch_id"]
    assert told == client.get("checkpoints")[0]
    assert told["uuid"] == "c9"


def test_an_evaluation_is_answered_under_its_own_id(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("do_evaluate")
    record = trainer.queued()
    trainer.log.append(
        Evaluated(metrics={"eval_loss": 2.0}, command_id=record.command_id), command_id=record.command_id
    )
    trainer.apply(eval_loss=2.0)
    pending, metrics, done = client.next(), client.next(), client.next()
    assert (pending["status"], metrics["command"]) == ("pending", "log_update")
    assert args_of(metrics)["metrics"]["eval_loss"] == 2.0
    assert (done["status"], done["command"], done["uuid"]) == ("success", "do_evaluate", identity)


def test_a_load_tells_its_branch_and_then_the_state(client: V1Client, trainer: Trainer) -> None:
    trainer.row(loss=1.0)
    trainer.save("c1")
    identity, _ = client.post("load_checkpoint", {"uuid": "c1", "branch_name": None})
    trainer.jump(1, "branch-1", "c1")
    trainer.row(loss=0.9)
    client.until(lambda e: e["status"] == "running" and e["uuid"] == identity)
    done, dataset, state, row = (client.next() for _ in range(4))
    assert (done["status"], done["uuid"]) == ("success", identity)
    assert list(args_of(done)) == ["uuid", "branch_name", "branch_info"]
    info = args_of(done)["branch_info"]
    assert (list(info), info["id"], info["parent"]) == (["id", "wall_time", "parent"], "branch-1", "main")
    assert [dataset["command"], state["command"]] == ["initial_dataset_information", "train_state_update"]
    assert list(args_of(state)) == [
        *("model_infos", "optimizer_states", "checkpoints", "command_history", "start_time", "run_name")
    ]
    assert (row["command"], args_of(row)["branch_id"]) == ("log_update", "branch-1")
    assert client.get("info")["start_time"] == info["wall_time"]


def test_a_changed_layer_or_dataset_is_shown(client: V1Client, trainer: Trainer) -> None:
    dropout: dict[str, Any] = LAYER | {"param_name": "p", "value": 0.5}
    cases: list[tuple[str, dict[str, Any], Record, str]] = [
        ("update_dataset", {"limit": 5}, DATASET, "initial_dataset_information"),
        ("model_layer_parameter_update", dropout, ModelRead(model=MODEL), "train_state_update"),
    ]
    for command, args, read, shown in cases:
        identity, _ = client.post(command, args)
        trainer.apply(read)
        assert client.outcome(identity)["status"] == "success"
        assert client.next()["command"] == shown


def test_the_same_uuid_runs_twice(client: V1Client, trainer: Trainer) -> None:
    """The seed's tuner uses one uuid for all its commands of a kind."""
    for _ in range(2):
        client.post("pause_training", identity="always the same, and no plain id: ü/..")
    assert len(trainer.log.commands(State.QUEUED)) == 2
    for _ in range(2):
        trainer.apply()
    events = [client.next() for _ in range(4)]
    assert [e["status"] for e in events] == ["pending", "pending", "success", "success"]
    assert {e["uuid"] for e in events} == {"always the same, and no plain id: ü/.."}


def test_what_others_ask_is_seen_too(client: V1Client, trainer: Trainer) -> None:
    """A page that does not know of the agent's pause would show a running run."""
    asked: list[dict[str, Any]] = [
        {"kind": "update_optimizer", "lr": 1e-4},
        {"kind": "update_schedule", "shape": "linear"},
    ]
    for command in asked:
        author = Author(principal="agent", name="rules")
        proposal = Proposal.model_validate({"command": command, "author": author, "command_id": command["kind"]})
        trainer.log.submit(proposal, Verdict(decision="approved", decided_by="auto"))
    changes = (Change(name="lr", previous=5e-4, requested=1e-4, effective=1e-4, base=2e-4),)
    trainer.apply(changes=changes)
    trainer.apply()
    trainer.row(loss=1.0)
    pending, done, row = client.next(), client.next(), client.next()
    assert (pending["uuid"], args_of(pending)) == ("update_optimizer", {"lr": {"name": "lr", "value": 1e-4}})
    assert (done["status"], row["command"]) == ("success", "log_update")


def test_what_is_left_when_the_run_ends_has_failed(client: V1Client, trainer: Trainer) -> None:
    identity, _ = client.post("stop_training")
    late, _ = client.post("do_evaluate")
    trainer.apply()
    trainer.row(train_runtime=1.0)
    trainer.end()
    events = client.rest()
    ends = {e["uuid"]: e["status"] for e in events if e["uuid"] in (identity, late)}
    assert ends == {identity: "success", late: "failed"}
    assert client.close_code == 1012
    assert client.post("do_evaluate")[1]["status"] == "error"
    assert client.get("info")["status"] == "stopped"


def test_long_args_come_back(client: V1Client, trainer: Trainer) -> None:
    """More than the log keeps of a request: rebuilt from the command."""
    sources = [f"source-{i}" for i in range(1000)]
    client.post("update_dataset", {"sources": sources})
    assert args_of(client.next()) == {"sources": sources}
    assert client.post("update_dataset", {"sources": "x" * 300_000})[1]["status"] == "error"


def test_a_first_branch_of_an_old_run_is_no_accident(client: V1Client, trainer: Trainer) -> None:
    trainer.log.append(BranchStarted(name="old", parent=None), StatusChanged(status="running"), step=0)
    assert set(client.get("logs")["branch_info"]) == {"main", "old"}
