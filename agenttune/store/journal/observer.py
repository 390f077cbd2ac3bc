"""The observer of a run: folds its log into the `Observation` that a policy sees, kept up to date row by row."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable

from agenttune.errors import UserError
from agenttune.protocol.commands import AddNote
from agenttune.protocol.events import Acked, Evaluated, Event, Found, WeightsSampled
from agenttune.protocol.goal_names import resolve
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.metrics import Curve, StoredPoint
from agenttune.protocol.observation import (
    DOWNSAMPLED_POINTS,
    FIRST_POINTS,
    HISTORY,
    RANK_READINGS,
    RECENT_POINTS,
    WEIGHT_LOOKS,
    Evaluation,
    Observation,
    SeriesView,
)
from agenttune.protocol.proposals import TAKEN, State
from agenttune.protocol.rank_reads import RanksRead
from agenttune.protocol.redefining import Redefinition, newest_of, redefinition
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.weight_looks import WeightLook
from agenttune.store.journal.measured_effects import MeasuredEffects
from agenttune.store.run_log import RunLog

DOWNSAMPLED = ("step_loss", "loss", "step_grad_norm", "grad_norm", "lr")
"""Series whose whole history a policy gets, downsampled; the others are given for the newest steps only."""
SOURCES = ("step", "log")
NOTES = 10
"""Newest remarks of operators that a policy gets, each cut to so many characters (a guess):"""
NOTE_CHARACTERS = 500
PACE_ROWS = 256
"""Newest rows that tell the pace (guess: enough to hold an evaluation or two)."""
PAGE = 1000
MOST_UNSEEN = 5000
"""Rows that an observation takes into the curves first: about 0.2 s (measured)."""
SAMPLES = 4 * DOWNSAMPLED_POINTS
"""Rows of a long run that stand for it where its curves are not ready; four to a point of what a policy gets."""
MOST_ACKS = 2000
"""Answers that a first look goes back by, for what gave the loss another meaning: about 0.2 s (measured)."""
FIRST_ROWS = 4 * FIRST_POINTS
"""Rows of each source among which the first points of a metric are looked for: not every row has every metric."""
MOST_LOOKS = 4 * WEIGHT_LOOKS
"""Newest looks at the weights that are kept, on whatever branch."""
MOST_PAGES = 5
"""Further behind than this, an observer reads the newest rows and the curves instead of all that it missed."""


def _pace(rows: list[StoredPoint]) -> float | None:
    """Steps per second over the newest rows, with all that came between; None before there are two."""
    newest = rows[-PACE_ROWS:]
    took_s = newest[-1].at_s - newest[0].at_s if newest else 0.0
    steps = newest[-1].step - newest[0].step if newest else 0
    return steps / took_s if took_s > 0 and steps > 0 else None


def _notes(log: RunLog) -> list[str]:
    """The newest remarks of operators; what agents and the system note is not for policies to obey."""
    noted = log.commands(State.APPLIED, State.KEPT, principal="operator", limit=HISTORY, newest=True)
    notes = [(c.proposal.command, c.proposal.author.name) for c in noted]
    # By class: a note is the one command whose text is for the policy to read.
    texts = [f"{name}: {command.text}" for command, name in notes if isinstance(command, AddNote)]
    return [text[:NOTE_CHARACTERS] for text in texts[-NOTES:]]


def _goal_name(info: RunInfo, evaluated: list[Event], series: dict[str, SeriesView]) -> str:
    """The goal metric by the name that it is evaluated by; as it was asked for while it was not seen."""
    names = {name for event in evaluated if isinstance(event.body, Evaluated) for name in event.body.metrics}
    return resolve(info.goal_metric, names) or resolve(info.goal_metric, series) or info.goal_metric


def _on(line: Lineage, events: list[Event]) -> list[Event]:
    """Those that belong to the steps that the run stands on; what a branch left behind says nothing of it now."""
    return [event for event in events if line.has(event.branch, event.step or 0)]


class Downsampled:
    """A metric's whole history in at most `DOWNSAMPLED_POINTS` means; a full list is halved by merging neighbours."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._sums: list[float] = []
        self._counts: list[int] = []
        self._stride = 1
        self._open = 0

    def add(self, step: int, value: float, count: int = 1) -> None:
        """Take in a value, or a mean of `count` of them; one that is not finite counts for nothing but its step."""
        if self._open == 0:
            self._make_room()
            self._steps.append(step)
            self._sums.append(0.0)
            self._counts.append(0)
        self._steps[-1] = step
        if math.isfinite(value):
            self._sums[-1] += value * count
            self._counts[-1] += count
        self._open = (self._open + count) % self._stride if count < self._stride else 0

    def _make_room(self) -> None:
        if len(self._steps) < DOWNSAMPLED_POINTS:
            return
        self._stride *= 2
        self._steps = self._steps[1::2]
        self._sums = [a + b for a, b in zip(self._sums[::2], self._sums[1::2], strict=True)]
        self._counts = [a + b for a, b in zip(self._counts[::2], self._counts[1::2], strict=True)]

    def seed(self, curve: Curve) -> None:
        """Begin with a curve from the log."""
        self._stride = max(self._stride, curve.bucket_points)
        for step, mean in zip(curve.steps, curve.mean, strict=True):
            self.add(step, mean, curve.bucket_points)

    @property
    def steps(self) -> list[int]:
        return list(self._steps)

    @property
    def means(self) -> list[float]:
        return [total / n if n else math.nan for total, n in zip(self._sums, self._counts, strict=True)]


class RecentRows:
    """The newest rows, and each metric's own points among them."""

    def __init__(self) -> None:
        self.rows: deque[StoredPoint] = deque()
        self._columns: dict[str, tuple[deque[int], deque[int], deque[float]]] = {}
        """By metric: numbers of the rows that it is in, their steps, its values."""
        self._number = 0

    def add(self, row: StoredPoint) -> None:
        """Take in a row; the oldest makes room for it."""
        self._number += 1
        self.rows.append(row)
        for name, value in row.values.items():
            if name not in self._columns:
                self._columns[name] = (deque(), deque(), deque())
            numbers, steps, values = self._columns[name]
            numbers.append(self._number)
            steps.append(row.step)
            values.append(value)
        if len(self.rows) > RECENT_POINTS:
            for name in self.rows.popleft().values:
                column = self._columns[name]
                for part in column:
                    part.popleft()
                if not column[0]:
                    del self._columns[name]

    def columns(self) -> list[tuple[str, list[int], list[float]]]:
        """Each metric with its steps and values, in the order in which they come up."""
        found = sorted(self._columns.items(), key=lambda entry: entry[1][0][0])
        return [(name, list(steps), list(values)) for name, (_, steps, values) in found]


class Observer:
    """One run as a policy sees it, kept up to date row by row instead of read anew. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._branch: str | None = None
        self._upto = 0
        self._recent = RecentRows()
        self._last_at_s: float | None = None
        """Unix time of the newest row on any branch: in a trial of a probe, training does not stand still."""
        self._downsampled: dict[str, Downsampled] = {}
        self._first: dict[tuple[str, int], list[tuple[int, float]]] = {}
        """By metric and the step after which it means what it does now: its first points, once they are complete."""
        self._acked_seq = 0
        self._weights_seq = 0
        self._weights: deque[tuple[str, WeightLook]] = deque(maxlen=MOST_LOOKS)
        """With the branch of each."""
        self._redefinitions: list[Redefinition] = []
        """Of all branches, in the order of their acks."""
        self._effects = MeasuredEffects()

    def observe(
        self, log: RunLog, info: RunInfo, now_s: float, max_commands: int | None, last_seq: int | None = None
    ) -> Observation:
        """Fold a run's log into what a policy sees.

        Args:
            log: The run's log.
            info: The run as it stands.
            now_s: Unix time.
            max_commands: The budget of agent commands; None for no limit.
            last_seq: The newest event when `info` was read; None where nobody writes meanwhile.
        """
        last_seq = log.last_seq() if last_seq is None else last_seq
        with self._lock:
            self._catch_up(log, info.branch)
            recent = list(self._recent.rows)
            newest_at_s = self._last_at_s
            self._follow_acks(log)
            line = log.lineage(info.branch)
            redefinitions = newest_of([r for r in self._redefinitions if line.has(r.branch, r.step)])
            series = self._series_views(log, line, redefinitions)
            self._follow_weights(log)
            looks = list(self._weights)
        ranks = log.events(kinds=["ranks_read"], limit=RANK_READINGS, newest=True)
        found = _on(line, log.events(kinds=["found"], limit=HISTORY, newest=True))
        evaluated = _on(line, log.events(kinds=["evaluated"], limit=HISTORY, newest=True))
        commands = log.commands(limit=HISTORY, newest=True)
        with self._lock:
            effects = self._effects.of(log, info, commands)
        used = log.count_commands(*TAKEN, principal="agent")
        steps = [p for p in recent if p.source == "step"] or recent
        return Observation(
            run_id=info.run_id,
            status=info.status,
            step=info.step,
            max_steps=info.max_steps,
            evaluating_step=info.evaluating_step,
            branch=info.branch,
            lineage=line,
            at_s=now_s,
            last_step_at_s=max(steps[-1].at_s, newest_at_s or 0.0) if steps else None,
            goal_metric=_goal_name(info, evaluated, series),
            goal_direction=info.goal_direction,
            knobs=info.knobs,
            series=series,
            evaluations=[
                Evaluation(step=e.step or 0, metrics=e.body.metrics) for e in evaluated if isinstance(e.body, Evaluated)
            ],
            weights=[look for branch, look in looks if line.has(branch, look.step)][-WEIGHT_LOOKS:],
            ranks=[e.body for e in ranks if isinstance(e.body, RanksRead)],
            findings=[e.body.finding for e in found if isinstance(e.body, Found)],
            commands=commands,
            effects=effects,
            redefinitions=redefinitions,
            capabilities=info.capabilities,
            schedule=info.schedule,
            facts=info.facts,
            started_at_s=info.started_at_s,
            steps_per_s=_pace(steps),
            commands_left=None if max_commands is None else max(0, max_commands - used),
            last_seq=last_seq,
            notes=_notes(log),
        )

    def _catch_up(self, log: RunLog, branch: str) -> None:
        behind = log.last_point_id() - self._upto
        if branch != self._branch or behind > PAGE * MOST_PAGES:
            self._begin(log, branch)
        while rows := log.points(self._upto, PAGE):
            self._upto, self._last_at_s = rows[-1].point_id, rows[-1].at_s
            self._take([row for row in rows if row.branch == branch])
            if len(rows) < PAGE:
                break

    def _follow_acks(self, log: RunLog) -> None:
        """The newest commands alone would not do: the loss keeps its meaning however much was asked for since."""
        if self._acked_seq == 0:
            newest = log.events(kinds=["acked"], limit=MOST_ACKS, newest=True)
            self._acked_seq = newest[0].seq - 1 if newest else 0
        while events := log.events(self._acked_seq, PAGE, kinds=["acked"]):
            self._acked_seq = events[-1].seq
            for event in events:
                if event.command_id is None or not isinstance(event.body, Acked) or not event.body.ack.changes:
                    continue
                found = redefinition(log.command(event.command_id), event.body.ack)
                self._redefinitions += [] if found is None else [found]

    def _follow_weights(self, log: RunLog) -> None:
        if self._weights_seq == 0:
            newest = log.events(kinds=["weights_sampled"], limit=MOST_LOOKS, newest=True)
            self._weights_seq = newest[0].seq - 1 if newest else 0
        while events := log.events(self._weights_seq, PAGE, kinds=["weights_sampled"]):
            self._weights_seq = events[-1].seq
            self._weights += [(e.branch, e.body.look) for e in events if isinstance(e.body, WeightsSampled)]

    def _take(self, rows: Iterable[StoredPoint]) -> None:
        for row in rows:
            if row.source in SOURCES:
                self._recent.add(row)
                for name in DOWNSAMPLED:
                    if name in row.values:
                        self._downsampled.setdefault(name, Downsampled()).add(row.step, row.values[name])

    def _begin(self, log: RunLog, branch: str) -> None:
        """Start from what the log holds now, the branches that this one stands on included."""
        self._upto = log.last_point_id()
        self._branch, self._downsampled, self._first = branch, {}, {}
        self._recent = RecentRows()
        segments = log.lineage(branch).segments
        for segment in segments:
            rows = log.recent_points(RECENT_POINTS, SOURCES, segment.branch, segment.last_step)
            for row in rows:
                if row.point_id <= self._upto:
                    self._recent.add(row)
        if not self._recent.rows:
            return
        newest = self._recent.rows[-1].step
        # A policy must not wait for the curves of a long run that nobody has drawn yet: seconds for 200,000 steps.
        seed = self._seed_by_curves if log.index_lag() <= MOST_UNSEEN else self._seed_by_samples
        for segment in segments:
            seed(log, segment.branch, newest if segment.last_step is None else segment.last_step)

    def _seed_by_curves(self, log: RunLog, branch: str, last_step: int) -> None:
        for name in DOWNSAMPLED:
            try:
                curve = log.curve(name, branch, 0, last_step, DOWNSAMPLED_POINTS)
            except UserError:  # not measured in this branch
                continue
            self._downsampled.setdefault(name, Downsampled()).seed(curve)

    def _seed_by_samples(self, log: RunLog, branch: str, last_step: int) -> None:
        """Every so many steps a row, for lack of the means between them."""
        for row in log.sampled_points(SAMPLES, SOURCES, branch, last_step):
            for name in DOWNSAMPLED:
                if name in row.values:
                    self._downsampled.setdefault(name, Downsampled()).add(row.step, row.values[name])

    def _series_views(self, log: RunLog, line: Lineage, redefinitions: list[Redefinition]) -> dict[str, SeriesView]:
        views, rows = dict[str, SeriesView](), dict[int, list[StoredPoint]]()
        for name, steps, values in self._recent.columns():
            old = self._downsampled.get(name)
            first: list[tuple[int, float]] = []
            if old is not None:
                since = max((r.step for r in redefinitions if r.touches(name)), default=0)
                first = self._first_points(log, line, name, since, rows)
            views[name] = SeriesView.model_construct(
                name=name,
                steps=steps,
                values=values,
                downsampled_steps=old.steps if old else [],
                downsampled_values=old.means if old else [],
                first_steps=[step for step, _ in first],
                first_values=[value for _, value in first],
            )
        return views

    def _first_points(
        self, log: RunLog, line: Lineage, name: str, since: int, read: dict[int, list[StoredPoint]]
    ) -> list[tuple[int, float]]:
        """The first points of a metric after a step, on the line that the run stands on.

        Args:
            read: Rows that were read for others in the same look, by that step.
        """
        key = (name, since)
        if key in self._first:
            return self._first[key]
        if since not in read:
            each = (log.first_points(FIRST_ROWS, SOURCES, s.branch, since, s.last_step) for s in line.segments)
            read[since] = [row for rows in each for row in rows]
        found = [(row.step, row.values[name]) for row in read[since] if name in row.values]
        if len(found) >= FIRST_POINTS:
            self._first[key] = found[:FIRST_POINTS]
        return found[:FIRST_POINTS]
