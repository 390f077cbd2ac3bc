"""Each of the seed's eleven commands, sent as its clients send it, does to a real Trainer what it says.

What is looked at is the model, the optimizer and the data as the training script saw them, not the answer.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agenttune.control import LocalControl
from agenttune.control.discovery import find_server
from agenttune.control.http import HttpControl
from agenttune.protocol.proposals import Author, Proposal
from agenttune.protocol.reads import ModelQuery
from tests import warm
from tests.server.conftest import stop
from tests.v1_compat.client import Event, V1Client, args_of
from tests.v1_compat.training import MARK, STEPS

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).resolve().parents[2]
Seen = dict[str, Any]


@dataclass
class Script:
    """A training script in a process of its own."""

    process: subprocess.Popen[str]
    folder: Path
    client: V1Client = field(init=False)
    url: str = ""
    told: list[Seen] = field(default_factory=list)

    def go(self) -> None:
        """Let it take a step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hear(self, about: str) -> Seen:
        """The next thing of that kind that it tells."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                self.told.append(json.loads(line.removeprefix(MARK)))
                if about in self.told[-1]:
                    return self.told[-1]
        raise AssertionError(f"the script ended: {self.told[-3:]}")

    def step(self) -> Seen:
        self.go()
        return self.hear("step")

    def apply(self, command: str, args: Any = "") -> tuple[Event, Seen, Seen]:
        """Ask for a command: its outcome, and what was seen at the end of this step and of the next.

        The command is applied between what the one step used and what is left at its end.
        """
        identity, answer = self.client.post(command, args)
        assert answer == {"status": "success"}, answer
        before, after = self.step(), self.step()
        return self.client.outcome(identity), before, after


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    folder = tmp_path_factory.mktemp("seed")
    command = [sys.executable, "-m", "tests.v1_compat.training", str(folder)]
    with warm.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        running = Script(process, folder)
        running.hear("ready")
        address = find_server(folder / "runs")
        assert address is not None
        running.url = address.url
        running.client = V1Client(address.url)
        yield running
        running.client.close()
        process.kill()
        stop(address)


def test_what_it_reads_is_what_the_script_has(script: Script) -> None:
    first = script.step()
    optimizer = script.client.get("optimizer_info")
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["betas"]) == (1e-3, 0.01, [0.9, 0.999])
    assert optimizer["optimizer_name"].endswith("AdamW")
    assert script.client.get("info")["status"] == "running"
    row = args_of(script.client.until(lambda e: e["command"] == "log_update"))
    assert row["branch_id"] == "main"
    assert row["metrics"]["loss"] == pytest.approx(first["loss"], abs=1e-4)  # transformers 4 rounds it
    assert row["metrics"]["learning_rate"] == pytest.approx(1e-3, rel=1e-2)


def test_update_optimizer_changes_what_updates_use(script: Script) -> None:
    args = {"lr": {"name": "lr", "value": "5e-4"}, "weight_decay": {"name": "weight_decay", "value": 0.05}}
    done, before, after = script.apply("update_optimizer", args)
    assert done["status"] == "success", done
    assert args_of(done) == args
    assert before["weight_decay"] == [0.01, 0.0]
    # The rate is the base, and keeps its schedule; what was exempt from decay stays exempt.
    expected = 5e-4 * (1 - (after["step"] - 1) / STEPS)
    assert after["lr"] == pytest.approx([expected, expected])
    assert after["weight_decay"] == [0.05, 0.0]
    assert script.client.get("optimizer_info")["lr"] == pytest.approx(5e-4)


def test_the_readmes_own_example_works(script: Script) -> None:
    """It ended the seed's training."""
    done, _, after = script.apply("update_optimizer", {"lr": 1e-4, "weight_decay": 0.01})
    assert done["status"] == "success", done
    assert after["lr"][0] == pytest.approx(1e-4 * (1 - (after["step"] - 1) / STEPS))
    assert args_of(done)["lr"]["value"] == pytest.approx(1e-4)


def test_a_hyperparameter_that_there_is_not_changes_nothing(script: Script) -> None:
    done, before, after = script.apply("update_optimizer", {"momentum": {"value": 0.5}, "betas": {"value": [0.5, 0.5]}})
    assert done["status"] == "failed"
    assert "momentum" in done["message"]
    assert after["betas"] == before["betas"] == [[0.9, 0.999]] * 2


def test_a_checkpoint_holds_the_weights_of_its_step(script: Script) -> None:
    identity, _ = script.client.post("save_checkpoint")
    saved, _ = script.step(), script.step()
    assert script.client.outcome(identity)["status"] == "success"
    told = args_of(script.client.until(lambda e: e["command"] == "checkpoint_info_update"))
    assert (told["global_step"], told["branch_id"]) == (saved["step"], "main")
    assert told in script.client.get("checkpoints")
    assert weights_on_disk(Path(told["checkpoint_dir"]), "second") == saved["layers"]["second"]


def weights_on_disk(folder: Path, layer: str) -> str:
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    return hashlib.sha256(tensors[f"{layer}.weight"].tobytes() + tensors[f"{layer}.bias"].tobytes()).hexdigest()


def test_a_load_goes_back_and_on_as_a_branch(script: Script) -> None:
    identity, _ = script.client.post("save_checkpoint")
    saved = script.step()
    first_time = [script.step() for _ in range(3)]
    script.client.outcome(identity)
    told = args_of(script.client.until(lambda e: e["command"] == "checkpoint_info_update"))
    identity, _ = script.client.post("load_checkpoint", {"uuid": told["uuid"], "branch_name": "again"})
    script.step()
    again = [script.step() for _ in range(3)]
    assert [s["step"] for s in again] == [saved["step"] + i for i in (1, 2, 3)]
    assert [(s["loss"], s["layers"], s["lr"], s["index"]) for s in again] == [
        (s["loss"], s["layers"], s["lr"], s["index"]) for s in first_time
    ]
    done = script.client.outcome(identity)
    assert done["status"] == "success", done
    info = args_of(done)["branch_info"]
    assert (info["id"], info["parent"]) == ("again", "main")
    row = args_of(script.client.until(lambda e: e["command"] == "log_update"))
    assert (row["branch_id"], row["metrics"]["global_step"]) == ("again", saved["step"] + 1)
    logs = script.client.get("logs")
    assert (logs["current_branch"], logs["branch_tree"]) == ("again", {"main": ["again"]})


def test_a_checkpoint_that_is_not_there_does_not_end_training(script: Script) -> None:
    """It did: `train()` returned, and the server was gone."""
    identity, answer = script.client.post("load_checkpoint", {"uuid": "nope", "branch_name": "b9"})
    assert answer["status"] == "error"
    assert "nope" in answer["message"]
    done = script.client.outcome(identity)
    assert (done["status"], done["message"]) == ("failed", answer["message"])
    before, after = script.step(), script.step()
    assert after["step"] == before["step"] + 1


def test_an_evaluation_is_that_of_the_model(script: Script) -> None:
    identity, _ = script.client.post("do_evaluate")
    script.go()
    heard = script.hear("evaluated")
    row = args_of(script.client.until(lambda e: "eval_loss" in e["args"]))
    assert row["metrics"]["eval_loss"] == pytest.approx(heard["evaluated"])
    assert script.client.outcome(identity)["uuid"] == identity
    script.hear("step")


def test_a_pause_holds_training_and_a_resume_lets_it_go_on(script: Script) -> None:
    client = script.client
    identity, _ = client.post("pause_training")
    script.go()
    assert client.outcome(identity)["status"] == "success"
    assert client.get("info")["status"] == "paused"
    done = client.ask("do_evaluate")  # while paused, at once
    heard = script.hear("evaluated")
    resumed = client.ask("resume_training")
    assert (done["status"], resumed["status"], client.get("info")["status"]) == ("success", "success", "running")
    assert heard["at"] == script.hear("step")["step"]
    assert script.step()["step"] == heard["at"] + 1


def test_an_old_client_resumes_what_it_has_paused_and_not_what_a_person_has(script: Script) -> None:
    """It carries no token, so that it is an agent; whoever sits at this machine asks as the operator."""
    person = LocalControl(script.folder / "runs")
    run_id = person.runs()[0].run_id

    def ask(kind: str) -> None:
        author = Author(principal="operator", name="ann")
        person.submit(run_id, Proposal.model_validate({"command": {"kind": kind}, "author": author}))

    ask("pause_training")
    script.go()
    script.client.until(lambda e: e["command"] == "pause_training" and e["status"] == "success")
    for command in ("resume_training", "stop_training"):
        _, answer = script.client.post(command)
        assert (answer["status"], answer["message"].startswith("ann has paused training")) == ("error", True)
    assert script.client.get("info")["status"] == "paused"
    ask("resume_training")
    script.client.until(lambda e: e["command"] == "resume_training" and e["status"] == "success")
    script.hear("step")
    identity, _ = script.client.post("pause_training")
    script.go()
    assert script.client.outcome(identity)["status"] == "success"
    assert script.client.ask("resume_training")["status"] == "success"
    script.hear("step")


def test_update_dataset_draws_from_another_dataset(script: Script) -> None:
    done, before, after = script.apply("update_dataset", {"limit": "8"})
    assert done["status"] == "success", done["message"]
    seen = [after, *(script.step() for _ in range(3))]
    assert max(i for s in seen for i in s["index"]) < 8
    assert [s["step"] for s in seen] == [before["step"] + i for i in (1, 2, 3, 4)]
    assert script.client.get("dataset_info")["initialization_parameters"]["limit"] == 8


def test_a_dataset_that_cannot_be_built_leaves_the_old_one(script: Script) -> None:
    for args in ({"limit": 0}, {"limit": 16, "nope": 1}):
        done, _, after = script.apply("update_dataset", args)
        assert done["status"] == "failed"
        assert done["message"]
        assert max(after["index"]) < 8
    assert script.client.get("dataset_info")["initialization_parameters"]["limit"] == 8


def test_runtime_parameters_reach_the_next_batch(script: Script) -> None:
    done, before, after = script.apply("update_dataset_runtime_hyperparameters", {"shift": "0.5"})
    assert done["status"] == "success", done["message"]
    assert (set(before["shift"]), set(after["shift"])) == ({0.0}, {0.5})
    assert script.client.get("dataset_info")["interactive_parameters"] == {"shift": 0.5}
    refused, _, after = script.apply("update_dataset_runtime_hyperparameters", {"nope": 1})
    assert (refused["status"], set(after["shift"])) == ("failed", {0.5})


def test_a_frozen_layer_stops_changing(script: Script) -> None:
    operation = {"layer_name": "first", "operation_name": "requires_grad_", "params": {"requires_grad": "False"}}
    done, before, after = script.apply("model_layer_operation", operation)
    later = script.step()
    assert done["status"] == "success", done
    assert before["layers"]["first"] == after["layers"]["first"] == later["layers"]["first"]
    assert before["layers"]["second"] != after["layers"]["second"] != later["layers"]["second"]


def test_a_reset_layer_has_other_weights(script: Script) -> None:
    """The frozen one: training itself does not change it."""
    before = script.step()
    operation = {"layer_name": "first", "operation_name": "reset_parameters"}
    done, _, after = script.apply("model_layer_operation", operation)
    assert done["status"] == "success", done["message"]
    assert before["layers"]["first"] != after["layers"]["first"] == script.step()["layers"]["first"]


@pytest.mark.parametrize(
    "args",
    [
        {"layer_name": "nope", "operation_name": "reset_parameters"},
        {"layer_name": "second", "operation_name": "eval"},
        {"layer_name": "second", "operation_name": "__setattr__", "params": {"name": "weight", "value": 0}},
        {"layer_name": "", "operation_name": "to_empty", "params": {"device": "meta"}},
    ],
)
def test_only_what_is_allowed_is_called(script: Script, args: dict[str, Any]) -> None:
    done, before, after = script.apply("model_layer_operation", args)
    assert (done["status"], after["step"]) == ("failed", before["step"] + 1)
    assert done["message"]


def test_dropout_is_that_of_the_next_step(script: Script) -> None:
    update = {"layer_name": "drop", "param_name": "p", "value": "0.4"}
    done, before, after = script.apply("model_layer_parameter_update", update)
    assert (done["status"], before["p"], after["p"]) == ("success", 0.1, 0.4)
    for value in (2.0, -0.1):  # the seed died of these at the next forward pass
        _, answer = script.client.post("model_layer_parameter_update", update | {"value": value})
        assert answer == {"status": "error", "message": f"p is between 0 and 1, not {value}"}
        assert script.step()["p"] == 0.4
    [drop] = [layer for layer in script.client.get("model_info")["children"] if layer["name"] == "drop"]
    assert drop["hyperparameters"] == [{"name": "p", "value": 0.4, "type": "float"}]


def test_norms_are_those_of_the_weights(script: Script) -> None:
    """Our own question beside the seed's: it is answered by the next steps."""
    with HttpControl(script.url) as control, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.read, "latest", ModelQuery(norms=True, layer="norm", wait_s=60))
        while not asked.done():
            script.step()
        found = asked.result().model
    assert found is not None
    assert (found.type, found.parameters, found.trainable) == ("LayerNorm", 16, 16)
    assert found.weight_norm == pytest.approx(8**0.5, rel=0.05)  # weights near 1, biases near 0
    assert found.grad_norm is not None
    assert found.grad_norm > 0


def test_a_stop_ends_training_and_the_stream(script: Script) -> None:
    """The seed's process hung once a client had connected."""
    identity, _ = script.client.post("stop_training")
    script.go()
    last = script.hear("step")
    assert script.hear("ended")["ended"] == last["step"]
    assert script.process.wait(30) == 0
    events = script.client.rest()
    assert script.client.close_code == 1012
    assert ("success", identity) in [(e["status"], e["uuid"]) for e in events]
    rows = [args_of(e)["metrics"] for e in events if e["command"] == "log_update"]
    assert "train_runtime" in rows[-1]
    assert [args_of(e)["local_step"] for e in script.client.seen if e["command"] == "log_update"] == [
        *range(1, script.client.get("logs")["local_step"] + 1)
    ]
    assert script.client.get("info")["status"] == "stopped"
