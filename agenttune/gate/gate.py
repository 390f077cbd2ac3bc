"""Guardrails first, then whoever approves; nothing reaches the trainer without a verdict from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.config.gate import AS_RECORDED
from agenttune.errors import UserError
from agenttune.gate.approval_rules import escalated, rule_on
from agenttune.gate.approvers import Moment, Situation
from agenttune.gate.guardrail_context import Guardrail, World
from agenttune.gate.guardrails import CLAMPING, GUARDRAILS, LIMITS, MENDED, PER_KNOB
from agenttune.gate.probe_candidates import about, alone, replaced, strictest
from agenttune.protocol.commands import CommandBase, parse_command
from agenttune.protocol.events import RunInfo
from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, Passed, Proposal, Verdict

MOST_CLAMPS = 8
"""Values of one command that are brought within limits (guess: more than a command has)."""


@dataclass(frozen=True)
class History:
    """What agents did so far in a run.

    Attributes:
        commands: The newest that were let through and did not fail, oldest first.
        count_taken: Counts them all; asked only where a limit or a condition depends on it.
        refused: The newest that were refused, oldest first.
        waiting: Those that wait for a decision.
        extra_steps: Training steps that probes have taken so far.
        queued: What the trainer will apply before, whoever asked for it.
    """

    commands: Sequence[CommandRecord] = ()
    count_taken: Callable[[], int] = int
    refused: Sequence[CommandRecord] = ()
    waiting: Sequence[CommandRecord] = ()
    extra_steps: int = 0
    queued: Sequence[CommandRecord] = ()

    def with_moment(self, moment: Moment) -> Situation:
        """What the conditions of approval rules can speak of."""
        return Situation(moment, self.commands, self.count_taken)


@dataclass(frozen=True)
class Gate:
    """Judges proposals by the run's settings.

    Attributes:
        settings: Limits, and who approves.
        budgets: What agents may use up.
        probation: How changes are watched.
        guardrails: Asked in order; the first refusal is the verdict.
    """

    settings: GateSettings
    budgets: BudgetSettings
    probation: ProbationSettings = field(default_factory=ProbationSettings)
    guardrails: Sequence[Guardrail] = GUARDRAILS

    @classmethod
    def of(cls, info: RunInfo) -> Gate:
        """The gate with the settings that the run was started with."""
        return cls(
            GateSettings.model_validate(info.rules.get("gate", {}), context=AS_RECORDED),
            BudgetSettings.model_validate(info.rules.get("budgets", {})),
            ProbationSettings.model_validate(info.rules.get("probation", {})),
        )

    def refusal(self, proposal: Proposal, info: RunInfo, history: History) -> Verdict | None:
        """The first guardrail's refusal, if one refuses; asked at submit, at approval and before applying."""
        world = World(
            info=info,
            history=history.commands,
            count_taken=history.count_taken,
            settings=self.settings,
            budgets=self.budgets,
            probation=self.probation,
            refused=history.refused,
            waiting=history.waiting,
            extra_steps=history.extra_steps,
            queued=history.queued,
        )
        refusal = self._first_refusal(proposal, world)
        if refusal is not None and refusal.decided_by not in PER_KNOB:
            return refusal
        each = [(number, self._mended(candidate, world)) for number, candidate in alone(proposal)]
        wrong = {number: own for number, own in each if own is not None}
        if wrong:
            return about(wrong, proposal.command)
        return self._mended(proposal, world) if refusal is not None else None

    def _mended(self, proposal: Proposal, world: World) -> Verdict | None:
        """The first refusal, with the nearest values that pass all limits together; with none where none are found."""
        refusal = self._first_refusal(proposal, world)
        if refusal is None or refusal.decided_by not in MENDED:
            return refusal
        edited, nearest, again = proposal, dict[str, Any](), refusal
        for _ in range(MOST_CLAMPS):
            if not again.nearest_allowed:
                break
            nearest |= again.nearest_allowed
            try:
                edited = proposal.model_copy(update={"command": with_arguments(proposal.command, nearest)})
            except UserError:
                break
            limited = self._first_refusal(edited, world, LIMITS)
            if limited is None:
                return refusal.model_copy(update={"nearest_allowed": nearest})
            again = limited
        return refusal.model_copy(update={"nearest_allowed": None})

    def _first_refusal(
        self, proposal: Proposal, world: World, among: Sequence[Guardrail] = GUARDRAILS
    ) -> Verdict | None:
        refusals = (guardrail(proposal, world) for guardrail in self.guardrails if guardrail in among)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def _rule_on(self, proposal: Proposal, situation: Situation) -> Verdict | ApprovalRequest:
        """What the rules say; of a probe, also on each of its candidates."""
        each = [proposal, *(candidate for _, candidate in alone(proposal))]
        return strictest(proposal, [rule_on(one, self.settings.approval, situation) for one in each])

    def judge(self, proposal: Proposal, moment: Moment, history: History) -> Verdict | ApprovalRequest:
        """The verdict on a proposal, or whom to ask for it.

        Args:
            proposal: What is asked.
            moment: The run as it stands, with its knobs.
            history: What agents did so far.
        """
        refusal = self.refusal(proposal, moment.info, history)
        if refusal is None:
            return self._rule_on(proposal, history.with_moment(moment))
        if not self.settings.clamp or proposal.author.principal != "agent":
            return refusal
        return self._clamped(proposal, refusal, moment, history)

    def escalated(
        self, request: ApprovalRequest, by: Passed, proposal: Proposal, moment: Moment, history: History
    ) -> Verdict | ApprovalRequest:
        """What follows when whoever was asked leaves the decision to the next: a verdict, or the request for them."""
        return escalated(request, by, proposal, self.settings.approval, history.with_moment(moment))

    def _clamped(
        self, proposal: Proposal, refusal: Verdict, moment: Moment, history: History
    ) -> Verdict | ApprovalRequest:
        """The proposal with the nearest allowed values, where that makes it allowed; else the refusal as it was."""
        edited, said = proposal, list[str]()
        for _ in range(MOST_CLAMPS):
            if refusal.decided_by not in CLAMPING or not refusal.nearest_allowed:
                return refusal
            try:
                command = with_arguments(edited.command, refusal.nearest_allowed)
            except UserError:
                return refusal
            edited, said = edited.model_copy(update={"command": command}), [*said, refusal.reason]
            again = self.refusal(edited, moment.info, history)
            if again is None:
                break
            refusal = again
        else:
            return refusal
        ruling = self._rule_on(edited, history.with_moment(moment))
        if isinstance(ruling, Verdict) and ruling.decision == "approved":
            reason = f"clamped (gate.clamp): {'; '.join(said)}"
            return Verdict(decision="edited", decided_by=refusal.decided_by, reason=reason, edited=edited.command)
        return refusal


def with_arguments(command: CommandBase, arguments: Mapping[str, Any]) -> CommandBase:
    """A command with some arguments replaced; a dotted name reaches into a mapping (`other.alpha`).

    Raises:
        CommandError: The result is no valid command.
    """
    return parse_command(replaced({"kind": command.kind, **command.arguments()}, arguments))
