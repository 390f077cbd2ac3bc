"""The interface of a policy: from an observation to drafts of commands, or to none."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agenttune.config import BudgetSettings, GoalSettings, LlmSettings
from agenttune.config.plugins import PluginUse
from agenttune.detectors import Detector
from agenttune.errors import AgenttuneError
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.model_calls import Ledger, ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord, Proposal
from agenttune.protocol.reads import ModelCallsQuery, RunReader

if TYPE_CHECKING:
    from agenttune.llm import ChatModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """A command that a policy proposes, before it has an author and a step.

    Attributes:
        command: What to do.
        rationale: Why, with the figures it rests on.
        valid_for_steps: Steps after the observation for which it makes sense; None for no limit.
        ask_always: A person is asked, whatever the run's settings let pass.
    """

    command: CommandBase
    rationale: str
    valid_for_steps: int | None = None
    ask_always: bool = False


@dataclass(frozen=True)
class Decision:
    """A policy's answer: drafts, possibly none, and the reason for either.

    Attributes:
        proposals: What it asks for.
        reason: Why, or why nothing.
        shadowed: What it would have asked for, were it not in shadow.
        calls: The calls of language models that led here, for the log.
        later: A future of the decision, while the policy still works on it; then only `reason` is set beside it.
        skipped: The policy was not asked: it is not its turn, or it still works on the last question.
        faults: Problems with a language model; each is also in `reason`.
        unusable: A language model was asked, and its answer could not be used.
        submitted: Ids of commands that were asked for and answered while it was being made.
    """

    proposals: list[Draft] = field(default_factory=list)
    reason: str = ""
    shadowed: list[Draft] = field(default_factory=list)
    calls: list[ModelCalled] = field(default_factory=list)
    later: Future[Decision] | None = None
    skipped: bool = False
    faults: list[str] = field(default_factory=list)
    unusable: bool = False
    submitted: list[str] = field(default_factory=list)

    def then(self, change: Callable[[Decision], Decision]) -> Decision:
        """The answer changed by `change`: now, or when it comes, in the thread that made it.

        `change` may itself answer later.
        """
        if self.later is None:
            return change(self)
        changed: Future[Decision] = Future()
        self.later.add_done_callback(lambda done: _pass_on(done, change, changed))
        return Decision(reason=self.reason, later=changed)


def _pass_on(done: Future[Decision], change: Callable[[Decision], Decision], to: Future[Decision]) -> None:
    if to.set_running_or_notify_cancel():
        _finish(to, lambda: change(done.result()))


def _finish(to: Future[Decision], answer: Callable[[], Decision]) -> None:
    """Finish a future with an answer or an error; if the answer comes later, then."""
    try:
        decision = answer()
    except BaseException as error:
        to.set_exception(error)
        return
    if decision.later is None:
        to.set_result(decision)
    else:
        decision.later.add_done_callback(lambda last: _finish(to, last.result))


class Policy(Protocol):
    """Decides from what it is shown. Extend it, or have what it has.

    A policy keeps no state that matters: the observation holds the history of commands, so that an agent process
    which is killed and started again goes on where it was.
    """

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return type(self).__name__

    @abstractmethod
    def decide(self, observation: Observation) -> Decision:
        """What it asks for now, possibly nothing, and why."""


@dataclass(frozen=True)
class TriedPlugin:
    """What came of trying a class of the user's own elsewhere.

    Attributes:
        fault: Why its code cannot be run; empty if it can.
        name: What a detector calls its findings.
    """

    fault: str = ""
    name: str = ""


class Asker(Protocol):
    """Asks a run for a command and waits for the answer: for what a decision rests on, such as an evaluation."""

    def ask(self, proposal: Proposal, wait_s: float) -> CommandRecord:
        """Submit a command, past the same gate as any other.

        Args:
            proposal: The command.
            wait_s: How long its answer is waited for, in seconds.

        Returns:
            The command with its answer, or as it stands when the time is over.
        """


TryPlugin = Callable[[PluginUse], TriedPlugin]
"""Raises ConfigError for a class that is named wrongly, or a wrong parameter."""


@dataclass(frozen=True)
class PolicyContext:
    """What a policy is made with beside its file.

    Attributes:
        project: The user's folder, for policies and prompts of their own.
        goal: What counts as good.
        llm: The language model.
        budgets: Its caps.
        reader: Reads the run that is steered; None while a policy is only checked.
        asker: Asks for commands in the midst of a decision; None: whatever is asked for waits until it is made.
        environ: Environment variables, for the key.
        detectors: The user's own, beside the shipped ones.
        seed: What policies that draw at random draw by, beside the seed of their file: each run of an experiment has
            its own; None: the file's alone.
        try_plugin: Tries a class of the user's own without running its code in this process; then none is made here,
            and what stands for it decides nothing. None: they are made here.
    """

    project: Path | None = None
    goal: GoalSettings = field(default_factory=GoalSettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
    budgets: BudgetSettings = field(default_factory=BudgetSettings)
    reader: RunReader | None = None
    asker: Asker | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    detectors: tuple[Detector, ...] = ()
    seed: int | None = None
    try_plugin: TryPlugin | None = None

    @cached_property
    def spent(self) -> Ledger:
        """The ledger of the run's calls of language models, shared by all models of a policy."""
        return Ledger() if self.reader is None else Ledger.of(self.reader.read(ModelCallsQuery()).calls)

    def without_asker(self) -> PolicyContext:
        """The same, with the same ledger, for a policy whose wishes another one may keep back."""
        if self.asker is None:
            return self
        made = replace(self, asker=None)
        vars(made)["spent"] = self.spent
        return made

    def open_chat(self, llm: LlmSettings) -> tuple[str, ChatModel | None]:
        """The model, with the run's ledger, or why there is none; neither while a policy is only checked.

        Raises:
            ConfigError: A cap on money is set and the model's price is not.
        """
        from agenttune.llm import OpenAIChat, is_configured
        from agenttune.llm.budget import check_price

        why_not = is_configured(llm, self.environ)
        if why_not:
            return why_not, None
        check_price(llm, self.budgets)
        if self.reader is None:
            return "", None
        try:
            return "", OpenAIChat(llm, self.budgets, self.spent, self.environ)
        except AgenttuneError:
            raise
        except Exception as error:  # whatever its libraries say: rules need no model, and go on
            log.exception("the language model's client cannot be made")
            return f"the language model's client cannot be made: {type(error).__name__}: {error}", None

    def catch_up(self) -> None:
        """Add to the ledger what other processes, such as a reviewer, have spent on the run."""
        if self.reader is not None:
            self.spent.catch_up(Ledger.of(self.reader.read(ModelCallsQuery()).calls))


@dataclass(frozen=True)
class NoopPolicy:
    """Changes nothing."""

    name: str = "noop"

    def decide(self, observation: Observation) -> Decision:
        return Decision(reason="this policy only watches")


def by_agents(observation: Observation) -> list[CommandRecord]:
    """Commands that agents asked for, oldest first."""
    return [c for c in observation.commands if c.proposal.author.principal == "agent"]


def asked_at_step(record: CommandRecord) -> int:
    """Step at which a command took effect, else at which it was asked for."""
    if record.ack is not None:
        return record.ack.step
    return record.submitted_step or record.proposal.based_on_step or 0
