"""A live run with a real log and a trainer on a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.llm.tools import Toolbox
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.events import CheckpointSaved, DatasetRead, KnobsRead
from agenttune.protocol.reads import ObservationQuery
from agenttune.protocol.run_info import KnobState
from tests.policy.conftest import SteeredRun, Valley

MakeToolbox = Callable[[], Toolbox]
KNOBS = [
    KnobState(name="lr", base=0.1, effective=0.1, groups=[0.1, 0.01], command="update_optimizer"),
    KnobState(name="weight_decay", effective=0.0, groups=[0.0, 0.0], command="update_optimizer"),
    KnobState(name="max_grad_norm", effective=1.0, command="update_training"),
    KnobState(name="max_steps", effective=300, command="update_training"),
    KnobState(name="label_smoothing", unit="share", minimum=0, maximum=0.5, effective=0.0, description="of targets"),
]


class Trainer:
    """Steps a steered run on a thread of its own until it is told to stop."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._train)

    def _train(self) -> None:
        run = SteeredRun(self._runs_dir, Valley(lr=0.1, max_steps=1_000_000))
        run.step()
        self._ready.set()
        while not self._stop.wait(0.01):
            run.step()
        run.close()

    def __enter__(self) -> Trainer:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def live(runs_dir: Path) -> Iterator[Trainer]:
    with Trainer(runs_dir) as trainer:
        yield trainer


@pytest.fixture
def run(runs_dir: Path) -> Iterator[SteeredRun]:
    """A run that stands still, can do everything, and has a registered knob."""
    steered = SteeredRun(runs_dir, Valley(lr=0.1))
    steered.log.update_info(capabilities=list(COMMAND_KINDS))
    for _ in range(30):
        steered.step()
    saved = CheckpointSaved(checkpoint_id="main-20-abc123", path="/out/20", tag="before-the-cut")
    corpus = DatasetRead(
        type="Corpus", interactive=True, initialization={"block_tokens": 128}, runtime={"weights": {"wikitext": 1.0}}
    )
    steered.log.append(saved, step=20)
    steered.log.append(KnobsRead(knobs=KNOBS), corpus, step=30)
    yield steered
    steered.close()


@pytest.fixture
def toolbox(runs_dir: Path, run: SteeredRun) -> MakeToolbox:
    reader = ControlReader(LocalControl(runs_dir), "r1")
    return lambda: Toolbox(reader, reader.read(ObservationQuery()))
