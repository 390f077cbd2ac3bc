"""`Control` over a folder of runs on this machine."""

from __future__ import annotations

import contextlib
from typing import cast

from agenttune.control.answers import answer
from agenttune.control.control import AgentRecord, ApprovalDecision, Control
from agenttune.control.reader import measure
from agenttune.control.run_gate import RunGate, no_verdict
from agenttune.control.run_logs import RunLogs
from agenttune.errors import RunEnded, StoreFault, UserError
from agenttune.gate import person
from agenttune.protocol.events import NoteAdded, Notified
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, StandingApproval, State, Verdict
from agenttune.protocol.reads import ModelQuery, R, RunQuery


class LocalControl(RunLogs, Control):
    """`Control` over a folder of runs on this machine. Safe to share between threads; arguments as of `RunLogs`."""

    def read(self, run_id: str, query: RunQuery[R]) -> R:
        if isinstance(query, ModelQuery) and query.norms:
            return cast(R, measure(self, run_id, query))
        found: R = answer(query, self, run_id)
        return found

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        gate = RunGate.of(self, run_id)
        log, info = gate.log, gate.info
        if not info.is_live:
            known = log.find_command(proposal.command_id)
            if known is not None:
                return log.submit(proposal, known.verdict or no_verdict())
            raise RunEnded(
                f"run {run_id} is {info.status}; it takes no more commands",
                field="run_id",
                allowed=self._live_runs(),
            )
        gate.limit_rate(proposal)
        record = log.submit(proposal, gate.judge(proposal))
        if record.state in (State.PROPOSED, State.QUEUED):
            gate.supersede(record)
        return record

    def _live_runs(self) -> list[str]:
        return [info.run_id for info in self.runs() if info.is_live]

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        judged = RunGate.of(self, run_id).judge(proposal)
        if isinstance(judged, Verdict):
            return judged
        reason = f"would wait for {judged.asked} ({judged.rule})"
        return Verdict(decision="approved", decided_by="guardrails", reason=reason)

    def decide(self, run_id: str, command_id: str, decision: ApprovalDecision) -> CommandRecord:
        return RunGate.of(self, run_id).decide(command_id, decision)

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        log = self.log(run_id)
        allowed = sorted({standing.kind for standing in log.info().standing})
        if kind not in allowed:
            there_are = ", ".join(allowed) or "nothing is"
            raise UserError(
                f"{kind!r:.80} is not always allowed in this run; {there_are}", field="kind", allowed=allowed
            )
        return log.end_standing_approval(kind, person(author))

    def record(
        self,
        run_id: str,
        body: AgentRecord | Notified | NoteAdded,
        step: int | None = None,
        command_id: str | None = None,
    ) -> int:
        log = self.log(run_id)
        return log.append(body, step=step, branch=log.info().branch, command_id=command_id)[0]

    def look_after_runs(self) -> None:
        """What a server does every few seconds: requests whose time is up are decided, curves are kept ready."""
        self.index_runs()
        for run_id in self._waiting_in():
            self.pending(run_id)

    def _waiting_in(self) -> list[str]:
        """Live runs with proposals that wait for a decision."""
        found = []
        for run_id in self.run_ids():
            if run_id not in self._indexed:
                with contextlib.suppress(StoreFault):
                    if self.log(run_id).count_commands(State.PROPOSED):
                        found.append(run_id)
        return found
