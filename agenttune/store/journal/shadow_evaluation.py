"""What a policy in shadow would have done, beside what was done: a fold of the log."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence

from agenttune.protocol.commands import CommandBase
from agenttune.protocol.events import Decided, Event, Found, KnobsRead, Shadowed
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.metrics import Curve, is_number
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.protocol.summary import Hindsight, MetricAt, ShadowedProposal, ShadowScore, outcome_line
from agenttune.store.journal.goal_metric import EVERYTHING, goal_values
from agenttune.store.run_log import RunLog

WINDOW_STEPS = 100
"""Steps after a shadowed proposal within which what was done and what came of it is compared with it (guess)."""
PART_STEPS = 1000
"""Steps of a rate that are read at once (guess)."""


def shadow_evaluation(log: RunLog, window_steps: int = WINDOW_STEPS) -> ShadowScore | None:
    """Compare what was proposed in shadow with what was done; None if nothing was."""
    decided = [(event, event.body) for event in log.shadowed() if isinstance(event.body, Decided)]
    if not decided:
        return None
    past = _Past(log, log.info(), window_steps)
    proposals = [past.judge(event, body, shadowed) for event, body in decided for shadowed in body.shadowed]
    alone = [p for p in proposals if p.hindsight == "alone"]
    return ShadowScore(
        window_steps=window_steps,
        proposals=proposals,
        agreed=sum(p.hindsight == "agreed" for p in proposals),
        opposed=sum(p.hindsight == "opposed" for p in proposals),
        alone=len(alone),
        alone_before_critical=sum(p.critical_after for p in alone),
    )


class _Past:
    """A run's log, read once and in order: a policy in shadow may have proposed thousands of things."""

    def __init__(self, log: RunLog, info: RunInfo, window_steps: int) -> None:
        self._log, self._info, self._window_steps = log, info, window_steps
        self._lines: dict[str, Lineage] = {}
        self._names: dict[str, set[str]] = {}
        self._curves: dict[tuple[str, str, int], Curve] = {}
        self._goals: dict[str, list[MetricAt]] = {}
        self._knobs_read = log.events(kinds=["knobs_read"], limit=EVERYTHING)
        self._critical: dict[str, list[int]] = defaultdict(list)
        """By branch: the steps of critical findings, in order."""
        for event in log.events(kinds=["found"], limit=EVERYTHING):
            if isinstance(event.body, Found) and event.body.finding.severity == "critical":
                insort(self._critical[event.branch], event.body.finding.step)
        self._applied: dict[str, list[tuple[int, CommandRecord]]] = defaultdict(list)
        """By branch: what was applied, in the order of its steps."""
        for record in log.commands(limit=EVERYTHING):
            if record.ack is not None and record.ack.outcome == "applied":
                insort(self._applied[record.ack.branch], (record.ack.step, record), key=_step_of)

    def judge(self, event: Event, decided: Decided, shadowed: Shadowed) -> ShadowedProposal:
        step = (event.step or 0) if decided.based_on_step is None else decided.based_on_step
        until = step + self._window_steps
        wanted = aims(shadowed.command, self._knobs(event, step))
        hindsight, done = compare(shadowed.command.kind, wanted, self._done(event.branch, step, until))
        values = self._goal(event.branch)
        before = bisect_right(values, step, key=_goal_step)
        after = bisect_right(values, until, key=_goal_step)
        return ShadowedProposal(
            step=step,
            policy=decided.policy,
            kind=shadowed.command.kind,
            arguments=shadowed.command.arguments(),
            rationale=shadowed.rationale,
            done=done,
            hindsight=hindsight,
            metric_before=values[before - 1] if before else None,
            metric_after=values[after - 1] if after > before else None,
            critical_after=self._turned_critical(event.branch, step, until),
        )

    def _goal(self, branch: str) -> list[MetricAt]:
        if branch not in self._goals:
            values = goal_values(self._log, self._info, branch)
            self._goals[branch] = sorted(values[1], key=_goal_step) if values else []
        return self._goals[branch]

    def _done(self, branch: str, step: int, until: int) -> list[CommandRecord]:
        applied = self._applied.get(branch, [])
        first, last = bisect_left(applied, step, key=_step_of), bisect_right(applied, until, key=_step_of)
        return [record for _, record in applied[first:last]]

    def _turned_critical(self, branch: str, step: int, until: int) -> bool:
        steps = self._critical.get(branch, [])
        following = bisect_right(steps, step)
        return following < len(steps) and steps[following] <= until

    def _knobs(self, event: Event, step: int) -> dict[str, KnobState]:
        """The knobs as last read before an event, the rates as they were at the step."""
        earlier = bisect_left(self._knobs_read, event.seq, key=_seq_of)
        body = self._knobs_read[earlier - 1].body if earlier else None
        knobs = {knob.name: knob for knob in body.knobs} if isinstance(body, KnobsRead) else {}
        rates = {"effective": self._value("lr", event.branch, step), "base": self._value("base_lr", event.branch, step)}
        known = {name: value for name, value in rates.items() if value is not None}
        return knobs | {"lr": knobs.get("lr", KnobState(name="lr")).model_copy(update=known)}

    def _value(self, metric: str, branch: str, step: int) -> float | None:
        """The newest value of a metric in the window before a step, on what the branch stands on."""
        if branch not in self._lines:
            self._lines[branch] = self._log.lineage(branch)
        for segment in reversed(self._lines[branch].segments):
            last = step if segment.last_step is None else min(step, segment.last_step)
            curve = self._curve(metric, segment.branch, last)
            index = bisect_right(curve.steps, last) - 1 if curve is not None else -1
            if curve is not None and index >= 0 and curve.steps[index] >= last - self._window_steps:
                return curve.mean[index]
        return None

    def _curve(self, metric: str, branch: str, step: int) -> Curve | None:
        """The part of a metric that holds the window before a step, read once for all steps of that part."""
        if branch not in self._names:
            self._names[branch] = {series.name for series in self._log.series(branch)}
        if metric not in self._names[branch]:
            return None
        key = (metric, branch, step // PART_STEPS)
        if key not in self._curves:
            first = key[2] * PART_STEPS
            span = PART_STEPS + self._window_steps
            before = max(0, first - self._window_steps)
            self._curves[key] = self._log.curve(metric, branch, before, first + PART_STEPS, 2 * span)
        return self._curves[key]


def _step_of(applied: tuple[int, CommandRecord]) -> int:
    return applied[0]


def _goal_step(value: MetricAt) -> int:
    return value.step


def _seq_of(event: Event) -> int:
    return event.seq


def aims(command: CommandBase, knobs: Mapping[str, KnobState]) -> dict[str, int]:
    """Where a command would move what it names: 1 up, -1 down, 0 not at all; only numbers whose value is known."""
    found: dict[str, int] = {}
    if command.tries() or command.lr_plan() is not None:
        return found  # more than one way, or one that goes up and down
    for asked in command.asked():
        knob = None if asked.owner == "dataset" else knobs.get(asked.name)
        now = None if knob is None else (knob.base if asked.sets_base else knob.effective)
        sign = _sign(now, asked.value)
        if sign is not None:
            found[asked.name] = sign
    return found


def compare(kind: str, wanted: Mapping[str, int], done: Sequence[CommandRecord]) -> tuple[Hindsight, str]:
    """How a proposal stands to what was done, and what that was: the first of its kind that speaks to it."""
    same_kind = [record for record in done if record.proposal.command.kind == kind]
    for record in same_kind:
        signs = [wanted[name] * sign for name, sign in _moves(record).items() if name in wanted]
        if any(signs) or not wanted:
            return ("opposed" if min(signs, default=0) < 0 else "agreed"), _words(record)
    others = [*same_kind, *(record for record in done if record not in same_kind)]
    return "alone", _words(others[0]) if others else ""


def _moves(record: CommandRecord) -> dict[str, int]:
    changes = record.ack.changes if record.ack is not None else []
    signs = {change.name: _sign(change.previous, change.effective) for change in changes}
    return {name: sign for name, sign in signs.items() if sign is not None}


def _sign(before: object, after: object) -> int | None:
    """The direction of a change of a number; None where there is none to speak of."""
    if not is_number(before) or not is_number(after):
        return None
    if math.isclose(before, after, rel_tol=1e-6):
        return 0
    return 1 if after > before else -1


def _words(record: CommandRecord) -> str:
    step = record.ack.step if record.ack is not None else None
    return f"{record.proposal.author.name} at step {step}: {outcome_line(record)}"
