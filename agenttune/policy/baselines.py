"""Baselines to compare other policies with: no changes, reduce-on-plateau, GreedyLR, random changes.

Their counters are computed from the observation alone, so that a restarted agent continues where it was.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pydantic import Field

from agenttune.config import PolicyFile
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.policy.base import Decision, Draft, asked_at_step, by_agents
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord


class NoopFile(PolicyFile):
    """`type: noop`: monitors and never acts."""

    type: Literal["noop"]
    """Kind of policy."""


class LrFile(PolicyFile):
    """Settings of all policies that change only the learning rate."""

    min_lr: float = Field(1e-8, gt=0)
    """Smallest learning rate."""
    max_lr: float = Field(1.0, gt=0)
    """Largest learning rate."""


class ReduceOnPlateauFile(LrFile):
    """`type: reduce_on_plateau`: cuts the learning rate on a plateau, as torch's ReduceLROnPlateau in mode `rel`."""

    type: Literal["reduce_on_plateau"]
    """Kind of policy."""
    source: Literal["evaluations", "loss"] = "loss"
    """What is monitored: the goal metric, or the training loss averaged over `window_steps`."""
    window_steps: int = Field(20, ge=1)
    """Steps over which the training loss is averaged."""
    factor: float = Field(0.5, gt=0, lt=1)
    """The learning rate is multiplied by it."""
    patience: int = Field(5, ge=0)
    """Values without improvement before the learning rate is cut."""
    threshold: float = Field(1e-3, ge=0)
    """Relative improvement that counts."""
    cooldown: int = Field(0, ge=0)
    """Values after a cut that are not counted."""


class GreedyLrFile(LrFile):
    """`type: greedy_lr`: raises the learning rate while the loss falls (arXiv 2512.14527, transformers' GreedyLR)."""

    type: Literal["greedy_lr"]
    """Kind of policy."""
    window_steps: int = Field(10, ge=1)
    """Steps over which the training loss is averaged; one average is one tick of the counters."""
    factor: float = Field(0.8, gt=0, lt=1)
    """The learning rate is multiplied by it when the loss worsens, and divided by it when it improves."""
    patience: int = Field(3, ge=0)
    """Ticks in a row without (or with) improvement before the learning rate is cut (or raised)."""
    threshold: float = Field(1e-6, ge=0)
    """Improvement that counts, in units of the loss."""
    cooldown: int = Field(0, ge=0)
    """Ticks after a cut that are not counted."""
    warmup: int = Field(0, ge=0)
    """Ticks after a raise that are not counted."""


class RandomFile(LrFile):
    """`type: random`: changes the learning rate at random."""

    type: Literal["random"]
    """Kind of policy."""
    seed: int = 0
    """The same seed makes the same changes at the same steps."""
    every_steps: int = Field(50, ge=1)
    """One change in each block of so many steps."""
    max_factor: float = Field(2.0, gt=1)
    """Largest factor of one change, up or down."""


def own_steps(observation: Observation) -> list[int]:
    """Steps of the agent's own commands, oldest first."""
    return [asked_at_step(c) for c in by_agents(observation)]


def windows(observation: Observation, window_steps: int) -> list[tuple[int, float]]:
    """Mean training loss of each full window, with the step at which it ends; non-finite points make it NaN.

    An observation has only the newest points, so of a long run only their windows are returned; and only windows since
    the loss was last redefined.
    """
    view = next((observation.series[n] for n in LOSS_NAMES if n in observation.series), None)
    since = 0 if view is None else observation.redefined_step(view.name)
    groups: dict[int, list[float]] = {}
    for step, value in zip(view.steps, view.values, strict=True) if view else ():
        if (step - 1) // window_steps * window_steps >= since:
            groups.setdefault((step - 1) // window_steps, []).append(value)
    return [((i + 1) * window_steps, fmean(v)) for i, v in groups.items() if (i + 1) * window_steps <= observation.step]


def _draft(settings: LrFile, observation: Observation, factor: float, why: str) -> Decision:
    knob = observation.knob("lr")
    lr = knob.effective if knob is not None else None
    if not isinstance(lr, (int, float)) or lr <= 0:
        return Decision(reason="the learning rate is not known or zero")
    wanted = min(max(lr * factor, settings.min_lr), settings.max_lr)
    if math.isclose(wanted, lr, rel_tol=1e-6):
        return Decision(reason=f"the rate {lr:.3g} is at its bound")
    rationale = f"{why}; the rate {lr:.3g} becomes {wanted:.3g}"
    return Decision([Draft(UpdateOptimizer(lr=wanted), rationale)], rationale)


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Cuts the learning rate when the monitored value has not improved for a while."""

    name: str
    settings: ReduceOnPlateauFile

    def decide(self, observation: Observation) -> Decision:
        bad = self._bad_values(observation)
        if bad <= self.settings.patience:
            return Decision(reason=f"{bad} values without improvement, patience {self.settings.patience}")
        return _draft(self.settings, observation, self.settings.factor, f"no improvement over {bad} values")

    def _values(self, observation: Observation) -> Iterator[tuple[int, float]]:
        if self.settings.source == "loss":
            yield from windows(observation, self.settings.window_steps)
            return
        sign = 1 if observation.goal_direction == "minimize" else -1
        since = observation.redefined_step(observation.goal_metric)
        for evaluation in observation.evaluations:
            if evaluation.step > since and observation.goal_metric in evaluation.metrics:
                yield evaluation.step, sign * evaluation.metrics[observation.goal_metric]

    def _bad_values(self, observation: Observation) -> int:
        cuts = own_steps(observation)
        best, bad, quiet, used = math.inf, 0, 0, 0
        for step, value in self._values(observation):
            while used < len(cuts) and cuts[used] < step:
                used, bad, quiet = used + 1, 0, self.settings.cooldown
            if value < best - self.settings.threshold * abs(best) if math.isfinite(best) else value < best:
                best, bad = value, 0
            elif quiet == 0:
                bad += 1
            quiet = max(0, quiet - 1)
        return bad


@dataclass(frozen=True)
class GreedyLr:
    """Raises the learning rate while the smoothed loss improves, and cuts it while it does not."""

    name: str
    settings: GreedyLrFile

    def decide(self, observation: Observation) -> Decision:
        good, bad = self._counts(observation)
        patience, factor = self.settings.patience, self.settings.factor
        if good > patience:
            return _draft(self.settings, observation, 1 / factor, f"{good} averages in a row improved")
        if bad > patience:
            return _draft(self.settings, observation, factor, f"{bad} averages in a row did not improve")
        return Decision(reason=f"{good} good and {bad} bad averages in a row, patience {patience}")

    def _counts(self, observation: Observation) -> tuple[int, int]:
        """Averages in a row that improved and that did not, since the newest own change and its cooldown."""
        turns = by_agents(observation)
        best, good, bad, quiet, used = math.inf, 0, 0, 0, 0
        for step, value in windows(observation, self.settings.window_steps):
            while used < len(turns) and asked_at_step(turns[used]) < step:
                quiet = self.settings.warmup if _raised(turns[used]) else self.settings.cooldown
                good, bad, used = 0, 0, used + 1
            if quiet > 0:
                quiet -= 1
            elif value < best - self.settings.threshold:
                best, good, bad = value, good + 1, 0
            else:
                good, bad = 0, bad + 1
        return good, bad


def _raised(record: CommandRecord) -> bool:
    """Whether a command raised the learning rate, by the values read back."""
    changes = record.ack.changes if record.ack is not None else []
    return any(change.name == "lr" and change.effective > change.previous for change in changes)


@dataclass(frozen=True)
class RandomPolicy:
    """Changes the learning rate at random, once in each block of steps.

    Attributes:
        seed: Of the run, beside the file's; None: the same changes in every run.
    """

    name: str
    settings: RandomFile
    seed: int | None = None

    def decide(self, observation: Observation) -> Decision:
        block = observation.step // self.settings.every_steps
        if block == 0 or any(step // self.settings.every_steps >= block for step in own_steps(observation)):
            return Decision(reason="nothing before the next block of steps")
        own = "" if self.seed is None else f"{self.seed}:"
        draw = random.Random(f"{own}{self.settings.seed}:{block}")
        factor = self.settings.max_factor ** draw.uniform(-1, 1)
        return _draft(self.settings, observation, factor, f"block {block}, factor {factor:.3g}")
