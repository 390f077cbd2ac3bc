"""What a detector is: it says its name, how grave it is and what it looks for, and finds it in an observation."""

from __future__ import annotations

import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import get_args

from agenttune.protocol.findings import FINDING_NAME, Finding, Severity
from agenttune.protocol.invalid_values import did_you_mean, failure_words
from agenttune.protocol.observation import Observation

log = logging.getLogger(__name__)
ERROR_CHARACTERS = 500
DETECT_LIMIT_S = 5.0
"""For one look of a detector of the user's own; ours take milliseconds (guess)."""


class Detector(ABC):
    """Looks for one thing. It keeps nothing between two looks: what it needs is in the observation.

    Attributes:
        name: Of its findings, in snake_case; rules ask for it as `found.name` and `since.name`.
        severity: Of its findings, unless one says otherwise: `info`, `warning` or `critical`.
        summary: What it looks for, in one line; unless it says otherwise, the first line of its docstring.
    """

    name: str
    severity: Severity = "warning"
    summary: str = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "summary" not in vars(cls) and cls.__doc__:
            cls.summary = cls.__doc__.strip().split("\n")[0]

    @abstractmethod
    def detect(self, observation: Observation) -> Iterable[Finding]:
        """What it finds as things stand; nothing most of the time."""

    def finding(
        self,
        summary: str,
        *,
        metric: str,
        step: int,
        severity: Severity | None = None,
        evidence: Mapping[str, float | int | str] | None = None,
    ) -> Finding:
        """A finding of this detector.

        Args:
            summary: One sentence with the figures it rests on.
            metric: What it was seen in.
            step: Step at which it had seen enough.
            severity: Instead of the detector's own.
            evidence: The figures.
        """
        return Finding(
            kind=self.name,
            severity=severity or self.severity,
            metric=metric,
            step=step,
            summary=summary,
            evidence=dict(evidence or {}),
        )

    @property
    def fault(self) -> str:
        """Why it found nothing when it last looked, if that was its own fault; else empty."""
        return ""


def undeclared(cls: type[Detector], taken: Collection[str]) -> str:
    """What a detector's class fails to say of itself, or says wrongly; empty if it is fine.

    Args:
        cls: The class.
        taken: Names of other detectors.
    """
    name, summary = getattr(cls, "name", None), cls.summary
    severities = get_args(Severity)
    if not isinstance(name, str) or not re.fullmatch(FINDING_NAME, name):
        return f"{cls.__name__}.name is {name!r}: it must be a name such as grad_noise, of a to z, 0 to 9 and _"
    if name in taken:
        return f"{cls.__name__}.name is {name!r}, and there is a detector of that name; choose another"
    if not isinstance(summary, str) or not summary:
        return f"{cls.__name__}.summary is {summary!r}: say in one line what it looks for"
    if cls.severity not in severities:
        hint = did_you_mean(str(cls.severity), severities)
        return f"{cls.__name__}.severity is {cls.severity!r}, not one of {', '.join(severities)}{hint}"
    return ""


class Look(threading.Thread):
    """One look of a detector of the user's own, in a thread, so that one that hangs holds up nobody."""

    def __init__(self, detector: Detector, observation: Observation) -> None:
        super().__init__(name=f"detector {detector.name}", daemon=True)
        self._detector, self._observation = detector, observation
        self._found: list[object] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._found = list(self._detector.detect(self._observation) or ())
        except BaseException as error:  # for whoever waits for the look
            self._error = error

    def result(self, waited_s: float) -> list[object]:
        """What it found; raises what it raised, and TimeoutError if it still looks."""
        if self.is_alive():
            raise TimeoutError(f"it has not returned within {waited_s:g} s, and is not asked again until it does")
        if self._error is not None:
            raise self._error
        return self._found


class PluginDetector(Detector):
    """A detector of the user's own. An error of it, or an answer that is none, costs its findings of that look."""

    def __init__(self, inner: Detector, limit_s: float = DETECT_LIMIT_S) -> None:
        self._inner, self._limit_s, self._fault = inner, limit_s, ""
        self._look: Look | None = None
        self.name, self.severity, self.summary = inner.name, inner.severity, inner.summary

    @property
    def fault(self) -> str:
        return self._fault

    def detect(self, observation: Observation) -> Iterator[Finding]:
        if self._look is not None and self._look.is_alive():
            return  # it has hung since an earlier look, which is told
        self._look = Look(self._inner, observation)
        self._look.start()
        self._look.join(self._limit_s)
        try:
            found = [self._checked(finding) for finding in self._look.result(self._limit_s)]
        except (Exception, SystemExit) as error:
            if not self._fault:
                log.error("detector %s failed at step %d", self.name, observation.step, exc_info=error)
            words = f"detector {self.name} failed at step {observation.step}: {failure_words(error)}"
            self._fault = " ".join(words.split())[:ERROR_CHARACTERS]
            return
        self._fault = ""
        yield from found

    def _checked(self, finding: object) -> Finding:
        if not isinstance(finding, Finding):
            raise TypeError(f"detect gave {finding!r:.80}, not a Finding, as self.finding(...) makes them")
        return Finding.model_validate({**finding.model_dump(), "kind": self.name})


class StandInDetector(Detector):
    """Stands where a detector would be whose code cannot be run, or is not run in this process."""

    def __init__(self, name: str, why: str = "") -> None:
        self.name, self.summary, self._why = name, "not used here", why

    @property
    def fault(self) -> str:
        return self._why

    def detect(self, observation: Observation) -> Iterable[Finding]:
        return ()
