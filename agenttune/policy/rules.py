"""Policies as data: an ordered list of rules, each a condition and a command.

The first rule that holds, in the order of the file, makes the one proposal of a decision. An argument that starts
with `=` is an expression, anything else is taken as it stands. Names and functions: `policy/rule_names.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from agenttune.config import PolicyFile, Settings
from agenttune.config.expressions import Evaluator, Names, check, evaluate, fields_of, is_true, render
from agenttune.detectors import Detector
from agenttune.errors import UserError
from agenttune.policy.base import Decision, Draft, by_agents
from agenttune.policy.rule_names import DOCUMENTED_FUNCTIONS, OWN_DETECTORS, documented, functions_of, names_of
from agenttune.policy.tried import mark, not_again
from agenttune.protocol.commands import BY_KIND, COMMAND_KINDS, CommandBase, parse_command
from agenttune.protocol.invalid_values import did_you_mean, shape, why_with_value
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import State

Functions = Mapping[str, Callable[..., Any]]


def _expression(text: str, info: ValidationInfo) -> str:
    own = (info.context or {}).get(OWN_DETECTORS, ())
    try:
        check(text, documented(own), DOCUMENTED_FUNCTIONS) if own else _check_shipped(text)
    except UserError as error:
        is_finding = error.field is not None and any(f"{group}.{error.field}" in text for group in ("found", "since"))
        more = "; one of your own detectors finds it only if `detectors` of the config file names it"
        raise ValueError(error.message + (more if is_finding else "")) from None
    return text


@functools.lru_cache(maxsize=1024)
def _check_shipped(text: str) -> None:
    """Where only the shipped detectors find anything; who reads a policy again and again has it checked once."""
    check(text, documented(), DOCUMENTED_FUNCTIONS)


def _argument(value: Any, info: ValidationInfo) -> Any:
    return _computed(value, lambda text: f"={_expression(text, info)}")


def _template(text: str, info: ValidationInfo) -> str:
    for _, name, _ in _complain(lambda: fields_of(text)):
        if name:
            _expression(name, info)
    return text


def _complain(step: Any) -> Any:
    """Turn our error into the one that pydantic expects, so that the loader can add file, line and key."""
    try:
        return step()
    except UserError as error:
        raise ValueError(error.message) from None


Expression = Annotated[str, Field(min_length=1), AfterValidator(_expression)]
Template = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_template)]
Argument = Annotated[Any, AfterValidator(_argument)]


def kind_of(do: dict[str, Any]) -> str:
    """The kind of the command that a policy file's `do` is for.

    Raises:
        ValueError: There is no such command; for pydantic, which adds file, line and key.
    """
    kind = do.get("command")
    if not isinstance(kind, str) or kind not in BY_KIND:
        hint = did_you_mean(str(kind), list(COMMAND_KINDS))
        raise ValueError(f"'command' is {kind!r}, not a command{hint}; known: {', '.join(COMMAND_KINDS)}")
    return kind


RULE_NAME = shape(r"^[a-z][a-z0-9_]{0,47}$", "at most 48 of a to z, 0 to 9 and _, and begin with a letter")


class RuleSettings(Settings):
    """One rule."""

    name: str = Field(pattern=RULE_NAME)
    """Short name; its commands carry it."""
    when: Expression
    """Condition; true means the command is proposed."""
    do: dict[str, Argument]
    """`command:` its kind, and the command's arguments."""
    also: list[dict[str, Argument]] = Field(default_factory=list, max_length=4)
    """More commands, each as `do`: asked for together, and applied in this order at the same step."""
    because: Template
    """Reason, with figures as `{expression:.3g}`."""
    cooldown_steps: int = Field(0, ge=0)
    """Steps that must pass before this rule asks again."""
    max_times: int | None = Field(None, ge=1)
    """How often in a run, at most."""
    again: Literal["always", "helped"] = "always"
    """`helped`: not again after a command that was measured as no help, till the loss is clear of where it was left."""
    valid_for_steps: int | None = Field(None, ge=1)
    """The command expires if it is not applied within so many steps."""
    ask: Literal["as_set", "always"] = "as_set"
    """`always`: a person is asked, whatever `gate.approval` lets pass; without an answer nothing happens."""

    @field_validator("do")
    @classmethod
    def _is_a_command(cls, do: dict[str, Any]) -> dict[str, Any]:
        _check_command(do)
        return do

    @field_validator("also")
    @classmethod
    def _are_commands(cls, also: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for do in also:
            _check_command(do)
        return also


def _check_command(do: dict[str, Any]) -> None:
    """Check what a file says of a command, as far as that can be told before the rule acts.

    Raises:
        ValueError: There is no such command, it has no such argument, or a value is none of it.
    """
    kind = kind_of(do)
    fields = [name for name in BY_KIND[kind].model_fields if name != "kind"]
    for name in do:
        if name != "command" and name not in fields:
            hint = did_you_mean(name, fields)
            raise ValueError(f"{kind} has no argument {name!r}{hint}; it has: {', '.join(fields)}")
    if not any(map(_has_expression, do.values())):
        _complain(lambda: command_of(do))
    else:
        _check_constants(BY_KIND[kind], {name: value for name, value in do.items() if not _has_expression(value)})


def _check_constants(kind: type[CommandBase], given: dict[str, Any]) -> None:
    """Check the arguments that stand beside those which are computed when the rule acts.

    Raises:
        ValueError: One is no value of its argument.
    """
    try:
        kind.model_validate(
            {name: value for name, value in given.items() if name != "command"} | {"kind": kind.kind_name()}
        )
    except ValidationError as error:
        for fault in error.errors():
            if fault["loc"] and fault["loc"][0] in given:  # others rest on what is computed
                raise ValueError(f"{kind.kind_name()}.{fault['loc'][0]}: {why_with_value(dict(fault))}") from None


class RulesFile(PolicyFile):
    """`type: rules`: conditions and commands; the first that holds acts."""

    type: Literal["rules"] = "rules"
    """Kind of policy."""
    cooldown_steps: int = Field(0, ge=0)
    """Steps that must pass between any two commands."""
    rules: list[RuleSettings] = Field(min_length=1)
    """Asked in order; the first that holds acts."""

    @model_validator(mode="after")
    def _names_differ(self) -> RulesFile:
        names = [rule.name for rule in self.rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two rules are named {twice!r}; names must differ")
        return self


def command_of(do: dict[str, Any], compute: Callable[[str], Any] | None = None) -> CommandBase:
    """The command of a rule; `compute` evaluates its expressions.

    Raises:
        UserError: An expression cannot be computed, or the command is refused.
    """
    raw: dict[str, Any] = {"kind": do["command"]}
    for name, value in do.items():
        if name != "command":
            raw[name] = _computed(value, compute) if compute else value
    return parse_command(raw)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("=")


def _has_expression(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return _is_expression(value) or any(map(_has_expression, inside))


def _computed(value: Any, compute: Callable[[str], Any]) -> Any:
    """An argument with its expressions computed, also those inside, as of a probe's candidates."""
    if isinstance(value, dict):
        return {name: _computed(part, compute) for name, part in value.items()}
    if isinstance(value, list):
        return [_computed(part, compute) for part in value]
    return compute(value[1:]) if _is_expression(value) else value


@dataclass(frozen=True)
class RulePolicy:
    """Asks its rules in order."""

    name: str
    rules: tuple[RuleSettings, ...]
    detectors: tuple[Detector, ...] = ()

    def decide(self, observation: Observation) -> Decision:
        names, functions = names_of(observation, self.detectors), functions_of(observation)
        evaluator, waiting, faults = Evaluator(names, functions), list[str](), list[str]()
        for rule in self.rules:
            try:
                if not is_true(evaluator.value(rule.when)):
                    continue
                if _is_undecided(rule, observation):  # asking again would take back what somebody is looking at
                    return Decision(reason=f"{rule.name}: its request waits for an answer", faults=faults)
                wait = _must_wait(rule, functions, observation)
                if not wait:
                    return replace(_act(rule, names, functions), faults=faults)
            except NotKnown as unknown:
                wait = unknown.message
            except UserError as error:  # one rule's mistake is no reason to stop the others
                wait = f"it cannot be used: {error.message}"
                faults.append(f"rule {rule.name} cannot be used: {error.message}")
            waiting.append(f"{rule.name}: {wait}")
        return Decision(reason="; ".join(waiting) or "no rule applies", faults=faults)


class NotKnown(UserError):
    """An argument rests on a figure that is not known, so that the rule does not fire."""


def _act(rule: RuleSettings, names: Names, functions: Functions) -> Decision:
    rationale = mark(rule.name) + render(rule.because, names, functions)

    def compute(text: str) -> Any:
        value = evaluate(text, names, functions)
        if isinstance(value, float) and math.isnan(value):
            raise NotKnown(f"`{text}` is not known")
        return value

    commands = [command_of(do, compute) for do in (rule.do, *rule.also)]
    drafts = [Draft(command, rationale, rule.valid_for_steps, rule.ask == "always") for command in commands]
    return Decision(drafts, rationale)


def _is_undecided(rule: RuleSettings, observation: Observation) -> bool:
    """Whether a request of the rule waits for the gate, or for a person."""
    return any(
        c.state is State.PROPOSED and c.proposal.rationale.startswith(mark(rule.name)) for c in by_agents(observation)
    )


def _must_wait(rule: RuleSettings, functions: Functions, observation: Observation) -> str:
    """Why a rule whose condition holds may not act yet; empty if it may."""
    if rule.max_times is not None and functions["fired"](rule.name) >= rule.max_times:
        return f"has acted {rule.max_times} times"
    since = functions["steps_since"](rule.name)
    if since < rule.cooldown_steps:
        return f"acted {since} steps ago, waits {rule.cooldown_steps}"
    return not_again(observation, rule.name) if rule.again == "helped" else ""
