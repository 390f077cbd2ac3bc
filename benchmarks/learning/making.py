"""Makes the rows that the learned policy learns from, unit by unit; what is made stays made."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from agenttune.bench.catalog import TASKS
from agenttune.replay.learning.moments import TrainingExample, read_moments, write_moments
from benchmarks.learning.counterfactuals import moments_of
from benchmarks.learning.units import Unit, draw_unit

SECONDS = "seconds.txt"
"""Number and processor time of each unit, a line each."""


@dataclass(frozen=True)
class Made:
    """One unit, done.

    Attributes:
        seconds: Of processor time; 0 where it was there already.
    """

    unit: Unit
    moments: Sequence[TrainingExample]
    seconds: float


def numbers_of(units: int, simulated: int) -> list[int]:
    """So many units of all kinds, and so many more of simulators, which cost a fifth."""
    whole, further = list(range(units)), itertools.count(units)
    cheap = list(itertools.islice((n for n in further if TASKS[draw_unit(n).task].tier == 0), simulated))
    return sorted(whole + cheap)


def make(
    folder: Path, numbers: Sequence[int], limit_s: float, workers: int, on_unit: Callable[[Made], object]
) -> list[TrainingExample]:
    """The rows of some units, those that are there already included.

    Args:
        folder: Where they are kept: a file each. Another version of the policy's figures reads the same files.
        numbers: Of the units.
        limit_s: No further one is begun after so much wall time.
        workers: Processes; 0: none beside this one.
        on_unit: Told of each when it is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until_s = time.monotonic() + limit_s
    found = {made.unit.number: made.moments for made in _made(folder, numbers, until_s, workers, on_unit)}
    return [moment for number in sorted(found) for moment in found[number]]


def _made(
    folder: Path, numbers: Sequence[int], until_s: float, workers: int, on_unit: Callable[[Made], object]
) -> Iterator[Made]:
    missing = [number for number in numbers if not _path(folder, number).is_file()]
    for number in sorted(set(numbers) - set(missing)):
        yield Made(draw_unit(number), read_moments(_path(folder, number)), 0.0)
    for made in _here(folder, missing, until_s) if workers == 0 else _elsewhere(folder, missing, until_s, workers):
        on_unit(made)
        yield made


def _here(folder: Path, numbers: Sequence[int], until_s: float) -> Iterator[Made]:
    for number in numbers:
        if time.monotonic() < until_s:
            yield make_unit(folder, number)


def _elsewhere(folder: Path, numbers: Sequence[int], until_s: float, workers: int) -> Iterator[Made]:
    waiting = iter(numbers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        busy: set[Future[Made]] = set()
        while True:
            while len(busy) < workers and time.monotonic() < until_s and (number := next(waiting, None)) is not None:
                busy.add(pool.submit(make_unit, folder, number))
            if not busy:
                return
            done, busy = wait(busy, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def make_unit(folder: Path, number: int) -> Made:
    """Do one, and write its rows."""
    unit, begin_s = draw_unit(number), time.process_time()
    moments = moments_of(unit, folder / f"run-{os.getpid()}")
    write_moments(_path(folder, number), moments)
    seconds = time.process_time() - begin_s
    with (folder / SECONDS).open("a", encoding="ascii") as file:
        file.write(f"{number} {seconds:.1f}\n")
    return Made(unit, moments, seconds)


def processor_seconds(folder: Path) -> float:
    """What all that is kept in a folder has cost."""
    path = folder / SECONDS
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    return sum(float(line.split()[1]) for line in lines)


def _path(folder: Path, number: int) -> Path:
    return folder / f"unit-{number:05d}.jsonl"
