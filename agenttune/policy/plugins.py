"""Policies and detectors of the user's own: made, and kept from doing harm to those beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agenttune.config import Place
from agenttune.config.plugins import PluginClass, PluginUse, find_class
from agenttune.detectors import DETECTOR_NAMES, Detector, PluginDetector, StandInDetector, undeclared
from agenttune.errors import ConfigError, UserError
from agenttune.policy.base import Decision, Draft, Policy, PolicyContext
from agenttune.policy.wrappers.simple import Background
from agenttune.policy.wrappers.wrapper import Wrapper
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.events import POLICY_FAILED
from agenttune.protocol.invalid_values import failure_words
from agenttune.protocol.observation import Observation

log = logging.getLogger(__name__)
ERROR_CHARACTERS = 500
PROMPT_S = 2.0
"""A policy of the user's own that answers within so many seconds is waited for, a slower one is not (guess)."""
CONTEXT = PolicyContext.__name__


@dataclass(frozen=True)
class MadePlugin:
    """A policy of the user's own with what the log is told of its code."""

    policy: Policy
    path: Path | None = None
    sha256: str = ""


def make_policy(use: PluginUse, name: str, context: PolicyContext) -> MadePlugin:
    """The policy of a class of the user's own.

    One whose code cannot be run cannot decide, as a model that is not there: those beside it go on.

    Raises:
        ConfigError: While it is only checked: it is named wrongly, or a parameter is wrong.
    """
    if context.try_plugin is not None:
        return MadePlugin(StandIn(name, context.try_plugin(use).fault))
    try:
        found = find_class(use, Policy, [CONTEXT])
        made = found.make(**{CONTEXT: context})
    except UserError as error:
        if context.reader is None and isinstance(error, ConfigError):
            raise
        log.warning("%s", error)
        return MadePlugin(StandIn(name, error.message))
    policy = Background(PluginPolicy(made, title=name), title=name, prompt_s=PROMPT_S)
    return MadePlugin(policy, found.path, found.sha256)


@dataclass(frozen=True)
class StandIn:
    """Stands where a policy would be whose code cannot be run, or is not run in this process.

    Attributes:
        why: It cannot be used; empty if it can, elsewhere.
    """

    name: str
    why: str = ""

    @property
    def notice(self) -> str:
        return self.why

    def unavailable(self) -> str:
        return self.why

    def decide(self, observation: Observation) -> Decision:
        return Decision(reason=self.why or "this process does not run its code", skipped=True)


class PluginPolicy(Wrapper):
    """A policy of the user's own. An error of it, or an answer that is none, is a decision to do nothing."""

    def decide(self, observation: Observation) -> Decision:
        try:
            decision = checked(self.inner.decide(observation))
        except (Exception, SystemExit) as error:
            log.error("policy %s failed at step %d", self.name, observation.step, exc_info=error)
            return self._failed(error)
        if decision.later is not None:
            return decision.then(self._checked_later)
        return decision

    def _checked_later(self, decision: Decision) -> Decision:
        try:
            return checked(decision)
        except TypeError as error:
            return self._failed(error)

    def _failed(self, error: BaseException) -> Decision:
        reason = f"{POLICY_FAILED}: {failure_words(error)}"[:ERROR_CHARACTERS]
        return Decision(reason=reason, faults=[reason])


def checked(decision: object) -> Decision:
    """The decision, if it is one.

    Raises:
        TypeError: It is none; says what was returned and what is wanted.
    """
    if not isinstance(decision, Decision):
        raise TypeError(f"decide returned {decision!r:.80}, not a Decision of agenttune.policy")
    for draft in (*decision.proposals, *decision.shadowed):
        if not isinstance(draft, Draft):
            raise TypeError(f"a proposal is {draft!r:.80}, not a Draft of agenttune.policy")
        if not isinstance(draft.command, CommandBase):
            raise TypeError(f"the command of a Draft is {draft.command!r:.80}, not one of agenttune.protocol.commands")
        if not isinstance(draft.rationale, str):
            raise TypeError(f"the rationale of a Draft is {draft.rationale!r:.80}, not a text")
    if not isinstance(decision.reason, str):
        raise TypeError(f"the reason of a Decision is {decision.reason!r:.80}, not a text")
    return replace(decision, proposals=list(decision.proposals), shadowed=list(decision.shadowed))


def open_detectors(
    entries: Sequence[object],
    file: Path,
    context: PolicyContext,
    at: Place = ("detectors",),
    folders: Sequence[Path] = (),
) -> tuple[Detector, ...]:
    """The detectors that a config file's `detectors` names.

    Args:
        entries: What stands there.
        file: The file.
        context: As for policies.
        at: Where in it.
        folders: Where relative paths count from beside the file's own.

    Raises:
        ConfigError: While they are only checked: one is named wrongly, or a parameter is wrong.
    """
    made: list[Detector] = []
    for index, entry in enumerate(entries):
        use = PluginUse.of_entry("detector", entry, file, (*at, index))
        use = replace(use, folders=(*use.folders, *folders))
        detector = _detector(use, context)
        if detector.name in (d.name for d in made):
            raise use.problem(f"two detectors are called {detector.name!r}; give one another name")
        made.append(detector)
    return tuple(made)


def find_detector(use: PluginUse) -> PluginClass:
    """As `find_class`, of a detector that says what it must of itself."""
    found = find_class(use, Detector)
    if problem := undeclared(found.cls, DETECTOR_NAMES):
        raise use.problem(problem)
    return found


def _detector(use: PluginUse, context: PolicyContext) -> Detector:
    try:
        if context.try_plugin is not None:
            tried = context.try_plugin(use)
            return StandInDetector(tried.name or use.reference, tried.fault)
        return PluginDetector(find_detector(use).make())
    except UserError as error:
        if context.reader is None and isinstance(error, ConfigError):
            raise
        return StandInDetector(use.reference, error.message)
