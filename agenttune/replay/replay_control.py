"""The control of a recorded run: it can be read, and what is asked of it is noted and never applied.

Also the policy that is replayed: language models in it are called only if the user allowed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from agenttune.config import BudgetSettings, LlmSettings
from agenttune.control import LocalControl
from agenttune.detectors import Detector
from agenttune.errors import UserError
from agenttune.policy.base import Policy, PolicyContext, asked_at_step
from agenttune.policy.load import open_policy
from agenttune.policy.plugins import StandIn
from agenttune.policy.wrappers.wrapper import notice_of, unavailable
from agenttune.protocol.observation import HISTORY, Observation
from agenttune.protocol.proposals import CommandRecord, Proposal, State, Verdict
from agenttune.protocol.reads import ModelQuery, R, RunQuery

Seen = TypeVar("Seen", bound=Observation)
LET_THROUGH = Verdict(decision="approved", decided_by="replay", reason="noted; a replay applies nothing")


class ReplayControl(LocalControl):
    """`LocalControl` over a recording's log, in which proposals are judged by the gate and then only noted.

    The policy finds them in its history as let through and without an ack, so that its limits and waiting times count
    them, and no detector takes the recorded curve for their effect.

    Args:
        runs_dir: The folder with the recording's log.
        clock: The recording's time, unix time in seconds.
        window_steps: A recorded command that is the same as a noted one, so many steps after it, stands for it.
    """

    def __init__(self, runs_dir: Path, clock: Callable[[], float], window_steps: int) -> None:
        super().__init__(runs_dir, clock=clock)
        self.noted: list[CommandRecord] = []
        self._window_steps = window_steps

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        known = next((r for r in self.noted if r.command_id == proposal.command_id), None)
        if known is not None:
            return known
        verdict = self.dry_run(run_id, proposal)
        refused = verdict.decision not in ("approved", "edited")
        record = CommandRecord(
            proposal=proposal,
            state=State(verdict.decision) if refused else State.KEPT,
            verdict=verdict if refused else LET_THROUGH,
            submitted_seq=self.log(run_id).last_seq(),
            submitted_step=self.info(run_id).step,
        )
        self.noted.append(record)
        return record

    def read(self, run_id: str, query: RunQuery[R]) -> R:
        if isinstance(query, ModelQuery):  # as recorded at the start: there is no trainer that could measure norms
            query = cast("RunQuery[R]", query.model_copy(update={"norms": False}))
        found = super().read(run_id, query)
        return self._with_noted(found) if isinstance(found, Observation) else found

    def _with_noted(self, observation: Seen) -> Seen:
        if not self.noted:
            return observation
        real = observation.commands
        noted = [r for r in self.noted[-HISTORY:] if not any(self._stands_for(c, r) for c in real)]
        both = sorted([*real, *noted], key=asked_at_step)[-HISTORY:]
        return observation.model_copy(update={"commands": both})

    def _stands_for(self, done: CommandRecord, noted: CommandRecord) -> bool:
        later = asked_at_step(done) - asked_at_step(noted)
        return done.proposal.command == noted.proposal.command and 0 <= later <= self._window_steps


WITHOUT_MODEL = (
    "--allow-calls asks it at each decision, at its price; --from-transcripts shows what it answered during the run"
)


@dataclass(frozen=True)
class Admitted:
    """A policy, and what a reader of its replay should know of it."""

    policy: Policy
    note: str = ""
    detectors: tuple[Detector, ...] = ()


def admit(name_or_path: str, context: PolicyContext, allow_calls: bool) -> Admitted:
    """Open a policy for a replay.

    Args:
        name_or_path: As for `open_policy`.
        context: With the language model and its caps.
        allow_calls: Whether language models may really be called, which costs money.

    Raises:
        UserError: It cannot decide without a language model, and calls are not allowed; or it cannot be called.
    """
    if not allow_calls:
        # Neither a model nor a key nor a call left: there is nothing that could be called by mistake.
        context = replace(context, llm=LlmSettings(), budgets=BudgetSettings(max_calls=0), environ={})
    policy = open_policy(name_or_path, context).policy
    why_not = unavailable(policy)
    if why_not and (allow_calls or isinstance(policy, StandIn)):
        raise UserError(f"policy {name_or_path!r} cannot be asked: {why_not}", field="policy")
    if why_not:
        raise UserError(
            f"policy {name_or_path!r} decides with a language model, and a replay makes no calls by itself: "
            f"{WITHOUT_MODEL}",
            field="policy",
        )
    note = notice_of(policy)
    note = f"{note}; {WITHOUT_MODEL}" if note and not allow_calls else note
    return Admitted(policy, note, context.detectors)
