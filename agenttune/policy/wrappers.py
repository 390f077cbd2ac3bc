"""Policies around policies: patience is composed, not a flag of each policy."""

from __future__ import annotations

from dataclasses import dataclass

from agenttune.observation import Observation
from agenttune.policy.base import Decision, Policy, asked_at_step, by_agents


@dataclass(frozen=True)
class Cooldown:
    """Lets `inner` decide only when `steps` steps have passed since the agent's newest command."""

    inner: Policy
    steps: int

    @property
    def name(self) -> str:
        return self.inner.name

    def decide(self, observation: Observation) -> Decision:
        newest = max((asked_at_step(c) for c in by_agents(observation)), default=None)
        if newest is not None and observation.step - newest < self.steps:
            return Decision(reason=f"waiting until step {newest + self.steps} after the command at step {newest}")
        return self.inner.decide(observation)
