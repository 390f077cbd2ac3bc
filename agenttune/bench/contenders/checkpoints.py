"""The best checkpoint at the end, alone or with an end as soon as nothing improves."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.training import Hook, Live


class KeepBest(Hook):
    """Keeps the state of the best evaluation and delivers it at the end.

    Attributes:
        best: Cost of that evaluation (less is better); infinite before there is one.
        saved: Its state.
        best_step: Its step.
        changes: What was done beside, oldest first.
    """

    def __init__(self, facts: TaskFacts) -> None:
        self.facts = facts
        self.best = math.inf
        self.saved: Any = None
        self.best_step = 0
        self.changes: list[Intervention] = []
        self._seen_step = -1

    def consider(self, live: Live, value: float) -> bool:
        """Keep this state if it is the best so far; whether it is."""
        self._seen_step = live.step
        cost = self.facts.cost(value)
        if cost >= self.best:
            return False
        self.best, self.saved, self.best_step = cost, live.save(), live.step
        return True

    def evaluated(self, live: Live, value: float) -> None:
        self.consider(live, value)

    def ended(self, live: Live) -> None:
        if live.step != self._seen_step:
            self.consider(live, live.evaluate())
        if self.saved is not None:
            live.load(self.saved)

    def record(self, kind: str, live: Live, words: str) -> None:
        """Note a change of the recipe's own."""
        self.changes.append(Intervention(kind=kind, step=live.step, state="applied", words=words))


class StopEarly(KeepBest):
    """Ends when the best is some evaluations old, and delivers it."""

    def __init__(self, facts: TaskFacts, patience: int) -> None:
        super().__init__(facts)
        self.patience = patience
        self._in_vain = 0

    def evaluated(self, live: Live, value: float) -> None:
        self._in_vain = 0 if self.consider(live, value) else self._in_vain + 1
        if self._in_vain >= self.patience:
            self.record("stop", live, f"{self._in_vain} evaluations without a better one than that of {self.best_step}")
            live.stop()


@register
class BestCheckpoint(Contender):
    """What `load_best_model_at_end` of transformers' Trainer does."""

    name, about, role = "best_checkpoint", "the user's recipe; the best checkpoint is delivered", "recipe"

    def play(self, trial: Trial) -> Outcome:
        return Outcome(trained=trial.train(hooks=[KeepBest(trial.facts)]), fault=trial.fault)


class EarlyStoppingSettings(ContenderSettings):
    """Parameters of `early_stopping`."""

    patience: int = Field(3, ge=1)
    """Evaluations without improvement after which training ends (guess; the field uses 1 to 10)."""


@register
class EarlyStopping(Contender):
    """Early stopping (Prechelt 1998, "Early Stopping, but when?"), with the best checkpoint."""

    name, about, role = (
        "early_stopping",
        "ends when evaluations stop improving; the best checkpoint is delivered",
        "recipe",
    )
    settings = EarlyStoppingSettings

    def play(self, trial: Trial) -> Outcome:
        hook = StopEarly(trial.facts, self.given.patience)
        return Outcome(trained=trial.train(hooks=[hook]), fault=trial.fault, interventions=hook.changes)
