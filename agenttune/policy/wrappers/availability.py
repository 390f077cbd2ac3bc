"""Which policies can decide at the moment, and the words for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agenttune.errors import ConfigError
from agenttune.policy.base import Decision, Policy
from agenttune.policy.wrappers.wrapper import Composite, Interruptible, notice_of, unavailable, walk


@dataclass
class Availability:
    """Whether a policy can decide: said once when it no longer can, and once when it is asked again.

    What it keeps is only what was said: a restarted agent may say it again.
    """

    policy: Policy
    why_not: str = field(init=False)

    def __post_init__(self) -> None:
        # What it has to say for itself at the start is told as a notice; only what changes then is news.
        self.why_not = lost(self.policy)

    def look(self) -> str:
        """Look again; returns what has changed since the last look, in a few words, or nothing."""
        before, self.why_not = self.why_not, unavailable(self.policy)
        if bool(before) == bool(self.why_not):
            return ""
        return (
            f"{self.policy.name} is left out: {self.why_not}" if self.why_not else f"{self.policy.name} is asked again"
        )


def lost(policy: Policy) -> str:
    """Why a policy cannot decide from the start, such as that no model is configured; nothing if it can."""
    return unavailable(policy) and notice_of(policy)


def check_can_act(policy: Policy, name: str) -> None:
    """A policy that nothing could ever bring to act is no policy to put beside a run.

    Args:
        policy: As loaded.
        name: As it was asked for.

    Raises:
        ConfigError: All of it needs a language model, and there is none.
    """
    why = lost(policy)
    if why:
        raise ConfigError(
            f"policy {name} could never act: {why}; or choose one with rules, such as default, which go on without",
            field="policy",
        )


def notice_among(policies: Sequence[Policy]) -> str:
    """What is to be said before a run starts of policies that stand in for each other."""
    left = [policy for policy in policies if not lost(policy)]
    words = [notice_of(policy) for policy in left]
    reasons = [why for policy in policies if (why := lost(policy))]
    if reasons:
        words.append(f"{'; '.join(dict.fromkeys(reasons))}; running on {alone(left)}")
    return "; ".join(filter(None, words))


def alone(policies: Sequence[Policy]) -> str:
    """Who decides when others cannot, such as `rules alone (guardian)`."""
    names = ", ".join(policy.name for policy in policies)
    if any(isinstance(part, Interruptible) and not isinstance(part, Composite) for p in policies for part in walk(p)):
        return f"{names} alone"
    return f"rules alone ({names})" if names else "nothing"


def with_news(news: str, decision: Decision) -> Decision:
    """A decision whose reason begins with what has changed among the policies."""
    return replace(decision, reason="; ".join(filter(None, [news, decision.reason]))) if news else decision
