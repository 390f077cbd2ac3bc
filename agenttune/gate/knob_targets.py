"""The numbers that a command asks for, next to the values now, for each parameter group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agenttune.protocol.commands import AskedValue, CommandBase
from agenttune.protocol.metrics import is_number
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import KnobState, RunInfo

NEAR_ONE = frozenset({"betas", "momentum", "other.alpha", "other.rho", "other.beta1", "other.beta2", "other.beta3"})
"""Fields that say what share of an average is kept: from 0.999 to 0.9999999 it is as long as 10,000 times as many
steps, so what is left to 1 counts as a value too."""

OFF_IS_ZERO = frozenset({"max_grad_norm"})
"""Knobs for which 0 means off: clipping at 0 is no clipping, as if at infinity."""


@dataclass(frozen=True)
class Target:
    """One number that a command would put into force.

    Attributes:
        knob: The knob's name.
        field: The command's field that asks for it.
        value: The value that it would have.
        current: The value now, of the same kind (base or effective) as `value`.
        group: The parameter group, where there are groups.
        index: The place in a list, such as the second of Adam's betas.
        other: Of a rate: the other of base and effective rate as it is now, which moves in proportion.
        is_asked: Whether the value is the one that stands in the command; else it follows from that.
    """

    knob: str
    field: str
    value: float
    current: float | None = None
    group: int | None = None
    index: int | None = None
    other: float | None = None
    is_asked: bool = True

    @property
    def label(self) -> str:
        """The knob, with its parameter group unless that is the first."""
        return f"{self.knob} of parameter group {self.group}" if self.group else self.knob

    @property
    def text(self) -> str:
        """The value asked for, as a sentence about it begins."""
        return f"{self.knob} {self.value:g}" + (f" of parameter group {self.group}" if self.group else "")

    @property
    def is_off(self) -> bool:
        """Whether the value switches off what the knob limits."""
        return self.value == 0 and self.knob in OFF_IS_ZERO

    @property
    def ratio(self) -> float | None:
        """The value asked for over the value now; None if that is not known."""
        if self.current is None or self.current == 0:
            return 1.0 if self.current == self.value else None
        return self.value / self.current

    @property
    def rest(self) -> float | None:
        """`1 - current`, for fields of `NEAR_ONE`; None for others."""
        if self.field not in NEAR_ONE or self.current is None or not 0 < self.current < 1:
            return None
        return 1 - self.current

    def factor(self) -> float:
        """By what factor it changes, up or down; infinite if that is not known."""
        own = factor_between(self.current, self.value)
        return own if self.rest is None else max(own, factor_between(self.rest, 1 - self.value))


def targets_of(command: CommandBase, info: RunInfo) -> list[Target]:
    """Every number that a command would put into force; empty for commands that change no number.

    A probe may put any of its candidates into force.
    """
    knobs = {knob.name: knob for knob in info.knobs}
    return [target for asked in command.asked() for target in _targets(asked, knobs)]


def _targets(asked: AskedValue, knobs: Mapping[str, KnobState]) -> Iterator[Target]:
    if asked.is_rate:
        return _rate_targets(asked, knobs.get("lr"))
    # A parameter of the dataset may happen to have the name of a knob.
    return _numbers(asked, None if asked.owner == "dataset" else knobs.get(asked.name))


def changed_by(record: CommandRecord) -> frozenset[str]:
    """Names of what a recorded command has changed or will change; of a finished probe, what it adopted changed."""
    if record.command.tries() and record.ack is not None:
        return frozenset(change.name for change in record.ack.changes)
    return record.command.touched()


def rate_factors(asked: AskedValue, knob: KnobState) -> dict[int, float | None]:
    """For each parameter group, new learning rate over old; None if the old one is 0."""
    return {t.group or 0: t.ratio for t in _rate_targets(asked, knob)}


def _rate_targets(asked: AskedValue, knob: KnobState | None) -> Iterator[Target]:
    """If no group is named, all groups keep their ratio to the first."""
    if knob is None or knob.effective is None:
        yield Target("lr", "lr", asked.value)
        return
    effective = [float(rate) for rate in knob.groups or [knob.effective]]
    one_group = [] if knob.base is None else [float(knob.base)]
    base = knob.base_groups or (one_group if len(effective) == 1 else [])
    own, other = (base, effective) if asked.sets_base and base else (effective, base)
    lead = asked.group or 0
    if lead >= len(own):
        return  # the trainer says which groups there are
    for group in [lead] if asked.group is not None else range(len(own)):
        value = asked.value if group == lead else _in_ratio(asked.value, own, group, knob.ratios)
        implied = other[group] if group < len(other) else None
        yield Target("lr", "lr", value, own[group], group, None, implied, group == lead)


def _in_ratio(rate: float, rates: list[float], group: int, ratios: list[float] | None) -> float:
    if rates[0] > 0:
        return rates[group] * (rate / rates[0])
    return rate * ratios[group] if ratios is not None and group < len(ratios) else rate


def _groups(asked: AskedValue, knob: KnobState | None) -> Iterable[int | None]:
    """The groups that are written: the named one, or all but the exempt ones."""
    if asked.group is not None:
        return [asked.group]
    if asked.owner != "optimizer" or knob is None or knob.groups is None:
        return [None]
    return [g for g, value in enumerate(knob.groups) if value is not None and g not in knob.exempt_groups]


def _numbers(asked: AskedValue, knob: KnobState | None) -> Iterator[Target]:
    """The numbers in one value, in each group: itself, or those of a list."""
    value = asked.value
    parts = list(enumerate(value)) if isinstance(value, (list, tuple)) else [(None, value)]
    for group in _groups(asked, knob):
        now = _current(knob, group)
        for index, part in parts:
            if is_number(part):
                current = now[index] if isinstance(now, (list, tuple)) and index is not None else now
                known = float(current) if is_number(current) else None
                yield Target(asked.name, asked.field, float(part), known, group, index)


def _current(knob: KnobState | None, group: int | None) -> object:
    if knob is None:
        return None
    if group is None or knob.groups is None:
        return knob.effective
    return knob.groups[group] if group < len(knob.groups) else None


def values_of(command: CommandBase) -> dict[str, float]:
    """The first number that a command asks for, for each knob."""
    nothing_known = RunInfo(run_id="", name="", status="running", created_at_s=0.0)
    found: dict[str, float] = {}
    for target in targets_of(command, nothing_known):
        if target.index is None:
            found.setdefault(target.knob, target.value)
    return found


def factor_between(before: float | None, after: float) -> float:
    """By what factor a value changes, up or down; infinite if that is not known."""
    if before == after:
        return 1.0
    if before is None or before <= 0 or after <= 0:
        return math.inf
    return max(after / before, before / after)
