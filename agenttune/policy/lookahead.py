"""Probes instead of guessing: from time to time candidates are tried from the present state, and the best is adopted.

Nothing is kept between decisions: the time of the next probe follows from the earlier ones in the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from agenttune.config import PolicyFile
from agenttune.detectors import detect
from agenttune.detectors.trend import Trend
from agenttune.errors import UserError
from agenttune.policy.base import Decision, Draft, asked_at_step, by_agents
from agenttune.policy.rule_names import OWN_DETECTORS, documented
from agenttune.policy.run_spans import Span, in_steps, within
from agenttune.protocol.commands import Candidate, Probe, SetKnob, UpdateOptimizer, UpdateTraining
from agenttune.protocol.findings import Finding
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.redefining import touches
from agenttune.protocol.run_info import KnobState

RISING = 1.0 + 1e-6
"""A rate that the schedule multiplies by more is rising."""
VALID_FOR_STEPS = 20
"""Steps for which the candidates stay valid (guess: a schedule moves the learning rate that they start from)."""
LONGEST_TRIAL = 1000
"""Steps of a trial at most, as `probe` takes them."""
TrialSteps = Annotated[Span, within(2, LONGEST_TRIAL)]
Wait = Annotated[Span, within(1)]
Findings = TypeVar("Findings", list[str], dict[str, list[float]])


class LookaheadFile(PolicyFile):
    """`type: lookahead`: has candidates tried from the state of now, and the best adopted.

    Lengths are steps, or a part of the run such as 5%.
    """

    type: Literal["lookahead"]
    """Kind of policy."""
    knob: str = "lr"
    """What is changed: lr, weight_decay, max_grad_norm, or a registered knob."""
    factors: list[float] = Field(default_factory=lambda: [0.5, 2.0], min_length=1, max_length=8)
    """Its value is multiplied by each of these; changing nothing is always tried too."""
    narrow_factors: list[float] | None = Field(None, min_length=1, max_length=8)
    """Tried instead once none of `factors` wins, and from then on until a finding; null: `factors` always. While it
    searches in this way, one probe follows the other after `rest_steps`."""
    factors_on: dict[str, list[float]] = Field(default_factory=dict)
    """Tried instead after a finding of that kind, such as `low_rate: [3, 10]`; it brings the next probe forward too."""
    minimum: float | None = None
    """Smallest value; a candidate below it is left out."""
    maximum: float | None = None
    """Largest value."""
    no_raise_below_frac: float = Field(0.02, ge=0, le=1)
    """Where the training loss is below this part of its first, or the run overfits, no raise of the rate is tried."""
    steps: TrialSteps = 10
    """Training steps of each trial."""
    metric: Literal["loss", "goal"] = "loss"
    """What is compared: the training loss, or the goal metric by an evaluation at the end of each trial."""
    confirm_steps: TrialSteps | None = None
    """What won and changing nothing are tried again for so many steps, and it has to win again; null: they are not."""
    confirm: Literal["loss", "goal"] = "loss"
    """As `metric`, for that."""
    lower_rates: Literal["any", "growing", "never"] = "any"
    """Whether a lower rate may win: like any other, if its lead grows to the end of the trial, or never."""
    min_progress_frac: float = Field(0.2, ge=0, le=100)
    """By how much further than changing nothing a candidate has to come, as a part of how far that came down."""
    min_gain_frac: float = Field(0.0, ge=0, le=1)
    """Least gain over changing nothing, as a fraction of the metric."""
    every_steps: Wait = 200
    """Steps from one probe to the next."""
    wait_growth: float = Field(2.0, ge=1)
    """Multiplies that for each probe in a row, from the second on, that adopted nothing."""
    max_every_steps: Wait = 1600
    """Most steps from one probe to the next."""
    first_step: Span = 50
    """Step of the first probe; none is made while the rate warms up."""
    on_findings: list[str] = Field(default_factory=lambda: ["plateau", "spike"])
    """Findings that bring the next probe forward."""
    only_on_findings: bool = False
    """Whether nothing is tried but after a finding of `on_findings` or `factors_on`: a run without one pays nothing."""
    rest_steps: Span = 50
    """Least steps between two probes, also after a finding."""

    @field_validator("factors", "narrow_factors")
    @classmethod
    def _change_something(cls, factors: list[float] | None) -> list[float] | None:
        if factors is not None and any(factor <= 0 or factor == 1 for factor in factors):
            raise ValueError("factors are above 0 and not 1: changing nothing is tried anyway")
        return factors

    @field_validator("factors_on")
    @classmethod
    def _change_something_each(cls, factors: dict[str, list[float]]) -> dict[str, list[float]]:
        for name, each in factors.items():
            if not 1 <= len(each) <= 8:
                raise ValueError(f"{name}: {len(each)} factors, and 1 to 8 are tried at once")
            cls._change_something(each)
        return factors

    @field_validator("on_findings", "factors_on")
    @classmethod
    def _can_be_found(cls, names: Findings, info: ValidationInfo) -> Findings:
        known = documented((info.context or {}).get(OWN_DETECTORS, ()))["found"]
        for name in names:
            if name not in known:
                raise ValueError(f"no detector finds {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
        return names

    def lengths(self, max_steps: int | None) -> Lengths:
        """All lengths in steps.

        Raises:
            UserError: One is a part of the run, and its number of steps is not known.
        """
        confirm = None if self.confirm_steps is None else in_steps(self.confirm_steps, max_steps, 2, LONGEST_TRIAL)
        every = in_steps(self.every_steps, max_steps, 1)
        return Lengths(
            steps=in_steps(self.steps, max_steps, 2, LONGEST_TRIAL),
            confirm_steps=confirm,
            every_steps=every,
            max_every_steps=max(in_steps(self.max_every_steps, max_steps, 1), every),
            first_step=in_steps(self.first_step, max_steps, 0),
            rest_steps=in_steps(self.rest_steps, max_steps, 0),
        )

    def extra_steps(self, max_steps: int | None) -> int:
        """Training steps of one probe at most, with all candidates within their bounds."""
        lengths = self.lengths(max_steps)
        most = max(map(len, (self.factors, self.narrow_factors or (), *self.factors_on.values())))
        return lengths.steps * (most + 1) + 2 * (lengths.confirm_steps or 0)

    def wait_steps(self, vain: int, max_steps: int | None) -> int:
        """Steps from the last probe to the next, after `vain` in a row that adopted nothing."""
        lengths = self.lengths(max_steps)
        growth = self.wait_growth ** min(max(vain - 1, 0), 64)
        return round(min(lengths.every_steps * growth, lengths.max_every_steps))


@dataclass(frozen=True)
class Lengths:
    """The lengths of a file for one run, in steps."""

    steps: int
    confirm_steps: int | None
    every_steps: int
    max_every_steps: int
    first_step: int
    rest_steps: int


class Lookahead:
    """Proposes one probe at a time."""

    def __init__(self, name: str, file: LookaheadFile) -> None:
        self.name = name
        self._file = file

    @property
    def settings(self) -> LookaheadFile:
        """Its file."""
        return self._file

    def decide(self, observation: Observation) -> Decision:
        if Probe.kind_name() not in observation.capabilities:
            return Decision(reason="this trainer cannot go back, so nothing can be tried")
        mine = [c for c in by_agents(observation) if c.command.tries()]
        if mine and not mine[-1].is_final and mine[-1].ack is None:
            return Decision(reason="a probe is under way")
        if self._file.knob == "lr" and is_warming_up(observation):
            return Decision(reason="the rate warms up, and trials would mislead")
        try:
            why = self._occasion(observation, mine)
            if not why and self._file.only_on_findings:
                return Decision(reason=f"nothing was found that asks for a probe{_told(mine)}")
            if not why:
                return Decision(reason=f"the next probe is at step {self._due_step(observation, mine)}{_told(mine)}")
            return Decision([self._draft(observation, mine, why)], why)
        except UserError as error:
            return Decision(reason=error.message)

    def _occasion(self, observation: Observation, mine: Sequence[CommandRecord]) -> str:
        """Why to probe now; empty if there is no reason."""
        step, last = observation.step, asked_at_step(mine[-1]) if mine else None
        if last is not None and step < last + self._file.lengths(observation.max_steps).rest_steps:
            return ""
        if not self._file.only_on_findings and step >= self._due_step(observation, mine):
            return f"step {step}: the time for a probe"
        new = self._new_findings(observation, mine)
        return f"{new[-1].kind} at step {new[-1].step}" if new else ""

    def _new_findings(self, observation: Observation, mine: Sequence[CommandRecord]) -> list[Finding]:
        """Findings since the last probe that ask for another."""
        last, file = asked_at_step(mine[-1]) if mine else 0, self._file
        asking = {*file.on_findings, *file.factors_on}
        return [f for f in observation.findings if f.kind in asking and f.step > last]

    def _due_step(self, observation: Observation, mine: Sequence[CommandRecord]) -> int:
        lengths = self._file.lengths(observation.max_steps)
        if not mine:
            return lengths.first_step
        if self._is_searching(mine):
            return asked_at_step(mine[-1]) + lengths.rest_steps
        return asked_at_step(mine[-1]) + self._file.wait_steps(self._vain(mine), observation.max_steps)

    def _vain(self, mine: Sequence[CommandRecord]) -> int:
        """Probes in a row, up to the newest, that adopted nothing; those of a search count from its narrow ones on."""
        count = 0
        for record in reversed(mine):
            if _adopted(record) or (self._file.narrow_factors is not None and self._was_wide(record)):
                break
            count += 1
        return count

    def _is_searching(self, mine: Sequence[CommandRecord]) -> bool:
        """Whether the factors go from wide to narrow: until none of the narrow ones wins."""
        if self._file.narrow_factors is None or not mine:
            return False
        return self._was_wide(mine[-1]) or _adopted(mine[-1])

    def _was_wide(self, record: CommandRecord) -> bool:
        return f"times {_list(self._file.factors)}," in record.proposal.rationale

    def _factors(self, observation: Observation, mine: Sequence[CommandRecord]) -> list[float]:
        """Those of the newest finding; else wide ones at first, while they win, and after a finding, or narrow ones."""
        file, new = self._file, self._new_findings(observation, mine)
        if new and new[-1].kind in file.factors_on:
            return file.factors_on[new[-1].kind]
        is_wide = not mine or (self._was_wide(mine[-1]) and _adopted(mine[-1]))
        if file.narrow_factors is None or is_wide or new:
            return file.factors
        return file.narrow_factors

    def _draft(self, observation: Observation, mine: Sequence[CommandRecord], why: str) -> Draft:
        file, knob = self._file, observation.knob(self._file.knob)
        if knob is None:
            known = ", ".join(knob.name for knob in observation.knobs)
            raise UserError(f"no knob {file.knob!r} in this run; knobs: {known}")
        metric = "step_loss" if file.metric == "loss" else observation.goal_metric
        if touches(knob.redefines, metric):
            hint = "" if touches(knob.redefines, observation.goal_metric) else "; set metric: goal in the policy's file"
            raise UserError(
                f"{knob.name} gives {metric} another meaning, so that trials cannot be compared by it{hint}"
            )
        factors = self._factors(observation, mine)
        lengths = file.lengths(observation.max_steps)
        command = self._probe(self._candidates(observation, knob, factors), lengths)
        left = None if observation.max_steps is None else observation.max_steps - observation.step
        longest = max(lengths.steps, lengths.confirm_steps or 0)
        if left is not None and longest + VALID_FOR_STEPS >= left:
            raise UserError(f"too near to the run's end for trials of {longest} steps")
        cost = f"{command.extra_steps} extra steps"
        return Draft(command, f"{why}; tries {file.knob} times {_list(factors)}, {cost}", VALID_FOR_STEPS)

    def _probe(self, candidates: Sequence[Candidate], lengths: Lengths) -> Probe:
        """Raises UserError: A part of so long a run is longer than a probe may be."""
        file = self._file
        try:
            return Probe(
                candidates=tuple(candidates),
                steps=lengths.steps,
                metric=file.metric,
                min_gain_frac=file.min_gain_frac,
                min_progress_frac=file.min_progress_frac,
                lower_rates=file.lower_rates,
                confirm_steps=lengths.confirm_steps,
                confirm=file.confirm,
            )
        except ValidationError as error:
            said = "; ".join(problem["msg"] for problem in error.errors())
            raise UserError(f"no probe of {lengths.steps} steps a trial: {said}") from None

    def _candidates(self, observation: Observation, knob: KnobState, factors: Sequence[float]) -> list[Candidate]:
        """Raises UserError: There is nothing to try."""
        # The base, where there is one: what is adopted then keeps the schedule's shape, whenever it is applied.
        now = knob.base if knob.base is not None else knob.effective
        if not isinstance(now, (int, float)) or isinstance(now, bool) or not now > 0:
            raise UserError(f"{knob.name} is {now!r}; only a value above 0 can be multiplied")
        why_not = self._no_raise(observation) if knob.name == "lr" else ""
        wanted = [factor for factor in factors if factor < 1 or not why_not]
        if not wanted:
            raise UserError(f"{why_not}: no raise is tried")
        allowed = [now * factor for factor in wanted if self._allows(now * factor, knob)]
        if not allowed:
            raise UserError(f"no candidate for {knob.name} {now:g} is within its bounds")
        return [_command(knob, value) for value in allowed]

    def _no_raise(self, observation: Observation) -> str:
        """Why a higher rate, which fits the training data faster, is not tried; empty if it may be."""
        if any(finding.kind == "overfitting" for finding in detect(observation)):
            return "the run overfits"
        trend = Trend.of(observation)
        least = 0.0 if trend is None else self._file.no_raise_below_frac * trend.start
        if trend is not None and trend.is_positive and trend.level < least:
            return f"the training loss {trend.level:.3g} is near nothing (it began at {trend.start:.3g})"
        return ""

    def _allows(self, value: float, knob: KnobState) -> bool:
        lows = [low for low in (self._file.minimum, knob.minimum) if low is not None]
        highs = [high for high in (self._file.maximum, knob.maximum) if high is not None]
        return all(value >= low for low in lows) and all(value <= high for high in highs)


def is_warming_up(observation: Observation) -> bool:
    """Whether the schedule in force raises the rate from here."""
    course = observation.schedule
    if course is None or not course.is_foretold:
        return False
    rates = course.from_now(observation.step).tracks[0].rates if course.tracks else []
    return len(rates) > 1 and rates[1] > RISING * rates[0]


def _adopted(record: CommandRecord) -> bool:
    return record.ack is not None and bool(record.ack.changes)


def _told(mine: Sequence[CommandRecord]) -> str:
    """What came of the last probe."""
    ack = mine[-1].ack if mine else None
    return f"; the last one: {ack.message}" if ack is not None and ack.message else ""


def _command(knob: KnobState, value: float) -> Candidate:
    if knob.name == "lr":
        return UpdateOptimizer(lr=value, lr_sets="effective" if knob.base is None else "base")
    if knob.name == "weight_decay":
        return UpdateOptimizer(weight_decay=value)
    if knob.name == "max_grad_norm":
        return UpdateTraining(max_grad_norm=value)
    if knob.is_registered:
        return SetKnob(name=knob.name, value=value)
    raise UserError(f"{knob.name} cannot be tried; lr, weight_decay, max_grad_norm and registered knobs can")


def _list(factors: Sequence[float]) -> str:
    return ", ".join(f"{factor:g}" for factor in factors)
