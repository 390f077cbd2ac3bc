"""The full form of a language-model policy: the model reads the run and proposes commands with tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttune.errors import UserError
from agenttune.llm.answer_text import without_thinking
from agenttune.llm.prompts import fenced
from agenttune.llm.tools import MAX_ANSWER_CHARACTERS, Toolbox, ToolOutcome, accepted_names
from agenttune.policy.base import Draft
from agenttune.policy.llm.conversation import MAX_REPAIRS, Conversation
from agenttune.policy.llm.history import answer_words
from agenttune.policy.llm.json_answers import answer_schema, read_json_answer
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import DoEvaluate, Probe
from agenttune.protocol.model_calls import ChatMessage, ToolUse
from agenttune.protocol.text import clean

MOST_USES = 16
"""Tool calls that are carried out of one answer; the model is told of the rest."""
ERROR_LETTERS = 4000
RESULT_LETTERS = MAX_ANSWER_CHARACTERS
"""A tool's result is bounded where it is made; nothing is cut here."""
ANSWERED = (Probe, DoEvaluate)
"""Commands whose results a model gets in the same decision."""
UNREAD = ToolUse(id="answer", name="", arguments="")
"""Stands for the call of an answer that could not be read."""
LAST_TURN = "This was the last reading: answer now with a command, with `wait`, or with nothing."


@dataclass(frozen=True)
class _Result:
    """The result of one tool call."""

    use: ToolUse
    text: str
    is_wrong: bool = False
    was_reading: bool = False


@dataclass(frozen=True)
class ToolForm:
    """Lets the model call tools until it has decided.

    Attributes:
        max_turns: Calls of the model in one decision.
        max_commands: Commands of one decision.
    """

    max_turns: int
    max_commands: int

    def run(self, talk: Conversation, toolbox: Toolbox) -> None:
        """Converse until the model has decided, or a limit is reached.

        Raises:
            BudgetSpent, ModelUnavailable: Before the end; what was noted until then is in the conversation.
        """
        shapes, wrong_turns = toolbox.shapes(), 0
        for turns_left in reversed(range(self.max_turns)):
            results = self._turn(talk, toolbox, shapes)
            wrong = [result for result in results if result.is_wrong]
            wrong_turns += bool(wrong)
            for result in wrong:
                talk.refuse(result.text)
            if not wrong and not any(result.was_reading for result in results):
                return
            if wrong_turns > MAX_REPAIRS:
                talk.trouble(f"given up after {MAX_REPAIRS} corrections: {wrong[0].text}")
                return
            if turns_left:
                _answer(talk, results, LAST_TURN if turns_left == 1 else "")
        talk.trouble(f"stopped after {self.max_turns} turns")

    def _turn(self, talk: Conversation, toolbox: Toolbox, shapes: Sequence[ToolShape]) -> list[_Result]:
        try:
            uses = self._uses(talk, shapes)
        except UserError as error:
            if error.field != "answer":
                raise
            return [_Result(UNREAD, error.message, is_wrong=True)]
        return [self._use(use, talk, toolbox, nth) for nth, use in enumerate(uses)]

    def _uses(self, talk: Conversation, shapes: Sequence[ToolShape]) -> list[ToolUse]:
        """The model's tool calls; its words become the reason."""
        if talk.chat.protocol == "tools":
            answer = talk.ask(tools=shapes)
            talk.said = without_thinking(answer.content) or talk.said
            return answer.tool_uses
        # With protocol `text` the system prompt has the schemas in words.
        answer = talk.ask(schema=answer_schema(shapes) if talk.chat.protocol == "json" else None)
        if not without_thinking(answer.content):
            return []
        talk.said, uses = read_json_answer(answer.content or "", accepted_names(shapes))
        return uses

    def _use(self, use: ToolUse, talk: Conversation, toolbox: Toolbox, nth: int) -> _Result:
        try:
            if nth >= MOST_USES:
                raise UserError(f"not done: at most {MOST_USES} tools at a time")
            outcome = toolbox.call(use.name, use.arguments)
            if outcome.withdrawn is not None:
                # The decision goes on: the model may propose something else instead.
                return _Result(use, _withdraw(outcome.withdrawn, talk), was_reading=True)
            if (found := self._answered(outcome, talk)) is not None:
                return _Result(use, found, was_reading=True)
            if outcome.commands:
                return _Result(use, self._draft(outcome, talk))
        except UserError as error:
            return _Result(use, f"ERROR in {clean(use.name, 64)}: {_with_allowed(error)}", is_wrong=True)
        if outcome.wait is not None:
            talk.wait, talk.said = outcome.wait, talk.said or outcome.rationale
        return _Result(use, outcome.text, was_reading=outcome.wait is None)

    def _answered(self, outcome: ToolOutcome, talk: Conversation) -> str | None:
        """The answer to what measures the run, which the decision may rest on; None: nothing of the kind."""
        command = outcome.command
        if not isinstance(command, ANSWERED):
            return None
        if len(talk.noted) + len(talk.submitted) >= self.max_commands:
            raise UserError(f"at most {self.max_commands} commands in one decision; this one was left out")
        record = talk.answered(command, outcome.rationale, outcome.valid_for_steps)
        return None if record is None else answer_words(record, talk.answer_limit_s)

    def _draft(self, outcome: ToolOutcome, talk: Conversation) -> str:
        asked = list(outcome.commands)
        known = next((n for n, noted in talk.noted.items() if [draft.command for draft in noted] == asked), None)
        if known is not None:
            return f"already noted as {known}"
        if len(talk.noted) >= self.max_commands:
            raise UserError(f"at most {self.max_commands} commands in one decision; this one was left out")
        number = talk.draft(*asked, rationale=outcome.rationale, valid_for_steps=outcome.valid_for_steps)
        return f"noted as {number}; it is submitted when this decision ends"


def _with_allowed(error: UserError) -> str:
    """An error with what is allowed, where it does not say so itself."""
    allowed = "" if error.allowed is None else json.dumps(error.allowed, default=str)
    names = error.allowed if isinstance(error.allowed, list) else []
    is_said = not allowed or allowed in error.message or (names and str(names[0]) in error.message)
    return error.message if is_said else f"{error.message}; allowed: {allowed}"


def _withdraw(number: int, talk: Conversation) -> str:
    if number not in talk.noted:
        there = ", ".join(f"{n} ({_kinds(noted)})" for n, noted in talk.noted.items()) or "none"
        raise UserError(f"no command is noted as {number}; noted: {there}", field="number", allowed=list(talk.noted))
    return f"{_kinds(talk.noted.pop(number))} is withdrawn; it will not be submitted"


def _kinds(noted: Sequence[Draft]) -> str:
    return ", ".join(draft.command.kind for draft in noted)


def _answer(talk: Conversation, results: Sequence[_Result], remark: str) -> None:
    """Tell the model the results of its tool calls, in the kind of message that its protocol has."""
    texts = [_shown(result) for result in results]
    if talk.chat.protocol != "tools":
        listed = [f"{fenced(r.use.name, 64)}: {text}" for r, text in zip(results, texts, strict=True)]
        talk.tell("\n".join(["Results:", *listed, *([remark] if remark else [])]))
        return
    for result, text in zip(results, texts, strict=True):
        if result.use is not UNREAD:
            talk.messages.append(ChatMessage(role="tool", content=text, tool_use_id=result.use.id))
        else:  # an answer that could not be read has called nothing that a result could belong to
            talk.tell(text)
    if remark:
        talk.tell(remark)


def _shown(result: _Result) -> str:
    """A result in its fence: it holds names from the log, and so does an error."""
    return fenced(result.text, ERROR_LETTERS if result.is_wrong else RESULT_LETTERS)


def tool_texts(shapes: Sequence[ToolShape]) -> list[dict[str, Any]]:
    """Tools as a prompt lists them, for models that are not given them otherwise."""
    return [
        {"name": s.name, "description": " ".join(s.description.split()), "parameters": _compact(s.parameters)}
        for s in shapes
    ]


def _compact(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
