"""What both engines note of a training, and the run's log that an agent's training is recorded in."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator

from agenttune.bench.training import EvalPoint, Trained, Training
from agenttune.trainer.options import RUN_ID, RUNS_DIR

MOST_POINTS = 300
"""Training losses that a result keeps."""


@contextlib.contextmanager
def recorded(training: Training) -> Iterator[None]:
    """The environment that `agenttune run` would give to the script."""
    if training.agent is None:
        yield
        return
    names = {RUN_ID: training.agent.run_id, RUNS_DIR: str(training.agent.folder)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Course:
    """The course of one training, from its first step on.

    Attributes:
        total_steps: Steps made, those of probes and repeated ones included.
        start: The metric before the first step; None until then.
        extra_evaluations: That nobody's plan had: for hooks, probes and commands.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self.total_steps = self.extra_evaluations = 0
        self.start: float | None = None
        self._evaluations: list[EvalPoint] = []
        self._rows: list[tuple[int, int, float, float]] = []
        self._began_s = self._began_process_s = self._seconds = self._process_s = 0.0

    def begin(self, start: float) -> None:
        """The first step is to come.

        Args:
            start: The metric before it.
        """
        self.start = start
        self._began_s, self._began_process_s = time.perf_counter(), time.process_time()

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        return self.total_steps >= self._training.budget

    def stepped(self, step: int, loss: float, lr: float) -> None:
        """A step of the run itself, not of a probe."""
        self._rows.append((self.total_steps, step, loss, lr))

    def evaluated(self, step: int, value: float) -> None:
        """An evaluation, as it is, whatever the run's log shows of it."""
        seconds = time.perf_counter() - self._began_s
        self._evaluations.append(EvalPoint(total_steps=self.total_steps, step=step, seconds=seconds, value=value))

    def end(self) -> None:
        """The last step is made."""
        self._seconds = time.perf_counter() - self._began_s
        self._process_s = time.process_time() - self._began_process_s

    def trained(self, step: int, final: float, layer: str | None) -> Trained:
        """The result.

        Args:
            step: Where training stands.
            final: The metric after the last step, on rows that were kept for this.
            layer: That the fault struck.
        """
        self.evaluated(step, final)
        kept = self._rows[:: max(1, math.ceil(len(self._rows) / MOST_POINTS))]
        agent = self._training.agent
        return Trained(
            final=final,
            start=self.start,
            evaluations=self._evaluations,
            extra_evaluations=self.extra_evaluations,
            losses=[(total, at, loss) for total, at, loss, _ in kept],
            lrs=[lr for *_, lr in kept],
            total_steps=self.total_steps,
            probe_steps=self.total_steps - len(self._rows),
            seconds=self._seconds,
            process_seconds=self._process_s,
            fault_layer=layer,
            run_id=None if agent is None else agent.run_id,
        )
