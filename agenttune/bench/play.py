"""One cell, done: the trial is made, the contender plays, and whatever comes of it is a result."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttune.bench.catalog import facts_of
from agenttune.bench.cell import Cell, CellResult, Outcome
from agenttune.bench.contenders.contender import Contender, Trial
from agenttune.bench.contenders.shipped import contender_class
from agenttune.bench.faults import draw, fault_kind
from agenttune.bench.machine import machine_facts
from agenttune.bench.script_task import play_script
from agenttune.bench.seeds import seed_generators
from agenttune.bench.training import Fault
from agenttune.config.plugins import forget_loaded

ANSWERS = "model-answers"
"""Folder beside the results."""
PID_NAME, OUTPUT_NAME = "pid", "output.txt"
OUTPUT_CHARACTERS = 4000
"""Of the end of what a failed cell printed, kept with its traceback."""
TOLD_BEFORE_S = 1.0


@dataclass(frozen=True)
class Work:
    """A cell with all that a worker needs to know beside it.

    Attributes:
        folder: For the trial; made, and removed afterwards.
        project: As for `Trial`.
        limit_s: Wall time, after which the worker is killed.
        keeps_run: Whether the folder stays, for the run's own report.
        answers, looked_up: As for `Trial`.
    """

    cell: Cell
    folder: Path
    project: Path
    limit_s: float
    keeps_run: bool = False
    answers: Path | None = None
    looked_up: Outcome | None = None


def play(work: Work) -> CellResult:
    """Do it in this process. An error of the contender's is a result too: a failed cell."""
    prepare(work)
    forget_loaded()  # classes of the user's own keep what the cells before this one have put into them
    seed_generators(work.cell)
    scenario = work.cell.scenario
    trial = Trial(
        work.cell,
        facts_of(scenario),
        work.folder,
        work.project,
        answers=work.answers,
        looked_up=work.looked_up,
    )
    try:
        if scenario.script is not None:
            outcome = play_script(trial, scenario.script)
        else:
            outcome = make_contender(work.cell.spec, work.project).play(trial)
    except KeyboardInterrupt:
        raise
    except BaseException:  # also SystemExit: a contender that ends its process fails, and no other cell with it
        outcome = Outcome(failure=traceback.format_exc())
    finally:
        if not work.keeps_run:
            shutil.rmtree(work.folder, ignore_errors=True)
    return result_of(work.cell, outcome)


def prepare(work: Work) -> None:
    """An empty folder for the trial."""
    shutil.rmtree(work.folder, ignore_errors=True)
    work.folder.mkdir(parents=True)


def play_in_worker(work: Work) -> CellResult:
    """The same in a worker process, whose terminal belongs to another: what is printed goes into a file."""
    work.folder.parent.mkdir(parents=True, exist_ok=True)
    output = work.folder.with_suffix(f".{OUTPUT_NAME}")
    pid = work.folder.with_suffix(f".{PID_NAME}")
    pid.write_text(str(os.getpid()), encoding="ascii")
    modules = len(sys.modules)
    with _printing_into(output):
        # Where it hangs is told shortly before it is killed, by a thread that needs nothing of Python.
        faulthandler.dump_traceback_later(max(work.limit_s - TOLD_BEFORE_S, work.limit_s / 2))
        try:
            result = play(work)
        finally:
            faulthandler.cancel_dump_traceback_later()
            _leave_alone(modules)
    if result.state == "failed" and (printed := printed_end(work)):
        failure = f"{result.outcome.failure.rstrip()}\n\nprinted before:\n{printed}"
        result = result.model_copy(update={"outcome": result.outcome.model_copy(update={"failure": failure})})
    tidy(work)
    return result


def printed_end(work: Work) -> str:
    """The end of what a cell has printed in its worker."""
    path = work.folder.with_suffix(f".{OUTPUT_NAME}")
    return path.read_text(encoding="utf-8", errors="replace")[-OUTPUT_CHARACTERS:].strip() if path.is_file() else ""


def tidy(work: Work) -> None:
    """Remove what a cell leaves beside its folder, and the folder unless it is to stay."""
    work.folder.with_suffix(f".{PID_NAME}").unlink(missing_ok=True)
    work.folder.with_suffix(f".{OUTPUT_NAME}").unlink(missing_ok=True)
    if not work.keeps_run:
        shutil.rmtree(work.folder, ignore_errors=True)


def make_contender(spec: dict[str, Any], project: Path) -> Contender:
    """A contender as its entry in the suite says."""
    cls = contender_class(spec["type"], project)
    return cls(cls.settings.model_validate({key: value for key, value in spec.items() if key != "type"}))


def failed(cell: Cell, reason: str) -> CellResult:
    """A cell that came to nothing, such as one that took too long."""
    return result_of(cell, Outcome(failure=reason))


def drawn_fault(cell: Cell) -> Fault:
    """What goes wrong in a cell."""
    scenario = cell.scenario
    return draw(fault_kind(scenario.fault), scenario.task, cell.seed, cell.split, scenario.recipe.steps)


def result_of(cell: Cell, outcome: Outcome) -> CellResult:
    """With what every result says."""
    if outcome.fault is None:
        outcome = outcome.model_copy(update={"fault": drawn_fault(cell)})
    return CellResult(
        cell=cell,
        state="failed" if outcome.failure or outcome.trained is None else "done",
        outcome=outcome,
        machine=machine_facts(),
        at_s=time.time(),
    )


def _leave_alone(modules: int) -> None:
    """What a cell has imported stays for the next ones, so that no collection looks through it any longer.

    The Trainer collects garbage at the start of each training, which took longer than a hundred steps (measured).

    Args:
        modules: So many there were before.
    """
    if len(sys.modules) > modules:
        gc.collect()
        gc.freeze()


@contextlib.contextmanager
def _printing_into(path: Path) -> Iterator[None]:
    """Both output streams into a file, those of libraries in C too."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    try:
        with path.open("wb") as file:
            for number, _ in kept:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
