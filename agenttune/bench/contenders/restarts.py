"""The restart: back to the best and a tenth of the rate when an evaluation shows a wreck."""

from __future__ import annotations

import math

from pydantic import Field

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.checkpoints import KeepBest
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.training import Hook, Live


class RestartSettings(ContenderSettings):
    """Parameters of a restart."""

    times: int = Field(3, ge=0)
    """Restarts at most."""
    lr_factor: float = Field(0.1, gt=0, lt=1)
    """On the rate, at each."""
    worse_factor: float = Field(1.5, gt=1)
    """An evaluation that is so many times the best is a wreck."""


class RestartFromBest(KeepBest):
    """Goes back to the best state, with an optimizer without a past and a lower rate.

    It does when an evaluation is no number, at or above that of before the first step, or `worse_factor` times the
    best; for a metric that grows, or whose best is below 0, that reads: worse than the best by so much of its size.
    The best, which may be the start, is delivered at the end.
    """

    def __init__(self, facts: TaskFacts, settings: RestartSettings) -> None:
        super().__init__(facts)
        self.settings = settings
        self._start = math.inf

    def started(self, live: Live) -> None:
        value = live.evaluate()
        self._start = self.facts.cost(value)
        self.consider(live, value)

    def evaluated(self, live: Live, value: float) -> None:
        wreck = self._wreck(self.facts.cost(value))
        if wreck and len(self.changes) < self.settings.times and self.saved is not None:
            live.load(self.saved, clear_optimizer=True)
            live.scale_lr(self.settings.lr_factor)
            self.record("restart", live, f"{value:.4g} is {wreck}: back to step {self.best_step}, lr {live.lr:.3g}")
        else:
            self.consider(live, value)

    def _wreck(self, cost: float) -> str:
        """What is wrong with an evaluation; empty: nothing."""
        if not math.isfinite(cost):
            return "no number"
        if cost >= self._start:
            return "no better than the start"
        allowed = self.best + (self.settings.worse_factor - 1) * abs(self.best)
        return f"{self.settings.worse_factor - 1:.0%} worse than the best" if cost >= allowed else ""


@register
class Restart(Contender):
    """A callback of fifteen lines that many a team has.

    Rewinding to a checkpoint after a spike is told of in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1).
    """

    name = "restart"
    about = "back to the best at a tenth of the rate when an evaluation is a wreck; the best is delivered"
    role = "recipe"
    settings = RestartSettings

    def play(self, trial: Trial) -> Outcome:
        hook = RestartFromBest(trial.facts, self.given)
        hooks: list[Hook] = [hook]
        return Outcome(trained=trial.train(hooks=hooks), fault=trial.fault, interventions=hook.changes)
