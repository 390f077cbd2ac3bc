"""Population-based training, with the steps of one run."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.training import Hook, Live
from agenttune.config.setting import Positive
from agenttune.errors import ConfigError


class PopulationSettings(ContenderSettings):
    """Parameters of `population`."""

    members: int = Field(4, ge=2)
    """They share the budget."""
    rounds: int = Field(6, ge=1)
    """So often each of them trains for a while; after each round the worst are replaced (guess)."""
    low: Positive = 0.1
    """Factor on the user's rate of the first member."""
    high: Positive = 10.0
    """Of the last member; the others lie between, evenly in their logarithms."""
    replaced_frac: float = Field(0.25, gt=0, le=0.5)
    """Part of the members that is replaced, and that is copied."""
    perturbations: list[Positive] = Field([0.8, 1.2], min_length=1)
    """A copy's rate is multiplied by one of them (those of the paper)."""


@dataclass
class Member:
    """One of the population: its state between its turns, its factor on the rate, the cost that it reached.

    Attributes:
        step: Steps that led to its state.
    """

    factor: float
    step: int = 0
    saved: Any = None
    cost: float = math.inf


class Population(Hook):
    """All members in one training, in turns: each goes on from its own weights and optimizer state.

    So they see different data, the schedule is that of the part of the budget that is spent, and a lasting fault sets
    in at its place in it, for all of them; what strikes once strikes each member, at its share of the fault's step.
    """

    def __init__(self, facts: TaskFacts, settings: PopulationSettings, budget: int, seed: int) -> None:
        self.facts = facts
        self.settings = settings
        rounds = min(settings.rounds, budget // settings.members)
        turns = rounds * settings.members
        self._ends = {round((i + 1) * budget / turns): i for i in range(turns)}
        ratio = settings.high / settings.low
        shares = [i / (settings.members - 1) for i in range(settings.members)]
        self.members = [Member(settings.low * ratio**share) for share in shares]
        self.changes: list[Intervention] = []
        self._random = random.Random(seed)
        self._factor = 1.0
        self._turn_began = 0

    def started(self, live: Live) -> None:
        start = live.save()
        for member in self.members:
            member.saved = start
        self._take_turn(live, self.members[0])

    def stepped(self, live: Live, loss: float) -> None:
        turn = self._ends.get(live.step)
        if turn is None:
            return
        count = len(self.members)
        member = self.members[turn % count]
        member.saved, member.cost = live.save(), self.facts.cost(live.evaluate())
        member.step += live.step - self._turn_began
        if turn == len(self._ends) - 1:
            return
        if (turn + 1) % count == 0:
            self._replace_worst(live.step)
        self._take_turn(live, self.members[(turn + 1) % count])

    def ended(self, live: Live) -> None:
        live.load(min(self.members, key=lambda m: m.cost).saved)

    def _take_turn(self, live: Live, member: Member) -> None:
        live.load(member.saved)
        live.take_up(member.step, len(self.members))
        self._turn_began = live.step
        live.scale_lr(member.factor / self._factor)
        self._factor = member.factor

    def _replace_worst(self, step: int) -> None:
        """Truncation selection: the worst go on from one of the best, at a rate near its rate."""
        count = max(1, round(self.settings.replaced_frac * len(self.members)))
        ranked = sorted(self.members, key=lambda m: m.cost)
        for loser in ranked[-count:]:
            winner = self._random.choice(ranked[:count])
            was = loser.factor
            loser.saved, loser.cost, loser.step = winner.saved, winner.cost, winner.step
            loser.factor = winner.factor * self._random.choice(self.settings.perturbations)
            words = f"x{was:.3g} goes on from x{winner.factor:.3g} at x{loser.factor:.3g}"
            self.changes.append(Intervention(kind="copy", step=step, state="applied", words=words))


@register
class PopulationBasedTraining(Contender):
    """Population-based training of the rate (Jaderberg et al. 2017, arXiv:1711.09846), with compute matched."""

    name = "population"
    about = "four members at x0.1 to x10 of the rate share the budget; the worst go on from the best"
    role = "recipe"
    settings = PopulationSettings

    def play(self, trial: Trial) -> Outcome:
        given: PopulationSettings = self.given
        if trial.budget < given.members:
            raise ConfigError(f"{given.members} members cannot share {trial.budget} steps: take fewer", field="members")
        hook = Population(trial.facts, given, trial.budget, trial.cell.seed)
        return Outcome(trained=trial.train(hooks=[hook]), fault=trial.fault, interventions=hook.changes)
