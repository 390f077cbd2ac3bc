"""Two training processes on one noisy machine, measured in turns.

A shared machine changes its speed from one minute to the next by more than what is to be measured, so that runs after
one another cannot be compared. Here both trainings are there all the time and get the machine in turns of a few
seconds, plain, attended, attended, plain: whoever's turn it is not is stopped (SIGSTOP), with all that belongs to it.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from benchmarks.core.training import Trace

TURN_S = 3.0
SETTLE_S = 0.5
"""First part of a turn that is left out: caches and late answers (guess)."""


@dataclass(frozen=True)
class Turn:
    """A window of Unix time in which one side ran alone."""

    is_plain: bool
    begin_s: float
    end_s: float


def take_turns(plain: Iterable[int], attended: Iterable[int], rounds: int) -> list[Turn]:
    """Give the machine to each side in turns.

    Args:
        plain: Process ids of one side.
        attended: Process ids of the other; all go on when this returns.
        rounds: Rounds of four turns.
    """
    sides = {True: [psutil.Process(pid) for pid in plain], False: [psutil.Process(pid) for pid in attended]}
    turns = []
    try:
        for _ in range(rounds):
            for is_plain in (True, False, False, True):
                _signal(sides[not is_plain], signal.SIGSTOP)
                _signal(sides[is_plain], signal.SIGCONT)
                begin_s = time.time() + SETTLE_S
                time.sleep(SETTLE_S + TURN_S)
                turns.append(Turn(is_plain, begin_s, time.time()))
    finally:
        for processes in sides.values():
            _signal(processes, signal.SIGCONT)
    return turns


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@dataclass(frozen=True)
class StepTime:
    """A mean step, in milliseconds: by the clock, and of the training process's own processor time, all threads.

    The clock's has in it what other processes take of the cores; the other has only what the process does itself, at
    whatever speed the shared processor runs in that turn.
    """

    wall_ms: float
    cpu_ms: float


def step_time(trace: Trace, turn: Turn) -> StepTime | None:
    """Of the steps that began and ended within a turn; None if there were fewer than three."""
    first = bisect_left(trace.ends_at_s, turn.begin_s)
    last = bisect_left(trace.ends_at_s, turn.end_s) - 1
    if last - first < 3:
        return None
    wall_ms, cpu_ms = ((t[last] - t[first]) / (last - first) * 1e3 for t in (trace.ends_at_s, trace.cpu_s))
    return StepTime(wall_ms, cpu_ms)


def by_round(turns: list[Turn], plain: Trace, attended: Trace) -> list[tuple[StepTime, StepTime]]:
    """A plain and an attended step, round by round (two turns each)."""
    found = []
    for i in range(0, len(turns), 4):
        sides: dict[bool, list[StepTime]] = {True: [], False: []}
        for turn in turns[i : i + 4]:
            value = step_time(plain if turn.is_plain else attended, turn)
            if value is not None:
                sides[turn.is_plain].append(value)
        if len(sides[True]) == len(sides[False]) == 2:
            found.append((_mean(sides[True]), _mean(sides[False])))
    return found


def _mean(times: list[StepTime]) -> StepTime:
    return StepTime(statistics.fmean(t.wall_ms for t in times), statistics.fmean(t.cpu_ms for t in times))
