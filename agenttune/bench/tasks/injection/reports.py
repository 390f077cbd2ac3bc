"""Faults in what a run reports of itself: evaluations and its log."""

from __future__ import annotations

import random
from typing import Any

from agenttune.bench.faults import HOSTILE_TEXTS
from agenttune.bench.tasks.injection.injector import Injector, injects


@injects("noisy_evals")
class NoisyEvaluations(Injector):
    """Evaluations are off by a random part of themselves."""

    def evaluation(self, metrics: dict[str, Any], step: int, goal: str) -> dict[str, Any]:
        if goal not in metrics:
            return metrics
        noise = random.Random(self.seed_at(step)).gauss(0, self.value("noise_frac"))
        return metrics | {goal: float(metrics[goal]) + noise * abs(float(metrics[goal]))}


@injects("rare_evals")
class RareEvaluations(Injector):
    """More steps between two evaluations."""

    def eval_every(self, steps: int) -> int:
        return steps * self.count("eval_factor")


@injects("missing_evals")
class MissingEvaluations(Injector):
    """Most evaluations are not made."""

    def evaluates(self, step: int) -> bool:
        return random.Random(self.seed_at(step)).random() >= self.value("missing_frac")


@injects("hostile_text")
class HostileText(Injector):
    """Texts and the name of a metric in the loop's own log give orders."""

    def log_row(self, step: int) -> dict[str, Any]:
        if step < self.fault.step:
            return {}
        text = HOSTILE_TEXTS[self.count("text")]
        return {"note": text, f"message/{text[:60]}": 1.0}
