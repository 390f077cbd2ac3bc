"""Which of the metrics there are a run's goal means."""

from __future__ import annotations

from collections.abc import Collection, Mapping

EVAL_PREFIX = "eval_"
"""What transformers' Trainer puts before the names of all that it evaluates."""


def resolve(goal: str, names: Collection[str]) -> str | None:
    """Which of the metrics there are a goal means; None if none of them.

    As the Trainer finds its `metric_for_best_model`: `accuracy` means `eval_accuracy`, and `loss` means `eval_loss`
    even where training itself logs a `loss`. Other loops may evaluate names of their own, without a prefix.
    """
    prefixed = f"{EVAL_PREFIX}{goal}"
    order = (prefixed, goal) if goal == "loss" else (goal, prefixed)
    return next((name for name in order if name in names), None)


def value_of(goal: str, metrics: Mapping[str, float]) -> float | None:
    """The goal metric among those of an evaluation."""
    name = resolve(goal, metrics)
    return None if name is None else float(metrics[name])


def is_goal(metric: str, goal: str) -> bool:
    """Whether a metric is what a goal means, or may mean."""
    return metric in (goal, f"{EVAL_PREFIX}{goal}")
