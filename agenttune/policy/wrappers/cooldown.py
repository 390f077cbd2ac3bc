"""Waiting after a command."""

from __future__ import annotations

from dataclasses import dataclass

from agenttune.policy.base import Decision, asked_at_step, by_agents
from agenttune.policy.wrappers.wrapper import Wrapper
from agenttune.protocol.observation import Observation


@dataclass(frozen=True)
class Cooldown(Wrapper):
    """Lets the inner policy decide only when `steps` steps have passed since the agent's newest command."""

    steps: int

    def decide(self, observation: Observation) -> Decision:
        newest = max((asked_at_step(c) for c in by_agents(observation)), default=None)
        if newest is not None and observation.step - newest < self.steps:
            words = f"waiting until step {newest + self.steps} after the command at step {newest}"
            return Decision(reason=words, skipped=True)
        return self.inner.decide(observation)
