"""The gate over one run: proposals are judged, wait for an approver where one has to be asked, and are decided."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

from agenttune.control.control import ApprovalDecision
from agenttune.control.run_logs import RunLogs
from agenttune.errors import AlreadyDecided, LogFull, TooManyProposals, UserError
from agenttune.gate import CommandHistory, Gate, Moment, allowed_before, escalated, person, stale, timed_out
from agenttune.gate.allowances import guardrails_of
from agenttune.gate.change_factors import differences_of
from agenttune.gate.context import World
from agenttune.gate.feasibility import fits_layer
from agenttune.gate.lr_preview import rates_ahead
from agenttune.gate.pauses import PERSON
from agenttune.protocol.commands import CommandBase, ModelLayerParameterUpdate, ReadModel, SaveCheckpoint
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.dry_run import DryRun
from agenttune.protocol.events import CheckpointSaved, Evaluated, ModelRead
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.guardrail_use import Guardrails
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.proposals import (
    TAKEN,
    ApprovalRequest,
    Author,
    CommandRecord,
    Passed,
    Proposal,
    StandingApproval,
    State,
    Verdict,
)
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.saved_states import existing_checkpoints
from agenttune.store.run_log import RunLog

REFUSED = 20
"""Newest refused proposals of agents that are compared with a new one (guess: more than a model repeats in turn)."""
MINUTE_S = 60.0
NO_CHECKPOINT = "checkpoints"
"""Who refuses what does not exist."""
NO_VERDICT = Verdict(decision="rejected", decided_by="store", reason="no verdict recorded")
SHOWN_CHECKPOINTS = 10
"""Newest ones that a refusal names (guess)."""


@dataclass(frozen=True)
class RunGate:
    """The gate over one run's log, at one moment.

    Attributes:
        log: The run's log.
        info: The run as it stands.
        now: By both clocks.
    """

    log: RunLog
    info: RunInfo
    now: Instant

    @classmethod
    def of(cls, logs: RunLogs, run_id: str) -> RunGate:
        """The gate over a run as it stands now."""
        return cls(logs.log(run_id), logs.info(run_id), logs.now())

    @cached_property
    def gate(self) -> Gate:
        """With the settings that the run was started with."""
        return Gate.of(self.info)

    def guardrails(self) -> Guardrails:
        """What the run's limits have left for agents."""
        someone = Proposal(command=ReadModel(), author=Author(principal="agent", name=""))
        history = replace(command_history(self.log, someone, self.info.branch), extra_steps=self.log.extra_steps())
        gate = self.gate
        spent = self.log.spent_on_models(0, self.log.last_seq())
        return guardrails_of(World(self.info, history, gate.settings, gate.budgets, gate.probation), spent)

    def submit(self, proposal: Proposal) -> CommandRecord:
        """Judge a proposal and record it: queued for the trainer, waiting for a decision, or refused.

        Raises:
            TooManyProposals: Of an agent, within a minute.
            CommandIdReused: The id was used for a different command.
        """
        self._limit_rate(proposal)
        if proposal.author.principal == "agent" and proposal.based_on_branch is None:  # it sees what we see, at best
            proposal = proposal.model_copy(update={"based_on_branch": self.info.branch})
        record = self.log.submit(proposal, self.judge(proposal))
        if record.state in (State.PROPOSED, State.QUEUED):
            self._supersede(record)
        return record

    def _limit_rate(self, proposal: Proposal) -> None:
        """Turn away an agent that proposes too often; the commands of people still pass.

        Raises:
            TooManyProposals: Says when to ask again.
        """
        if proposal.author.principal != "agent":
            return
        most = self.gate.settings.max_per_minute
        at_s, now_s = self.log.agent_proposed_at_s(most - 1), self.now.unix_s
        # `abs`: a time far in the future was written before somebody set the clock back, and must not block proposals.
        if at_s is None or abs(now_s - at_s) >= MINUTE_S or self.log.find_command(proposal.command_id):
            return
        raise TooManyProposals(
            f"agents proposed {most} commands within a minute, gate.max_per_minute is {most}; ask again later",
            field="command",
        )

    def _supersede(self, newer: CommandRecord) -> None:
        """Close the older proposals that still wait and would change what a newer command changes."""
        touched = newer.command.touched()
        for record in self.log.commands(State.PROPOSED) if touched else ():
            if record.submitted_seq < newer.submitted_seq and touched & record.command.touched():
                reason = f"{newer.command_id} changes the same: {', '.join(sorted(touched & record.command.touched()))}"
                with contextlib.suppress(AlreadyDecided):
                    self.log.decide(
                        record.command_id, Verdict(decision="superseded", decided_by="newer request", reason=reason)
                    )

    def judge(self, proposal: Proposal) -> Verdict | ApprovalRequest:
        """The gate's answer to a proposal: a verdict, or a request for an approver."""
        step = proposal.valid_until_step
        if step is not None and step < self.info.step:
            reason = f"valid until step {step}, the run is at step {self.info.step}"
            return Verdict(decision="expired", decided_by="clock", reason=reason)
        unfit = self._left_behind(proposal) or self._unfit(proposal)
        if unfit is not None:
            return unfit
        return self.gate.judge(proposal, self._moment(), command_history(self.log, proposal, self.info.branch))

    def _left_behind(self, proposal: Proposal) -> Verdict | None:
        """Close what an agent has decided on a branch that the run has left, unless it was its own return."""
        branch, seen = self.info.branch, proposal.based_on_branch
        if proposal.author.principal != "agent" or seen is None or seen == branch:
            return None
        started = self.log.events(kinds=["branch_started"], limit=1, newest=True)
        command_id = started[0].command_id if started else None
        asked = None if command_id is None else self.log.find_command(command_id)
        if asked is not None and asked.proposal.author.is_same(proposal.author):
            return None  # what it asks for with a return, or after it, is meant for where that leads
        at = "" if proposal.based_on_step is None else f" at step {proposal.based_on_step}"
        reason = f"decided on branch {seen}{at}, which the run has left; it is on {branch}, look again"
        return Verdict(decision="superseded", decided_by="restore", reason=reason)

    def dry_run(self, proposal: Proposal) -> DryRun:
        """The gate's answer to a proposal, with what would be before and after."""
        judged = self.judge(proposal)
        if isinstance(judged, ApprovalRequest):
            reason = f"would wait for {judged.asked} ({judged.rule})"
            told = {"waits_for": judged.asked, "rule": judged.rule}
            found = DryRun(decision="approved", decided_by="guardrails", reason=reason, **told)
        else:
            found = DryRun(**dict(judged))
        return self._ahead(found, found.edited or proposal.command)

    def dry_run_edit(self, command_id: str, command: CommandBase) -> DryRun:
        """The guardrails' answer to a request that waits, were it to run with other values: as `decide` has it."""
        proposal = self.log.command(command_id).proposal
        wanted = proposal.model_copy(update={"command": command})
        refusal = self._unfit(wanted) or self._again(wanted, f"{PERSON}:")
        if refusal is None:
            return self._ahead(DryRun(decision="approved", decided_by="guardrails"), command)
        return self._ahead(DryRun(**dict(refusal)), command)

    def _ahead(self, found: DryRun, command: CommandBase) -> DryRun:
        """With what would be before and after."""
        ahead = {"differences": differences_of(command, self.info), "rates": rates_ahead(command, self.info)}
        return found.model_copy(update=ahead)

    def _unfit(self, proposal: Proposal) -> Verdict | None:
        """Refuse what the log tells that the trainer would fail at."""
        return self._unknown_checkpoint(proposal) or self._unfit_parameter(proposal.command)

    def _unfit_parameter(self, command: CommandBase) -> Verdict | None:
        if not isinstance(command, ModelLayerParameterUpdate):
            return None
        read = self.log.events(kinds=["model_read"], limit=1, newest=True)
        return fits_layer(command, read[0].body.model) if read and isinstance(read[0].body, ModelRead) else None

    def _unknown_checkpoint(self, proposal: Proposal) -> Verdict | None:
        """Refuse a checkpoint that does not exist, rather than have the trainer fail some steps later."""
        wanted = proposal.command.wanted_checkpoint()
        if wanted is None:
            return None
        bodies = [event.body for event in existing_checkpoints(self.log)]
        for_all = proposal.author.principal != "agent"
        saved = [body for body in bodies if isinstance(body, CheckpointSaved) and (for_all or not body.is_before)]
        names = {name for body in saved for name in (body.checkpoint_id, body.tag)}
        if wanted in names or self._is_being_saved():
            return None
        ids = [body.checkpoint_id for body in saved if not body.kept_as][: -SHOWN_CHECKPOINTS - 1 : -1]
        ids += sorted({body.kept_as for body in saved if body.kept_as})
        there = ", ".join(ids) or "none, save one with save_checkpoint"
        reason = f"no checkpoint {wanted!r} in this run; newest: {there}"
        nearest = {"checkpoint_id": ids} if ids and not proposal.command.tries() else None
        return Verdict(decision="rejected", decided_by=NO_CHECKPOINT, reason=reason, nearest_allowed=nearest)

    def _is_being_saved(self) -> bool:
        """Whether a save is queued before it, which may make the checkpoint that is meant."""
        # By class: a stop saves too, but nothing is loaded after it.
        return any(isinstance(record.command, SaveCheckpoint) for record in self.log.commands(State.QUEUED))

    def _moment(self) -> Moment:
        log, info = self.log, self.info
        evaluated = log.events(kinds=["evaluated"], limit=1, newest=True)
        body = evaluated[0].body if evaluated else None
        value = value_of(info.goal_metric, body.metrics) if isinstance(body, Evaluated) else None
        return Moment(info, self.now, value)

    def pending(self) -> list[CommandRecord]:
        """Proposals that wait for a decision; those whose time is up are decided first."""
        log, left = self.log, list[CommandRecord]()
        for record in log.commands(State.PROPOSED):
            verdict = self._overdue(record)
            if verdict is None:
                left.append(record)
            else:
                with contextlib.suppress(AlreadyDecided, LogFull):  # on a full disk it is recorded once there is room
                    log.decide(record.command_id, verdict)
        return left

    def _overdue(self, record: CommandRecord) -> Verdict | None:
        """The verdict on a request that is stale or whose time is up; None if it still waits."""
        request = record.request
        if request is None:
            return None
        allowed = allowed_before(request, record.proposal, self.info) if request.asked == "human" else None
        verdict = stale(request, record.proposal, self.info) or allowed or timed_out(request, self.now)
        if verdict is not None and verdict.decision == "approved":
            return self._again(record.proposal, verdict.decided_by) or verdict
        return verdict

    def _again(self, proposal: Proposal, approved_by: str = "") -> Verdict | None:
        """What the guardrails say now of a proposal that has waited, if `approved_by` lets it through."""
        # What was asked again meanwhile, and refused for that, says nothing against the one that waited.
        known = command_history(self.log, proposal, self.info.branch)
        history = replace(known, waiting=(), refused=(), approved_by=approved_by)
        return self.gate.refusal(proposal, self._moment().info, history)

    def decide(self, command_id: str, decision: ApprovalDecision) -> CommandRecord:
        """As `Control.decide`."""
        log, info = self.log, self.info
        record = log.command(command_id)
        request = record.request
        if request is None or record.state is not State.PROPOSED:
            return log.decide(command_id, NO_VERDICT)  # raises: it does not wait
        if decision.digest != request.digest:
            raise UserError(
                "the decision is bound to another command than the one that waits; look at it again and decide on its "
                "digest",
                field="digest",
                allowed=request.digest,
            )
        _refuse_misfit(decision, request, record.proposal)
        overdue = self._overdue(record)
        if overdue is not None:
            return log.decide(command_id, overdue)
        if decision.verdict == "escalate":
            return self._escalate(record.proposal, request, decision)
        verdict = self._verdict_of(record.proposal, decision)
        if not decision.always or verdict.decision != "approved":
            return log.decide(command_id, verdict)
        kind, by = record.proposal.command.kind, person(decision.author)
        return log.decide(
            command_id, verdict, StandingApproval(kind=kind, rule=request.rule, by=by, since_step=info.step)
        )

    def _escalate(self, proposal: Proposal, request: ApprovalRequest, decision: ApprovalDecision) -> CommandRecord:
        by = Passed(by=_decider(decision), reason=decision.reason)
        moment, history = self._moment(), command_history(self.log, proposal, self.info.branch)
        answer = escalated(request, by, proposal, self.gate.settings.approval, moment, history)
        if isinstance(answer, ApprovalRequest):
            return self.log.escalate(proposal.command_id, answer)
        if answer.decision == "approved":
            answer = self._again(proposal, answer.decided_by) or answer
        return self.log.decide(proposal.command_id, answer)

    def _verdict_of(self, proposal: Proposal, decision: ApprovalDecision) -> Verdict:
        by = _decider(decision)
        if decision.verdict == "reject":
            return Verdict(decision="rejected", decided_by=by, reason=decision.reason)
        edited = decision.command if decision.verdict == "edit" else None
        if decision.verdict == "edit" and edited is None:
            raise UserError("an edit needs the command as it is to be", field="command")
        wanted = proposal if edited is None else proposal.model_copy(update={"command": edited})
        refusal = self._unfit(wanted) or self._again(wanted, by)
        if refusal is None:
            kind: Literal["approved", "edited"] = "approved" if edited is None else "edited"
            return Verdict(decision=kind, decided_by=by, reason=decision.reason, edited=edited)
        if edited is not None:
            allowed = ", ".join(f"{name} {value}" for name, value in (refusal.nearest_allowed or {}).items())
            nearest = f" (nearest allowed: {allowed})" if allowed else ""  # first: it is what one types next
            raise UserError(f"the edit is refused{nearest}: {refusal.reason}", allowed=refusal.nearest_allowed)
        return refusal.model_copy(update={"reason": f"approved by {by}, but since then: {refusal.reason}"})


def _refuse_misfit(decision: ApprovalDecision, request: ApprovalRequest, proposal: Proposal) -> None:
    """Raises for a decision that this approver cannot make, or not now."""
    if decision.approver not in ("human", request.asked):
        raise AlreadyDecided(f"it is not the {decision.approver}'s turn: {request.asked} is asked", field="approver")
    if decision.always and (decision.verdict != "approve" or decision.approver != "human"):
        raise UserError("'always' goes with a person's 'approve' only", field="always", allowed=["approve"])
    if decision.always and proposal.ask_always:
        raise UserError("this command asks every time, so that 'always' cannot stand for it; approve it alone")


def _decider(decision: ApprovalDecision) -> str:
    """How a verdict names who gave it."""
    if decision.approver == "human":
        return person(decision.author)
    return f"{'model' if decision.approver == 'model' else 'approver'}:{decision.author.name}"


def command_history(log: RunLog, proposal: Proposal, branch: str) -> CommandHistory:
    """What agents did so far in a run that stands on `branch`; proposals of others are judged without it."""
    queued = [record for record in log.commands(State.QUEUED) if record.command_id != proposal.command_id]
    if proposal.author.principal != "agent":
        return CommandHistory(queued=queued)
    return CommandHistory(
        commands=log.commands(*TAKEN, principal="agent", limit=HISTORY, newest=True),
        count_taken=partial(log.count_commands, *TAKEN, principal="agent"),
        count_returns=log.count_returns,
        refused=log.commands(State.REJECTED, principal="agent", limit=REFUSED, newest=True),
        waiting=log.commands(State.PROPOSED, principal="agent", limit=HISTORY, newest=True),
        extra_steps=log.extra_steps() if proposal.command.extra_steps else 0,
        queued=queued,
        lineage=log.lineage(branch),
    )
