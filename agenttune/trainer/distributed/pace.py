"""How often rank 0 sends its flag: at every step, less often where steps are short and nothing has been asked for.

Rank 0 alone measures; how many steps go by until the next flag travels with the flag, so that all ranks count alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

CALM_FLAGS = 64
"""So many flags after the newest command, before steps go by without one (guess)."""
INTERVAL_S = 0.2
"""Steps of this time together have one flag: it costs 0.1 ms of the training thread and 0.2 ms beside it (measured). A
person at a page does not act within 0.2 s, let alone an agent."""
MOST_STEPS = 32


class Flag(NamedTuple):
    """What rank 0 says at the start of a step.

    Attributes:
        calls: All ranks meet at the end of the step.
        compares: They compare what commands can change.
        steps: The next flag is that of so many steps later.
    """

    calls: bool
    compares: bool = False
    steps: int = 1


class Pace:
    """Measures on rank 0, at each flag.

    Args:
        clock_s: Monotonic time in seconds.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._calm = 0
        self._at_s, self._steps = clock_s(), 1

    def note_command(self) -> None:
        """A command is applied: others may follow, and its effect is watched."""
        self._calm = 0

    def next_steps(self, most: int) -> int:
        """A flag is sent.

        Args:
            most: After so many steps rank 0 has work, as far as it knows.

        Returns:
            How many steps later the next one is sent.
        """
        now_s = self._clock_s()
        step_s = (now_s - self._at_s) / self._steps
        self._calm += 1
        fitting = int(INTERVAL_S / max(step_s, 1e-6))
        steps = max(1, min(most, MOST_STEPS, fitting)) if self._calm > CALM_FLAGS else 1
        self._at_s, self._steps = now_s, steps
        return steps
