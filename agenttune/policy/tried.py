"""What a rule has tried so far, found in the history by the beginning of its reasons, and what came of it."""

from __future__ import annotations

import math

from agenttune.detectors.effects import acted, effect_in
from agenttune.detectors.trend import LOSS_NAMES, Trend
from agenttune.policy.base import by_agents
from agenttune.protocol.effects import Effect
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord


def mark(rule: str) -> str:
    """The beginning of the rationale of a rule's commands, by which they are found in the history."""
    return f"{rule}: "


def newest_of(observation: Observation, *rules: str) -> CommandRecord | None:
    """The newest command of these rules that took effect."""
    own, marks = reversed(by_agents(observation)), tuple(map(mark, rules))
    return next((c for c in own if c.proposal.rationale.startswith(marks) and acted(c)), None)


def newest_effect(observation: Observation, rule: str) -> Effect | None:
    """What that did; None if there is none."""
    newest = newest_of(observation, rule)
    return None if newest is None else effect_in(observation, newest)


def lr_before(observation: Observation, *rules: str) -> float:
    """The base learning rate before that, NaN if it did not change the rate; without a base, the effective one."""
    newest = newest_of(observation, *rules)
    changes = () if newest is None or newest.ack is None else newest.ack.changes
    rate = next((change for change in changes if change.name == "lr"), None)
    if rate is None:
        return math.nan
    before = rate.previous if rate.previous_base is None else rate.previous_base
    return float(before) if isinstance(before, (int, float)) else math.nan


def not_again(observation: Observation, rule: str) -> str:
    """Why a rule is not to ask again for what it asked for last: that did not help, or is still being measured.

    It may once the run has come clear of where that left it: then there is another reason to ask. It also may where
    nothing can tell what the last one did.
    """
    effect = newest_effect(observation, rule)
    if effect is None or effect.helped > 0 or _is_past(observation, effect):
        return ""
    if effect.helped < 0:
        return f"its last command hurt ({effect.words})"
    if not effect.is_measured:
        return "what its last command did is still being measured"
    return "" if effect.verdict == "not known" else f"its last command did not help ({effect.words})"


def _is_past(observation: Observation, effect: Effect) -> bool:
    """Whether the metric is now better than it was left, and than chance would have it without the change."""
    if effect.found is None or effect.low is None or effect.high is None:
        return False
    now = _level(observation, effect.metric)
    if effect.metric == observation.goal_metric and observation.goal_direction == "maximize":
        return now > max(effect.found, effect.high)
    return now < min(effect.found, effect.low)


def _level(observation: Observation, metric: str) -> float:
    """Where a metric stands; NaN where that is not known."""
    if metric in LOSS_NAMES:
        trend = Trend.of(observation, (metric,))
        return math.nan if trend is None else trend.level
    values = (e.metrics[metric] for e in reversed(observation.evaluations) if metric in e.metrics)
    return next(values, math.nan)
