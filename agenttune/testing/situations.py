"""Runs as a policy or a detector sees them: well, ill, short, and strange."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from agenttune.protocol.commands import COMMAND_KINDS, UpdateOptimizer
from agenttune.protocol.observation import (
    DOWNSAMPLED_POINTS,
    FIRST_POINTS,
    RECENT_POINTS,
    Evaluation,
    Observation,
    SeriesView,
)
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_info import KnobState


def make_observation(
    losses: Sequence[float] = (),
    *,
    grad_norms: Sequence[float] = (),
    lr: float | None = 1e-3,
    max_steps: int | None = 1000,
    evaluations: Sequence[tuple[int, float]] = (),
    commands: Sequence[CommandRecord] = (),
    woken_by: Sequence[str] = (),
) -> Observation:
    """The observation of a run with these losses, one a step.

    Args:
        losses: Training losses from the first step on, in nats or what the run has.
        grad_norms: Gradient norms of the same steps.
        lr: The learning rate; None: the trainer tells none.
        max_steps: Steps planned.
        evaluations: Step and `eval_loss` of each.
        commands: Submitted so far.
        woken_by: Why a policy is asked.
    """
    rates = [lr] * len(losses) if lr is not None else []
    given = {"step_loss": losses, "step_grad_norm": grad_norms, "lr": rates}
    return Observation(
        run_id="r1",
        status="running",
        step=len(losses),
        max_steps=max_steps,
        at_s=1000.0,
        last_step_at_s=1000.0,
        goal_metric="eval_loss",
        goal_direction="minimize",
        knobs=[] if lr is None else [KnobState(name="lr", base=lr, effective=lr)],
        series={name: series_view(name, values) for name, values in given.items() if values},
        evaluations=[Evaluation(step=step, metrics={"eval_loss": value}) for step, value in evaluations],
        commands=list(commands),
        capabilities=list(COMMAND_KINDS),
        commands_left=100,
        woken_by=list(woken_by),
    )


def series_view(name: str, values: Sequence[float]) -> SeriesView:
    """A series as an observation carries it: the newest points as they are, the whole as means of buckets."""
    bucket = max(1, -(-len(values) // DOWNSAMPLED_POINTS))
    parts = [(min(i + bucket, len(values)), values[i : i + bucket]) for i in range(0, len(values), bucket)]
    first = max(0, len(values) - RECENT_POINTS)
    return SeriesView(
        name=name,
        steps=list(range(first + 1, len(values) + 1)),
        values=list(values[first:]),
        downsampled_steps=[step for step, _ in parts],
        downsampled_values=[math.fsum(v) / len(v) if all(map(math.isfinite, v)) else math.nan for _, v in parts],
        first_steps=list(range(1, min(FIRST_POINTS, len(values)) + 1)),
        first_values=list(values[:FIRST_POINTS]),
    )


def _falling(steps: int, start: float = 4.0, end: float = 1.0, noise: float = 0.03) -> list[float]:
    draw = random.Random(0)
    return [(end + (start - end) * math.exp(-i / 60)) * math.exp(draw.gauss(0, noise)) for i in range(steps)]


def _changed(step: int, lr: float) -> CommandRecord:
    author = Author(principal="agent", name="tests")
    proposal = Proposal(command=UpdateOptimizer(lr=lr), author=author, rationale="a test", based_on_step=step)
    ack = Ack(outcome="applied", step=step, changes=[Change(name="lr", previous=0.1, requested=lr, effective=lr)])
    return CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1, submitted_step=step)


def situations() -> dict[str, Observation]:
    """One observation of each kind of run, by a name for it."""
    well = _falling(300)
    return {
        "nothing yet": make_observation(),
        "one step": make_observation([2.0]),
        "healthy": make_observation(well, evaluations=[(100, 2.0), (200, 1.5), (300, 1.2)]),
        "without a rate": make_observation(well, lr=None),
        "of unknown length": make_observation(well, max_steps=None),
        "flat": make_observation(_falling(400, 4.0, 3.0, noise=0.003)),
        "diverging": make_observation([*well, *(1.0 + 0.4 * i for i in range(40))], lr=0.5),
        "not finite": make_observation([*well, *[math.nan] * 5], grad_norms=[*[1.0] * 300, *[math.inf] * 5]),
        "overfitting": make_observation(well, evaluations=[(60 * i, 1.0 + 0.1 * i) for i in range(1, 6)]),
        "changed before": make_observation(well, commands=[_changed(100, 0.01), _changed(250, 0.001)]),
        "huge": make_observation([value * 1e30 for value in well], lr=1e-30),
        "at its end": make_observation(_falling(1000)),
    }
