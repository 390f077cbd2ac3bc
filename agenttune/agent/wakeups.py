"""Wake-ups: the reasons for asking a policy now."""

from __future__ import annotations

from agenttune.config import WakeSettings
from agenttune.control import Control
from agenttune.detectors.trend import last_change_step
from agenttune.protocol.commands import AddNote
from agenttune.protocol.events import Decided, DecisionAwaited, Evaluated, Event, PolicyRequested
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Evaluation, Observation
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.protocol.rank_reads import RanksRead

REARM_STEPS = 200
"""A finding that stays true without any change is reported again after so many steps, then after doubling times."""
EFFECT_STEPS = 30
"""Steps after a change before the same finding counts as new: the change needs time to act (tuned)."""
PAGE = 1000
KINDS = ("evaluated", "judged", "note_added", "policy_requested", "decision_awaited", "ranks_read")
OUTCOMES = frozenset({State.KEPT, State.REVERTED})
"""How the probation of a change can end."""


class Wakeups:
    """Follows a run's log and collects reasons to wake the policy.

    Attributes:
        reasons: Why the policy should be asked; empty if there is no reason.
        request: An operator's newest request for another policy, or for none.
        awaited: The event that training waits for a decision, if it does.
        must_observe: Something happened whose details only an observation has.
    """

    def __init__(self, control: Control, run_id: str, wake: WakeSettings) -> None:
        self._control, self._run_id, self._wake = control, run_id, wake
        self._cursor: int | None = None
        self._states: dict[str, State] | None = None
        self._evaluated: set[str] = set()
        self.reasons: list[str] = []
        self.request: PolicyRequested | None = None
        self.awaited: Event | None = None
        self.must_observe = False
        self._first: Observation | None = None

    def start(self) -> None:
        """Follow the log from its end; a decision that training already waits for is found."""
        if self._cursor is not None:
            return
        now = self._control.observe(self._run_id)
        last = self._unanswered(now.last_seq)
        if last is not None and (last.step, last.branch) == (now.step, now.branch):
            self.awaited, self._first = last, now
        self._cursor = now.last_seq
        self._evaluated = {_key(evaluation) for evaluation in now.evaluations}

    def take_first(self) -> Observation | None:
        """What was observed at the start, once; None if something has come since, or training did not stand still."""
        first, self._first = self._first, None
        return first if first is not None and first.last_seq == self._cursor else None

    def _unanswered(self, until: int) -> Event | None:
        """The newest decision that training waits for, if it was not made."""
        last: Event | None = None
        since = 0
        while page := self._control.events(self._run_id, since, PAGE, kinds=("decision_awaited", "decided")):
            since = page[-1].seq
            for event in page:
                if isinstance(event.body, DecisionAwaited):
                    last = event if event.seq <= until else None  # a newer one is found by following the log
                elif last is not None and isinstance(event.body, Decided):
                    last = None if event.body.awaited_seq in (None, last.seq) else last
        return last

    def poll(self, wait_s: float = 0.0) -> bool:
        """Read what is new, waiting so long for the first of it.

        Returns:
            Whether the policy should be asked at once.
        """
        self.start()
        events = self._control.events(self._run_id, self._cursor or 0, PAGE, wait_s, KINDS)
        self._cursor = max([self._cursor or 0, *(event.seq for event in events)])
        for event in events:
            self._take(event)
        return self._wake.on_evaluation and any(isinstance(event.body, Evaluated) for event in events)

    def _take(self, event: Event) -> None:
        if isinstance(event.body, Evaluated):
            pass  # the next observation has it, and tells of it once
        elif isinstance(event.body, PolicyRequested):
            self.request = event.body
        elif isinstance(event.body, DecisionAwaited):
            self.awaited = event
        elif isinstance(event.body, RanksRead):
            self.must_observe = self.must_observe or self._wake.on_finding  # also while no step is made
        else:
            self.must_observe = self.must_observe or self._wake.on_answer

    def submitted(self, record: CommandRecord) -> None:
        """Remember the state of an own command, so that a later change of it wakes the policy."""
        if self._states is not None:
            self._states[record.command_id] = record.state

    def note(self, observation: Observation, author: Author) -> None:
        """Add the reasons in an observation: evaluations, verdicts on own commands, notes of operators."""
        known, self._evaluated = self._evaluated, {_key(evaluation) for evaluation in observation.evaluations}
        if self._wake.on_evaluation:
            new = [evaluation.step for evaluation in observation.evaluations if _key(evaluation) not in known]
            self.reasons += [f"evaluation at step {step}" for step in new]
        before, self._states = self._states, {c.command_id: c.state for c in observation.commands}
        self.must_observe = False
        if before is not None and self._wake.on_answer:
            answers = [_answer(c, before.get(c.command_id), author) for c in observation.commands]
            self.reasons += filter(None, answers)


def _answer(record: CommandRecord, was: State | None, author: Author) -> str:
    """The reason that a command's new state gives; empty if none."""
    command, by = record.proposal.command, record.proposal.author
    if record.state is was:
        return ""
    if command.kind == AddNote.kind_name():  # an operator's note is meant for the agent
        return f"note by {by.name}" if by.principal == "operator" and record.state is State.APPLIED else ""
    if by.is_same(author) and (was is State.PROPOSED or (record.state in OUTCOMES and was is not None)):
        return f"{command.kind} {record.state.value}"
    return ""


def _key(evaluation: Evaluation) -> str:
    """Identifies an evaluation, also among several of one step; NaN equals NaN here."""
    return f"{evaluation.step} {evaluation.metrics}"


def is_new(finding: Finding, observation: Observation) -> bool:
    """Whether a finding says more than the last recorded one of its kind."""
    known = [f for f in observation.findings if f.kind == finding.kind]
    if not known:
        return True
    last, changed = known[-1], last_change_step(observation)
    if changed >= last.step:
        return finding.step >= changed + EFFECT_STEPS
    if finding.severity == "critical" != last.severity:
        return True
    return finding.step - last.step >= max(REARM_STEPS, last.step - changed)
