"""Other optimizers, or one more setting of the user's own."""

from __future__ import annotations

from pydantic import Field

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.schedules import with_schedule
from agenttune.bench.faults import WRONG_RATES
from agenttune.config.setting import Positive


class ProdigySettings(ContenderSettings):
    """Parameters of `prodigy`."""

    lr: Positive = 1.0
    """Factor on the rate that Prodigy finds; its documentation says to leave it at 1."""


@register
class ProdigyCosine(Contender):
    """Prodigy, which finds its rate itself, under a cosine (Mishchenko and Defazio 2023, arXiv:2306.06101).

    Its documentation recommends a cosine without restarts, and a rate of 1: the user's own plays no part.
    """

    name, about, role = (
        "prodigy",
        "the optimizer Prodigy with a cosine schedule; the user's rate plays no part",
        "recipe",
    )
    settings = ProdigySettings
    gets_round = (*WRONG_RATES, "collapsed_schedule", "no_warmup", "plateau")

    def play(self, trial: Trial) -> Outcome:
        recipe = with_schedule(trial.recipe, "cosine", None).with_changes(optimizer="prodigy", lr=self.given.lr)
        return Outcome(trained=trial.train(recipe), fault=trial.fault)


class ScheduleFreeSettings(ContenderSettings):
    """Parameters of `schedule_free`."""

    warmup_frac: float = Field(0.05, ge=0, lt=1)
    """Part of the steps in which the rate rises; the authors advise a warm-up (guess of its length)."""


@register
class ScheduleFreeAdamW(Contender):
    """AdamW with averaging in place of a schedule (Defazio et al. 2024, arXiv:2405.15682), at the user's rate."""

    name, about, role = "schedule_free", "Schedule-Free AdamW at the user's rate, without a schedule", "recipe"
    settings = ScheduleFreeSettings
    gets_round = ("collapsed_schedule",)

    def play(self, trial: Trial) -> Outcome:
        recipe = with_schedule(trial.recipe, "constant", self.given.warmup_frac)
        return Outcome(trained=trial.train(recipe.with_changes(optimizer="schedule_free")), fault=trial.fault)


class ClipSettings(ContenderSettings):
    """Parameters of `clip_1`."""

    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""


@register
class Clip(Contender):
    """The user's script with gradients clipped to norm 1 (Pascanu et al. 2013, arXiv:1211.5063)."""

    name, about, role = "clip_1", "the user's recipe with gradients clipped to norm 1", "recipe"
    settings = ClipSettings

    def play(self, trial: Trial) -> Outcome:
        recipe = trial.recipe.with_changes(max_grad_norm=self.given.max_grad_norm)
        return Outcome(trained=trial.train(recipe), fault=trial.fault)
