"""What agents may do: guardrails, approval, probation, budgets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from agenttune.config import known_names
from agenttune.config.expressions import check
from agenttune.config.known_names import checked_names, names_in
from agenttune.config.llm import GateReviewerSettings
from agenttune.config.plugins import PluginEntry
from agenttune.config.setting import Positive, Settings, known_kinds
from agenttune.errors import UserError
from agenttune.protocol.commands import Risk
from agenttune.protocol.invalid_values import did_you_mean, shape
from agenttune.protocol.proposals import BUILT_IN_APPROVERS


def _from_pair(value: object) -> object:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return {"minimum": value[0], "maximum": value[1]}
    if not isinstance(value, (dict, Bounds)):
        raise ValueError(f"must be [minimum, maximum], where null leaves an end open, not {value!r:.80}")
    return value


class Bounds(Settings):
    """An allowed range; either end may be open."""

    minimum: float | None = None
    """Smallest allowed value."""
    maximum: float | None = None
    """Largest allowed value."""

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"the minimum {self.minimum} is above the maximum {self.maximum}")
        return self


Pair = tuple[float | None, float | None]
BoundsOrPair = Annotated[Bounds, BeforeValidator(_from_pair, json_schema_input_type=Bounds | Pair)]


class WindowSettings(Settings):
    """What agents may do within so many steps, all their commands together."""

    steps: int = Field(200, ge=1)
    """Length of the window, in steps, up to now."""
    max_change_factor: float | None = Field(None, gt=1)
    """Largest factor by which a knob may have changed over the window; null for no limit."""
    max_commands: int | None = Field(None, ge=0)
    """Commands in the window; null for no limit."""


AS_RECORDED = {"as_recorded": True}
"""Context of settings from a run's log: what an older version let through is read as it is."""


def _check_names(names: list[str], info: ValidationInfo) -> None:
    if info.context != AS_RECORDED:
        checked_names(names)


class ApprovalRule(Settings):
    """Which commands of agents it speaks of, and who decides on them. What is left out does not matter."""

    name: str = Field(
        "", pattern=shape(r"^[A-Za-z0-9 _.-]{0,60}$", "at most 60 letters, digits, blanks and any of _ . -")
    )
    """For the log; default: its place in the list."""
    commands: list[str] = Field(default_factory=list)
    """Kinds of commands."""
    risks: list[Risk] = Field(default_factory=list)
    """Risk classes."""
    knobs: list[str] = Field(default_factory=list)
    """It changes none but these."""
    max_factor: float | None = Field(None, gt=1)
    """It changes each by no more than this factor, up or down."""
    approvers: list[str] = Field(min_length=1)
    """Who is asked, one after the other until one decides: auto approves at once, rule goes by the two conditions
    below, model asks a second language model, human waits for a person, and one of your own is asked by its name in
    `gate.approvers`. Nobody decided: rejected."""
    approve_if: str = ""
    """rule: approves where this holds, such as factor <= 2 and steps_left > 100."""
    reject_if: str = ""
    """rule: rejects where this holds, which is looked at first; where neither holds, the next one is asked."""
    timeout_s: Positive = 900.0
    """How long all of them together are waited for, in seconds."""
    on_timeout: Literal["reject", "approve"] = "reject"
    """What a person's silence means; that of a model is never a yes."""
    training: Literal["continue", "pause"] = "continue"
    """Whether training goes on while it waits."""

    @field_validator("commands")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        return known_kinds(kinds)

    @field_validator("knobs")
    @classmethod
    def _knobs_known(cls, knobs: list[str], info: ValidationInfo) -> list[str]:
        _check_names(knobs, info)
        return knobs

    @field_validator("approvers")
    @classmethod
    def _in_order(cls, approvers: list[str]) -> list[str]:
        if len(set(approvers)) < len(approvers):
            raise ValueError(f"each approver can be asked once, not {', '.join(approvers)}")
        if "auto" in approvers[:-1]:
            raise ValueError("auto always approves, so nobody after it would be asked; put it last")
        return approvers

    @field_validator("approve_if", "reject_if")
    @classmethod
    def _can_be_read(cls, condition: str, info: ValidationInfo) -> str:
        try:
            if condition:
                check(condition, known_names.DOCUMENTED, known_names.DOCUMENTED_FUNCTIONS)
        except UserError as error:
            raise ValueError(error.message) from None
        _check_names(names_in(condition), info)
        return condition

    @model_validator(mode="after")
    def _conditions_are_asked(self) -> ApprovalRule:
        has_condition = bool(self.approve_if or self.reject_if)
        if "rule" in self.approvers and not has_condition:
            raise ValueError("the approver 'rule' needs approve_if or reject_if")
        if has_condition and "rule" not in self.approvers:
            raise ValueError("approve_if and reject_if are looked at only if 'rule' is among the approvers")
        return self


class GateSettings(Settings):
    """What commands may do. Bounds and `forbid` hold for everyone, the rest for agents."""

    bounds: dict[str, BoundsOrPair] = Field(default_factory=dict)
    """Absolute bounds by knob name, as [min, max], in every parameter group; for `lr` of every rate to come."""
    max_change_factor: float | None = Field(None, gt=1)
    """Largest factor by which one command of an agent may change a knob, up or down; null for no limit."""
    cooldown_steps: int = Field(0, ge=0)
    """Steps that must pass between two changes of the same knob by an agent."""
    window: WindowSettings = WindowSettings()
    """What agents may do within so many steps."""
    forbid: list[str] = Field(default_factory=list)
    """Commands that are refused, by kind."""
    allowed_layers: list[str] = Field(default_factory=list)
    """Layers that agents may change, as patterns such as transformer.h.*; none given: all."""
    quiet_first_steps: int = Field(0, ge=0)
    """First steps of the run, such as warm-up, in which agents change nothing."""
    quiet_last_steps: int = Field(0, ge=0)
    """The same for the last steps."""
    clamp: bool = False
    """Whether a value of an agent beyond a bound or factor becomes the nearest allowed one instead of being refused."""
    repeat_cooldown_steps: int = Field(50, ge=0)
    """Steps in which what a person, model or approver has refused an agent is refused again unread."""
    max_per_minute: int = Field(120, ge=1)
    """Proposals of agents that are looked at in a minute; more are turned away unrecorded."""
    approval: list[ApprovalRule] = Field(default_factory=list)
    """Who decides on commands of agents: the first rule that fits, nobody if none does. No rules: all are approved."""
    approvers: dict[str, PluginEntry] = Field(default_factory=dict)
    """Approvers of your own, by the name under which rules ask them: ./mine.py:Mine or an installed name, or a mapping
    with that as its `type` and its parameters."""
    reviewer: GateReviewerSettings = GateReviewerSettings()
    """The language model that the approver `model` asks."""
    usd_per_hour: float | None = Field(None, ge=0)
    """What the machine costs, in US dollars an hour: a request that holds training says what the waiting costs."""

    @field_validator("bounds")
    @classmethod
    def _bounds_protect(cls, bounds: dict[str, Bounds], info: ValidationInfo) -> dict[str, Bounds]:
        _check_names(list(bounds), info)
        return bounds

    @field_validator("forbid")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        return known_kinds(kinds)

    @field_validator("approval")
    @classmethod
    def _told_apart(cls, rules: list[ApprovalRule]) -> list[ApprovalRule]:
        names = [rule_name(rule, number) for number, rule in enumerate(rules, 1)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two rules are called {twice!r}; give each a name of its own")
        return rules

    @field_validator("approvers")
    @classmethod
    def _named(cls, approvers: dict[str, Any]) -> dict[str, Any]:
        for name in approvers:
            if name in BUILT_IN_APPROVERS or not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name):
                taken = f" but {', '.join(BUILT_IN_APPROVERS)}"
                raise ValueError(f"{name!r:.60} is no name for an approver: at most 48 of a to z, 0 to 9 and _{taken}")
        return approvers

    @model_validator(mode="after")
    def _approvers_are_known(self) -> GateSettings:
        known = [*BUILT_IN_APPROVERS, *self.approvers]
        for number, rule in enumerate(self.approval, 1):
            for name in rule.approvers:
                if name not in known:
                    raise ValueError(
                        f"approval, {rule_name(rule, number)}: {name!r:.60} is no approver{did_you_mean(name, known)}; "
                        f"known: {', '.join(known)}; one of your own gets its name in gate.approvers"
                    )
        return self

    @property
    def knobs(self) -> dict[str, str]:
        """Every knob that limits and rules speak of, with where."""
        found = {name: f"gate.bounds.{name}" for name in self.bounds}
        for number, rule in enumerate(self.approval, 1):
            for name in (*rule.knobs, *names_in(rule.approve_if), *names_in(rule.reject_if)):
                found.setdefault(name, f"gate.approval, {rule_name(rule, number)}")
        return found

    @property
    def asks_model(self) -> bool:
        """Whether a rule asks a language model."""
        return any("model" in rule.approvers for rule in self.approval)

    @property
    def own_approvers(self) -> dict[str, Any]:
        """Approvers of the user's own that a rule asks, by name."""
        return {
            name: entry for name, entry in self.approvers.items() if any(name in r.approvers for r in self.approval)
        }


def rule_name(rule: ApprovalRule, number: int) -> str:
    """What a rule is called in the log; `number` is its place in the list, from 1."""
    return rule.name or f"rule {number}"


STALL_WINDOWS = 16
"""Windows of probation after which a stall that noise still hides is no longer looked for (guess)."""


class ProbationSettings(Settings):
    """How changes by agents are watched, and undone if they hurt."""

    steps: int = Field(0, ge=0)
    """Steps for which the training loss is watched after a change; 0: it is not."""
    stall_steps: int | None = Field(None, ge=0)
    """Steps for which it is watched on while noise may hide that the change has stalled the run; null: 16 times
    `steps`, 0: never."""
    in_doubt: Literal["keep", "put_back", "revert"] = "put_back"
    """What happens to a change that may have stalled the run for all that could be seen in so many steps: it is kept,
    its old values are put back, or it is reverted as deep as `depth` says, which repeats those steps."""
    evaluations: int = Field(0, ge=0)
    """Evaluations for which a metric is watched after a change, beside the loss or instead of it; 0: it is not."""
    metric: str | None = None
    """The metric of evaluations that is watched; null: the goal's."""
    direction: Literal["minimize", "maximize"] | None = None
    """Which way that metric should go; null: as the goal."""
    depth: Literal["knob", "state"] = "knob"
    """What a revert puts back: the changed values, or the whole state of before the change, weights and all."""
    keep_in: Literal["memory", "disk"] = "memory"
    """Where the snapshot of before the change is kept; one that does not fit in memory goes to disk."""
    tolerance: float = Field(3.0, gt=0)
    """By how many standard errors the loss must be above its forecast to count as hurt."""
    min_rise_frac: float = Field(0.02, ge=0)
    """And by which part of its size at least."""
    cooldown_steps: int = Field(100, ge=0)
    """Steps after a revert in which agents may not change the same knob."""

    @property
    def is_on(self) -> bool:
        """Whether changes are watched at all."""
        return self.steps > 0 or self.evaluations > 0

    @property
    def longest_steps(self) -> int:
        """Steps after which nothing more is waited for."""
        stall_steps = STALL_WINDOWS * self.steps if self.stall_steps is None else self.stall_steps
        return max(self.steps, stall_steps)

    @model_validator(mode="after")
    def _metric_is_evaluated(self) -> ProbationSettings:
        if (self.metric or self.direction) and not self.evaluations:
            raise ValueError(
                "metric and direction are of evaluations: set evaluations to how many are awaited after a change; "
                "steps always watch the training loss"
            )
        return self


class BudgetSettings(Settings):
    """What the agent may use up in one run."""

    max_commands: int | None = Field(100, ge=0)
    """Commands of agents that reach the trainer; null for no limit."""
    max_returns: int | None = Field(10, ge=0)
    """How often agents may go back to a checkpoint, so that no rescue goes on for ever; null for no limit."""
    max_probe_frac: float | None = Field(0.2, ge=0)
    """Extra training steps of agents' probes, as a part of the run's steps; null for no limit."""
    max_probe_steps: int | None = Field(None, ge=0)
    """The same as a number of steps, whichever is reached first; null for no limit."""
    max_usd: float | None = Field(None, gt=0)
    """Money for calls of a language model, in US dollars; needs its price in `llm.prices`; null for no limit."""
    max_calls: int | None = Field(None, ge=0)
    """Calls of a language model; null for no limit."""
    max_tokens: int | None = Field(None, ge=0)
    """Tokens of such calls, input and output together; null for no limit."""


class PolicyFile(Settings):
    """What all policy files have in common."""

    description: str = ""
    """What it is for."""
    gate: GateSettings | None = None
    """Limits that hold where the config file sets none of its own, with the keys of `gate` there."""

    @field_validator("gate")
    @classmethod
    def _names_no_approvers(cls, gate: GateSettings | None) -> GateSettings | None:
        if gate is not None and gate.approvers:
            raise ValueError(
                "a policy cannot bring approvers of its own; name them in gate.approvers of the config file"
            )
        return gate


def with_limits_of(policy: GateSettings | None, config: GateSettings) -> GateSettings:
    """The limits of a run: the config file's, and the policy file's where that is silent."""
    if policy is None:
        return config
    given = {**policy.model_dump(exclude_unset=True), **config.model_dump(exclude_unset=True)}
    return GateSettings.model_validate(given)
