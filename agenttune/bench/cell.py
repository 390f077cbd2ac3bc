"""A cell: one contender in one scenario with one seed, and what came of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from agenttune.bench.training import Fault, Recipe, Split, Trained
from agenttune.protocol.findings import Finding
from agenttune.protocol.proposals import TOOK_EFFECT, Record

NONE, ORACLE, JITTER = "none", "oracle", "jitter"
"""Contenders that others are measured by."""


class Script(Record):
    """A training script of the user's own, as a task.

    Attributes:
        path: From the suite's project.
        args: Its arguments; `{lr}`, `{seed}`, ... stand for the cell's figures.
        target: Value of the metric that a good run reaches; None: not known.
    """

    path: str
    args: list[str] = Field(default_factory=list)
    metric: str = "eval_loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None


class Scenario(Record):
    """A task with a kind of fault.

    Attributes:
        task: Name.
        fault: Name of the kind.
        recipe: The task's recipe with the changes that the suite makes, before the fault.
        script: The task, where it is a script of the user's own.
    """

    task: str
    fault: str
    recipe: Recipe
    label: str = ""
    script: Script | None = None

    @property
    def name(self) -> str:
        """`task/fault`, with the schedule where a suite runs several of one."""
        return "/".join(filter(None, [self.task, self.fault, self.label]))


class Cell(Record):
    """What is to be done; equal cells are done once.

    Attributes:
        contender: Its entry in the suite: a name, or a mapping with `type` and parameters.
        code: Checksums of what the contender is made of (policy files, classes, prompts), by path.
        settings: Of the gate, budgets, probation, wake-ups and model, the same for all contenders.
        version: Of the task's and the benchmark's own code; another one makes a result stale.
        work: The same for cells that come to the same, as those of a reference that does not see the fault; empty: no
            other does.
    """

    scenario: Scenario
    seed: int
    split: Split
    contender: str
    spec: dict[str, Any] = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    version: str = ""
    work: str = ""

    @property
    def key(self) -> str:
        """The same for the same work."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


LOOKS = frozenset({"probe", "do_evaluate", "save_checkpoint", "read_model", "add_note"})
"""Kinds of commands that leave training as it is, or may do."""


class Intervention(Record):
    """A command of the contender's and what became of it, or a change that a recipe made without a gate.

    Attributes:
        kind: Of command; of a recipe's own change: `restart`, `new_lr`, `choose`, `copy`, `stop`.
        step: At which it was asked for.
        total_steps: Optimizer steps made until then, with those that were undone; None: not known.
        state: As in the log: `applied`, `rejected`, `expired`, `reverted`, ...
        words: Value and reason, in a line.
        changed: Whether training went by something else afterwards; None: not known, as in results of before.
    """

    kind: str
    step: int
    state: str
    words: str = ""
    total_steps: int | None = None
    changed: bool | None = None

    @property
    def is_change(self) -> bool:
        """Whether it took effect on training itself: a trial that adopts nothing, a look or a checkpoint does not."""
        known = self.kind not in LOOKS if self.changed is None else self.changed
        return known and self.state in TOOK_EFFECT


class Outcome(Record):
    """What a contender made of a cell.

    Attributes:
        trained: What was delivered in the end; None where it failed.
        fault: What went wrong in the scenario, as drawn.
        steps_before: Steps of other trainings that were paid for first, such as pilots.
        seconds_before: Wall time of those.
        evaluations_before: Evaluations that they made.
        interventions: Commands through the gate, oldest first.
        changes: How many of them changed something that training goes by; None: not known, as in results of before.
        findings: Of the detectors, and at which total step each came (`found_steps`, in the same order).
        tokens_in, tokens_out, usd, calls: Of language models.
        failure: Traceback or reason, if there is no result: the contender raised, hung or ended its process.
    """

    trained: Trained | None = None
    fault: Fault | None = None
    steps_before: int = 0
    seconds_before: float = 0.0
    evaluations_before: int = 0
    interventions: list[Intervention] = Field(default_factory=list)
    changes: int | None = None
    findings: list[Finding] = Field(default_factory=list)
    found_steps: list[int] = Field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    usd: float = 0.0
    failure: str = ""


class CellResult(Record):
    """A cell that was done.

    Attributes:
        state: `done`, or `failed`, which counts as the worst.
        machine: Processor, cores, versions.
        at_s: Unix time of its end.
    """

    cell: Cell
    state: Literal["done", "failed"]
    outcome: Outcome
    machine: dict[str, str] = Field(default_factory=dict)
    at_s: float = 0.0
