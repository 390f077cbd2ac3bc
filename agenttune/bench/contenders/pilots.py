"""Pilots: short runs at several rates, and the best of them from the start with the steps that are left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.restarts import RestartFromBest, RestartSettings
from agenttune.bench.training import Hook, Live, Recipe
from agenttune.config.setting import Positive
from agenttune.errors import ConfigError


class PilotsSettings(ContenderSettings):
    """Parameters of `pilots`."""

    factors: list[Positive] = Field([0.1, 0.3, 1.0, 3.0, 10.0], min_length=1)
    """On the user's rate, one a pilot."""
    pilot_frac: float = Field(0.1, gt=0, lt=1)
    """Steps of each, as a part of the budget."""


class PilotsRestartSettings(PilotsSettings, RestartSettings):
    """Parameters of `pilots_restart`."""

    pilot_frac: float = Field(0.05, gt=0, lt=1)
    """Steps of each, as a part of the budget."""


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The same script, told to make so many steps: its schedule is laid out for them."""
    return recipe.with_changes(steps=steps, eval_every=min(recipe.eval_every, steps))


def best_of_pilots(trial: Trial, settings: PilotsSettings) -> tuple[Recipe, list[Intervention]]:
    """Run the pilots; the recipe of the best for the steps that are left, and a line that says so.

    Of pilots that all failed the lowest rate is taken.

    Raises:
        ConfigError: They would leave nothing of the budget.
    """
    steps = max(1, int(settings.pilot_frac * trial.budget))
    if len(settings.factors) * steps >= trial.budget:
        raise ConfigError(
            f"{len(settings.factors)} pilots of {steps} steps leave nothing of a budget of {trial.budget}: "
            "take fewer factors, a smaller pilot_frac or more steps",
            field="pilot_frac",
        )
    values = {factor: _pilot(trial, factor, steps) for factor in settings.factors}
    best = min(values, key=lambda factor: (trial.facts.cost(values[factor]), factor))
    words = f"x{best:g} of " + ", ".join(f"x{factor:g}: {value:.4g}" for factor, value in values.items())
    chosen = shortened(_scaled(trial.recipe, best), trial.steps_left)
    return chosen, [Intervention(kind="choose", step=0, state="applied", words=words, changed=best != 1.0)]


class _LastEvaluation(Hook):
    """What the run shows of itself at its end, be it noisy."""

    value = math.nan

    def ended(self, live: Live) -> None:
        self.value = live.evaluate()


def _pilot(trial: Trial, factor: float, steps: int) -> float:
    """The evaluation at the end of a short run."""
    last = _LastEvaluation()
    trial.train(shortened(_scaled(trial.recipe, factor), steps), hooks=[last], budget=steps)
    return last.value


def _scaled(recipe: Recipe, factor: float) -> Recipe:
    return recipe.with_changes(lr=recipe.lr * factor)


@register
class Pilots(Contender):
    """Five short runs at a tenth to ten times the user's rate: successive halving (arXiv:1502.07943) with one rung."""

    name = "pilots"
    about = "five short runs of a tenth at x0.1 to x10 of the rate, then the best from the start with what is left"
    role = "recipe"
    settings = PilotsSettings

    def play(self, trial: Trial) -> Outcome:
        return _play(trial, self.given, [])


@register
class PilotsRestart(Contender):
    """Pilots of a twentieth each; the main run restarts from the best after a wreck, and delivers its best."""

    name = "pilots_restart"
    about = "five pilots of a twentieth, then the best of them with restarts; its best checkpoint is delivered"
    role = "recipe"
    settings = PilotsRestartSettings

    def play(self, trial: Trial) -> Outcome:
        return _play(trial, self.given, [RestartFromBest(trial.facts, self.given)])


def _play(trial: Trial, settings: PilotsSettings, hooks: Sequence[RestartFromBest]) -> Outcome:
    recipe, made = best_of_pilots(trial, settings)
    before = trial.spent_before
    between: list[Hook] = list(hooks)
    trained = trial.train(recipe, hooks=between, fault=trial.fault_within(recipe.steps))
    made += [change for hook in hooks for change in hook.changes]
    return Outcome(trained=trained, fault=trial.fault, interventions=made, **before)
