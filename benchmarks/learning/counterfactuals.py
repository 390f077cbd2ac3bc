"""One training, done again and again: each time with one change more at one moment, and all else the same to the bit.

What the change gained is then the difference of the two results, whatever the training would have done by itself.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agenttune.bench.catalog import TaskFacts, facts_of
from agenttune.bench.cell import Cell, Outcome
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.bench.seeds import seed_generators
from agenttune.bench.training import Trained
from agenttune.config.plugins import forget_loaded
from agenttune.policy.base import Decision, Draft, PolicyContext
from agenttune.policy.learned.possible_changes import possible
from agenttune.policy.learned.snapshot import Snapshot
from agenttune.policy.load import LoadedPolicy
from agenttune.protocol.observation import Observation
from agenttune.replay.learning.moments import BY_NAME, TrainingExample, gain_of
from benchmarks.learning.units import Unit

FIRST, SECOND = 8, 5
"""Runs of a unit with one change, and with two (guess: what comes after a change has to be learned too)."""
EARLY = 1.4
"""The moment of a change is drawn evenly in this root of the way: early ones matter more (guess)."""
WITH_FINDING = 0.5
"""Part of the moments that are drawn among those at which something is found, where there are any (guess)."""
VALID_FOR_STEPS = 500

Plan = Mapping[int, str]
"""Name of the change by the number of the decision at which it is asked for."""


@dataclass
class PlannedPolicy:
    """Asks for what its plan says, and keeps what was known at each decision."""

    plan: Plan
    name: str = "planned"
    known: list[Snapshot] = field(default_factory=list)

    def decide(self, observation: Observation) -> Decision:
        snapshot, number = Snapshot.of(observation), len(self.known)
        self.known.append(snapshot)
        change = self.plan.get(number)
        command = None if change is None else BY_NAME[change].command(snapshot)
        if command is None:
            return Decision(reason="nothing is planned here")
        return Decision([Draft(command, f"{change}: as planned", VALID_FOR_STEPS)], f"{change}: as planned")


@dataclass(frozen=True)
class Played:
    """A training with a plan.

    Attributes:
        cost: The task's metric in the end such that less is better, cut where the training was ruined.
        took: Whether all that was planned took effect.
    """

    plan: Plan
    known: Sequence[Snapshot]
    cost: float
    took: bool


class _PlannedContender(PolicyContender):
    """Lets a plan take part."""

    def __init__(self, policy: PlannedPolicy) -> None:
        super().__init__(PolicySettings(policy=policy.name))
        self._policy = policy

    def _open(self, context: PolicyContext, until_step: int) -> LoadedPolicy:
        return LoadedPolicy(self._policy, Path(self._policy.name), "")


def play_plan(unit: Unit, plan: Plan, folder: Path) -> Played:
    """Train with it.

    Args:
        folder: For the run's log; removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    policy = PlannedPolicy(plan)
    try:
        outcome = take_part(policy, unit.cell, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    took = sum(done.is_change for done in outcome.interventions) == len(plan)
    cost = _cost(facts_of(unit.cell.scenario), outcome.trained)
    return Played(plan, policy.known, cost, took and not outcome.failure)


def take_part(policy: PlannedPolicy, cell: Cell, folder: Path) -> Outcome:
    """Do a cell with a plan; the run's log stays in the folder."""
    forget_loaded()
    seed_generators(cell)
    return _PlannedContender(policy).play(Trial(cell, facts_of(cell.scenario), folder, folder))


def _cost(facts: TaskFacts, trained: Trained | None) -> float:
    """No more than the start and once the way from there to a good end: how far beyond a ruin is says nothing."""
    start = trained.start if trained is not None and trained.start is not None else facts.chance
    before = facts.cost(start if start is not None and math.isfinite(start) else facts.chance or facts.target)
    most = before + max(before - facts.cost(facts.target), 0.0)
    end = math.nan if trained is None else facts.cost(trained.final)
    return min(end, most) if math.isfinite(end) else most


def moments_of(unit: Unit, folder: Path) -> list[TrainingExample]:
    """What single changes were worth in it: at drawn moments of the run as it is, and of some with one change before.

    Args:
        folder: For logs; removed.
    """
    source = random.Random(f"changes of unit {unit.number}")
    alone = play_plan(unit, {}, folder)
    found: list[TrainingExample] = []
    played = _tried(unit, alone, 0, FIRST, source, folder, found)
    for _ in range(SECOND if played else 0):
        # Of two, the one that came to more: a policy that is any good goes on from such.
        first = min(source.choices(played, k=2), key=lambda one: one.cost)
        _tried(unit, first, max(first.plan) + 1, 1, source, folder, found)
    return found


def _tried(
    unit: Unit, base: Played, begin: int, count: int, source: random.Random, folder: Path, found: list[TrainingExample]
) -> list[Played]:
    """Some changes in one run; adds what they were worth to `found`."""
    done: list[Played] = []
    seen: set[tuple[int, str]] = set()
    for _ in range(count):
        drawn = _draw(base, begin, source, seen)
        if drawn is None:
            break
        number, change = drawn
        seen.add(drawn)
        one = play_plan(unit, {**base.plan, number: change}, folder)
        if one.took:
            done.append(one)
            gain = gain_of(base.cost, one.cost)
            found.append(
                TrainingExample(f"unit {unit.number}", unit.task, unit.group, base.known[number], change, gain)
            )
    return done


def _draw(base: Played, begin: int, source: random.Random, seen: set[tuple[int, str]]) -> tuple[int, str] | None:
    """A moment and a change there; None if none was found that makes sense and is new."""
    numbers = range(begin, len(base.known) - 1)  # after the last decision nothing is left to gain
    if not numbers:
        return None
    critical = [number for number in numbers if any(base.known[number].group("found").values())]
    for _ in range(20):
        if critical and source.random() < WITH_FINDING:
            number = source.choice(critical)
        else:
            number = numbers[int(len(numbers) * source.random() ** EARLY)]
        changes = [change.name for change, _ in possible(base.known[number])]
        change = source.choice(changes) if changes else ""
        if change and (number, change) not in seen:
            return number, change
    return None
