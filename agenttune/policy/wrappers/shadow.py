"""A policy that is only listened to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agenttune.policy.base import Decision
from agenttune.policy.wrappers.wrapper import Wrapper
from agenttune.protocol.observation import Observation


@dataclass(frozen=True)
class Shadow(Wrapper):
    """Asks for nothing: what the inner policy would have asked for is recorded, to be scored afterwards."""

    def decide(self, observation: Observation) -> Decision:
        return self.inner.decide(observation).then(_in_shadow)


def _in_shadow(decision: Decision) -> Decision:
    if not decision.proposals:
        return decision
    shadowed = [*decision.shadowed, *decision.proposals]
    return replace(decision, proposals=[], shadowed=shadowed, reason=f"in shadow: {decision.reason}")
