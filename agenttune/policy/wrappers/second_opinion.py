"""One policy proposes, a model reviews: only what the reviewer approves is proposed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from agenttune.config import Settings
from agenttune.policy.base import Decision, Draft
from agenttune.policy.llm.reviewer import WHY_LETTERS, Reviewer
from agenttune.policy.wrappers.wrapper import Wrapper, unavailable
from agenttune.protocol.observation import Observation
from agenttune.protocol.text import clean

NO_ANSWER = "no answer of the reviewer"


class Review(Settings):
    """A reviewer's answer. The reason comes first, so that the verdict follows from it."""

    why: str
    """One or two sentences, with figures."""
    verdict: Literal["approve", "veto"]
    """Whether the command may be asked for."""


def _veto(why: str) -> Review:
    return Review(verdict="veto", why=clean(f"{NO_ANSWER}: {why}", WHY_LETTERS))


@dataclass(eq=False)
class SecondOpinion(Wrapper):
    """Proposes what the inner policy proposes and the reviewer approves. Slow: to be wrapped in `Background`."""

    reviewer: Reviewer = field(kw_only=True)

    @property
    def notice(self) -> str:
        return "; ".join(filter(None, [super().notice, self.reviewer.why_not and self.reviewer.unavailable()]))

    def unavailable(self) -> str:
        return unavailable(self.inner) or self.reviewer.unavailable()

    def decide(self, observation: Observation) -> Decision:
        decision = self.inner.decide(observation)
        # This runs in a thread of its own, so that waiting here holds up nobody.
        return self._reviewed(decision if decision.later is None else decision.later.result(), observation)

    def _reviewed(self, decision: Decision, observation: Observation) -> Decision:
        approved: list[Draft] = []
        calls, words, faults = list(decision.calls), [decision.reason], list(decision.faults)
        for draft in decision.proposals:
            review, made = self.reviewer.ask(draft, observation, Review, _veto)
            calls += made
            why = clean(review.why, WHY_LETTERS)
            words.append(f"{draft.command.kind} {'approved' if review.verdict == 'approve' else 'vetoed'}: {why}")
            if review.why.startswith(NO_ANSWER):
                faults.append(why)
            if review.verdict == "approve":
                approved.append(replace(draft, rationale=f"{draft.rationale} (reviewed: {why})"))
        reason = "; ".join(filter(None, words))
        return replace(decision, proposals=approved, calls=calls, reason=reason, faults=faults)
