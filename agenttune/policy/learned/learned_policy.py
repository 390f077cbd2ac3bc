"""Proposes the change of which the members foretell most, where they agree that it helps; abstains elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agenttune.policy.base import Decision, Draft, asked_at_step, by_agents
from agenttune.policy.learned.ensemble import Ensemble
from agenttune.policy.learned.features import inputs
from agenttune.policy.learned.possible_changes import PossibleChange, possible
from agenttune.policy.learned.snapshot import Snapshot
from agenttune.policy.run_spans import in_steps
from agenttune.policy.tried import mark, not_again
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.observation import Observation

if TYPE_CHECKING:
    from agenttune.policy.learned.learned_file import LearnedFile

VALID_FOR_STEPS = 500
ROUNDING = 1e-9


@dataclass(frozen=True)
class Foretold:
    """A change that makes sense, and what the members foretell of it.

    Attributes:
        sure: The gain that `min_agreement` of the members foretell at least.
        mean: Their mean.
    """

    change: PossibleChange
    command: CommandBase
    sure: float
    mean: float


@dataclass(frozen=True)
class LearnedPolicy:
    """As its file says.

    Attributes:
        ensemble: Foretells gains.
    """

    name: str
    settings: LearnedFile
    ensemble: Ensemble

    def decide(self, observation: Observation) -> Decision:
        if wait := self._must_wait(observation):
            return Decision(reason=wait)
        foretold = self.foretell(Snapshot.of(observation), observation.not_offered)
        if not foretold:
            return Decision(reason="no change makes sense here")
        refused: list[str] = []
        for one in foretold:
            if one.sure < self.settings.min_gain:
                break
            why_not = not_again(observation, one.change.name)
            if not why_not:
                return self._propose(one)
            refused.append(f"{one.change.name}: {why_not}")
        return Decision(reason="; ".join([*refused, self._abstains(foretold[0])]))

    def foretell(self, snapshot: Snapshot, not_offered: Collection[str] = ()) -> list[Foretold]:
        """Of all changes that make sense in a run as it stands, the surest gain first.

        Args:
            snapshot: The run.
            not_offered: Kinds of commands that it does not take.
        """
        changes = [(change, command) for change, command in possible(snapshot) if command.kind not in not_offered]
        if not changes:
            return []
        gains = self.ensemble.gains(inputs(snapshot, [change for change, _ in changes]))
        may_differ = int((1 - self.settings.min_agreement) * self.ensemble.members + ROUNDING)
        sure = np.sort(gains, axis=0)[may_differ]
        rows = zip(changes, sure, gains.mean(axis=0), strict=True)
        found = [Foretold(change, command, float(low), float(mean)) for (change, command), low, mean in rows]
        return sorted(found, key=lambda one: -one.sure)

    def _must_wait(self, observation: Observation) -> str:
        own = [command for command in by_agents(observation) if command.ack is not None]
        if len(own) >= self.settings.max_changes:
            return f"has made {self.settings.max_changes} changes"
        rest = in_steps(self.settings.rest_steps, observation.max_steps, 0)
        since = observation.step - max(map(asked_at_step, own), default=-rest)
        return f"the newest change was made {since} steps ago, waits {rest}" if 0 <= since < rest else ""

    def _propose(self, one: Foretold) -> Decision:
        agreed, members = self.settings.min_agreement, self.ensemble.members
        foretold = f"a gain of {one.sure:.0%} at least, {one.mean:.0%} on average"
        words = mark(one.change.name) + f"{agreed:.0%} of {members} members foretell {foretold}"
        return Decision([Draft(one.command, words, VALID_FOR_STEPS)], words)

    def _abstains(self, best: Foretold) -> str:
        settings = self.settings
        most = f"{best.change.name}: {settings.min_agreement:.0%} foretell {best.sure:.0%} at least"
        return f"the members agree on no gain of {settings.min_gain:.0%}; they think most of {most}"
