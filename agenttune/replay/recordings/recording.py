"""A training that somebody recorded, whatever wrote it down: one line of steps, oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agenttune.protocol.events import DatasetRead, ModelRead
from agenttune.protocol.observation import Evaluation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import KnobState
from agenttune.store.metric_table import MetricRow

Source = Literal["log", "trainer_state", "tensorboard"]


@dataclass(frozen=True)
class Recording:
    """What is known of a training.

    Attributes:
        source: What it was read from.
        name: The run's id or the path of the file.
        rows: Metrics, in order of steps; one row or more a step.
        evaluations: In order of steps.
        max_steps: Steps that were planned.
        knobs: Values that could be changed, with the step at which they were read.
        commands: Asked for by whomever, in order of submission; those that led here, and those that came to nothing.
        capabilities: Commands that its trainer could apply.
        rules: Its `gate` and `budgets` settings.
        goal_metric: What counted as good; None where that was not written down.
        goal_direction: Whether less or more of it is better.
        about: The model and the dataset, as read at the start.
        notes: What a reader should know of this recording, one line each.
    """

    source: Source
    name: str
    rows: list[MetricRow]
    evaluations: list[Evaluation] = field(default_factory=list)
    max_steps: int | None = None
    knobs: list[tuple[int, list[KnobState]]] = field(default_factory=list)
    commands: list[CommandRecord] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    rules: Mapping[str, Any] = field(default_factory=dict)
    goal_metric: str | None = None
    goal_direction: Literal["minimize", "maximize"] = "minimize"
    about: list[ModelRead | DatasetRead] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        return max([r.step for r in self.rows] + [e.step for e in self.evaluations], default=0)


def rates_of(rows: Iterable[MetricRow]) -> list[tuple[int, list[KnobState]]]:
    """The learning rate as the one knob of a training whose log tells nothing else of its values."""
    first = next((row for row in rows if "lr" in row.values), None)
    if first is None:
        return []
    rate = first.values["lr"]
    return [(first.step, [KnobState(name="lr", effective=rate, command="update_optimizer")])]
