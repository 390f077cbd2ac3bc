from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agenttune.control import LocalControl
from agenttune.protocol.commands import StopTraining, UpdateOptimizer
from agenttune.protocol.events import KnobsRead, StatusChanged
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import Evaluation, Observation
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.redefining import newest_of, redefinition
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from agenttune.testing.situations import series_view

AGENT = Author(principal="agent", name="tests")


def observe(
    losses: Sequence[float] = (),
    *,
    grads: Sequence[float] = (),
    lr: float = 1e-3,
    max_steps: int | None = 1000,
    evals: Sequence[tuple[int, float]] = (),
    commands: Sequence[CommandRecord] = (),
    findings: Sequence[Finding] = (),
    idle_s: float = 0.0,
    loss_name: str = "step_loss",
) -> Observation:
    """The observation of a run with these losses, one a step."""
    redefined = [found for record in commands if (found := redefinition(record)) is not None]
    rates = [lr] * len(losses)
    given = {loss_name: losses, "step_grad_norm": grads, "lr": rates}
    return Observation(
        run_id="r1",
        status="running",
        step=len(losses),
        max_steps=max_steps,
        at_s=1000.0,
        last_step_at_s=1000.0 - idle_s,
        goal_metric="eval_loss",
        goal_direction="minimize",
        knobs=[KnobState(name="lr", base=lr, effective=lr)],
        series={name: series_view(name, values) for name, values in given.items() if values},
        evaluations=[Evaluation(step=step, metrics={"eval_loss": value}) for step, value in evals],
        commands=list(commands),
        findings=list(findings),
        redefinitions=newest_of(redefined),
        commands_left=100,
    )


def applied(
    step: int,
    lr: float,
    rationale: str = "",
    author: Author = AGENT,
    state: State = State.APPLIED,
    previous: float = 0.1,
) -> CommandRecord:
    """A change of the rate that took effect at a step."""
    change = Change(name="lr", previous=previous, requested=lr, effective=lr)
    proposal = Proposal(command=UpdateOptimizer(lr=lr), author=author, rationale=rationale, based_on_step=step)
    ack = Ack(outcome="applied", step=step, changes=[change]) if state is State.APPLIED else None
    return CommandRecord(proposal=proposal, state=state, ack=ack, submitted_seq=1, submitted_step=step)


def took_effect(
    step: int, command: dict[str, Any], changes: Sequence[Change], author: Author = AGENT, branch: str = "main"
) -> CommandRecord:
    """Any command that took effect at a step."""
    proposal = Proposal.model_validate({"command": command, "author": author, "based_on_step": step})
    ack = Ack(outcome="applied", step=step, branch=branch, changes=list(changes))
    return CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1, submitted_step=step)


def decay(
    steps: int, start: float = 4.0, end: float = 1.0, noise: float = 0.03, seed: int = 0, tau: float = 0.2
) -> list[float]:
    """The losses of a run that goes well: an exponential approach with multiplicative noise."""
    draw = random.Random(seed)
    span = max(1.0, tau * steps)
    return [(end + (start - end) * math.exp(-i / span)) * math.exp(draw.gauss(0, noise)) for i in range(steps)]


@dataclass
class Valley:
    """A run to steer: noisy gradient descent into a long quadratic valley.

    Curvatures go from 0.05 to 10, so that rates above 0.2 diverge, 0.1 is good, and 0.001 is far too low.
    """

    lr: float
    seed: int = 0
    noise: float = 0.02
    max_steps: int = 300
    curvatures: tuple[float, ...] = (0.05, 0.3, 1.0, 3.0, 10.0)
    losses: list[float] = field(default_factory=list)
    grads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._x = [1.0 for _ in self.curvatures]

    @property
    def true_loss(self) -> float:
        return 0.01 + sum(c * x * x / 2 for c, x in zip(self.curvatures, self._x, strict=True))

    def step(self) -> None:
        slopes = [c * x for c, x in zip(self.curvatures, self._x, strict=True)]
        try:
            loss = self.true_loss * math.exp(self._draw.gauss(0, self.noise))
        except OverflowError:
            loss = math.inf
        self.losses.append(loss)
        self.grads.append(math.sqrt(math.fsum(min(s * s, 1e300) for s in slopes)) if math.isfinite(loss) else math.nan)
        self._x = [
            x - self.lr * (s + self._draw.gauss(0, self.noise) * abs(s)) for x, s in zip(self._x, slopes, strict=True)
        ]


class SteeredRun:
    """A trainer over a real log: writes points, applies queued commands at step boundaries, acknowledges them."""

    def __init__(self, runs_dir: Path, valley: Valley) -> None:
        self.valley = valley
        info = RunInfo(
            run_id="r1",
            name="r1",
            status="running",
            created_at_s=time.time(),
            max_steps=valley.max_steps,
            capabilities=["update_optimizer", "stop_training"],
            rules={"gate": {"bounds": {"lr": [1e-8, 10.0]}}},
        )
        self.log = RunLog.create(runs_dir / "r1", info)
        self.stopped = False
        self._tell_knobs()

    def _tell_knobs(self) -> None:
        rate = KnobState(name="lr", base=self.valley.lr, effective=self.valley.lr, command="update_optimizer")
        self.log.append(KnobsRead(knobs=[rate]), step=len(self.valley.losses))

    def step(self) -> None:
        self.apply_queued()
        self.valley.step()
        step = len(self.valley.losses)
        values = {"step_loss": self.valley.losses[-1], "step_grad_norm": self.valley.grads[-1], "lr": self.valley.lr}
        self.log.append_points([Point(step=step, at_s=time.time(), values=values)])

    def apply_queued(self) -> None:
        for record in self.log.commands(State.QUEUED):
            command, step = record.proposal.command, len(self.valley.losses)
            changes = []
            if isinstance(command, UpdateOptimizer) and command.lr is not None:
                changes = [Change(name="lr", previous=self.valley.lr, requested=command.lr, effective=command.lr)]
                self.valley.lr = command.lr
            self.stopped = self.stopped or isinstance(command, StopTraining)
            self.log.acknowledge(record.command_id, Ack(outcome="applied", step=step, changes=changes))
            self._tell_knobs()

    def finish(self) -> None:
        self.log.append(StatusChanged(status="finished"), step=len(self.valley.losses))

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def control(runs_dir: Path) -> LocalControl:
    return LocalControl(runs_dir)


@pytest.fixture
def run(runs_dir: Path) -> Iterator[SteeredRun]:
    """A run at a good rate; tests set `run.valley` for another."""
    steered = SteeredRun(runs_dir, Valley(lr=0.1))
    yield steered
    steered.close()
