"""Answers of language models, kept beside the results: the same question again costs no call.

In lockstep, and with time told by steps, a run asks the same questions each time; so its score can be computed again
without the endpoint, as long as prompts and policy are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttune.config import LlmSettings
from agenttune.errors import ModelUnavailable
from agenttune.llm import ChatModel
from agenttune.llm.chat_model import Protocol_
from agenttune.policy.base import PolicyContext
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ChatMessage, Ledger, ModelCalled, PromptUsed, Purpose
from agenttune.protocol.proposals import Record

RANDOM_ID = re.compile(r"\b(?=[0-9-]*[a-f])[0-9a-f]{8}(?:-?[0-9a-f]{4,}){0,4}\b")
"""Ids of commands and events in a prompt, which are drawn anew in each run; digits alone are a number."""

CHECKPOINT_END = re.compile(r"(?<=\d-)[0-9a-f]{6}\b")
"""The end of a checkpoint's id, such as main-84-6ff3d3, drawn anew too. An answer may name it, so it is put back."""


def _ends(question: str) -> list[str]:
    """The ends of the checkpoints' ids in a question, in the order in which they come up."""
    return list(dict.fromkeys(CHECKPOINT_END.findall(question)))


class _Capabilities(Record):
    """How a model answers, as its small calls found out."""

    protocol: Protocol_
    calls: list[ModelCalled]


@dataclass(frozen=True)
class KeptAnswers:
    """A folder of answers, one file each.

    Attributes:
        folder: The folder; made with the first answer.
    """

    folder: Path

    def path(self, *asked: object) -> Path:
        """The file of an answer to what was asked."""
        text = RANDOM_ID.sub("#", CHECKPOINT_END.sub("#", json.dumps(asked, sort_keys=True, default=str)))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def keep(self, path: Path, text: str) -> None:
        """Write an answer; whole, or not at all, also where several workers have the same one at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{uuid.uuid4().hex[:8]}")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


class KeptChat:
    """A language model whose answers are kept.

    Args:
        chat: Asked for what is not known yet; None: there is no endpoint, and only what is known can be answered.
        why_not: Why there is none.
        llm: Its settings.
        answers: What is known.
        spent: The run's ledger; a kept answer costs what it once cost.
        endpoint: Where the model is; another endpoint may have another one of that name.
    """

    def __init__(
        self,
        chat: ChatModel | None,
        why_not: str,
        llm: LlmSettings,
        answers: KeptAnswers,
        spent: Ledger,
        endpoint: str = "",
    ) -> None:
        self._chat, self._why_not, self._llm, self._answers, self._spent = chat, why_not, llm, answers, spent
        self._endpoint = endpoint
        self._protocol: Protocol_ | None = None if llm.protocol == "auto" else llm.protocol

    @property
    def name(self) -> str:
        return self._llm.model or ""

    @property
    def protocol(self) -> Protocol_:
        return self._protocol or "text"

    @property
    def spent(self) -> Ledger:
        return self._spent

    def unavailable(self) -> str:
        return "" if self._chat is None else self._chat.unavailable()

    @property
    def _identity(self) -> dict[str, Any]:
        """What an answer depends on beside the question."""
        llm = self._llm
        return {
            "endpoint": self._endpoint,
            "model": llm.model,
            "protocol": llm.protocol,
            "temperature": llm.temperature,
            "longest": llm.max_output_tokens,
            "more": llm.extra_body,
        }

    def check_capabilities(self, policy: str) -> list[ModelCalled]:
        if self._protocol is not None:
            return []
        path = self._answers.path("capabilities", self._identity)
        if path.is_file():
            known = _Capabilities.model_validate_json(path.read_text(encoding="utf-8"))
        else:
            calls = self._asked().check_capabilities(policy)
            known = _Capabilities(protocol=self._asked().protocol, calls=calls)
            self._answers.keep(path, known.model_dump_json())
        self._protocol = known.protocol
        return known.calls

    def ask(
        self,
        messages: Sequence[ChatMessage],
        *,
        policy: str,
        purpose: Purpose,
        tools: Sequence[ToolShape] = (),
        schema: dict[str, Any] | None = None,
        prompts: Sequence[PromptUsed] = (),
        temperature: float | None = None,
    ) -> ModelCalled:
        shapes = [(tool.name, tool.parameters) for tool in tools]
        told = [message.model_dump(mode="json") for message in messages]
        path = self._answers.path(self._identity, self.protocol, told, shapes, schema, temperature)
        ends = _ends(json.dumps(told, sort_keys=True))
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            for number, end in enumerate(ends):
                text = text.replace(f"-@{number}@", f"-{end}")
            call = ModelCalled.model_validate_json(text)
            self._spent.add(call)
            return call
        call = self._asked().ask(
            messages,
            policy=policy,
            purpose=purpose,
            tools=tools,
            schema=schema,
            prompts=prompts,
            temperature=temperature,
        )
        # What was asked is in the run's log, cleaned of secrets; here only its checksum is.
        text = call.model_copy(update={"messages": []}).model_dump_json()
        for number, end in enumerate(ends):
            text = text.replace(f"-{end}", f"-@{number}@")
        self._answers.keep(path, text)
        return call

    def _asked(self) -> ChatModel:
        if self._chat is None:
            raise ModelUnavailable(f"this question was not asked before, and {self._why_not}")
        if self._chat.protocol != self.protocol and self._llm.protocol == "auto":
            self._chat.check_capabilities("bench")  # its own answers were kept, but the client has to know too
        return self._chat


@dataclass(frozen=True)
class KeepingContext(PolicyContext):
    """What policies are made with, where the answers of their models are kept.

    Attributes:
        answers: Where; None: they are not.
    """

    answers: KeptAnswers | None = None

    def open_chat(self, llm: LlmSettings) -> tuple[str, ChatModel | None]:
        why_not, chat = super().open_chat(llm)
        if self.reader is None or self.answers is None or not llm.model:
            return why_not, chat
        endpoint = llm.base_url or self.environ.get("OPENAI_BASE_URL", "")
        return "", KeptChat(chat, why_not, llm, self.answers, self.spent, endpoint)
