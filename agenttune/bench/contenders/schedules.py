"""Other schedules in place of the user's; rate, optimizer and whatever else is wrong with the recipe stay."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.training import Recipe, Schedule


class ScheduleSettings(ContenderSettings):
    """Parameters of a schedule."""

    warmup_frac: float | None = Field(None, ge=0, lt=1)
    """Part of the steps in which the rate rises; nothing: as the contender has it."""


class OtherSchedule(Contender):
    """A script whose schedule was changed to another one.

    Attributes:
        schedule: Which.
        warmup_frac: Part of the steps in which the rate rises; None: the user's.
    """

    role = "recipe"
    settings = ScheduleSettings
    gets_round = ("collapsed_schedule",)
    schedule: ClassVar[Schedule]
    warmup_frac: ClassVar[float | None] = None

    def play(self, trial: Trial) -> Outcome:
        given: ScheduleSettings = self.given
        warmup = self.warmup_frac if given.warmup_frac is None else given.warmup_frac
        recipe = with_schedule(trial.recipe, self.schedule, warmup)
        return Outcome(trained=trial.train(recipe), fault=trial.fault)


def with_schedule(recipe: Recipe, schedule: Schedule, warmup_frac: float | None) -> Recipe:
    """A recipe with another schedule.

    Args:
        recipe: The user's.
        schedule: In place of its own, and of an end that comes too early.
        warmup_frac: None: the user's.
    """
    warmup = recipe.warmup_frac if warmup_frac is None else warmup_frac
    return recipe.with_changes(schedule=schedule, warmup_frac=warmup, decay_after_frac=None)


@register
class Cosine(OtherSchedule):
    """Half a cosine down to nothing (Loshchilov and Hutter 2016, arXiv:1608.03983), with the user's warm-up."""

    name, about = "cosine", "a cosine schedule in place of the user's"
    schedule = "cosine"


@register
class LinearWarmup(OtherSchedule):
    """Up in a tenth of the steps, then straight down (Goyal et al. 2017, arXiv:1706.02677; BERT, arXiv:1810.04805)."""

    name, about = "linear_warmup", "a linear schedule with warm-up in place of the user's"
    schedule, warmup_frac = "linear", 0.1


@register
class WarmupStableDecay(OtherSchedule):
    """Up, level, and down at the end (Hu et al. 2024, MiniCPM, arXiv:2404.06395; Hägele et al., arXiv:2405.18392)."""

    name, about = "warmup_stable_decay", "a schedule of warm-up, stable part and decay in place of the user's"
    schedule, warmup_frac = "warmup_stable_decay", 0.05
