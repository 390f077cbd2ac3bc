"""The policy that asks a language model: only when it is worth a call, within its budget, at a known cost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agenttune.config import PolicyFile
from agenttune.errors import ModelUnavailable, SystemFault, UserError
from agenttune.llm.prompts import Prompts, Rendered, goal_variables
from agenttune.llm.tools import Toolbox
from agenttune.policy.base import Decision, Policy, PolicyContext
from agenttune.policy.llm.compact import ACTIONS, allowed_now, choose, line_of
from agenttune.policy.llm.conversation import Conversation, ToolForm, tool_texts
from agenttune.policy.llm.digest import digest
from agenttune.policy.llm.pacing import Pacing
from agenttune.policy.wrappers.simple import Background
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.events import POLICY_FAILED
from agenttune.protocol.invalid_values import failure_words
from agenttune.protocol.model_calls import ChatMessage
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author
from agenttune.protocol.reads import HistoryQuery, RunReader
from agenttune.protocol.text import clean

if TYPE_CHECKING:
    from agenttune.llm import ChatModel

log = logging.getLogger(__name__)
FORMS_WITHOUT_TOOLS = {
    "json": "the endpoint takes no tool calls: the model answers with JSON after a schema",
    "text": "the endpoint takes neither tool calls nor a JSON schema: the model answers with JSON in words",
}
HISTORY = 50
"""Newest commands from which the history in a prompt is made."""
SYSTEM_VARIABLES = (
    *("goal_metric", "goal_direction", "constraints", "context", "tools", "protocol", "actions"),
    *("max_commands", "max_turns", "valid_for_steps"),
)
OBSERVATION_VARIABLES = (
    *("training", "progress", "states", "woken_by", "goal", "curves", "knobs", "findings", "tried", "notes", "budget"),
    *("layers", "line", "allowed"),
)
"""What templates may declare."""


class LlmFile(PolicyFile):
    """`type: llm`: a language model reads the run and asks for commands."""

    type: Literal["llm"]
    """Kind of policy."""
    form: Literal["tools", "compact"] = "tools"
    """`tools`: reads and acts with tools. `compact`: one digested line, a few actions, for small models."""
    model: str | None = None
    """Its name at the endpoint; null: `llm.model` of the config file."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature; null: 0 for `compact`, else as in the config file."""
    every_steps: int = Field(100, ge=1)
    """Steps between two calls when nothing happens; findings, evaluations and notes are answered at once."""
    early_every_steps: int = Field(20, ge=1)
    """The same, early in the run."""
    early_until_step: int = Field(100, ge=0)
    """What counts as early."""
    max_wait_steps: int = Field(1000, ge=1)
    """Longest time that the model may ask to be left alone, in steps."""
    valid_for_steps: int = Field(50, ge=1)
    """A command is dropped when it could only be applied later than this after the observation."""
    max_turns: int = Field(6, ge=1)
    """tools: calls of the model in one decision."""
    max_commands: int = Field(3, ge=1)
    """tools: commands in one decision."""
    answer_limit_s: float = Field(60.0, ge=0)
    """tools: seconds that the results of `trial` and `evaluate` are waited for in the decision; 0: they come later."""
    system_prompt: str | None = None
    """A template's name or path; null: `llm_system`, for compact `llm_compact`."""
    observation_prompt: str | None = None
    """A template's name or path; null: `llm_observation`, for compact `llm_line`."""

    @property
    def prompts(self) -> tuple[str, str]:
        """Names of the two templates."""
        system, observation = (
            ("llm_compact", "llm_line") if self.form == "compact" else ("llm_system", "llm_observation")
        )
        return self.system_prompt or system, self.observation_prompt or observation


class LlmPolicy:
    """Asks a language model; proposes nothing when it cannot.

    It never runs bare: a `Background` around it (`policy/wrappers/simple.py`) has it think in a thread, so that its
    decisions come later.

    Args:
        name: Of the policy, in the log.
        file: Its settings.
        context: Goal, model, budgets and the run to read.
        chat: The model; default: as `context.llm` says.

    Raises:
        ConfigError: A template is missing or wrong.
    """

    def __init__(self, name: str, file: LlmFile, context: PolicyContext, chat: ChatModel | None = None) -> None:
        self.name, self._file, self._context = name, file, context
        self._prompts = Prompts(context.project)
        self._prompts.check(file.prompts[0], SYSTEM_VARIABLES)
        self._prompts.check(file.prompts[1], OBSERVATION_VARIABLES)
        llm = context.llm.model_copy(update={"model": file.model}) if file.model else context.llm
        self._why_not, self._chat = ("", chat) if chat is not None else context.open_chat(llm)
        self._temperature = 0.0 if file.temperature is None and file.form == "compact" else file.temperature
        self._pacing = Pacing(file.every_steps, file.early_every_steps, file.early_until_step, file.max_wait_steps)
        self._is_checked = False

    @property
    def settings(self) -> LlmFile:
        """Its file."""
        return self._file

    @property
    def prompt_checksums(self) -> dict[str, str]:
        """SHA-256 of the templates that it is told to use, with what they include, by path."""
        found = (self._prompts.checksum(name) for name in self._file.prompts)
        return {str(path): checksum for path, checksum in found}

    @property
    def notice(self) -> str:
        """One line for whoever starts the run: that there is no model."""
        return self._why_not

    def unavailable(self) -> str:
        """Why no model would be asked now; empty if one would."""
        return self._why_not or (self._chat.unavailable() if self._chat is not None else "")

    def decide(self, observation: Observation) -> Decision:
        """The model's decision; or why it was not asked or did not answer."""
        quiet = self._pacing.why_not_now(observation)
        if quiet:
            return Decision(reason=quiet, skipped=True)
        why_not = self.unavailable()
        if why_not or self._chat is None or self._context.reader is None:
            self._pacing.failed()
            return Decision(reason=clean(why_not, 300) or "there is no run to read", skipped=True)
        return self._asked(self._chat, self._context.reader, observation)

    def _asked(self, chat: ChatModel, reader: RunReader, observation: Observation) -> Decision:
        talk = Conversation(
            chat,
            self.name,
            observation,
            messages=[],
            temperature=self._temperature,
            valid_for_steps=self._file.valid_for_steps,
            asker=self._context.asker,
            answer_limit_s=self._file.answer_limit_s,
        )
        try:
            self._context.catch_up()
            self._check_capabilities(talk)
            self._converse(talk, reader)
        except (UserError, SystemFault) as error:
            # Of the model, the budget, the server or a template: what was noted before is kept.
            talk.trouble(str(error))
            self._pacing.failed()
        except Exception as error:  # a bug of ours or of a library: told, and what was noted before is kept
            log.exception("policy %s failed at step %d", self.name, observation.step)
            talk.trouble(f"{POLICY_FAILED}: {failure_words(error)}")
            self._pacing.failed()
        else:
            self._pacing.asked(observation.step, talk.wait)
        return talk.decision()

    def _check_capabilities(self, talk: Conversation) -> None:
        """Find out once how the model answers."""
        if self._is_checked:
            return
        try:
            talk.calls += talk.chat.check_capabilities(self.name)
        except ModelUnavailable as error:
            talk.calls += error.calls
            raise
        self._is_checked = True
        forms = FORMS_WITHOUT_TOOLS if self._file.form == "tools" else {"text": FORMS_WITHOUT_TOOLS["text"]}
        if any(call.purpose == "probe" for call in talk.calls) and talk.chat.protocol in forms:
            talk.remarks.append(forms[talk.chat.protocol])

    def _converse(self, talk: Conversation, reader: RunReader) -> None:
        toolbox = Toolbox(reader, talk.observation, Author(principal="agent", name=self.name))
        parts = self.opening(talk.observation, toolbox.shapes())
        talk.prompts = [part.used for part in parts]
        talk.messages += messages_of(parts)
        if self._file.form == "compact":
            choose(talk, toolbox)
        else:
            ToolForm(self._file.max_turns, self._file.max_commands).run(talk, toolbox)

    def opening(self, observation: Observation, shapes: list[ToolShape]) -> tuple[Rendered, Rendered]:
        """The first prompts of a decision: the system prompt, which stays the same, and the observation.

        Args:
            observation: The run.
            shapes: The tools there are.
        """
        system, observed = self._file.prompts
        return (
            self._prompts.render(system, **self._system(shapes)),
            self._prompts.render(observed, **self._observed(observation)),
        )

    def _system(self, shapes: list[ToolShape]) -> dict[str, Any]:
        file = self._file
        protocol = self._chat.protocol if self._chat is not None else "tools"
        return {
            **goal_variables(self._context.goal),
            "protocol": protocol,
            "tools": [] if protocol == "tools" else tool_texts(shapes),
            "actions": list(ACTIONS),
            "max_commands": file.max_commands,
            "max_turns": file.max_turns,
            "valid_for_steps": file.valid_for_steps,
        }

    def _observed(self, observation: Observation) -> dict[str, Any]:
        reader, chat = self._context.reader, self._chat
        history = None if reader is None else reader.read(HistoryQuery(limit=HISTORY)).history
        used = None if chat is None else chat.spent
        seen = digest(observation, history, self._context.budgets, used)
        compact = self._file.form == "compact"
        return {
            **vars(seen),
            "line": line_of(observation) if compact else "",
            "allowed": allowed_now(observation) if compact else [],
        }


def messages_of(parts: tuple[Rendered, Rendered]) -> list[ChatMessage]:
    """The first prompts as messages; all but the last are the same in every decision."""
    system, observed = parts
    return [ChatMessage(role="system", content=system.text), ChatMessage(role="user", content=observed.text)]


def make_llm(name: str, file: LlmFile, context: PolicyContext) -> Policy:
    """A policy file of `type: llm`: the model is asked in the background, so that nobody waits for it."""
    return Background(LlmPolicy(name, file, context))
