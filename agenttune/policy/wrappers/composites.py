"""Policy files that are made of other policies, by name or inline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field

from agenttune.config import PolicyFile, ReviewerSettings, Settings, load_yaml
from agenttune.policy.base import Policy, PolicyContext
from agenttune.policy.llm.reviewer import Reviewer
from agenttune.policy.wrappers.alternatives import OCCASIONS, Escalation, Fallback, Occasion
from agenttune.policy.wrappers.second_opinion import SecondOpinion
from agenttune.policy.wrappers.simple import Background, Cooldown, Patience, Shadow
from agenttune.protocol.findings import Severity


def _reference(value: object) -> object:
    if (isinstance(value, str) and value) or (isinstance(value, dict) and "type" in value):
        return value
    raise ValueError(f"give the name or the path of a policy, or a policy with its 'type' (got {value!r:.80})")


Reference = Annotated[Any, BeforeValidator(_reference, json_schema_input_type=str | dict[str, Any])]
"""Another policy: its name, the path of its file, or the content of such a file."""


class EscalationFile(PolicyFile):
    """`type: escalation`: several policies in order; the first that proposes something acts."""

    type: Literal["escalation"]
    """Kind of policy."""
    policies: list[Reference] = Field(min_length=1)
    """Asked in order; the next when those before have nothing to propose. One that cannot decide is left out."""
    escalate_on: list[Occasion] = Field(default_factory=lambda: list(OCCASIONS), min_length=1)
    """Occasions on which a policy after the first is asked."""
    first_acts_on: list[Severity] | None = Field(None, min_length=1)
    """Findings on which the first acts while another can decide, and not while a change of another's is still being
    measured, such as [critical]: it does what cannot wait. null: it acts whenever it has something to propose."""


class FallbackFile(PolicyFile):
    """`type: fallback`: one policy, and another while it cannot decide."""

    type: Literal["fallback"]
    """Kind of policy."""
    policy: Reference
    """Decides while it can."""
    to: Reference
    """Decides while the other cannot: its endpoint is down, its budget spent, or no model is configured."""


class CooldownFile(PolicyFile):
    """`type: cooldown`: lets a policy rest after each command."""

    type: Literal["cooldown"]
    """Kind of policy."""
    policy: Reference
    """Decides."""
    steps: int = Field(ge=1)
    """Steps after any command of an agent before it is asked again."""


class PatienceFile(PolicyFile):
    """`type: patience`: a policy that must ask for the same several times."""

    type: Literal["patience"]
    """Kind of policy."""
    policy: Reference
    """Decides."""
    times: int = Field(2, ge=1)
    """Decisions in a row that must ask for the same kind of command."""
    steps: int = Field(200, ge=1)
    """Within so many steps."""


class ShadowFile(PolicyFile):
    """`type: shadow`: asks a policy, and carries nothing out."""

    type: Literal["shadow"]
    """Kind of policy."""
    policy: Reference
    """Is asked and listened to; nothing that it proposes is carried out."""


class SecondOpinionFile(PolicyFile):
    """`type: second_opinion`: a policy whose commands a language model reviews."""

    type: Literal["second_opinion"]
    """Kind of policy."""
    policy: Reference
    """Proposes."""
    reviewer: ReviewerSettings | str = ReviewerSettings()
    """The model that reviews: its settings, or the path of a YAML file with them, from the config file's folder."""


class Part(Protocol):
    """Opens the policy that a file refers to."""

    def __call__(self, reference: Any, *keys: str | int) -> Policy:
        """The policy of a `Reference` that stands at these keys of the file."""


MakeComposite = Callable[[str, Any, PolicyContext, Part], Policy]


def _escalation(name: str, file: EscalationFile, context: PolicyContext, part: Part) -> Policy:
    policies = tuple(part(reference, "policies", index) for index, reference in enumerate(file.policies))
    acts_on = None if file.first_acts_on is None else frozenset(file.first_acts_on)
    return Escalation(name, policies, frozenset(file.escalate_on), acts_on)


def _second_opinion(name: str, file: SecondOpinionFile, context: PolicyContext, part: Part) -> Policy:
    settings = file.reviewer
    if isinstance(settings, str):
        settings = load_yaml((context.project or Path.cwd()) / settings, ReviewerSettings)
    reviewer = Reviewer(name, settings, context)
    return Background(SecondOpinion(part(file.policy, "policy"), title=name, reviewer=reviewer))


HOLD_BACK = frozenset({"shadow", "patience", "second_opinion"})
"""Of them: those that keep back what the policy inside asks for."""
COMPOSITES: dict[str, tuple[type[Settings], MakeComposite]] = {
    "escalation": (EscalationFile, _escalation),
    "fallback": (FallbackFile, lambda n, f, _, part: Fallback(part(f.policy, "policy"), part(f.to, "to"), title=n)),
    "cooldown": (CooldownFile, lambda n, f, _, part: Cooldown(part(f.policy, "policy"), f.steps, title=n)),
    "patience": (PatienceFile, lambda n, f, _, part: Patience(part(f.policy, "policy"), f.times, f.steps, title=n)),
    "shadow": (ShadowFile, lambda n, f, _, part: Shadow(part(f.policy, "policy"), title=n)),
    "second_opinion": (SecondOpinionFile, _second_opinion),
}
"""`type:` of a policy file made of others -> its settings and how to make the policy, of its name, file and parts."""
