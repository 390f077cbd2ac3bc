"""Judges proposals: guardrails first, then approvers. Nothing reaches the trainer without a verdict from here.

Of a probe, each candidate is judged as a proposal of its own, and the strictest answer counts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.config.gate import AS_RECORDED
from agenttune.errors import CommandError, UserError
from agenttune.gate.approval_rules import rule_on
from agenttune.gate.context import CommandHistory, Guardrail, Moment, World
from agenttune.gate.guardrails import CLAMPING, GUARDRAILS, LIMITS, PER_KNOB, REPAIRED
from agenttune.protocol.commands import CommandBase, parse_command
from agenttune.protocol.events import DatasetRead
from agenttune.protocol.proposals import ApprovalRequest, Difference, Proposal, Verdict
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
        each = [(number, self._repaired(candidate, world)) for number, candidate in _alone(proposal)]
        wrong = {number: own for number, own in each if own is not None}
        if wrong:
            return _about(wrong, proposal.command)
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
        each = [proposal, *(candidate for _, candidate in _alone(proposal))]
        return _strictest(proposal, [rule_on(one, self.settings.approval, moment, history) for one in each])

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
    return parse_command(_replaced({"kind": command.kind, **command.arguments()}, arguments))


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


# -- probes ----------------------------------------------------------------------------------------------------------


def _alone(proposal: Proposal) -> Iterator[tuple[int, Proposal]]:
    """The candidates of a probe, each as a proposal of its own; none for other commands."""
    for number, candidate in enumerate(proposal.command.tries()):
        yield number, proposal.model_copy(update={"command": candidate})


def _about(wrong: Mapping[int, Verdict], probe: CommandBase) -> Verdict:
    """The refusal of a probe, after that of its first wrong candidate, with candidates that would pass.

    Args:
        wrong: Refusals by the candidates' numbers.
        probe: All candidates.
    """
    number, refusal = min(wrong.items())
    reason = f"candidate {number} (from 0): {refusal.reason}"
    nearest = refusal.nearest_allowed
    if nearest:
        raw = [{"kind": candidate.kind, **candidate.arguments()} for candidate in probe.tries()]
        for other, own in wrong.items():
            raw[other] = _replaced(raw[other], own.nearest_allowed or {})
        if all(map(_is_valid, raw)):
            unlike = [one for i, one in enumerate(raw) if one not in raw[:i]]  # two may have the same limit
            is_whole = all(own.nearest_allowed for own in wrong.values())
            whole = {"kind": probe.kind, **probe.arguments(), "candidates": unlike}
            nearest = {"candidates": unlike} if is_whole and _is_valid(whole) else None
    return refusal.model_copy(update={"reason": reason, "nearest_allowed": nearest})


def _replaced(raw: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with some replaced; a dotted name reaches into a mapping."""
    for name, value in arguments.items():
        outer, _, inner = name.partition(".")
        raw = {**raw, outer: {**raw.get(outer, {}), inner: value} if inner else value}
    return raw


def _is_valid(raw: dict[str, object]) -> bool:
    try:
        parse_command(raw)
    except CommandError:  # such as a step from which on it would be allowed, which is no field of it
        return False
    return True


def _strictest(proposal: Proposal, rulings: Sequence[Verdict | ApprovalRequest]) -> Verdict | ApprovalRequest:
    """The strictest ruling: a refusal before a request before an approval; of requests the one that asks most.

    Args:
        proposal: The probe.
        rulings: On the probe itself, then on each candidate.
    """
    verdicts = [ruling for ruling in rulings if isinstance(ruling, Verdict)]
    refused = next((verdict for verdict in verdicts if verdict.decision != "approved"), None)
    if refused is not None:
        return refused
    requests = [ruling for ruling in rulings if isinstance(ruling, ApprovalRequest)]
    if not requests:
        return verdicts[0]
    # A person's yes counts for whatever a model could have said, and not the other way round.
    most = max(requests, key=lambda request: (request.asked == "human", len(request.approvers)))
    on_timeout = "reject" if any(request.on_timeout == "reject" for request in requests) else "approve"
    differences: list[Difference] = []
    for ruling in requests:
        differences += [difference for difference in ruling.differences if difference not in differences]
    update = {"digest": proposal.digest(), "on_timeout": on_timeout, "differences": differences}
    return most.model_copy(update=update)
