"""The steps that a run has paid for at a point of its log: those that a return undid and those of probes included."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from agenttune.protocol.events import BranchStarted, Probed
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.run_log import RunLog


@dataclass(frozen=True)
class _Mark:
    """From here on: so many steps are paid for beside the step that training stands at.

    Attributes:
        seq: Of the event that did it.
        step: At which training then stood.
    """

    seq: int
    branch: str
    step: int
    beside: int


class TotalSteps:
    """Total steps by what a log says, read once."""

    def __init__(self, log: RunLog) -> None:
        self._marks = [_Mark(0, "main", 0, 0)]
        for event in log.events(kinds=["branch_started", "probed"], limit=EVERYTHING):
            last, body = self._marks[-1], event.body
            if isinstance(body, Probed):
                step = last.step if event.step is None else event.step
                self._marks.append(_Mark(event.seq, last.branch, step, last.beside + body.extra_steps))
            elif isinstance(body, BranchStarted) and body.name != last.branch:
                points = log.recent_points(1, branch=last.branch)
                stood = max(points[-1].step if points else 0, last.step)
                beside = last.beside + max(0, stood - body.from_step)
                self._marks.append(_Mark(event.seq, body.name, body.from_step, beside))
        self._seqs = [mark.seq for mark in self._marks]

    def at(self, seq: int, step: int) -> int:
        """At an event.

        Args:
            seq: Its place in the log, which says what had been undone by then; agents' events know no branch.
            step: At which training stood.
        """
        return self._marks[max(0, bisect_left(self._seqs, seq) - 1)].beside + step

    def on(self, branch: str, step: int) -> int:
        """At a step of a branch, as points are recorded."""
        known = [mark for mark in self._marks if mark.branch == branch]
        before = [mark for mark in known if mark.step < step] or known[:1] or self._marks[:1]
        return before[-1].beside + step
