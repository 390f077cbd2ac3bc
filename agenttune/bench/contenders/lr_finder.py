"""The learning-rate finder: a range test first, then the user's recipe at the rate that it suggests."""

from __future__ import annotations

import math

from pydantic import Field

from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.pilots import shortened
from agenttune.bench.contenders.schedules import with_schedule
from agenttune.bench.faults import WRONG_RATES
from agenttune.bench.training import Hook, Live
from agenttune.config.setting import Positive


class LrFinderSettings(ContenderSettings):
    """Parameters of `lr_finder`, whose range test has the 100 steps of fastai's and Lightning's, or fewer."""

    test_frac: float = Field(0.1, gt=0, lt=0.5)
    """Steps of the range test, as a part of the budget; at most 100."""
    low: Positive = 1e-6
    """Rate of its first step; libraries begin at 1e-8 or 1e-7, for which a short test is too coarse."""
    high: Positive = 1.0
    """Rate of its last step, as Lightning's."""
    stop_factor: float = Field(4.0, gt=1)
    """The test ends when the smoothed loss is so many times its lowest."""


class RangeTest(Hook):
    """Raises the rate by a factor at each step and smooths the losses.

    The weight of the smoothing is that of fastai (0.98 of 100 steps) for a shorter test: its memory is half the test.
    """

    def __init__(self, low: float, high: float, steps: int, stop_factor: float) -> None:
        self.lr = low
        self.growth = (high / low) ** (1 / max(1, steps - 1))
        self.weight = max(0.0, 1 - 2 / steps)
        self.stop_factor = stop_factor
        self.smoothed: list[tuple[float, float]] = []
        self._sum = 0.0

    def stepped(self, live: Live, loss: float) -> None:
        if not math.isfinite(loss):
            live.stop()
            return
        self._sum = self.weight * self._sum + (1 - self.weight) * loss
        value = self._sum / (1 - self.weight ** (len(self.smoothed) + 1))
        self.smoothed.append((value, self.lr))
        lowest = min(self.smoothed)[0]
        if value > lowest + (self.stop_factor - 1) * abs(lowest):
            live.stop()
        self.lr *= self.growth
        live.scale_lr(self.growth)

    def suggestion(self) -> float | None:
        """A tenth of the rate at which the smoothed loss was lowest; None where there was no loss."""
        return min(self.smoothed)[1] / 10 if self.smoothed else None


@register
class LrFinder(Contender):
    """Smith's range test (arXiv:1506.01186) with the rule of a tenth of the minimum (fastai; Gugger 2018).

    The rate that the user chose plays no part; the schedule is the user's, laid out for the steps that are left.
    """

    name = "lr_finder"
    about = "a range test of the rate first, then the user's recipe at a tenth of the rate with the lowest loss"
    role = "recipe"
    settings = LrFinderSettings
    gets_round = (*WRONG_RATES, "no_warmup")

    def play(self, trial: Trial) -> Outcome:
        given: LrFinderSettings = self.given
        steps = min(100, max(1, int(given.test_frac * trial.budget)))
        test = RangeTest(given.low, given.high, steps, given.stop_factor)
        recipe = shortened(with_schedule(trial.recipe, "constant", 0.0).with_changes(lr=given.low), steps)
        trial.train(recipe, hooks=[test], budget=steps)
        before, spent, lr = trial.spent_before, trial.steps_spent, test.suggestion() or trial.recipe.lr
        main = shortened(trial.recipe.with_changes(lr=lr), trial.steps_left)
        trained = trial.train(main, fault=trial.fault_within(main.steps))
        found = Intervention(
            kind="choose", step=0, state="applied", words=f"lr {lr:.3g} by a range test of {spent} steps"
        )
        return Outcome(trained=trained, fault=trial.fault, interventions=[found], **before)
