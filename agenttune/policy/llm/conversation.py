"""One decision's conversation with a language model, and its results so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agenttune.errors import ModelUnavailable, UserError
from agenttune.llm.answer_text import without_thinking
from agenttune.llm.tools import ToolWait
from agenttune.policy.base import Asker, Decision, Draft
from agenttune.policy.llm.pacing import describe
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, PromptUsed
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
