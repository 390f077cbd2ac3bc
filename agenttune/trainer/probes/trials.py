"""Trials of a probe: what each measured, and which of them is worth adopting."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch

from agenttune.protocol.commands import CommandBase, Probe
from agenttune.protocol.events import TRIAL_PREFIX, Probed, Trial
from agenttune.protocol.proposals import CommandRecord
from agenttune.trainer.checkpoints.catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.commands.outcomes import AwaitLearningRate, Waiting
from agenttune.trainer.recording.step_meter import StepMetrics

TOLERANCE = 2.0
"""By how many standard errors of the paired difference a trial has to be better (guess; neighbouring steps are not
independent, so that it means less than it says)."""
FEWEST_PAIRS = 3
"""Fewer pairs tell nothing of the noise."""
LOSS_NAMES = ("step_loss", "loss")
"""Of loops that hand over their loss by name."""


@dataclass
class Attempt:
    """One trial while it goes on.

    Attributes:
        branch: That its steps are recorded on.
        command: What is tried; None: changing nothing.
        losses: [n_steps], of its steps so far.
        learning_rate: The change of the learning rate that the next step has to confirm.
        value: What is compared, once it is known.
        problem: Why it cannot win.
        steps: Steps taken.
        began_s: Monotonic time of its start.
        took_s: How long it took.
    """

    branch: str
    command: CommandBase | None
    losses: list[float] = field(default_factory=list)
    learning_rate: Waiting[AwaitLearningRate] | None = None
    value: float | None = None
    problem: str = ""
    steps: int = 0
    began_s: float = 0.0
    took_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it was measured, or cannot be."""
        return self.value is not None or bool(self.problem)

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

    def outcome(self) -> Trial:
        """For the log."""
        return Trial(
            name=self.branch,
            command=self.command,
            start=self.losses[0] if self.losses else None,
            value=None if self.problem else self.value,
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
        ratios: Ratios of the groups' rates, which no state holds.
        attempts: All trials.
        at: Which of them is going on.
        began_s: Monotonic time of its start.
        fault: Why it ends before all trials are over.
        ends_run: A callback wanted training to end, which waits for the restore.
        is_leaving: The loop was asked to restore the state.
    """

    record: CommandRecord
    command: Probe
    saved: SavedCheckpoint
    state: TrainingState
    ratios: list[float] | None
    attempts: list[Attempt]
    at: int = 0
    began_s: float = field(default_factory=time.monotonic)
    fault: str = ""
    ends_run: bool = False
    is_leaving: bool = False

    @property
    def attempt(self) -> Attempt:
        return self.attempts[self.at]

    @property
    def extra_steps(self) -> int:
        return sum(attempt.steps for attempt in self.attempts)


def _number(value: float | torch.Tensor) -> float:
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def attempts_of(command: Probe, number: int) -> list[Attempt]:
    """Changing nothing first, if asked for, then the candidates in order."""
    prefix = f"{TRIAL_PREFIX}{number}:"
    found = [Attempt(f"{prefix}current", None)] if command.include_current else []
    return found + [Attempt(f"{prefix}{i}", candidate) for i, candidate in enumerate(command.candidates)]


def choose(attempts: Sequence[Attempt], command: Probe, prefers_low: bool) -> tuple[Attempt | None, str]:
    """The trial to adopt, or None to change nothing, and why."""
    sign = 1.0 if prefers_low else -1.0
    fit = [a for a in attempts if not a.problem and a.value is not None and math.isfinite(a.value)]
    tried = [a for a in fit if a.command is not None]
    if not tried:
        return None, "no candidate came through"
    best = min(tried, key=lambda attempt: sign * (attempt.value or 0.0))
    value = best.value or 0.0
    if not command.include_current:
        return best, f"the best of {len(tried)}: {value:.5g}"
    base = next((a for a in fit if a.command is None), None)
    if base is None or base.value is None:
        return best, f"{value:.5g}; changing nothing did not come through"
    gain, needed = sign * (base.value - value), command.min_gain_frac * abs(base.value)
    said = f"{value:.5g} against {base.value:.5g} for changing nothing"
    if gain <= needed:
        return None, f"{said}: not better by {100 * command.min_gain_frac:g} %"
    noise = _noise(best, base) if command.metric == "loss" else 0.0
    if gain <= TOLERANCE * noise:
        return None, f"{said}: within the noise (standard error {noise:.2g})"
    return best, said


def _noise(best: Attempt, base: Attempt) -> float:
    """Standard error of the mean difference, step by step on the same batches."""
    pairs = [b - a for a, b in zip(best.compared, base.compared, strict=False)]
    return stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) >= FEWEST_PAIRS else 0.0


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
                **({"problem": t.problem} if t.problem else {}),
            }
            for t in probed.trials
        ],
    }
