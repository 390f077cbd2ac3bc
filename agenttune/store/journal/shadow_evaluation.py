"""What a policy in shadow would have done, beside what was done: a fold of the log."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

from agenttune.protocol.commands import CommandBase
from agenttune.protocol.events import Decided, Event, Found, KnobsRead, Shadowed
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.protocol.summary import Hindsight, MetricAt, ShadowedProposal, ShadowScore, outcome_line
from agenttune.store.journal.goal_metric import EVERYTHING, goal_values
from agenttune.store.run_log import RunLog

WINDOW_STEPS = 100
"""Steps after a shadowed proposal within which what was done and what came of it is compared with it (guess)."""


def shadow_evaluation(log: RunLog, window_steps: int = WINDOW_STEPS) -> ShadowScore | None:
    """Compare what was proposed in shadow with what was done; None if nothing was."""
    past = _Past(log, log.info(), window_steps)
    decided = [(event, event.body) for event in past.events if isinstance(event.body, Decided)]
    proposals = [past.judge(event, body, shadowed) for event, body in decided for shadowed in body.shadowed]
    if not proposals:
        return None
    alone = [p for p in proposals if p.hindsight == "alone"]
    return ShadowScore(
        window_steps=window_steps,
        proposals=proposals,
        agreed=sum(p.hindsight == "agreed" for p in proposals),
        opposed=sum(p.hindsight == "opposed" for p in proposals),
        alone=len(alone),
        alone_before_critical=sum(p.critical_after for p in alone),
    )


@dataclass(frozen=True)
class _Past:
    """A run's log, read once."""

    log: RunLog
    info: RunInfo
    window_steps: int

    @cached_property
    def events(self) -> list[Event]:
        return self.log.events(kinds=["decided", "found", "knobs_read"], limit=EVERYTHING)

    @cached_property
    def applied(self) -> list[CommandRecord]:
        records = self.log.commands(limit=EVERYTHING)
        return [record for record in records if record.ack is not None and record.ack.outcome == "applied"]

    @cached_property
    def _goals(self) -> dict[str, list[MetricAt]]:
        return {}

    def goals(self, branch: str) -> list[MetricAt]:
        if branch not in self._goals:
            values = goal_values(self.log, self.info, branch)
            self._goals[branch] = values[1] if values else []
        return self._goals[branch]

    def judge(self, event: Event, decided: Decided, shadowed: Shadowed) -> ShadowedProposal:
        step = (event.step or 0) if decided.based_on_step is None else decided.based_on_step
        until = step + self.window_steps
        wanted = aims(shadowed.command, self._knobs(event, step))
        hindsight, done = compare(shadowed.command.kind, wanted, self._done(event.branch, step, until))
        values = self.goals(event.branch)
        return ShadowedProposal(
            step=step,
            policy=decided.policy,
            kind=shadowed.command.kind,
            arguments=shadowed.command.arguments(),
            rationale=shadowed.rationale,
            done=done,
            hindsight=hindsight,
            metric_before=next((v for v in reversed(values) if v.step <= step), None),
            metric_after=next((v for v in reversed(values) if step < v.step <= until), None),
            critical_after=self._turned_critical(event.branch, step, until),
        )

    def _done(self, branch: str, step: int, until: int) -> list[CommandRecord]:
        acks = [(record, record.ack) for record in self.applied]
        return [r for r, ack in acks if ack is not None and ack.branch == branch and step <= ack.step <= until]

    def _turned_critical(self, branch: str, step: int, until: int) -> bool:
        found = [e.body.finding for e in self.events if isinstance(e.body, Found) and e.branch == branch]
        return any(f.severity == "critical" and step < f.step <= until for f in found)

    def _knobs(self, event: Event, step: int) -> dict[str, KnobState]:
        """The knobs as last read before an event, the rates as they were at the step."""
        earlier = [e for e in self.events if e.seq < event.seq and isinstance(e.body, KnobsRead)]
        body = earlier[-1].body if earlier else None
        knobs = {knob.name: knob for knob in body.knobs} if isinstance(body, KnobsRead) else {}
        rates = {"effective": self._value("lr", event.branch, step), "base": self._value("base_lr", event.branch, step)}
        known = {name: value for name, value in rates.items() if value is not None}
        return knobs | {"lr": knobs.get("lr", KnobState(name="lr")).model_copy(update=known)}

    def _value(self, metric: str, branch: str, step: int) -> float | None:
        for segment in reversed(self.log.lineage(branch).segments):
            last = step if segment.last_step is None else min(step, segment.last_step)
            if metric not in {s.name for s in self.log.series(segment.branch)}:
                continue
            curve = self.log.curve(
                metric, segment.branch, max(0, last - self.window_steps), last, self.window_steps + 1
            )
            index = bisect_right(curve.steps, step) - 1
            if index >= 0:
                return curve.mean[index]
        return None


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
    if not _is_number(before) or not _is_number(after):
        return None
    if math.isclose(before, after, rel_tol=1e-6):
        return 0
    return 1 if after > before else -1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _words(record: CommandRecord) -> str:
    step = record.ack.step if record.ack is not None else None
    return f"{record.proposal.author.name} at step {step}: {outcome_line(record)}"
