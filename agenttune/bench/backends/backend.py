"""What the runner asks of whatever does its cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from agenttune.bench.cell import CellResult
from agenttune.bench.play import Work, play


@dataclass(frozen=True)
class FinishedCell:
    """A cell that a worker is through with.

    Attributes:
        result: What came of it; None: its worker died.
        reason: How it died.
    """

    work: Work
    result: CellResult | None
    reason: str = ""


class Backend(ABC):
    """Does cells.

    Attributes:
        slots: How many at once.
    """

    slots: int

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Begin a cell; at most `slots` are under way."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[FinishedCell]:
        """What has ended, after so many seconds at most."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, whatever they do."""


class InProcess(Backend):
    """Cells one after the other in this process: for a debugger. Nothing limits their time."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: list[Work] = []

    def submit(self, work: Work) -> None:
        self._waiting.append(work)

    def wait(self, timeout_s: float) -> list[FinishedCell]:
        return [FinishedCell(work, play(work)) for work in [self._waiting.pop()]] if self._waiting else []

    def close(self) -> None:
        self._waiting.clear()
