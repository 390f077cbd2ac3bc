"""Whether the goal is among the metrics that are evaluated; said once, at the first evaluation, if it is not."""

from __future__ import annotations

from collections.abc import Mapping

from agenttune.protocol.findings import Finding
from agenttune.protocol.goal_names import value_of

MOST_NAMES = 12
"""Names of metrics that are told (guess)."""
SPEED_WORDS = ("runtime", "per_second", "epoch", "flos")
"""Parts of the names of figures that say how fast an evaluation was: nobody's goal, told last."""


class GoalCheck:
    """Follows the evaluations until the goal was seen, or was found to be missing.

    Args:
        goal: The goal metric, as asked for; empty: nobody wants to know.
    """

    def __init__(self, goal: str) -> None:
        self._goal, self._is_over = goal, not goal
        self._step: int | None = None
        self._names: dict[str, None] = {}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> float | None:
        """The goal metric among those of an evaluation; several data sets are evaluated one after the other."""
        value = value_of(self._goal, metrics)
        if value is not None:
            self._is_over = True
        elif not self._is_over and self._step in (None, step):
            self._step = step
            self._names |= dict.fromkeys(metrics)
        return value

    def finding(self, step: int | None) -> Finding | None:
        """What is to be said once the run has gone on after the first evaluation; None as the step: it has ended."""
        if self._is_over or self._step is None or step == self._step:
            return None
        self._is_over = True
        names = sorted(self._names, key=lambda name: (any(word in name for word in SPEED_WORDS), name))
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return Finding(
            kind="goal_missing",
            severity="warning",
            metric=self._goal,
            step=self._step,
            summary=f"the goal {self._goal} is not among the metrics of the first evaluation; set goal.metric to one "
            f"of those there are: {', '.join(names[:MOST_NAMES])}{more}",
            evidence={"evaluated": len(names)},
        )
