"""Why an attempt failed, and whether another one may do better."""

from __future__ import annotations

import email.utils
import math

import openai

PASSING_STATUSES = frozenset({408, 409, 425, 429})
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""Between two attempts, doubling; a server's own Retry-After is kept up to the longest (guess)."""


class Failure(Exception):
    """An attempt gave no answer.

    Args:
        message: What went wrong.
        status: The server's; 0 where there is none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Passing(Failure):
    """Another attempt may do better; `wait_s` is how long the server wants to be left alone."""

    def __init__(self, message: str, status: int = 0, wait_s: float | None = None) -> None:
        super().__init__(message, status)
        self.wait_s = wait_s


class Lasting(Failure):
    """The same request will fail again."""


def of_status(error: openai.APIStatusError, now_s: float) -> Failure:
    """What an error status means. A spent quota comes as 429 too, and waiting does not fill it."""
    said, status = f"{error.status_code}: {error.message}", error.status_code
    if error.code == "insufficient_quota":
        return Lasting(said, status)
    if status in PASSING_STATUSES or (status >= 500 and status != 501):
        return Passing(said, status, told_wait_s(error.response.headers.get("retry-after"), now_s))
    return Lasting(said, status)


def told_wait_s(retry_after: str | None, now_s: float) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None if there is none that can be read."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - now_s
        except (TypeError, ValueError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)


def wait_s(failure: BaseException | None, attempt: int, jitter: float) -> float:
    """How long to wait after attempt `attempt` (from 1); `jitter`, from 0 to 1, spreads clients out."""
    told_s = failure.wait_s if isinstance(failure, Passing) else None
    if told_s is not None:
        return min(told_s, LONGEST_WAIT_S)
    return min(FIRST_WAIT_S * 2.0 ** (attempt - 1), LONGEST_WAIT_S) * (0.5 + jitter / 2)
