"""Another policy while the first one cannot decide."""

from __future__ import annotations

from dataclasses import dataclass, field

from agenttune.policy.base import Decision, Policy
from agenttune.policy.wrappers.availability import Availability, alone, notice_among, with_news
from agenttune.policy.wrappers.wrapper import Wrapper, unavailable
from agenttune.protocol.observation import Observation


@dataclass(frozen=True)
class Fallback(Wrapper):
    """Lets `to` decide while the inner policy cannot, for its endpoint is down or its budget spent, and back."""

    to: Policy
    _inner: Availability = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inner", Availability(self.inner))

    @property
    def parts(self) -> tuple[Policy, ...]:
        return (self.inner, self.to)

    @property
    def notice(self) -> str:
        return notice_among(self.parts)

    def unavailable(self) -> str:
        return unavailable(self.inner) and unavailable(self.to)

    def decide(self, observation: Observation) -> Decision:
        news = self._inner.look()
        if not self._inner.why_not:
            return self.inner.decide(observation).then(lambda decision: with_news(news, decision))
        words = news and f"{news}; running on {alone([self.to])}"
        return self.to.decide(observation).then(lambda decision: with_news(words, decision))
