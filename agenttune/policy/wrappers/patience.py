"""Acting only on what was wanted several times in a row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agenttune.policy.base import Decision
from agenttune.policy.wrappers.wrapper import Wrapper
from agenttune.protocol.observation import Observation


@dataclass(frozen=True)
class Patience(Wrapper):
    """Lets a command through when the inner policy asked for its kind `times` times in a row within `steps` steps.

    What was asked for and held back stands in no observation, so it is counted here. A restarted agent counts anew:
    it waits longer than it must, never shorter.
    """

    times: int
    steps: int
    _row: list[tuple[int, frozenset[str]]] = field(default_factory=list, repr=False, compare=False)

    def decide(self, observation: Observation) -> Decision:
        return self.inner.decide(observation).then(lambda decision: self._hold(decision, observation.step))

    def _hold(self, decision: Decision, step: int) -> Decision:
        if decision.skipped:
            return decision
        if not decision.proposals:
            self._row.clear()
            return decision
        self._row[:] = [(at, kinds) for at, kinds in self._row if step - self.steps < at < step]
        self._row.append((step, frozenset(draft.command.kind for draft in decision.proposals)))
        let_through, held = [], {}
        for draft in decision.proposals:
            count = self._times_in_a_row(draft.command.kind)
            if count >= self.times:
                let_through.append(draft)
            else:
                held[draft.command.kind] = f"asked for {count} of {self.times} times in a row"
        if let_through:
            self._row.clear()
        words = [decision.reason, *(f"{kind} is held back: {why}" for kind, why in held.items())]
        return replace(decision, proposals=let_through, reason="; ".join(filter(None, words)))

    def _times_in_a_row(self, kind: str) -> int:
        wanted = [kind in kinds for _, kinds in reversed(self._row)]
        return wanted.index(False) if False in wanted else len(wanted)
