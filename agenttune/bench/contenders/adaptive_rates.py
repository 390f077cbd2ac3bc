"""Schedules that follow the loss instead of a plan, as their libraries do it."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.schedules import with_schedule
from agenttune.bench.training import Hook, Live
from agenttune.config.setting import Positive


class AdaptiveRate(Protocol):
    """A rate that depends on values that come in; made in `bench/tasks/library_rates.py`."""

    def after(self, value: float) -> float:
        """The rate after one more value."""


class ReducePlateauSettings(ContenderSettings):
    """Parameters of `plateau_schedule`; torch's defaults except for the patience, which suits a short run."""

    patience: int = Field(1, ge=0)
    """Evaluations without improvement that are let pass."""
    factor: float = Field(0.1, gt=0, lt=1)
    """On the rate, at each reduction."""


class GreedySettings(ContenderSettings):
    """Parameters of `greedy_schedule`: those of the authors' example of use outside of a Trainer."""

    patience: int = Field(10, ge=0)
    """Steps of improvement, or without, that are let pass."""
    factor: float = Field(0.95, gt=0, lt=1)
    """On the rate; its inverse when the loss improves."""
    window: int = Field(50, ge=1)
    """Steps over which the loss is averaged."""
    min_lr: Positive = 1e-7
    """Least rate."""
    max_lr: Positive = 1.0
    """Greatest rate."""


class FollowRate(Hook):
    """Sets the rate that a library's scheduler asks for.

    Attributes:
        changes: Of the rate, oldest first.
    """

    def __init__(self, rate: AdaptiveRate, lr: float) -> None:
        self.rate = rate
        self.lr = lr
        self.changes: list[Intervention] = []

    def tell(self, live: Live, value: float) -> None:
        """One more value."""
        lr = self.rate.after(value)
        if lr == self.lr:
            return
        live.scale_lr(lr / self.lr)
        words = f"{self.lr:.3g} to {lr:.3g} after {value:.4g}"
        self.changes.append(Intervention(kind="new_lr", step=live.step, state="applied", words=words))
        self.lr = lr


class FollowEvaluations(FollowRate):
    """By evaluations."""

    def evaluated(self, live: Live, value: float) -> None:
        self.tell(live, value)


class FollowLosses(FollowRate):
    """By training losses."""

    def stepped(self, live: Live, loss: float) -> None:
        self.tell(live, loss)


@register
class ReduceOnPlateau(Contender):
    """torch's ReduceLROnPlateau on the evaluation metric, patience 1, in place of the user's schedule."""

    name = "plateau_schedule"
    about = "torch's ReduceLROnPlateau on the evaluation metric in place of the user's schedule"
    role = "recipe"
    settings = ReducePlateauSettings
    gets_round = ("collapsed_schedule",)

    def play(self, trial: Trial) -> Outcome:
        from agenttune.bench.tasks.library_rates import reduce_on_plateau  # loads torch

        lr, given = trial.recipe.lr, self.given
        rate = reduce_on_plateau(lr, trial.facts.direction, given.patience, given.factor)
        return _follow(trial, FollowEvaluations(rate, lr))


@register
class GreedyLr(Contender):
    """GreedyLR (Subramanian et al. 2025, arXiv:2512.14527): up while the training loss improves, else down.

    Its rule is told the loss of every step, as in the paper; transformers' Trainer, whose class does the work, would
    tell it evaluations only, of which a short run has fewer than its patience.
    """

    name, about, role = "greedy_schedule", "GreedyLR on the training loss in place of the user's schedule", "recipe"
    settings = GreedySettings
    gets_round = ("collapsed_schedule",)

    def play(self, trial: Trial) -> Outcome:
        from agenttune.bench.tasks.library_rates import greedy_lr  # loads torch

        lr, given = trial.recipe.lr, self.given
        rate = greedy_lr(lr, given.patience, given.factor, given.window, given.min_lr, given.max_lr)
        return _follow(trial, FollowLosses(rate, lr))


def _follow(trial: Trial, hook: FollowRate) -> Outcome:
    trained = trial.train(with_schedule(trial.recipe, "constant", 0.0), hooks=[hook])
    return Outcome(trained=trained, fault=trial.fault, interventions=hook.changes)
