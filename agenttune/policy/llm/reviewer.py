"""A second language model that reviews commands which another policy proposes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError

from agenttune.config import ReviewerSettings, Settings
from agenttune.errors import ModelUnavailable, SystemFault, UserError
from agenttune.llm.answer_text import Unreadable, answer_in
from agenttune.llm.prompts import Prompts, Rendered, goal_variables
from agenttune.policy.base import Draft, PolicyContext
from agenttune.policy.llm.digest import digest
from agenttune.protocol.model_calls import ChatMessage, ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.reads import HistoryQuery

if TYPE_CHECKING:
    from agenttune.llm import ChatModel

HISTORY = 50
"""Newest commands from which the history in a prompt is made."""
WHY_LETTERS = 500
VARIABLES = (
    *("goal_metric", "goal_direction", "constraints", "context", "command", "rationale", "request"),
    *(
        "progress",
        "goal",
        "curves",
        "knobs",
        "findings",
        "tried",
        "notes",
        "budget",
        "woken_by",
        "layers",
        "states",
        "training",
    ),
)
"""What a template may declare."""

A = TypeVar("A", bound=Settings)
log = logging.getLogger(__name__)


class Reviewer:
    """Asks a second model about commands.

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
        self.why_not, self._chat = ("", chat) if chat is not None else context.open_chat(settings.llm(context.llm))

    @property
    def model(self) -> str:
        """Name of the model that reviews; empty if there is none."""
        return self._settings.llm(self._context.llm).model or ""

    def unavailable(self) -> str:
        """Why nobody would review now; empty if somebody would."""
        why_not = self.why_not or (self._chat.unavailable() if self._chat is not None else "")
        return why_not and f"nobody reviews: {why_not}"

    def ask(
        self,
        draft: Draft,
        observation: Observation,
        answer: type[A],
        without: Callable[[str], A],
        request: Sequence[str] = (),
    ) -> tuple[A, list[ModelCalled]]:
        """The model's answer on a draft, and the calls that it took.

        Args:
            draft: What another wants to do.
            observation: The run as it stands.
            answer: The form of the answer.
            without: Makes the answer that stands for none, from the reason.
            request: What waits for the answer, in lines, for templates that tell it.
        """
        calls: list[ModelCalled] = []
        try:
            if self._chat is None:
                return without(self.why_not or "there is no run to read"), calls
            self._context.catch_up()
            calls += self._chat.check_capabilities(self._name)
            prompt = self.prompt(draft, observation, request)
            called = self._chat.ask(
                [ChatMessage(role="user", content=prompt.text)],
                policy=self._name,
                purpose="review",
                schema=answer.model_json_schema(),
                prompts=[prompt.used],
                temperature=self._settings.temperature,
            )
            calls.append(called)
            if called.details.get("finish_reason") == "length":
                return without("its answer was cut at llm.max_output_tokens"), calls
            return _read(called, answer, without), calls
        except ModelUnavailable as error:
            return without(str(error)), [*calls, *error.calls]
        except (UserError, SystemFault) as error:  # the budget, the control server, or a template that was changed
            return without(str(error)), calls
        except Exception as error:  # whatever it is, nobody has decided, and the next approver is asked
            log.exception("the reviewer %s failed", self._name)
            return without(f"{type(error).__name__}: {error}"), calls

    def prompt(self, draft: Draft, observation: Observation, request: Sequence[str] = ()) -> Rendered:
        """What the reviewer is asked."""
        reader = self._context.reader
        history = None if reader is None else reader.read(HistoryQuery(limit=HISTORY)).history
        seen = digest(observation, history, self._context.budgets)
        given: dict[str, Any] = {
            **goal_variables(self._context.goal),
            "command": json.dumps({"kind": draft.command.kind, **draft.command.arguments()}),
            "rationale": draft.rationale,
            "request": request,
        }
        return self._prompts.render(self._settings.prompt, **vars(seen), **given)


def _read(called: ModelCalled, answer: type[A], without: Callable[[str], A]) -> A:
    """The verdict in an answer, on lines of its own; without one, nobody has decided."""
    content = called.answer.content if called.answer is not None else None
    try:
        verdicts = get_args(answer.model_fields["verdict"].annotation)
        found = answer_in(content, "verdict", "arguments", choices=verdicts, alone=True)
        return answer.model_validate(found)
    except Unreadable as error:
        return without(f"{error.problem}; it said {content!r:.200}" if content else "it said nothing")
    except ValidationError:
        return without(f"it said {content!r:.200} instead of a verdict")
