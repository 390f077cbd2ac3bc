"""Probes instead of guessing: from time to time candidates are tried from the present state, and the best is adopted.

Nothing is kept between decisions: the time of the next probe follows from the earlier ones in the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from agenttune.config import PolicyFile
from agenttune.errors import UserError
from agenttune.policy.base import Decision, Draft, asked_at_step, by_agents
from agenttune.policy.rule_names import OWN_DETECTORS, documented
from agenttune.protocol.commands import Candidate, Probe, SetKnob, UpdateOptimizer, UpdateTraining
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.redefining import touches
from agenttune.protocol.run_info import KnobState

VALID_FOR_STEPS = 20
"""Steps for which the candidates stay valid (guess: a schedule moves the learning rate that they start from)."""


class LookaheadFile(PolicyFile):
    """`type: lookahead`: has candidates tried from the state of now, and the best adopted."""

    type: Literal["lookahead"]
    """Kind of policy."""
    knob: str = "lr"
    """What is changed: lr, weight_decay, max_grad_norm, or a registered knob."""
    factors: list[float] = Field(default_factory=lambda: [0.5, 2.0], min_length=1, max_length=8)
    """Its value is multiplied by each of these; changing nothing is always tried too."""
    minimum: float | None = None
    """Smallest value; a candidate below it is left out."""
    maximum: float | None = None
    """Largest value."""
    steps: int = Field(10, ge=2, le=1000)
    """Training steps of each trial."""
    metric: Literal["loss", "goal"] = "loss"
    """What is compared: the training loss, or the goal metric by an evaluation at the end of each trial."""
    min_gain_frac: float = Field(0.01, ge=0, le=1)
    """Least gain over changing nothing, as a fraction of the metric."""
    every_steps: int = Field(200, ge=1)
    """Steps from one probe to the next; doubled for each in a row that adopted nothing."""
    max_every_steps: int = Field(1600, ge=1)
    """Most steps from one probe to the next."""
    first_step: int = Field(50, ge=0)
    """Step of the first probe."""
    on_findings: list[str] = Field(default_factory=lambda: ["plateau", "spike"])
    """Findings that bring the next probe forward."""
    rest_steps: int = Field(50, ge=0)
    """Least steps between two probes, also after a finding."""

    @field_validator("factors")
    @classmethod
    def _change_something(cls, factors: list[float]) -> list[float]:
        if any(factor <= 0 or factor == 1 for factor in factors):
            raise ValueError("factors are above 0 and not 1: changing nothing is tried anyway")
        return factors

    @field_validator("on_findings")
    @classmethod
    def _can_be_found(cls, names: list[str], info: ValidationInfo) -> list[str]:
        known = documented((info.context or {}).get(OWN_DETECTORS, ()))["found"]
        for name in names:
            if name not in known:
                raise ValueError(f"no detector finds {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
        return names

    @property
    def extra_steps(self) -> int:
        """Training steps of one probe, with all candidates within their bounds."""
        return self.steps * (len(self.factors) + 1)

    def wait_steps(self, vain: int) -> int:
        """Steps from the last probe to the next, after `vain` in a row that adopted nothing."""
        # A shift by many would be a number of thousands of digits.
        return max(min(self.every_steps << min(vain, 32), self.max_every_steps), self.every_steps)


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
        why = self._occasion(observation, mine)
        if not why:
            return Decision(reason=f"the next probe is at step {self._due_step(mine)}")
        try:
            return Decision([self._draft(observation, why)], why)
        except UserError as error:
            return Decision(reason=error.message)

    def _occasion(self, observation: Observation, mine: Sequence[CommandRecord]) -> str:
        """Why to probe now; empty if there is no reason."""
        step, last = observation.step, asked_at_step(mine[-1]) if mine else None
        if last is not None and step < last + self._file.rest_steps:
            return ""
        if step >= self._due_step(mine):
            return f"step {step}: the time for a probe"
        new = [f for f in observation.findings if f.kind in self._file.on_findings and f.step > (last or 0)]
        return f"{new[-1].kind} at step {new[-1].step}" if new else ""

    def _due_step(self, mine: Sequence[CommandRecord]) -> int:
        if not mine:
            return self._file.first_step
        vain = 0
        for record in reversed(mine):
            if record.ack is not None and record.ack.changes:
                break
            vain += 1
        return asked_at_step(mine[-1]) + self._file.wait_steps(vain)

    def _draft(self, observation: Observation, why: str) -> Draft:
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
        candidates = self._candidates(knob)
        command = Probe(
            candidates=tuple(candidates), steps=file.steps, metric=file.metric, min_gain_frac=file.min_gain_frac
        )
        left = None if observation.max_steps is None else observation.max_steps - observation.step
        if left is not None and file.steps + VALID_FOR_STEPS >= left:
            raise UserError(f"too near to the run's end for trials of {file.steps} steps")
        cost = f"{command.extra_steps} extra steps"
        return Draft(command, f"{why}; tries {file.knob} times {_list(file.factors)}, {cost}", VALID_FOR_STEPS)

    def _candidates(self, knob: KnobState) -> list[Candidate]:
        """Raises UserError: There is nothing to try."""
        # The base, where there is one: what is adopted then keeps the schedule's shape, whenever it is applied.
        now = knob.base if knob.base is not None else knob.effective
        if not isinstance(now, (int, float)) or isinstance(now, bool) or not now > 0:
            raise UserError(f"{knob.name} is {now!r}; only a value above 0 can be multiplied")
        allowed = [now * factor for factor in self._file.factors if self._allows(now * factor, knob)]
        if not allowed:
            raise UserError(f"no candidate for {knob.name} {now:g} is within its bounds")
        return [_command(knob, value) for value in allowed]

    def _allows(self, value: float, knob: KnobState) -> bool:
        lows = [low for low in (self._file.minimum, knob.minimum) if low is not None]
        highs = [high for high in (self._file.maximum, knob.maximum) if high is not None]
        return all(value >= low for low in lows) and all(value <= high for high in highs)


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
