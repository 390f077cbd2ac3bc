"""Several policies of which one decides: another while the first cannot, or from the cheapest to the dearest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from agenttune.detectors import detect
from agenttune.detectors.effects import effect_in
from agenttune.detectors.trend import changes
from agenttune.policy.base import Decision, Policy
from agenttune.policy.rules import RulePolicy
from agenttune.policy.tried import mark
from agenttune.policy.wrappers.availability import Availability, noted, notice_among, who_decides
from agenttune.policy.wrappers.wrapper import Wrapper, unavailable, walk
from agenttune.protocol.findings import Severity
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord

Occasion = Literal["finding", "evaluation", "cadence", "answer"]
"""Why a policy is asked: a detector's finding, an evaluation, some steps passed, an operator's word or a probation."""
OCCASIONS: tuple[Occasion, ...] = ("finding", "evaluation", "cadence", "answer")


@dataclass(eq=False)
class Fallback(Wrapper):
    """Lets `to` decide while the inner policy cannot, because its endpoint is down or its budget spent."""

    to: Policy
    _availability: Availability = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._availability = Availability(self.inner)

    @property
    def parts(self) -> tuple[Policy, ...]:
        return (self.inner, self.to)

    @property
    def notice(self) -> str:
        return notice_among(self.parts)

    def unavailable(self) -> str:
        return unavailable(self.inner) and unavailable(self.to)

    def decide(self, observation: Observation) -> Decision:
        changed = self._availability.check()
        if not self._availability.why_not:
            return self.inner.decide(observation).then(lambda decision: noted(changed, decision))
        words = changed and f"{changed}; running on {who_decides([self.to])}"
        return self.to.decide(observation).then(lambda decision: noted(words, decision))


@dataclass(eq=False)
class Escalation:
    """Asks its policies in order: the next one when those before have nothing to propose.

    One that cannot decide now is passed over, which is said once, and once when it is asked again.

    Attributes:
        policies: From first to last.
        escalate_on: Occasions on which a policy after the first is asked.
        first_acts_on: Severities of findings on which the first acts while another can decide, and then only where no
            change of another's is still being measured; None: it acts whenever it has something to propose.
    """

    name: str
    policies: tuple[Policy, ...]
    escalate_on: frozenset[Occasion] = frozenset(OCCASIONS)
    first_acts_on: frozenset[Severity] | None = None
    _availability: list[Availability] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._availability = [Availability(policy) for policy in self.policies]

    @property
    def parts(self) -> tuple[Policy, ...]:
        return self.policies

    @property
    def notice(self) -> str:
        return notice_among(self.policies)

    def _available(self) -> list[Policy]:
        return [policy for policy in self.policies if not unavailable(policy)]

    def unavailable(self) -> str:
        return "" if self._available() else "; ".join(unavailable(policy) for policy in self.policies)

    def decide(self, observation: Observation) -> Decision:
        return self._ask(0, observation, Decision(skipped=True))

    def _ask(self, index: int, observation: Observation, so_far: Decision) -> Decision:
        if index == len(self.policies):
            return so_far
        availability = self._availability[index]
        changed = availability.check()
        if availability.why_not:
            words = changed and f"{changed}; running on {who_decides(self._available())}"
            return self._ask(index + 1, observation, joined(so_far, Decision(reason=words, skipped=True)))
        if index == 0 and (left := self._left_to_others(observation)) is not None:
            return self._ask(1, observation, joined(so_far, noted(changed, left)))
        decision = self.policies[index].decide(observation)
        return decision.then(lambda d: self._go_on(index, observation, joined(so_far, noted(changed, d))))

    def _left_to_others(self, observation: Observation) -> Decision | None:
        """Why the first does not act, as its decision; None: it may."""
        if self.first_acts_on is None or self._available()[1:] == []:
            return None
        found = [*detect(observation), *(f for f in observation.findings if f.step == observation.step)]
        if not any(finding.severity in self.first_acts_on for finding in found):
            return Decision(skipped=True)
        change = self._newest_of_others(observation)
        effect = None if change is None else effect_in(observation, change)
        if change is None or effect is None or effect.is_measured:
            return None
        kind, step = change.command.kind, change.ack.step if change.ack is not None else observation.step
        words = f"{self.policies[0].name} holds back: {kind} of step {step} is still being measured"
        return Decision(reason=words, skipped=True)

    def _newest_of_others(self, observation: Observation) -> CommandRecord | None:
        """The newest change that was not made by a rule of the first policy."""
        rules = [rule.name for part in walk(self.policies[0]) if isinstance(part, RulePolicy) for rule in part.rules]
        marks = tuple(mark(rule) for rule in rules)
        others = [c for c in changes(observation) if not (marks and c.proposal.rationale.startswith(marks))]
        return others[-1] if others else None

    def _go_on(self, index: int, observation: Observation, so_far: Decision) -> Decision:
        if so_far.proposals or not self._escalates(observation):
            return so_far
        return self._ask(index + 1, observation, so_far)

    def _escalates(self, observation: Observation) -> bool:
        occasions = {occasion_of(words) for words in observation.woken_by}
        return not occasions or not self.escalate_on.isdisjoint(occasions)


def occasion_of(woken_by: str) -> Occasion:
    """What kind of reason the agent loop's words for waking give."""
    if woken_by.startswith(("finding", "evaluation")):
        return "finding" if woken_by.startswith("finding") else "evaluation"
    return "cadence" if woken_by.endswith("steps") else "answer"


def joined(first: Decision, second: Decision) -> Decision:
    """Two answers to one question as one."""
    return replace(
        second,
        proposals=[*first.proposals, *second.proposals],
        reason="; ".join(filter(None, [first.reason, second.reason])),
        shadowed=[*first.shadowed, *second.shadowed],
        calls=[*first.calls, *second.calls],
        skipped=first.skipped and second.skipped,
        faults=[*first.faults, *second.faults],
        unusable=first.unusable or second.unusable,
        submitted=[*first.submitted, *second.submitted],
    )
