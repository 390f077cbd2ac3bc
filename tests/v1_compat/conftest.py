"""Real logs, driven as a trainer drives them, behind a real server."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ServerAddress
from agenttune.protocol.events import (
    BranchStarted,
    CheckpointSaved,
    DatasetRead,
    Evaluated,
    KnobsRead,
    Logged,
    ModelRead,
    RunStarted,
    StatusChanged,
)
from agenttune.protocol.proposals import Ack, Change, CommandRecord, State
from agenttune.protocol.run_info import KnobState, ModuleInfo, ParameterInfo
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run, stop
from tests.v1_compat.client import V1Client
from tests.warm import serve

_names = (f"run{i}" for i in itertools.count())
CHANGEABLE = "update_optimizer"
KNOBS = [
    KnobState(name="lr", base=1e-3, effective=5e-4, groups=[5e-4], command=CHANGEABLE),
    KnobState(name="betas", effective=[0.9, 0.999], command=CHANGEABLE),
    KnobState(name="eps", effective=1e-8, command=CHANGEABLE),
    KnobState(name="weight_decay", effective=0.01, command=CHANGEABLE),
    KnobState(name="amsgrad", effective=False, command=CHANGEABLE),
    KnobState(name="max_grad_norm", effective=1.0, command="update_training"),
]
MODEL = ModuleInfo(
    name="",
    type="Net",
    parameters=40,
    trainable=40,
    children=[
        ModuleInfo(name="f1", type="Linear", parameters=40, trainable=40, operations=["reset_parameters"]),
        ModuleInfo(
            name="drop",
            type="Dropout",
            parameters=0,
            trainable=0,
            operations=["requires_grad_"],
            hyperparameters=[
                ParameterInfo(name="p", value=0.1, type="float"),
                ParameterInfo(name="mask", value={"shape": [3]}, type="tensor"),
            ],
        ),
    ],
)
DATASET = DatasetRead(
    type="Texts",
    size=320,
    interactive=True,
    initialization={"part": "train", "limit": 0, "note": "hello"},
    runtime={"noise": 0.0, "mix": [0.9, 0.1], "tag": "t"},
)


@dataclass
class Trainer:
    """Writes the log as a training process does."""

    log: RunLog
    step: int = 0
    branch: str = "main"

    def begin(self) -> None:
        started = RunStarted(framework="test", pid=self.log.info().pid or 0, details={"optimizer": "AdamW"})
        reads = (KnobsRead(knobs=KNOBS), ModelRead(model=MODEL), DATASET)
        self.log.append(started, StatusChanged(status="running"), *reads, step=0)

    def row(self, **metrics: float) -> None:
        """The next step, with a row of the trainer's log."""
        self.step += 1
        self.log.append(Logged(metrics=metrics), step=self.step, branch=self.branch)

    def evaluation(self, **metrics: float) -> None:
        self.log.append(Evaluated(metrics=metrics), step=self.step, branch=self.branch)

    def save(self, name: str) -> None:
        saved = CheckpointSaved(checkpoint_id=name, path=f"/out/{name}")
        self.log.append(saved, step=self.step, branch=self.branch)

    def queued(self) -> CommandRecord:
        """The command that has to be applied next."""
        return self.log.commands(State.QUEUED)[0]

    def apply(self, *also: Any, message: str = "", changes: tuple[Change, ...] = (), **result: Any) -> CommandRecord:
        record = self.queued()
        ack = Ack(
            outcome="applied",
            step=self.step,
            branch=self.branch,
            changes=list(changes),
            result=result,
            message=message,
        )
        self.log.acknowledge(record.command_id, ack, *also)
        return record

    def fail(self, reason: str) -> CommandRecord:
        record = self.queued()
        self.log.acknowledge(record.command_id, Ack(outcome="failed", step=self.step, message=reason))
        return record

    def jump(self, to: int, name: str, checkpoint: str) -> CommandRecord:
        """Apply a load, as the trainer does: answer, branch and readings in one transaction."""
        parent, self.branch, self.step = self.branch, name, to
        started = BranchStarted(name=name, parent=parent, from_step=to, checkpoint_id=checkpoint)
        return self.apply(started, ModelRead(model=MODEL), DATASET)

    def end(self) -> None:
        self.log.append(StatusChanged(status="stopped", reason="asked"), step=self.step)


@pytest.fixture(scope="module")
def v1_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def server(v1_runs: Path) -> Iterator[ServerAddress]:
    address = serve(v1_runs)
    yield address
    stop(address)


@pytest.fixture
def trainer(v1_runs: Path) -> Iterator[Trainer]:
    """A run in progress: the newest one, with nothing logged yet."""
    playing = Trainer(make_run(v1_runs, next(_names), steps=0, rules={"gate": {"bounds": {"lr": [1e-6, 1e-2]}}}))
    playing.begin()
    yield playing
    playing.end()
    playing.log.close()


@pytest.fixture
def client(server: ServerAddress, trainer: Trainer) -> Iterator[V1Client]:
    with V1Client(server.url) as connected:
        yield connected


NewClient = Callable[..., V1Client]


@pytest.fixture
def new_client(server: ServerAddress, trainer: Trainer) -> Iterator[NewClient]:
    """More clients of the same run."""
    made: list[V1Client] = []

    def new(query: str = "") -> V1Client:
        made.append(V1Client(server.url, query))
        return made[-1]

    yield new
    for client in made:
        client.close()


NAN = math.nan
