"""Contenders that behave as a user's own may: well, badly, and worse; none of them trains."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial
from agenttune.bench.training import Trained


class Parameters(ContenderSettings):
    """What a test says to a contender."""

    journal: str = ""
    """File that gets a line whenever a cell begins and ends."""
    sleep_s: float = 0.0
    """How long a cell takes."""


class Quick(Contender):
    """Says a figure without training."""

    name, about, role = "quick", "says a figure", "recipe"
    settings = Parameters
    given: Any

    def play(self, trial: Trial) -> Outcome:
        cell = trial.cell
        self.note(f"begin {cell.scenario.fault} {cell.seed} {os.getpid()}")
        time.sleep(self.given.sleep_s)
        self.misbehave(trial)
        self.note(f"end {cell.scenario.fault} {cell.seed} {os.getpid()}")
        (trial.folder / "log.txt").write_text("a run's log")
        return Outcome(trained=Trained(final=cell.seed + len(cell.scenario.fault) / 100))

    def misbehave(self, trial: Trial) -> None:
        pass

    def note(self, words: str) -> None:
        if self.given.journal:
            with Path(self.given.journal).open("a", encoding="utf-8") as file:
                file.write(words + "\n")


class Reference(Quick):
    """Does not see the fault."""

    sees_fault = False


class Raises(Quick):
    def misbehave(self, trial: Trial) -> None:
        sys.stdout.write("what it printed before\n")
        raise ValueError("a bug of the user's")


class Exits(Quick):
    def misbehave(self, trial: Trial) -> None:
        raise SystemExit(3)


class Vanishes(Quick):
    """Ends its process with the code of a good end."""

    def misbehave(self, trial: Trial) -> None:
        os._exit(0)


class Crashes(Quick):
    """As a fault in a library written in C does."""

    def misbehave(self, trial: Trial) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Quick):
    def misbehave(self, trial: Trial) -> None:
        time.sleep(600)


class CrashesOnce(Quick):
    """As a worker that the kernel kills for want of memory."""

    def misbehave(self, trial: Trial) -> None:
        mark = Path(self.given.journal).with_suffix(f".{trial.cell.key}")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
