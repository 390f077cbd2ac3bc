"""How far an agent is behind a run whose steps are faster than it can look."""

from __future__ import annotations

from collections import deque
from statistics import median

LOOKS = 4
"""Looks in a row that have to come late: one alone may be of an odd moment (guess)."""
LATE_FACTOR = 3.0
"""Late: so many times the steps after which a look was due (guess)."""
LEAST_STEPS = 50
"""And so many steps at least: fewer do no harm (guess)."""


class Lag:
    """Remembers the newest looks; tells once that they come late, and again where it has become much worse.

    Attributes:
        told_steps: What was told last.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[int, float]] = deque(maxlen=LOOKS + 1)
        self.told_steps = 0.0

    def note(self, step: int, now_s: float, pace: int) -> str:
        """A look was taken; returns what is to be told, if anything.

        Args:
            step: Completed optimizer steps.
            now_s: Monotonic time in seconds.
            pace: Steps from one look to the next, as asked for.
        """
        if self._looks and step <= self._looks[-1][0]:
            if step < self._looks[-1][0]:  # the run went back
                self._looks.clear()
            else:
                return ""
        self._looks.append((step, now_s))
        if len(self._looks) <= LOOKS:
            return ""
        pairs = list(zip(list(self._looks), list(self._looks)[1:], strict=False))
        steps = median(later[0] - earlier[0] for earlier, later in pairs)
        seconds = median(later[1] - earlier[1] for earlier, later in pairs)
        if steps < max(LATE_FACTOR * pace, LEAST_STEPS) or steps < 2 * LATE_FACTOR * self.told_steps:
            return ""
        self.told_steps = steps
        return (
            f"the agent looks every {steps:.0f} steps ({seconds:.2g} s), not every {pace}: training is faster, and "
            f"what it decides comes about so late; wake.mode: lockstep makes training wait for it, "
            f"wake.every_steps: {steps:.0f} expects no more"
        )
