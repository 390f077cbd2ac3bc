"""Leaves an endpoint that failed alone for a while, longer each time."""

from __future__ import annotations

from collections.abc import Callable

FIRST_REST_S, LONGEST_REST_S = 30.0, 600.0
"""Doubling with every failure in a row (guess)."""


class CircuitBreaker:
    """Remembers failures in a row. After the rest, one more call is a trial.

    Args:
        clock_s: Monotonic time in seconds.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self.succeeded()

    def succeeded(self) -> None:
        self._rest_s, self._until_s, self._reason = 0.0, float("-inf"), ""

    def failed(self, reason: str) -> None:
        self._rest_s = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S)
        self._until_s, self._reason = self._clock_s() + self._rest_s, reason

    def why_not(self) -> str:
        """Why no call should be made now; empty if one may be."""
        left_s = self._until_s - self._clock_s()
        return f"{self._reason}; it is left alone for {left_s:.0f} s more" if left_s > 0 else ""
