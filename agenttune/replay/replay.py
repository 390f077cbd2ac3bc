"""A policy over a recorded run: the real agent loop, over a log that is written step by step."""

from __future__ import annotations

import bisect
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agenttune.agent import AgentLoop
from agenttune.config import GoalSettings, WakeSettings
from agenttune.detectors.trend import LEVEL_STEPS, LOSS_NAMES
from agenttune.policy.base import Decision, Policy
from agenttune.protocol.events import POLICY_FAILED, Decided, Event, Found
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.metrics import Curve
from agenttune.protocol.model_calls import Cost, ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.reads import CurveQuery, SeriesQuery
from agenttune.protocol.summary import MetricAt, outcome_line
from agenttune.replay.outcome import AppliedCommand, RecordedAround, ReplayOutcome, Wanted
from agenttune.replay.recordings import Recording
from agenttune.replay.replay_control import Admitted, ReplayControl
from agenttune.replay.replay_feed import RUN_ID, ReplayFeed
from agenttune.store.journal.goal_metric import EVERYTHING

WINDOW_STEPS = 50
"""What was really done so many steps before or after a proposal is shown beside it (guess: two looks of an agent)."""
CHART_POINTS = 1000
AFTERWARDS = "a replay applies nothing: after the first proposal, the run goes on as it was recorded"

MakePolicy = Callable[[ReplayControl, str], Admitted]
"""From the recorded run, for a policy whose tools read it, to the policy."""


@dataclass
class Patient:
    """A policy that is waited for, and of which it is counted how often it was asked."""

    inner: Policy
    asked: int = 0

    @property
    def name(self) -> str:
        return self.inner.name

    def decide(self, observation: Observation) -> Decision:
        self.asked += 1
        decision = self.inner.decide(observation)
        while decision.later is not None:
            decision = decision.later.result()
        return decision


@dataclass(frozen=True)
class Replayed:
    """A replay with the curve that belongs to it."""

    outcome: ReplayOutcome
    curve: Curve | None
    evaluations: list[MetricAt]


def replay(
    recording: Recording,
    make_policy: MakePolicy,
    wake: WakeSettings | None = None,
    goal: GoalSettings | None = None,
    window_steps: int = WINDOW_STEPS,
) -> Replayed:
    """Let a policy watch a recorded run.

    Args:
        recording: The run.
        make_policy: Makes the policy; its language models are really called.
        wake: When the policy is asked; it is always waited for.
        goal: What counts as good, where the recording does not say it.
        window_steps: What was really done so near to a proposal is shown beside it.
    """
    wake = (wake or WakeSettings()).model_copy(update={"mode": "async"})
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="agenttune-replay-") as folder:
        feed = ReplayFeed(recording, Path(folder), goal or GoalSettings())
        control = ReplayControl(Path(folder), feed.now_s, window_steps)
        try:
            admitted = make_policy(control, RUN_ID)
            policy = Patient(admitted.policy)
            loop = AgentLoop(control, RUN_ID, policy, wake, clock_s=lambda: 0.0, detectors=admitted.detectors)
            _watch(feed, loop, wake)
            account = _Account(recording, control, policy, wake, window_steps)
            outcome = account.outcome(time.perf_counter() - began_s, admitted.note)
            return Replayed(outcome, _curve(control), _evaluations(recording, control.info(RUN_ID).goal_metric))
        finally:
            control.log(RUN_ID).close()
            feed.close()


def _watch(feed: ReplayFeed, loop: AgentLoop, wake: WakeSettings) -> None:
    recording = feed.recording
    loop.tick()
    looks = {evaluation.step for evaluation in recording.evaluations} | {recording.last_step}
    looks |= {step for step in range(1, recording.last_step) if wake.is_time(step)}
    first = min((row.step for row in recording.rows), default=0)
    for step in sorted(looks):
        if step >= first:
            feed.advance(step)
            loop.tick()


def _curve(control: ReplayControl) -> Curve | None:
    known = {series.name for series in control.read(RUN_ID, SeriesQuery()).series}
    name = next((name for name in LOSS_NAMES if name in known), None)
    return control.read(RUN_ID, CurveQuery(name=name, max_points=CHART_POINTS)) if name else None


def _evaluations(recording: Recording, metric: str) -> list[MetricAt]:
    found = [(e.step, value_of(metric, e.metrics)) for e in recording.evaluations]
    return [MetricAt(step=step, value=value) for step, value in found if value is not None]


class _Account:
    """Reads off what came of a replay."""

    def __init__(
        self, recording: Recording, control: ReplayControl, policy: Patient, wake: WakeSettings, window_steps: int
    ) -> None:
        self._recording, self._control, self._policy, self._wake = recording, control, policy, wake
        self._window_steps = window_steps
        self._loss = _Series.of(recording, LOSS_NAMES)
        self._lr = _Series.of(recording, ("lr",))

    def outcome(self, duration_s: float, note: str) -> ReplayOutcome:
        events = self._control.log(RUN_ID).events(kinds=["decided", "found", "model_called"], limit=EVERYTHING)
        done = [_done(record) for record in self._recording.commands if _is_done(record)]
        wanted = sorted([*self._noted(events, done), *self._shadowed(events, done)], key=lambda w: w.step)
        calls = [event.body for event in events if isinstance(event.body, ModelCalled)]
        cost = Cost.of(calls)
        return ReplayOutcome(
            recording=self._recording.name,
            source=self._recording.source,
            policy=self._policy.name,
            first_step=min((row.step for row in self._recording.rows), default=0),
            last_step=self._recording.last_step,
            every_steps=self._wake.every_steps,
            window_steps=self._window_steps,
            decisions=self._policy.asked,
            wanted=wanted,
            done=[self._also_wanted(item, wanted) for item in done],
            findings=[event.body.finding for event in events if isinstance(event.body, Found)],
            calls=cost.calls,
            usd=cost.whole_usd,
            duration_s=duration_s,
            notes=self._notes(note, _failures(events), _failed_calls(calls), AFTERWARDS if wanted else ""),
        )

    def _notes(self, admission: str, *others: str) -> list[str]:
        return [note for note in (admission, *self._recording.notes, *others) if note]

    def _noted(self, events: Sequence[Event], done: Sequence[AppliedCommand]) -> list[Wanted]:
        turns = [event.body for event in events if isinstance(event.body, Decided)]
        woken_by = {command_id: turn.woken_by for turn in turns for command_id in turn.command_ids}
        found = []
        for record in self._control.noted:
            proposal, verdict = record.proposal, record.verdict
            step = proposal.based_on_step or 0
            refused = verdict is not None and verdict.decision not in ("approved", "edited")
            found.append(
                Wanted(
                    step=step,
                    kind=proposal.command.kind,
                    arguments=proposal.command.arguments(),
                    rationale=proposal.rationale,
                    woken_by=woken_by.get(proposal.command_id, ""),
                    refused=f"{verdict.decided_by}: {verdict.reason}" if refused and verdict else "",
                    around=self._around(step),
                    done=self._near(step, done),
                )
            )
        return found

    def _shadowed(self, events: Sequence[Event], done: Sequence[AppliedCommand]) -> list[Wanted]:
        turns = [(event, event.body) for event in events if isinstance(event.body, Decided)]
        return [
            Wanted(
                step=(step := turn.based_on_step or event.step or 0),
                kind=item.command.kind,
                arguments=item.command.arguments(),
                rationale=item.rationale,
                woken_by=turn.woken_by,
                shadow=True,
                around=self._around(step),
                done=self._near(step, done),
            )
            for event, turn in turns
            for item in turn.shadowed
        ]

    def _near(self, step: int, done: Sequence[AppliedCommand]) -> list[AppliedCommand]:
        return [item for item in done if abs(item.step - step) <= self._window_steps]

    def _also_wanted(self, item: AppliedCommand, wanted: Sequence[Wanted]) -> AppliedCommand:
        near = [w for w in wanted if w.kind == item.kind and abs(w.step - item.step) <= self._window_steps]
        closest = min(near, key=lambda w: abs(w.step - item.step), default=None)
        return item.model_copy(update={"proposed_at_step": closest.step}) if closest else item

    def _around(self, step: int) -> RecordedAround:
        after = step + self._window_steps
        return RecordedAround(
            loss=self._loss.level(step),
            loss_after=self._loss.level(after),
            lr=self._lr.last(step),
            lr_after=self._lr.last(after),
        )


def _failures(events: Sequence[Event]) -> str:
    """How often the policy failed, if it did; a policy that fails looks like one that has nothing to ask for."""
    turns = [(event.step, event.body.reason) for event in events if isinstance(event.body, Decided)]
    failed = [(step, reason) for step, reason in turns if reason.startswith(POLICY_FAILED)]
    if not failed:
        return ""
    (step, reason), count = failed[0], len(failed)
    return f"{POLICY_FAILED} {count} times, first at step {step}{reason[len(POLICY_FAILED) :]}"


def _failed_calls(calls: Sequence[ModelCalled]) -> str:
    errors = [call.error for call in calls if call.error]
    return f"{len(errors)} of {len(calls)} calls of a language model failed; the first: {errors[0]}" if errors else ""


def _is_done(record: CommandRecord) -> bool:
    return record.ack is not None and record.ack.outcome == "applied"


def _done(record: CommandRecord) -> AppliedCommand:
    proposal = record.proposal
    return AppliedCommand(
        step=record.ack_step,
        kind=proposal.command.kind,
        summary=outcome_line(record),
        author=proposal.author.name,
        rationale=proposal.rationale,
    )


@dataclass(frozen=True)
class _Series:
    """One metric of a recording."""

    steps: list[int]
    values: list[float]

    @classmethod
    def of(cls, recording: Recording, names: Sequence[str]) -> _Series:
        """The first of the named metrics that was recorded."""
        for name in names:
            found = [(row.step, row.values[name]) for row in recording.rows if name in row.values]
            if found:
                return cls([step for step, _ in found], [value for _, value in found])
        return cls([], [])

    def last(self, step: int) -> float | None:
        count = bisect.bisect_right(self.steps, step)
        return self.values[count - 1] if count else None

    def level(self, step: int) -> float | None:
        """Median of the newest finite values; NaN if none of them is finite."""
        count = bisect.bisect_right(self.steps, step)
        newest = self.values[max(0, count - LEVEL_STEPS) : count]
        finite = [value for value in newest if math.isfinite(value)]
        return median(finite) if finite else (math.nan if newest else None)
