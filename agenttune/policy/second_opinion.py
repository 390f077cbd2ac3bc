"""One model proposes, another reviews: nothing that the reviewer does not approve is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from agenttune.config import LlmSettings, Settings
from agenttune.errors import ModelUnavailable, SystemFault, UserError
from agenttune.observation import Observation
from agenttune.policy.base import Decision, Draft, PolicyContext
from agenttune.policy.digest import digest
from agenttune.policy.wrappers import Wrapper, unavailable
from agenttune.prompting import Prompts, Rendered, cleaned
from agenttune.transcripts import ChatMessage, ModelCalled

if TYPE_CHECKING:
    from agenttune.chat import ChatModel

HISTORY = 50
"""Commands that are looked through for what was tried."""
CONTEXT_LETTERS, WHY_LETTERS = 8000, 500
VARIABLES = (
    *("goal_metric", "goal_direction", "constraints", "context", "command", "rationale"),
    *("progress", "goal", "curves", "knobs", "findings", "tried", "notes", "budget", "woken_by"),
)
"""What a template may declare."""


class ReviewerSettings(Settings):
    """The model that reviews; what is not given is as in `llm` of the config file."""

    model: str | None = None
    """Its name at the endpoint; better another model than the one that proposes."""
    base_url: str | None = None
    """Its endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable that holds its key."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """Sampling temperature; null: the endpoint's own."""
    prompt: str = "review"
    """A template's name or path."""

    def llm(self, llm: LlmSettings) -> LlmSettings:
        """The settings of the model."""
        given = {name: value for name in ("model", "base_url", "api_key_env") if (value := getattr(self, name))}
        return llm.model_copy(update=given)


class Review(Settings):
    """A reviewer's answer. The reason comes first, so that the verdict follows from it."""

    why: str
    """One or two sentences, with figures."""
    verdict: Literal["approve", "veto"]
    """Whether the command may be asked for."""


class Reviewer:
    """Asks a second model about drafts. No answer is a veto.

    Args:
        name: Of the policy, in the log.
        settings: The model and its prompt.
        context: Goal, model, budgets and the run to read.
        chat: The model; default: as the settings say.

    Raises:
        ConfigError: The template is missing or wrong.
    """

    def __init__(
        self, name: str, settings: ReviewerSettings, context: PolicyContext, chat: ChatModel | None = None
    ) -> None:
        self._name, self._settings, self._context = name, settings, context
        self._prompts = Prompts(context.project)
        self._prompts.check(settings.prompt, VARIABLES)
        self.why_not, self._chat = ("", chat) if chat is not None else self._made(settings.llm(context.llm))

    def _made(self, llm: LlmSettings) -> tuple[str, ChatModel | None]:
        """Why there is no model; or the model. Neither without a run."""
        from agenttune.chat import OpenAIChat, is_configured  # its client is slow to import

        context = self._context
        why_not = is_configured(llm, context.environ)
        if why_not or context.reader is None:
            return why_not, None
        return "", OpenAIChat(llm, context.budgets, context.spent, context.environ)

    @property
    def model(self) -> str:
        """Name of the model that reviews; empty if there is none."""
        return self._settings.llm(self._context.llm).model or ""

    def unavailable(self) -> str:
        """Why nobody would review now; empty if somebody would."""
        why_not = self.why_not or (self._chat.unavailable() if self._chat is not None else "")
        return why_not and f"nobody reviews: {why_not}"

    def review(self, draft: Draft, observation: Observation) -> tuple[Review, list[ModelCalled]]:
        """The verdict on a draft, and the calls that it took; a veto where there was no answer."""
        calls: list[ModelCalled] = []
        try:
            if self._chat is None:
                return _veto(self.why_not or "there is no run to read"), calls
            calls += self._chat.probe(self._name)
            prompt = self.prompt(draft, observation)
            called = self._chat.ask(
                [ChatMessage(role="user", content=prompt.text)],
                policy=self._name,
                purpose="review",
                schema=Review.model_json_schema(),
                prompts=[prompt.used],
                temperature=self._settings.temperature,
            )
            calls.append(called)
            return _read(called), calls
        except ModelUnavailable as error:
            failed = getattr(error, "call", None)
            return _veto(str(error)), [*calls, *([failed] if isinstance(failed, ModelCalled) else [])]
        except (UserError, SystemFault) as error:  # the budget, the control server, or a template that was changed
            return _veto(str(error)), calls

    def prompt(self, draft: Draft, observation: Observation) -> Rendered:
        """What the reviewer is asked."""
        goal, reader = self._context.goal, self._context.reader
        seen = digest(observation, None if reader is None else reader.history(HISTORY), self._context.budgets)
        given: dict[str, Any] = {
            "goal_metric": goal.metric,
            "goal_direction": goal.direction,
            "constraints": [cleaned(text, CONTEXT_LETTERS) for text in goal.constraints],
            "context": cleaned(goal.context, CONTEXT_LETTERS, lines=True),
            "command": json.dumps({"kind": draft.command.kind, **draft.command.arguments()}),
            "rationale": draft.rationale,
        }
        return self._prompts.render(self._settings.prompt, **vars(seen), **given)


def _veto(why: str) -> Review:
    return Review(verdict="veto", why=cleaned(f"no answer of the reviewer: {why}", WHY_LETTERS))


def _read(called: ModelCalled) -> Review:
    from agenttune.chat import unwrapped

    content = called.answer.content if called.answer is not None else None
    value = unwrapped(content)
    try:
        return Review.model_validate(value)
    except ValidationError:
        return _veto(f"it said {content!r:.200} instead of a verdict" if content else "it said nothing")


@dataclass(frozen=True)
class SecondOpinion(Wrapper):
    """Asks for what the inner policy proposes and the reviewer approves. Slow: it belongs into the background."""

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
        calls, words = list(decision.calls), [decision.reason]
        for draft in decision.proposals:
            review, made = self.reviewer.review(draft, observation)
            calls += made
            why = cleaned(review.why, WHY_LETTERS)
            words.append(f"{draft.command.kind} {'approved' if review.verdict == 'approve' else 'vetoed'}: {why}")
            if review.verdict == "approve":
                approved.append(replace(draft, rationale=f"{draft.rationale} (reviewed: {why})"))
        return replace(decision, proposals=approved, calls=calls, reason="; ".join(filter(None, words)))
