"""Second looks: did the rate survive the schedule's next step, and does a change still stand a few steps later?"""

from __future__ import annotations

from dataclasses import dataclass

from agenttune.protocol.events import ReadBack
from agenttune.protocol.proposals import CommandRecord
from agenttune.trainer.commands.outcomes import AwaitRate, Expectation, Waiting
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.lr.schedules import Kind, Schedule

READ_BACK_STEPS = 5
"""Steps after which a change is looked at again (guess: past any warm-up of caches, before a policy's next look)."""


def check_before_update(waiting: Waiting, schedule: Schedule) -> None:
    """Note it if the update about to happen uses another rate than the one that was set."""
    outcome = waiting.outcome
    if not isinstance(outcome, AwaitRate) or _moved(outcome, schedule):
        return
    expected = _expected(outcome, schedule)
    if expected is not None:
        waiting.problem = _difference(outcome, expected, schedule.effective(), "the next update used")


def check_after_step(waiting: Waiting, schedule: Schedule) -> str:
    """What the ack has to add; sets `waiting.problem` if the rate did not hold."""
    outcome = waiting.outcome
    if not isinstance(outcome, AwaitRate):
        return ""
    found = schedule.effective()
    if _moved(outcome, schedule):
        return f"an evaluation has since moved the rate to {found[min(outcome.groups)]:g}, as {schedule.name} does"
    expected = _expected(outcome, schedule)
    if not waiting.problem and expected is not None:
        waiting.problem = _difference(outcome, expected, found, "after the schedule's next step the rate is")
    if expected is None:
        return f"{schedule.name} cannot be foretold; the rate held for one update"
    if schedule.counts and schedule.clock == outcome.clock:
        return f"the rate held for one update; {schedule.name} has not stepped since"
    return ""


def _expected(outcome: AwaitRate, schedule: Schedule) -> list[float] | None:
    """The rates by what the schedule has counted since: a loop may step it before or after the boundary, or not yet."""
    if not schedule.counts:
        return outcome.next
    steps = schedule.clock - outcome.clock
    return outcome.now if steps == 0 else outcome.next if steps == 1 else None


def _moved(outcome: AwaitRate, schedule: Schedule) -> bool:
    return schedule.kind is Kind.METRIC and schedule.clock != outcome.clock


def _difference(outcome: AwaitRate, expected: list[float], found: list[float], what: str) -> str:
    wrong = [i for i in sorted(outcome.groups) if not same(found[i], expected[i])]
    if not wrong:
        return ""
    i = wrong[0]
    return f"{what} {found[i]:g} in group {i} instead of {expected[i]:g}: something else sets the rate"


@dataclass
class Check:
    """One command's values, to be read again at `due_step`."""

    due_step: int
    record: CommandRecord
    expectations: list[Expectation]


class ReadBacks:
    """Changes that will be read again; a newer change of the same value replaces an older one's check."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def expect(self, record: CommandRecord, step: int, expectations: list[Expectation]) -> None:
        for new in expectations:
            for check in self.checks:
                check.expectations = [
                    old for old in check.expectations if old.name != new.name or not old.groups & new.groups
                ]
        if expectations:
            self.checks.append(Check(step + READ_BACK_STEPS, record, list(expectations)))

    def due(self, step: int) -> list[tuple[CommandRecord, ReadBack]]:
        """Read what is due; a check with nothing left to compare is dropped."""
        due = [check for check in self.checks if check.due_step <= step]
        self.checks = [check for check in self.checks if check.due_step > step]
        compared = [(check.record, _compare(check.expectations)) for check in due]
        return [(record, result) for record, result in compared if result is not None]


def _compare(expectations: list[Expectation]) -> ReadBack | None:
    expected, found = {}, {}
    for expectation in expectations:
        values = expectation.read()
        if values is not None:
            expected[expectation.name] = expectation.expected
            found[expectation.name] = values
    if not expected:
        return None
    return ReadBack(held=all(same(found[name], expected[name]) for name in expected), expected=expected, found=found)
