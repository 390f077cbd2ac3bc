"""Which policies can decide at the moment, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agenttune.errors import ConfigError
from agenttune.policy.base import Decision, Policy
from agenttune.policy.wrappers.wrapper import Composite, Interruptible, notice_of, unavailable, walk


@dataclass
class Availability:
    """Whether a policy can decide: told once when it no longer can, and once when it is asked again.

    A restarted agent may tell it again.
    """

    policy: Policy
    why_not: str = field(init=False)

    def __post_init__(self) -> None:
        # What is so from the start is told as the policy's notice.
        self.why_not = never_available(self.policy)

    def check(self) -> str:
        """What has changed since the last check, in a few words; empty if nothing has."""
        before, self.why_not = self.why_not, unavailable(self.policy)
        if bool(before) == bool(self.why_not):
            return ""
        return (
            f"{self.policy.name} is left out: {self.why_not}" if self.why_not else f"{self.policy.name} is asked again"
        )


def never_available(policy: Policy) -> str:
    """Why a policy cannot decide from the start, such as that no model is configured; empty if it can."""
    return unavailable(policy) and notice_of(policy)


def check_can_act(policy: Policy, name: str) -> None:
    """Refuse a policy that could never act.

    Args:
        policy: As loaded.
        name: As it was asked for.

    Raises:
        ConfigError: All of it needs a language model, and there is none.
    """
    why = never_available(policy).removeprefix(f"policy {name} ")
    if why:
        raise ConfigError(
            f"policy {name} could never act: {why}; or choose one with rules, such as default, which go on without",
            field="policy",
        )


def notice_among(policies: Sequence[Policy]) -> str:
    """One line before a run starts about policies that stand in for each other; empty if all can decide."""
    left = [policy for policy in policies if not never_available(policy)]
    words = [notice_of(policy) for policy in left]
    reasons = [why for policy in policies if (why := never_available(policy))]
    if reasons:
        words.append(f"{'; '.join(dict.fromkeys(reasons))}; running on {who_decides(left)}")
    return "; ".join(filter(None, words))


def who_decides(policies: Sequence[Policy]) -> str:
    """Who is left to decide, such as `rules alone (guardian)`."""
    names = ", ".join(policy.name for policy in policies)
    if any(isinstance(part, Interruptible) and not isinstance(part, Composite) for p in policies for part in walk(p)):
        return f"{names} alone"
    return f"rules alone ({names})" if names else "nothing"


def noted(words: str, decision: Decision) -> Decision:
    """A decision whose reason begins with these words."""
    return replace(decision, reason="; ".join(filter(None, [words, decision.reason]))) if words else decision
