"""References: doing nothing, the same with noise, and what would have been best."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register

WARMUP_FRAC = 0.05
"""Of the best-known schedule (guess)."""


@register
class NoOp(Contender):
    """The user's script as it is, without agenttune."""

    name, about, role = "none", "the training as it is, without agenttune", "reference"

    def play(self, trial: Trial) -> Outcome:
        return Outcome(trained=trial.train(), fault=trial.fault)


@register
class Jitter(Contender):
    """The user's script, with the same first weights and another order of the data."""

    name, about, role = "jitter", "the training as it is, with another order of the data", "reference"

    def play(self, trial: Trial) -> Outcome:
        return Outcome(trained=trial.train(jitter=True), fault=trial.fault)


class GridSettings(ContenderSettings):
    """Parameters of a reference that tries a grid of rates."""

    rates: int | None = Field(None, ge=1)
    """Size of the grid; nothing: 9 on simulators, 3 on real networks."""
    factor: float = Field(2.0, gt=1)
    """Each rate is so many times its neighbour; the task's best-known one is in the middle (guess)."""

    def grid(self, middle: float, tier: int) -> list[float]:
        """The rates, the middle first: it wins a draw."""
        rates = self.rates or (9 if tier == 0 else 3)
        powers = sorted((i - (rates - 1) / 2 for i in range(rates)), key=abs)
        return [middle * self.factor**power for power in powers]


class BestOfGrid(Contender):
    """The best of a grid of rates for a task and seed, without the fault; its steps are not paid for.

    Attributes:
        changes: To the suite's recipe, beside the rate.
    """

    role = "reference"
    settings = GridSettings
    sees_fault = False
    changes: ClassVar[dict[str, Any]]

    def play(self, trial: Trial) -> Outcome:
        recipe = trial.cell.scenario.recipe.with_changes(decay_after_frac=None, **self.changes)
        rates = self.given.grid(_best_known_lr(trial), trial.facts.tier)
        tries = [trial.train(recipe.with_changes(lr=lr), without_fault=True, is_free=True) for lr in rates]
        costs = [trial.facts.cost(trained.final) for trained in tries]
        best = costs.index(min(costs))
        words = f"lr {rates[best]:.3g} of " + ", ".join(f"{lr:.3g}" for lr in sorted(rates))
        chosen = Intervention(kind="choose", step=0, state="applied", words=words)
        return Outcome(trained=tries[best], fault=trial.fault, interventions=[chosen])


def _best_known_lr(trial: Trial) -> float:
    """Of the task; of the suite's recipe where that has another optimizer, for which the task's says nothing."""
    known, own = trial.facts.recipe, trial.cell.scenario.recipe
    return known.lr if known.optimizer == own.optimizer else own.lr


@register
class Oracle(BestOfGrid):
    """The best constant rate."""

    name, about = "oracle", "the best constant rate of a grid for this very seed, without the fault"
    changes: ClassVar[dict[str, Any]] = {"schedule": "constant", "warmup_frac": 0.0}


@register
class BestSchedule(BestOfGrid):
    """The best peak of a cosine with a short warm-up: the upper reference."""

    name, about = "best_schedule", "the best cosine with a short warm-up for this very seed, without the fault"
    changes: ClassVar[dict[str, Any]] = {"schedule": "cosine", "warmup_frac": WARMUP_FRAC}
