"""The interface to runs, wherever they are; the agent loop, the server and the command line use nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from agenttune.errors import UnknownRun
from agenttune.protocol.commands import Command
from agenttune.protocol.events import (
    Decided,
    Event,
    FindingJudged,
    Found,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
    TagsChanged,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, Record, StandingApproval, State, Verdict
from agenttune.protocol.reads import (
    MAX_ROWS,
    CommandQuery,
    CommandsQuery,
    EventsQuery,
    InfoQuery,
    ObservationQuery,
    PendingQuery,
    R,
    RunQuery,
)
from agenttune.protocol.run_info import RunInfo

WAIT_S = 30.0
"""Longest single wait asked of whoever answers; longer ones are asked in turns."""
AgentRecord = (
    Found | Decided | PolicyAttached | PolicyDetached | PolicyRequested | ModelCalled | TagsChanged | FindingJudged
)
"""What may be written into a log beside proposals: by an agent, and by a person another policy, tags, a judgement."""


class ApprovalDecision(Record):
    """What somebody decided on a proposal that waits.

    Attributes:
        verdict: `escalate` leaves it to the next who is asked; if there is none, it is rejected.
        digest: Of the proposal, as shown: what was shown is what runs.
        command: `edit`: what is to run instead.
        always: `approve`: further commands of this kind that wait under the same rule are approved too, in this run.
        approver: Which approver of the rule this is. A person (`human`) may decide at any time, others in turn.
    """

    verdict: Literal["approve", "edit", "reject", "escalate"]
    digest: str = Field(max_length=128)
    author: Author
    reason: str = Field("", max_length=2000)
    command: Command | None = None
    always: bool = False
    approver: str = "human"


class Control(ABC):
    """What can be done to runs, wherever they are.

    Raises:
        UnknownRun: Every method with a `run_id` that does not exist.
        ServerUnreachable: Every method, when there is a server in between and it does not answer.
    """

    @abstractmethod
    def runs(self) -> list[RunInfo]:
        """All runs, newest first."""

    @abstractmethod
    def read(self, run_id: str, query: RunQuery[R]) -> R:
        """Answer a read; `protocol/reads.py` has them all."""

    def info(self, run_id: str) -> RunInfo:
        return self.read(run_id, InfoQuery())

    def observe(self, run_id: str) -> Observation:
        """What a policy sees now; bounded however long the run is."""
        return self.read(run_id, ObservationQuery())

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        """Events after `since`; with `wait_s`, waits that long for the first one. As many reads as that takes."""
        found: list[Event] = []
        while len(found) < limit:
            asked, turn_s = min(MAX_ROWS, limit - len(found)), 0.0 if found else min(WAIT_S, wait_s)
            page = self.read(
                run_id, EventsQuery(since=since, limit=asked, kinds=list(kinds or ()), wait_s=max(0.0, turn_s))
            )
            found += page.events
            since, wait_s = page.next, wait_s - turn_s
            if len(page.events) < asked and (found or wait_s <= 0):
                break
        return found

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        return self.read(run_id, CommandQuery(command_id=command_id))

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        """The newest commands, oldest first."""
        return self.read(run_id, CommandsQuery(state=list(states), limit=limit)).commands

    def pending(self, run_id: str) -> list[CommandRecord]:
        """Proposals that wait for a decision, oldest first; those whose time is up are decided first."""
        return self.read(run_id, PendingQuery()).commands

    @abstractmethod
    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        """Ask for a command: it gets a verdict, and if approved is queued.

        Raises:
            RunEnded: The run takes no more commands.
            CommandIdReused: The id belongs to a different command.
        """

    @abstractmethod
    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        """The verdict that `submit` would give, without submitting; `approved` if it would wait for somebody."""

    @abstractmethod
    def decide(self, run_id: str, command_id: str, decision: ApprovalDecision) -> CommandRecord:
        """Decide on a proposal that waits; guardrails and staleness are checked again, and the first answer is final.

        Raises:
            AlreadyDecided: It does not wait (any more).
            UserError: The decision does not fit the proposal: another digest, an edit that the guardrails refuse.
        """

    @abstractmethod
    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        """Take back that a person has always allowed a kind of command; returns what was taken back.

        Raises:
            UserError: It was not allowed.
        """

    @abstractmethod
    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        """Write a finding or a decision into the log; returns its `seq`."""


LATEST = "latest"
"""In place of a run's id: the newest run."""
LISTED = 10
"""Runs that an error names."""


def newest_live(runs: Sequence[RunInfo]) -> str | None:
    """The newest run that still trains, or else the newest; `runs` are newest first."""
    ids = [info.run_id for info in runs if info.is_live] or [info.run_id for info in runs]
    return ids[0] if ids else None


def run_named(name: str, ids: Sequence[str], newest: str | None, where: Path | str = "") -> str:
    """The run that is meant: by its id, by the beginning of exactly one, or by `latest` or nothing.

    Args:
        name: What was given.
        ids: Of the runs there are, newest first.
        newest: Which of them `latest` is.
        where: Their folder, or the server's address, for errors.

    Raises:
        UnknownRun: None, or more than one.
    """
    if name in ids:
        return name
    if name in ("", LATEST) and newest is not None:
        return newest
    matches = [i for i in ids if i.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    at, listed = f" in {where}" if where else "", ", ".join((matches or ids)[:LISTED])
    if matches:
        problem = f"{len(matches)} runs begin with {name!r:.80}: {listed}"
    elif ids:
        problem = f"no run {name!r:.80}{at}; there are: {listed}"
    else:
        hint = ", or name another folder with --runs-dir" if isinstance(where, Path) else ""
        problem = f"no runs{at} yet; start one with: agenttune run config.yaml{hint}"
    raise UnknownRun(problem, field="run", allowed=(matches or ids)[:LISTED])
