"""The only door to a trainer: submit, observe, follow, record.

`Control` is what the agent loop, the page and the command line see. `LocalControl` works on the runs folder itself;
`client.HttpControl` asks a control server, which uses a `LocalControl`. One gate serves all.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, SerializeAsAny, field_validator

from agenttune.commands import CommandBase, ReadModel, parse_command
from agenttune.errors import AlreadyDecided, RunEnded, StoreFault, TooManyProposals, UserError
from agenttune.events import (
    BranchStarted,
    CheckpointDeleted,
    CheckpointSaved,
    Curve,
    DatasetRead,
    Decided,
    Evaluated,
    Event,
    Found,
    KnobState,
    ModelRead,
    ModuleInfo,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
    RunInfo,
    SeriesInfo,
    StatusChanged,
    StoredPoint,
)
from agenttune.gate import Gate, History, Moment, allowed_before, person, stale, timed_out, touched_by
from agenttune.journal import model_calls, newest_interventions
from agenttune.observation import HISTORY, Observation
from agenttune.observe import Observer, live_knobs
from agenttune.processes import is_alive
from agenttune.proposals import (
    TAKEN,
    ApprovalRequest,
    Author,
    CommandRecord,
    Passed,
    Proposal,
    Record,
    Standing,
    State,
    Verdict,
)
from agenttune.reading import find_layer, measured_model, settled
from agenttune.store import LOG_NAME, RunLog, list_runs, run_folder
from agenttune.summary import Intervention
from agenttune.transcripts import ModelCalled

logger = logging.getLogger(__name__)

OPEN_LOGS_PER_THREAD = 32
FOLLOW_POLL_S = 0.02
"""How often a waiting reader looks at the log's version, which costs microseconds."""

LOST_AFTER_S = 2.0
"""Whoever started a process may record how it ended for so long, before it is recorded as lost (guess)."""

CHECKPOINT_KINDS = ("checkpoint_saved", "checkpoint_deleted")
MOST_CHECKPOINTS = 20_000
"""Events about checkpoints that are read of one run (guess: far more than a disk holds)."""

REFUSED = 20
"""Newest refused proposals of agents that are compared with a new one (guess: more than a model repeats in turn)."""
MINUTE_S = 60.0

READER = Author(principal="viewer", name="reader")
"""Asks the trainer to measure, which changes nothing."""

AgentRecord = Found | Decided | PolicyAttached | PolicyDetached | PolicyRequested | ModelCalled
"""What may be written into a log beside proposals: by an agent, and an operator's wish for another policy."""


class Decision(Record):
    """What somebody decided on a proposal that waits.

    Attributes:
        verdict: `escalate` leaves it to the next who is asked; if there is none, it is rejected.
        digest: Of the proposal, as shown: what was shown is what runs.
        command: `edit`: what is to run instead.
        always: `approve`: further commands of this kind that wait under the same rule are approved too, in this run.
        approver: Which approver of the rule this is. A person may decide at any time, a model when it is its turn.
    """

    verdict: Literal["approve", "edit", "reject", "escalate"]
    digest: str = Field(max_length=128)
    author: Author
    reason: str = Field("", max_length=2000)
    command: SerializeAsAny[CommandBase] | None = None
    always: bool = False
    approver: Literal["human", "model"] = "human"

    @field_validator("command", mode="before")
    @classmethod
    def _parse(cls, raw: object) -> CommandBase | None:
        return raw if raw is None or isinstance(raw, CommandBase) else parse_command(raw)


class Control(Protocol):
    """What can be done to runs, wherever they are.

    Raises:
        UnknownRun: Every method with a `run_id` that does not exist.
        ServerUnreachable: Every method, when there is a server in between and it does not answer.
    """

    def runs(self) -> list[RunInfo]:
        """All runs, newest first."""
        ...

    def info(self, run_id: str) -> RunInfo: ...

    def observe(self, run_id: str) -> Observation:
        """What a policy sees now; bounded however long the run is."""
        ...

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        """Events after `since`; with `wait_s`, waits that long for the first one."""
        ...

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        """Ask for a command: it gets a verdict, and if approved is queued.

        Raises:
            RunEnded: The run takes no more commands.
            CommandIdReused: The id belongs to a different command.
        """
        ...

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        """The verdict that `submit` would give, without submitting; `approved` if it would wait for somebody."""
        ...

    def pending(self, run_id: str) -> list[CommandRecord]:
        """Proposals that wait for a decision, oldest first; those whose time is up are decided first."""
        ...

    def decide(self, run_id: str, command_id: str, decision: Decision) -> CommandRecord:
        """Decide on a proposal that waits; guardrails and staleness are checked again, and the first answer is final.

        Raises:
            AlreadyDecided: It does not wait (any more).
            UserError: The decision does not fit the proposal: another digest, an edit that the guardrails refuse.
        """
        ...

    def end_standing(self, run_id: str, kind: str, author: Author) -> list[Standing]:
        """Take back that a person has always allowed a kind of command; returns what was taken back.

        Raises:
            UserError: It was not allowed.
        """
        ...

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        ...

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        """The newest commands, oldest first."""
        ...

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        """Write a finding or a decision into the log; returns its `seq`."""
        ...

    def knobs(self, run_id: str) -> list[KnobState]:
        """Every live-tunable value as it stands."""
        ...

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]: ...

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        """A metric of one branch, thinned; raises UserError if that branch has none of that name."""
        ...

    def checkpoints(self, run_id: str) -> list[Event]:
        """`checkpoint_saved` events of the checkpoints that still exist, oldest first."""
        ...

    def branches(self, run_id: str) -> list[BranchStarted]:
        """Branches in order of their start; `main` is always the first."""
        ...

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]:
        """The newest commands with their measured effect, oldest first."""
        ...

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        """The model's layers as last read; with `norms`, as the trainer measures them now, within `wait_s`.

        Raises:
            UserError: No such layer, or the trainer refuses to measure.
            SystemFault: It did not measure in time.
        """
        ...

    def dataset(self, run_id: str) -> DatasetRead | None:
        """The training dataset as last read."""
        ...

    def model_calls(self, run_id: str) -> list[ModelCalled]:
        """Calls of language models, oldest first; without the messages and the answer."""
        ...


class LocalControl:
    """`Control` over a folder of runs on this machine. Safe to share between threads.

    Args:
        runs_dir: The folder of runs; may not exist yet.
        clock: Unix time in seconds.
        monotonic: A clock that nobody sets, in seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        runs_dir: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.runs_dir = runs_dir
        self._clock = clock
        self._monotonic = monotonic
        self._gone: dict[str, float] = {}
        self._indexed: set[str] = set()
        self._observers: dict[str, Observer] = {}
        self._sleep = sleep
        self._local = threading.local()

    def now_s(self) -> float:
        """Unix time by this control's clock, which also decides what has expired."""
        return self._clock()

    def log(self, run_id: str) -> RunLog:
        """This thread's connection to a run's log."""
        opened: OrderedDict[str, RunLog] = self._local.__dict__.setdefault("opened", OrderedDict())
        folder = run_folder(self.runs_dir, run_id)
        if run_id not in opened:
            opened[run_id] = RunLog.open(folder)
        opened.move_to_end(run_id)
        while len(opened) > OPEN_LOGS_PER_THREAD:
            opened.popitem(last=False)[1].close()
        return opened[run_id]

    def runs(self) -> list[RunInfo]:
        return [self._checked(info) for info in list_runs(self.runs_dir)]

    def info(self, run_id: str) -> RunInfo:
        return self._checked(self.log(run_id).info())

    def _checked(self, info: RunInfo) -> RunInfo:
        """Tell, and after a grace record, that a run's process is gone: nobody else will close its log."""
        if not info.is_live or info.pid is None or is_alive(info.pid, info.pid_started_s):
            return info
        reason = f"its process {info.pid} ended without closing the log"
        first_seen_s = self._gone.setdefault(info.run_id, self._monotonic())
        if self._monotonic() - first_seen_s < LOST_AFTER_S:
            return info.model_copy(update={"status": "lost", "status_reason": reason})
        log = self.log(info.run_id)
        log.append(StatusChanged(status="lost", reason=reason), step=info.step, branch=info.branch)
        return log.info()

    def observe(self, run_id: str) -> Observation:
        info = self.info(run_id)
        observer = self._observers.setdefault(run_id, Observer())
        return observer.observe(self.log(run_id), info, self._clock(), Gate.of(info).budgets.max_commands)

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        log = self.log(run_id)
        deadline = self._monotonic() + wait_s
        version = None
        while True:
            if version != (version := log.data_version()) and (found := log.events(since, limit, kinds)):
                return found
            left = deadline - self._monotonic()
            if left <= 0:
                return []
            self._sleep(min(FOLLOW_POLL_S, left))

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        log = self.log(run_id)
        info = self.info(run_id)
        if not info.is_live:
            known = log.find_command(proposal.command_id)
            if known is not None:
                return log.submit(proposal, known.verdict or _no_verdict())
            raise RunEnded(
                f"run {run_id} is {info.status}; it takes no more commands",
                field="run_id",
                allowed=self._live_runs(),
            )
        if proposal.author.principal == "agent" and log.find_command(proposal.command_id) is None:
            self._limit_rate(log, Gate.of(info).settings.max_per_minute)
        record = log.submit(proposal, self._judge(log, info, proposal))
        if record.state in (State.PROPOSED, State.QUEUED):
            self._supersede(log, record)
        return record

    def _supersede(self, log: RunLog, newer: CommandRecord) -> None:
        """Older proposals that wait and would change what a newer command changes are no longer wanted."""
        touched = touched_by(newer.command)
        for record in log.commands(State.PROPOSED) if touched else ():
            if record.submitted_seq < newer.submitted_seq and touched & touched_by(record.command):
                reason = (
                    f"{newer.command_id} changes the same: {', '.join(sorted(touched & touched_by(record.command)))}"
                )
                with contextlib.suppress(AlreadyDecided):
                    log.decide(
                        record.command_id, Verdict(decision="superseded", decided_by="newer request", reason=reason)
                    )

    def _limit_rate(self, log: RunLog, most: int) -> None:
        """Turn away an agent that asks more often than anybody could follow; people's commands still pass.

        Raises:
            TooManyProposals: Says when to ask again.
        """
        newest = log.agent_proposals_since(self._clock() - MINUTE_S, most)
        if newest >= most:
            raise TooManyProposals(
                f"agents proposed {newest} commands within a minute, gate.max_per_minute is {most}; ask again later",
                field="command",
            )

    def _live_runs(self) -> list[str]:
        return [info.run_id for info in self.runs() if info.is_live]

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        ruling = self._judge(self.log(run_id), self.info(run_id), proposal)
        if isinstance(ruling, Verdict):
            return ruling
        reason = f"would wait for {ruling.asked} ({ruling.rule})"
        return Verdict(decision="approved", decided_by="guardrails", reason=reason)

    def _judge(self, log: RunLog, info: RunInfo, proposal: Proposal) -> Verdict | ApprovalRequest:
        step = proposal.valid_until_step
        if step is not None and step < info.step:
            reason = f"valid until step {step}, the run is at step {info.step}"
            return Verdict(decision="expired", decided_by="clock", reason=reason)
        return Gate.of(info).judge(proposal, self._moment(log, info), _history(log, proposal.author))

    def _moment(self, log: RunLog, info: RunInfo) -> Moment:
        evaluated = log.events(kinds=["evaluated"], limit=1, newest=True)
        body = evaluated[0].body if evaluated else None
        value = body.metrics.get(info.goal_metric) if isinstance(body, Evaluated) else None
        return Moment(info.model_copy(update={"knobs": live_knobs(log, info)}), self._clock(), value)

    def pending(self, run_id: str) -> list[CommandRecord]:
        log, info = self.log(run_id), self.info(run_id)
        left = []
        for record in log.commands(State.PROPOSED):
            verdict = self._overdue(log, info, record)
            if verdict is None:
                left.append(record)
            else:
                with contextlib.suppress(AlreadyDecided):
                    log.decide(record.command_id, verdict)
        return left

    def _overdue(self, log: RunLog, info: RunInfo, record: CommandRecord) -> Verdict | None:
        """The verdict on a request that is stale or whose time is up; None if it still waits."""
        request = record.request
        if request is None:
            return None
        allowed = allowed_before(request, record.proposal, info) if request.asked == "human" else None
        verdict = stale(request, record.proposal, info) or allowed or timed_out(request, self._clock())
        if verdict is not None and verdict.decision == "approved":
            return self._again(log, info, record.proposal) or verdict
        return verdict

    def _again(self, log: RunLog, info: RunInfo, proposal: Proposal) -> Verdict | None:
        """What the guardrails say now, on a proposal that waited."""
        # What was asked again meanwhile, and refused for that, says nothing against the one that waited.
        history = replace(_history(log, proposal.author), waiting=(), refused=())
        return Gate.of(info).refusal(proposal, self._moment(log, info).info, history)

    def decide(self, run_id: str, command_id: str, decision: Decision) -> CommandRecord:
        log, info = self.log(run_id), self.info(run_id)
        record = log.command(command_id)
        request = record.request
        if request is None or record.state is not State.PROPOSED:
            return log.decide(command_id, _no_verdict())  # raises: it does not wait
        if decision.digest != request.digest:
            raise UserError(
                "the decision is bound to another command than the one that waits; look at it again and decide on its "
                "digest",
                field="digest",
                allowed=request.digest,
            )
        _refuse_misfit(decision, request)
        overdue = self._overdue(log, info, record)
        if overdue is not None:
            return log.decide(command_id, overdue)
        if decision.verdict == "escalate":
            return self._escalate(log, info, record.proposal, request, decision)
        verdict = self._verdict_of(log, info, record.proposal, decision)
        if not decision.always or verdict.decision != "approved":
            return log.decide(command_id, verdict)
        kind, by = record.proposal.command.kind, person(decision.author)
        return log.decide(command_id, verdict, Standing(kind=kind, rule=request.rule, by=by, since_step=info.step))

    def _escalate(
        self, log: RunLog, info: RunInfo, proposal: Proposal, request: ApprovalRequest, decision: Decision
    ) -> CommandRecord:
        by = Passed(by=_decider(decision), reason=decision.reason)
        moment, history = self._moment(log, info), _history(log, proposal.author)
        answer = Gate.of(info).escalated(request, by, proposal, moment, history)
        if isinstance(answer, ApprovalRequest):
            return log.escalate(proposal.command_id, answer)
        if answer.decision == "approved":
            answer = self._again(log, info, proposal) or answer
        return log.decide(proposal.command_id, answer)

    def end_standing(self, run_id: str, kind: str, author: Author) -> list[Standing]:
        log = self.log(run_id)
        allowed = sorted({standing.kind for standing in log.info().standing})
        if kind not in allowed:
            there_are = ", ".join(allowed) or "nothing is"
            raise UserError(
                f"{kind!r:.80} is not always allowed in this run; {there_are}", field="kind", allowed=allowed
            )
        return log.end_standing(kind, person(author))

    def _verdict_of(self, log: RunLog, info: RunInfo, proposal: Proposal, decision: Decision) -> Verdict:
        by = _decider(decision)
        if decision.verdict == "reject":
            return Verdict(decision="rejected", decided_by=by, reason=decision.reason)
        edited = decision.command if decision.verdict == "edit" else None
        if decision.verdict == "edit" and edited is None:
            raise UserError("an edit needs the command as it is to be", field="command")
        wanted = proposal if edited is None else proposal.model_copy(update={"command": edited})
        refusal = self._again(log, info, wanted)
        if refusal is None:
            kind: Literal["approved", "edited"] = "approved" if edited is None else "edited"
            return Verdict(decision=kind, decided_by=by, reason=decision.reason, edited=edited)
        if edited is not None:
            nearest = f"; nearest allowed: {refusal.nearest_allowed}" if refusal.nearest_allowed else ""
            raise UserError(f"the edit is refused: {refusal.reason}{nearest}", allowed=refusal.nearest_allowed)
        return refusal.model_copy(update={"reason": f"approved by {by}, but since then: {refusal.reason}"})

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        return self.log(run_id).command(command_id)

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        return self.log(run_id).commands(*states, limit=limit, newest=True)

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        log = self.log(run_id)
        return log.append(body, step=step, branch=log.info().branch)[0]

    def knobs(self, run_id: str) -> list[KnobState]:
        """Knobs as last read, the rates as of the newest step."""
        return live_knobs(self.log(run_id), self.info(run_id))

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]:
        return self.log(run_id).series(branch)

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        return self.log(run_id).curve(metric, branch, first_step, last_step, max_points)

    def points(self, run_id: str, since: int = 0, limit: int = 1000) -> list[StoredPoint]:
        return self.log(run_id).points(since, limit)

    def look_after_runs(self) -> None:
        """What a server does every few seconds: requests whose time is up are decided, curves are kept ready."""
        self.index_runs()
        for run_id in self._waiting_in():
            self.pending(run_id)

    def _waiting_in(self) -> list[str]:
        """Live runs with proposals that wait for a decision."""
        found = []
        for path in self.runs_dir.glob(f"*/{LOG_NAME}"):
            run_id = path.parent.name
            if run_id not in self._indexed:
                with contextlib.suppress(StoreFault):
                    if self.log(run_id).count_commands(State.PROPOSED):
                        found.append(run_id)
        return found

    def index_runs(self) -> None:
        """Bring the curves' caches of all runs up to date, so that no client waits for it."""
        for path in self.runs_dir.glob(f"*/{LOG_NAME}"):
            run_id = path.parent.name
            if run_id in self._indexed:
                continue
            try:
                log = self.log(run_id)
                was_live = log.info().is_live
                log.index_points()
            except StoreFault as fault:
                logger.warning("%s: its curves are not kept ready", fault)
                was_live = False
            if not was_live:
                self._indexed.add(run_id)

    def newest(self, run_id: str, kind: str) -> Event | None:
        """The last event of a kind, such as `model_read`."""
        found = self.log(run_id).events(kinds=[kind], limit=1, newest=True)
        return found[0] if found else None

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]:
        return newest_interventions(self.log(run_id), self.info(run_id), limit)

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        if not norms:
            event = self.newest(run_id, "model_read")
            return find_layer(event.body.model, layer) if event and isinstance(event.body, ModelRead) else None
        command = ReadModel(layer_name=layer, norms=True)
        record = self.submit(run_id, Proposal(command=command, author=READER, rationale="asked for norms"))
        return measured_model(settled(self, run_id, record, wait_s, self._monotonic), layer, wait_s)

    def dataset(self, run_id: str) -> DatasetRead | None:
        event = self.newest(run_id, "dataset_read")
        return event.body if event and isinstance(event.body, DatasetRead) else None

    def model_calls(self, run_id: str) -> list[ModelCalled]:
        return model_calls(self.log(run_id))

    def checkpoints(self, run_id: str) -> list[Event]:
        """`checkpoint_saved` events of the checkpoints that still exist, oldest first."""
        return existing_checkpoints(self.log(run_id).events(kinds=CHECKPOINT_KINDS, limit=MOST_CHECKPOINTS))

    def branches(self, run_id: str) -> list[BranchStarted]:
        """Branches in order of their start; `main` is always the first."""
        events = self.log(run_id).events(kinds=[BranchStarted.model_fields["kind"].default], limit=10_000)
        started = [e.body for e in events if isinstance(e.body, BranchStarted)]
        return started if any(b.name == "main" for b in started) else [BranchStarted(name="main"), *started]


def _refuse_misfit(decision: Decision, request: ApprovalRequest) -> None:
    """Raises for a decision that this approver cannot make, or not now."""
    if decision.approver == "model" and request.asked != "model":
        raise AlreadyDecided(f"it is not the model's turn: {request.asked} is asked", field="approver")
    if decision.always and (decision.verdict != "approve" or decision.approver != "human"):
        raise UserError("'always' goes with a person's 'approve' only", field="always", allowed=["approve"])


def _decider(decision: Decision) -> str:
    """How a verdict names who gave it."""
    return f"model:{decision.author.name}" if decision.approver == "model" else person(decision.author)


def existing_checkpoints(events: Sequence[Event]) -> list[Event]:
    """Of events of `CHECKPOINT_KINDS`, those that tell of a checkpoint which nobody has deleted since."""
    left: dict[str, Event] = {}
    for event in events:
        if isinstance(event.body, CheckpointSaved):
            left[event.body.checkpoint_id] = event
        elif isinstance(event.body, CheckpointDeleted):
            left.pop(event.body.checkpoint_id, None)
    return list(left.values())


def _history(log: RunLog, author: Author) -> History:
    """What agents did so far; nothing of it matters to anybody else."""
    if author.principal != "agent":
        return History()
    return History(
        commands=log.commands(*TAKEN, principal="agent", limit=HISTORY, newest=True),
        taken=log.count_commands(*TAKEN, principal="agent"),
        refused=log.commands(State.REJECTED, principal="agent", limit=REFUSED, newest=True),
        waiting=log.commands(State.PROPOSED, principal="agent", limit=HISTORY, newest=True),
        extra_steps=log.extra_steps(),
    )


def _no_verdict() -> Verdict:
    return Verdict(decision="rejected", decided_by="store", reason="no verdict recorded")
