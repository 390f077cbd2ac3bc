"""Judges proposals: guardrails first, then approvers. Nothing reaches the trainer without a verdict from here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.config.gate import AS_RECORDED
from agenttune.errors import UserError
from agenttune.gate.approval_rules import rule_on
from agenttune.gate.context import CommandHistory, Guardrail, Moment, World
from agenttune.gate.guardrails import CLAMPING, GUARDRAILS, LIMITS, PER_KNOB, REPAIRED
from agenttune.gate.probe_candidates import about, alone, replaced, strictest
from agenttune.protocol.commands import CommandBase, parse_command
from agenttune.protocol.events import DatasetRead
from agenttune.protocol.proposals import ApprovalRequest, Proposal, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo

MOST_CLAMPS = 8
"""At most so many values of one command are brought within limits (guess: more than a command has)."""


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

    def refusal(self, proposal: Proposal, info: RunInfo, history: CommandHistory) -> Verdict | None:
        """The first guardrail's refusal, if one refuses; asked at submit, at approval and before applying."""
        world = World(info, history, self.settings, self.budgets, self.probation)
        refusal = self._first_refusal(proposal, world)
        if refusal is not None and refusal.decided_by not in PER_KNOB:
            return refusal
        each = [(number, self._repaired(candidate, world)) for number, candidate in alone(proposal)]
        wrong = {number: own for number, own in each if own is not None}
        if wrong:
            return about(wrong, proposal.command)
        return self._repaired(proposal, world) if refusal is not None else None

    def _repaired(self, proposal: Proposal, world: World) -> Verdict | None:
        """The first refusal, with the nearest values that pass all limits together, if any are found."""
        refusal = self._first_refusal(proposal, world)
        if refusal is None or refusal.decided_by not in REPAIRED:
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

    def _rule_on(self, proposal: Proposal, moment: Moment, history: CommandHistory) -> Verdict | ApprovalRequest:
        """What the rules say; of a probe, also on each of its candidates."""
        each = [proposal, *(candidate for _, candidate in alone(proposal))]
        return strictest(proposal, [rule_on(one, self.settings.approval, moment, history) for one in each])

    def judge(self, proposal: Proposal, moment: Moment, history: CommandHistory) -> Verdict | ApprovalRequest:
        """The verdict on a proposal, or whom to ask for it.

        Args:
            proposal: What is asked.
            moment: The run as it stands, with its knobs.
            history: What agents did so far.
        """
        refusal = self.refusal(proposal, moment.info, history)
        if refusal is None:
            return self._rule_on(proposal, moment, history)
        if not self.settings.clamp or proposal.author.principal != "agent":
            return refusal
        return self._clamped(proposal, refusal, moment, history)

    def _clamped(
        self, proposal: Proposal, refusal: Verdict, moment: Moment, history: CommandHistory
    ) -> Verdict | ApprovalRequest:
        """Approves the proposal with the nearest allowed values, if it passes with them; else the refusal stands."""
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
        ruling = self._rule_on(edited, moment, history)
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


def guards_nothing(info: RunInfo, knobs: Iterable[KnobState], dataset: DatasetRead | None) -> list[str]:
    """A sentence for each knob of `gate.bounds` and `gate.approval` that the run does not have.

    Args:
        info: The run, with its settings.
        knobs: What can be changed in it.
        dataset: Its training dataset, whose parameters can be changed too.
    """
    known = {knob.name for knob in knobs}
    if dataset is not None:
        known |= {*dataset.initialization, *dataset.runtime}
    named = Gate.of(info).settings.knobs
    return [_protects_nothing(name, where, known) for name, where in named.items() if name not in known]


def _protects_nothing(name: str, where: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{where} protects nothing: this run has no knob {name!r}{hint or ';'} it has: {', '.join(sorted(known))}"
