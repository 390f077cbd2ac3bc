"""The learning rate that v1's tuner sends back to say that it shall stay.

Its page and tuner read the rate in use (`learning_rate` of the log) and write the base rate, which the schedule scales.
So a tuner that answers "Same" would, again and again, put the reduced rate in the place of the full one. A base rate
that is the rate as it was just told is no wish for another.

The answer may come some rows late, and with fewer digits than were told. The fewer digits, the likelier is it that
somebody wants that very rate, and the fewer rows are taken for what it repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal

from agenttune.control import LocalControl
from agenttune.protocol.events import Acked, BranchStarted, Logged
from agenttune.protocol.reads import KnobsQuery
from agenttune.protocol.run_info import RunInfo

TOLD = ("logged", "acked", "branch_started")
LOOKED_AT = 500
"""Newest events among which the rates told are looked for (guess: no answer is as late)."""
FEWEST_DIGITS = 3
"""To how many significant digits, at least, clients print a rate: v1's print all, some print `%.2e`."""
EXACT_DIGITS = 6
"""With so many digits nobody chooses a rate: it is one that was told, however long ago."""
RECENT_S = 300.0
"""With fewer, a rate that was told so long ago is one to go back to (guess: a model takes seconds to a minute)."""
RECENT_ROWS = 5
"""And with a digit or two, which people type, one that was told so many rows ago, unless it is just that."""


def told_again(asked: float, control: LocalControl, info: RunInfo) -> float | None:
    """The rate in use, as clients were told it since it was last changed, that `asked` repeats; None if it is new."""
    digits = digits_of(asked)
    for row, (told, at_s) in enumerate(_told(control, info)):
        is_late = digits < FEWEST_DIGITS and row >= RECENT_ROWS and not _is_exactly(asked, told)
        is_recent = control.now_s() - at_s < RECENT_S and not is_late
        if (row == 0 or digits >= EXACT_DIGITS or is_recent) and says(asked, told):
            return told
    knob = control.read(info.run_id, KnobsQuery()).named("lr")
    if knob is not None and isinstance(knob.effective, float) and says(asked, knob.effective):
        return knob.effective
    return None


def _told(control: LocalControl, info: RunInfo) -> Iterator[tuple[float, float]]:
    """Rates with the Unix time at which they were told, newest first."""
    for event in reversed(control.newest_events(info.run_id, TOLD, LOOKED_AT)):
        body = event.body
        changed = body.ack.changes if isinstance(body, Acked) else []
        if isinstance(body, BranchStarted) or any(change.name == "lr" for change in changed):
            return  # what was told before is not what is in use
        if isinstance(body, Logged) and event.branch == info.branch and "learning_rate" in body.metrics:
            yield body.metrics["learning_rate"], event.at_s


def says(asked: float, told: float) -> bool:
    """Whether a number is a rate that was told, but for the digits that its sender's printing lost."""
    if not math.isfinite(told):
        return False
    if _is_exactly(asked, told):
        return True
    return float(f"{told:.{max(digits_of(asked), FEWEST_DIGITS) - 1}e}") == asked


def _is_exactly(asked: float, told: float) -> bool:
    return math.isclose(asked, told, rel_tol=1e-12, abs_tol=0.0)


def digits_of(value: float) -> int:
    """Significant digits with which a number is written."""
    return len(Decimal(repr(value)).normalize().as_tuple().digits)
