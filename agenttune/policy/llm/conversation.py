"""One decision's conversation with a language model, which reads the run and proposes commands with tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agenttune.errors import ModelUnavailable, UserError
from agenttune.llm.answer_text import without_thinking
from agenttune.llm.prompts import fenced
from agenttune.llm.tools import MAX_ANSWER_CHARACTERS, Toolbox, ToolOutcome, ToolWait, accepted_names
from agenttune.policy.base import Asker, Decision, Draft
from agenttune.policy.llm.history import answer_words
from agenttune.policy.llm.json_answers import answer_schema, read_json_answer
from agenttune.policy.llm.pacing import describe
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import CommandBase, DoEvaluate, Probe
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, PromptUsed, ToolUse
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal
from agenttune.protocol.text import clean

if TYPE_CHECKING:  # its client takes seconds to import, and most runs have no model
    from agenttune.llm import ChatModel

MAX_REPAIRS = 2
"""How often in one decision the model is told its error and may try again."""
MALFORMED_CALL = "your tool calls could not be read, and nothing was done"
FAULT_LETTERS, MOST_FAULTS, SAME_LETTERS = 200, 3, 60
"""Of refused calls: letters of each, how many are recorded of one decision, and letters that tell two apart."""
REASON_LETTERS, RATIONALE_LETTERS, TROUBLE_LETTERS, ECHO_LETTERS = 1000, 2000, 300, 8000
"""Longest texts: a decision's reason, a command's rationale, a problem, and an answer repeated to the model."""


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


@dataclass
class Conversation:
    """One conversation.

    Attributes:
        chat: The model.
        policy: Name of the policy, for transcripts.
        observation: What the decision rests on.
        messages: Said so far.
        prompts: Templates that went into them.
        temperature: None: as configured.
        valid_for_steps: Of drafts that do not say.
        asker: Asks for what is answered while the conversation goes on; None: nobody.
        answer_limit_s: How long such an answer is waited for, in seconds.
        submitted: Ids of what was asked for like that.
        calls: Made so far, the failed one included.
        noted: What is to be submitted when the decision ends, by the number that the model knows it by: the commands of
            one tool call.
        said: The model's own words.
        refused: Errors of tool calls and answers, which the model was told.
        remarks: What the endpoint does not support, and what is done instead.
        troubles: Why the decision ended early or without an answer.
    """

    chat: ChatModel
    policy: str
    observation: Observation
    messages: list[ChatMessage]
    prompts: Sequence[PromptUsed] = ()
    temperature: float | None = None
    valid_for_steps: int | None = None
    asker: Asker | None = None
    answer_limit_s: float = 0.0
    submitted: list[str] = field(default_factory=list)
    calls: list[ModelCalled] = field(default_factory=list)
    noted: dict[int, tuple[Draft, ...]] = field(default_factory=dict)
    said: str = ""
    wait: ToolWait | None = None
    refused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    _numbers: int = field(default=0, init=False)

    def ask(self, tools: Sequence[ToolShape] = (), schema: dict[str, Any] | None = None) -> ChatMessage:
        """The model's next message, which is taken into the conversation.

        Raises:
            BudgetSpent: No call was made.
            ModelUnavailable: No answer; the failed call is among `calls`.
            UserError: It tries to call tools in its text, and none can be carried out; of the field `answer`.
        """
        try:
            called = self.chat.ask(
                self.messages,
                policy=self.policy,
                purpose="decide",
                tools=tools,
                schema=schema,
                prompts=self.prompts,
                temperature=self.temperature,
            )
        except ModelUnavailable as error:
            self.calls += error.calls
            raise
        self.calls.append(called)
        answer = called.answer or ChatMessage(role="assistant")
        malformed = called.details.get("malformed")
        if not malformed and not answer.tool_uses and not without_thinking(answer.content):
            self.troubles.append(_nothing(called))
        # Thinking is not repeated to the model: it is long, and no part of the answer.
        words = clean(without_thinking(answer.content) or answer.content or "", ECHO_LETTERS, True)
        self.messages.append(answer.model_copy(update={"content": words}))
        if malformed:
            raise UserError(f"{MALFORMED_CALL}: {malformed}", field="answer")
        return answer

    def answered(
        self, command: CommandBase, rationale: str, valid_for_steps: int | None = None
    ) -> CommandRecord | None:
        """Ask for a command now and wait for its answer; None where that has to wait until the decision is made."""
        if self.asker is None or self.answer_limit_s <= 0:
            return None
        step = self.observation.step
        valid = self.valid_for_steps if valid_for_steps is None else valid_for_steps
        proposal = Proposal(
            command=command,
            author=Author(principal="agent", name=self.policy),
            rationale=clean(rationale, RATIONALE_LETTERS) or "no reason given",
            based_on_step=step,
            based_on_branch=self.observation.branch,
            valid_until_step=None if valid is None else step + valid,
        )
        self.submitted.append(proposal.command_id)
        return self.asker.ask(proposal, self.answer_limit_s)

    def tell(self, text: str) -> None:
        """Say something to the model."""
        self.messages.append(ChatMessage(role="user", content=text))

    def draft(self, *commands: CommandBase, rationale: str, valid_for_steps: int | None = None) -> int:
        """Note commands that the gate would let through now, as one; returns their number."""
        valid = self.valid_for_steps if valid_for_steps is None else valid_for_steps
        why = clean(rationale, RATIONALE_LETTERS) or "no reason given"
        self._numbers += 1
        self.noted[self._numbers] = tuple(Draft(command, why, valid) for command in commands)
        return self._numbers

    @property
    def drafts(self) -> list[Draft]:
        """The noted commands, in the order in which they were asked for."""
        return [draft for noted in self.noted.values() for draft in noted]

    def trouble(self, text: str) -> None:
        self.troubles.append(clean(text, TROUBLE_LETTERS))

    def refuse(self, text: str) -> None:
        """Record an error that the model was told, for whoever reads the log."""
        self.refused.append(clean(text, FAULT_LETTERS))

    def _faults(self) -> list[str]:
        left_out = [words for call in self.calls for words in call.details.get("left_out", [])]
        ended = " ".join(self.troubles)  # which names the last refusal, where a decision was given up
        refused = [f"refused: {why}" for why in dict.fromkeys(self.refused) if why[:SAME_LETTERS] not in ended]
        more = [f"{len(refused) - MOST_FAULTS} more refused"] if len(refused) > MOST_FAULTS else []
        return [*self.remarks, *left_out, *refused[:MOST_FAULTS], *more, *self.troubles]

    def decision(self) -> Decision:
        """What has come of it."""
        words = clean(self.said, REASON_LETTERS) or "; ".join(dict.fromkeys(draft.rationale for draft in self.drafts))
        faults = self._faults()
        parts = [words[: 2 * REASON_LETTERS], describe(self.wait) if self.wait else "", *faults]
        reason = "; ".join(part for part in parts if part) or "the model wants nothing and gives no reason"
        unusable = bool(self.troubles) and not self.drafts and not self.submitted
        made = Decision(list(self.drafts), reason, calls=list(self.calls), faults=faults, unusable=unusable)
        return replace(made, submitted=list(self.submitted))


def _nothing(called: ModelCalled) -> str:
    """An answer without text or tools: the refusal, or how it ended, if the server says."""
    thought = called.answer is not None and bool((called.answer.content or "").strip())
    refusal, ended = called.details.get("refusal"), called.details.get("finish_reason")
    if refusal:
        return clean(f"the model refused: {refusal}", TROUBLE_LETTERS)
    what = "only thought aloud, without an answer" if thought else "answered nothing"
    return clean(f"the model {what}{f' (finish reason: {ended})' if ended else ''}", TROUBLE_LETTERS)


# -- the full form ------------------------------------------------------------------------------------------------


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
