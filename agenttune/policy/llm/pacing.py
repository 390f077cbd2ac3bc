"""When a language model is asked: when something is new, or enough steps after the last time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from agenttune.llm.tools import ToolWait
from agenttune.protocol.observation import Observation

_CADENCE = re.compile(r"\d+ steps")
"""The agent loop's name for a wake-up by the number of steps alone."""


@dataclass
class Pacing:
    """Remembers when the model was asked and what it waits for. Losing this at a restart costs one call.

    Attributes:
        every_steps: Steps between two calls when nothing is new.
        early_every_steps: The same, early in a run.
        early_until_step: What counts as early.
        max_wait_steps: A wait for something that does not come ends after so many steps.
    """

    every_steps: int
    early_every_steps: int
    early_until_step: int
    max_wait_steps: int
    _asked_step: int | None = field(default=None, init=False)
    _wait: ToolWait | None = field(default=None, init=False)

    def asked(self, step: int, wait: ToolWait | None = None) -> None:
        """The model has answered; a wait without a condition changes nothing."""
        ends = wait is not None and (wait.until_step is not None or wait.until_evaluation or wait.until_finding)
        self._asked_step, self._wait = step, wait if ends else None

    def failed(self) -> None:
        """It has not answered: it is asked again at the next occasion."""
        self._asked_step, self._wait = None, None

    def why_not_now(self, observation: Observation) -> str:
        """Why the model need not be asked now; empty if it should be."""
        asked = self._asked_step
        if asked is None or observation.step < asked:  # a restored checkpoint is something new
            return ""
        reasons = [reason for reason in observation.woken_by if not _CADENCE.fullmatch(reason)]
        found = [f.severity for f in observation.findings if f.step > asked and f.severity != "info"]
        if self._wait is not None and not self._is_over(self._wait, asked, observation.step, reasons, found):
            return f"{describe(self._wait)}, as the model wanted at step {asked}"
        if reasons or found or self._wait is not None:
            return ""
        due = asked + (self.early_every_steps if asked < self.early_until_step else self.every_steps)
        return "" if observation.step >= due else f"nothing new; the model is asked again at step {due}"

    def _is_over(self, wait: ToolWait, asked: int, step: int, reasons: Sequence[str], found: Sequence[str]) -> bool:
        """Whether a wait has ended: by its condition, or by something that no wait holds up."""
        if step >= asked + self.max_wait_steps or (wait.until_step is not None and step >= wait.until_step):
            return True
        evaluated = any(reason.startswith("evaluation") for reason in reasons)
        finding = bool(found) or any(reason.startswith("finding") for reason in reasons)
        other = any(not reason.startswith(("evaluation", "finding")) for reason in reasons)
        waited_for = (wait.until_evaluation and evaluated) or (wait.until_finding and finding)
        return waited_for or other or "critical" in found


def describe(wait: ToolWait) -> str:
    """A wait in words."""
    ends = [f"step {wait.until_step}"] if wait.until_step is not None else []
    ends += ["the next evaluation"] if wait.until_evaluation else []
    ends += ["the next finding"] if wait.until_finding else []
    return f"waiting until {' or '.join(ends) or 'asked again'}"
