"""Trials of a probe: what is tried, for how long, and what each measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import torch

from agenttune.protocol.commands import CommandBase, Probe, SetKnob
from agenttune.protocol.events import TRIAL_PREFIX, Probed, TrialResult
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.commands.outcomes import AwaitLearningRate, AwaitRestore, Waiting
from agenttune.trainer.recording.background_writer import StepMetrics

LOSS_NAMES = ("step_loss", "loss")
"""Of loops that hand over their loss by name."""


@dataclass
class Attempt:
    """One trial while it goes on.

    Attributes:
        branch: That its steps are recorded on.
        command: What is tried; None: changing nothing.
        wanted_steps: How many it takes.
        metric: What it is compared by.
        changes: What applying it has changed.
        losses: [n_steps], of its steps so far.
        arriving: The state that it begins from, while the loop was asked to restore it; None: it begins where it is.
        learning_rate: The change of the learning rate that the next step has to confirm.
        rate_as_saved: The rate of the state that it goes back to, where it sets another.
        value: What is compared, once it is known.
        gain: By how much better that is than of changing nothing, once that is known.
        error: Standard error of the gain, where it has one.
        problem: Why it cannot win.
        steps: Steps taken.
        began_s: Monotonic time of its start.
        took_s: How long it took.
    """

    branch: str
    command: CommandBase | None
    wanted_steps: int
    metric: Literal["loss", "goal"]
    changes: list[Change] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    arriving: AwaitRestore | None = None
    learning_rate: Waiting[AwaitLearningRate] | None = None
    rate_as_saved: float | None = None
    value: float | None = None
    gain: float | None = None
    error: float | None = None
    problem: str = ""
    steps: int = 0
    began_s: float = 0.0
    took_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it was measured, or cannot be."""
        return self.value is not None or bool(self.problem)

    @property
    def keeps_the_first_loss(self) -> bool:
        """Whether the loss of its first step, before any update, is that of changing nothing."""
        return not isinstance(self.command, SetKnob)

    @property
    def lowers_the_rate(self) -> bool:
        """Whether the learning rate is lower with it."""
        saved = self.rate_as_saved
        rates = [(c.previous if saved is None else saved, c.effective) for c in self.changes if c.name == "lr"]
        return any(isinstance(was, float) and isinstance(now, float) and now < was for was, now in rates)

    def begin(self) -> None:
        self.began_s = time.monotonic()

    def end(self) -> None:
        self.took_s = time.monotonic() - self.began_s

    def add(self, held: StepMetrics) -> None:
        """The loss of a step; read at once, so that a loss that is not finite ends the trial."""
        values = held.losses or [held.extra[name] for name in LOSS_NAMES if name in held.extra][:1]
        if values:
            self.losses.append(sum(_number(value) for value in values))

    @property
    def compared(self) -> list[float]:
        """Losses of the second half: what a change does first is often not what it does."""
        return self.losses[len(self.losses) // 2 :]

    def measure_loss(self) -> None:
        """Take the training loss as the value."""
        if self.losses:
            self.value = fmean(self.compared)
        else:
            self.problem = "no training loss was reported"

    def check(self) -> None:
        """A loss that is not finite ends it."""
        if self.losses and not math.isfinite(self.losses[-1]):
            self.problem = f"the loss of trial step {self.steps} is {self.losses[-1]}"

    def outcome(self) -> TrialResult:
        """For the log."""
        return TrialResult(
            name=self.branch,
            command=self.command,
            start=self.losses[0] if self.losses else None,
            value=None if self.problem else self.value,
            gain=None if self.problem else self.gain,
            error=None if self.problem else self.error,
            steps=self.steps,
            took_s=self.took_s,
            problem=self.problem[:500],
        )


@dataclass
class RunningProbe:
    """A probe under way.

    Attributes:
        record: The command.
        command: What it asks for.
        saved: The snapshot's checkpoint.
        state: What it holds.
        attempts: All trials.
        parent: The branch that they begin on.
        from_step: The step that they begin at.
        at: Which of them is going on.
        confirming: From which of them on what won is tried again; None: it was not.
        began_s: Monotonic time of its start.
        fault: Why it ends before all trials are over.
        ends_run: A callback wanted training to end, which waits for the restore.
        is_leaving: The loop was asked to restore the state.
    """

    record: CommandRecord
    command: Probe
    saved: SavedCheckpoint
    state: TrainingState
    attempts: list[Attempt]
    parent: str
    from_step: int
    at: int = 0
    confirming: int | None = None
    began_s: float = field(default_factory=time.monotonic)
    fault: str = ""
    ends_run: bool = False
    is_leaving: bool = False

    @property
    def attempt(self) -> Attempt:
        return self.attempts[self.at]

    @property
    def compared(self) -> list[Attempt]:
        """The trials among which is chosen."""
        return self.attempts[self.confirming or 0 :]

    @property
    def wants_confirmation(self) -> bool:
        """Whether what wins is still to be tried for longer."""
        return self.command.confirm_steps is not None and self.confirming is None

    @property
    def extra_steps(self) -> int:
        return sum(attempt.steps for attempt in self.attempts)

    def confirm(self, best: Attempt) -> None:
        """Have the best trial and changing nothing tried once more, for longer."""
        self.confirming = len(self.attempts)
        self.attempts += confirmations_of(self.command, best)


def _number(value: float | torch.Tensor) -> float:
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def attempts_of(command: Probe, number: int) -> list[Attempt]:
    """Changing nothing first, if asked for, then the candidates in order."""
    prefix = f"{TRIAL_PREFIX}{number}:"
    named: list[tuple[str, CommandBase | None]] = [("current", None)] if command.include_current else []
    named += [(str(i), candidate) for i, candidate in enumerate(command.candidates)]
    return [Attempt(prefix + name, candidate, command.steps, command.metric) for name, candidate in named]


def confirmations_of(command: Probe, best: Attempt) -> list[Attempt]:
    """Changing nothing, and what won, over more steps or by another metric."""
    prefix, _, name = best.branch.rpartition(":")
    steps, metric = command.confirm_steps or command.steps, command.confirm
    pairs = ((f"{prefix}:longer-current", None), (f"{prefix}:longer-{name}", best.command))
    return [Attempt(branch, tried, steps, metric) for branch, tried in pairs]


def result_of(probed: Probed) -> dict[str, object]:
    """The figures of a probe for its ack, short enough for a language model."""
    adopted = None if probed.adopted is None else probed.trials[probed.adopted].command
    return {
        "adopted": None if adopted is None else {"kind": adopted.kind, **adopted.arguments()},
        "metric": probed.metric,
        "extra_steps": probed.extra_steps,
        "extra_s": round(probed.extra_s, 3),
        "trials": [
            {
                "command": None if t.command is None else {"kind": t.command.kind, **t.command.arguments()},
                **t.model_dump(mode="json", include={"start", "value", "steps", "took_s"}),
                **({"gain": t.gain, "error": t.error} if t.gain is not None else {}),
                **({"problem": t.problem} if t.problem else {}),
            }
            for t in probed.trials
        ],
    }
