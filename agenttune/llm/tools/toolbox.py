"""The tools of one run: reads are answered, writes become commands that are checked with the gate."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agenttune.errors import CommandError, NotSupported
from agenttune.llm.tools.change import (
    CHANGE,
    MADE_OF,
    TRIAL,
    Parts,
    change_shape,
    parts_of_change,
    parts_of_trial,
    trial_shape,
)
from agenttune.llm.tools.offered import SHORT_REASON, briefs, offered_fields, offered_kinds, offered_shape
from agenttune.llm.tools.read_tools import LOOK, READ, offered_reads, read_of, read_shape
from agenttune.llm.tools.tool_results import encode
from agenttune.llm.tools.tool_schemas import MAX_TEXT, MAX_VALID_FOR_STEPS, REASON, plain_schema, write_kinds
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import (
    BY_KIND,
    Bool,
    CommandBase,
    DoEvaluate,
    Int,
    Need,
    Probe,
    SaveCheckpoint,
    StopTraining,
    Text,
    parse_command,
)
from agenttune.protocol.invalid_values import why
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Proposal, Verdict
from agenttune.protocol.reads import RunReader, ToolStep
from agenttune.protocol.run_info import KnobState
from agenttune.protocol.strict_json import no_constant, once

WAIT, WITHDRAW = "wait", "withdraw"
SHORT_NAMES = {
    "evaluate": DoEvaluate.kind_name(),
    "save": SaveCheckpoint.kind_name(),
    "stop": StopTraining.kind_name(),
}
"""Commands that a model knows by a shorter name; it may also say the command's own."""
AUTHOR = Author(principal="agent", name="tools")
MAX_ARGUMENTS_CHARACTERS = 100_000
"""Of a call's arguments (guess: no command needs a tenth)."""
ACCEPTED_NOTE = "well formed, and the gate lets it through as things stand; get_history tells what comes of it"
Reason = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, description=REASON["description"])]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class ToolWait:
    """What to wait for; nothing named means: until the next time the agent is woken anyway."""

    until_step: int | None = None
    until_evaluation: bool = False
    until_finding: bool = False


@dataclass(frozen=True)
class ToolOutcome:
    """The outcome of a call.

    Attributes:
        text: JSON for the model.
        commands: What it asked for, in the order in which it is to be applied; not yet submitted.
        rationale: Its reason.
        valid_for_steps: How long that makes sense; None for no limit.
        wait: What it wants to wait for.
        withdrawn: Number of the noted command that it takes back.
    """

    text: str
    commands: tuple[CommandBase, ...] = ()
    rationale: str = ""
    valid_for_steps: int | None = None
    wait: ToolWait | None = None
    withdrawn: int | None = None

    @property
    def command(self) -> CommandBase | None:
        """The command that it asked for; of several the first."""
        return self.commands[0] if self.commands else None


class WaitFor(BaseModel):
    """Change nothing, and be asked again at a step, the next evaluation or finding; else as usual."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reason: Reason
    until_step: ToolStep | None = None
    until_evaluation: Bool = False
    until_finding: Bool = False


class Withdrawal(BaseModel):
    """Take back a command noted in this decision, by its number."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: Annotated[Int, Field(ge=1)]


class Said(BaseModel):
    """Arguments of every write tool beside the command's fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reason: Reason
    valid_for_steps: Annotated[Int, Field(ge=1, le=MAX_VALID_FOR_STEPS)] | None = None


def wait_shape() -> ToolShape:
    return _own_shape(WAIT, WaitFor)


def _own_shape(name: str, model: type[BaseModel]) -> ToolShape:
    schema = plain_schema(model.model_json_schema())
    parameters = {"type": "object", "properties": briefs(schema["properties"])}
    required = {"required": schema["required"]} if "required" in schema else {}
    described = " ".join((model.__doc__ or "").split())
    return ToolShape(name=name, description=described, parameters={**parameters, **required}, is_read_only=True)


def offered_tools(observation: Observation) -> list[ToolShape]:
    """Tools to act, look and wait; the same at every step, as long as the run can do the same."""
    kinds = [kind for kind in offered_kinds(observation) if BY_KIND[kind].is_for_policies]
    own = {kind: name for name, kind in SHORT_NAMES.items()}
    made = [change_shape(observation, SHORT_REASON), trial_shape(observation, SHORT_REASON)]
    single = [kind for kind in kinds if kind not in (*MADE_OF, Probe.kind_name()) or _does_more(kind, observation)]
    shapes = [offered_shape(kind, observation.knobs) for kind in single]
    named = [shape.model_copy(update={"name": own.get(shape.name, shape.name)}) for shape in shapes]
    return [*(shape for shape in made if shape is not None), *named, read_shape(), wait_shape()]


def _does_more(kind: str, observation: Observation) -> bool:
    """Whether a command that a change is made of can do what a change does not say: other operations on layers."""
    return BY_KIND[kind].needs is Need.LAYER_OPERATION


def accepted_names(shapes: Sequence[ToolShape]) -> list[str]:
    """Names of tools that are understood: those that are offered, and those that models knew before."""
    return list(dict.fromkeys([*(shape.name for shape in shapes), *write_kinds(), READ, WITHDRAW, *offered_reads()]))


class Toolbox:
    """The tools of one run at one moment.

    Args:
        reader: The run.
        observation: What the decision rests on: its capabilities and knobs decide which tools there are.
        author: In whose name the gate is asked.
    """

    _told: Sequence[KnobState] = ()
    """The knobs that the trainer has told of; without any, every field is offered."""

    def __init__(self, reader: RunReader, observation: Observation, author: Author = AUTHOR) -> None:
        self._reader = reader
        self._observation = observation
        self._author = author
        self._told = observation.knobs
        self._knobs = [knob for knob in observation.knobs if knob.is_registered]

    def shapes(self) -> list[ToolShape]:
        """As `offered_tools`. Rare commands, and each read by its own name, are accepted too."""
        return offered_tools(self._observation)

    def call(self, name: str, arguments: str | Mapping[str, Any]) -> ToolOutcome:
        """Carry out a read, or check a write and ask the gate about it; nothing is submitted.

        Args:
            name: The tool.
            arguments: JSON text, or decoded.

        Raises:
            CommandError: No such tool, wrong arguments, or the gate would refuse: with the field and what is allowed.
            UserError: There is no such metric, layer, ...
        """
        outcome = self.parse(name, arguments)
        goes_back = False
        for command in outcome.commands:
            if not goes_back:  # after a return, other values are in force: the trainer judges by those
                self._ask_gate(outcome, command)
            goes_back = goes_back or command.is_return
        return outcome

    def parse(self, name: str, arguments: str | Mapping[str, Any]) -> ToolOutcome:
        """As `call`, without asking the gate."""
        given = decoded(name, arguments)
        read = offered_reads().get(name)
        if name in (READ, LOOK):
            read, given = read_of(given)
        if read is not None:
            return ToolOutcome(text=read.answer(self._reader, checked(name, read.arguments, given)))
        if name == WAIT:
            return self._wait(checked(name, WaitFor, given))
        if name == WITHDRAW:
            return ToolOutcome("", withdrawn=checked(name, Withdrawal, given).number)
        if name in (CHANGE, TRIAL):
            return self._made(name, given)
        kind = SHORT_NAMES.get(name, name)
        self._check_kind(kind)
        return self._write(kind, given)

    def _check_kind(self, name: str) -> None:
        kinds = offered_kinds(self._observation)
        if name in kinds:
            return
        known = [shape.name for shape in self.shapes()]
        if name in write_kinds():
            why = self._observation.not_offered.get(name, "")
            if not why:
                why = "no knob is registered" if name in self._observation.capabilities else "this trainer cannot do it"
            raise NotSupported(f"no {name} in this run: {why}; tools: {', '.join(known)}", field="tool", allowed=known)
        close = difflib.get_close_matches(name, [*known, *offered_reads(), *kinds], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise CommandError(f"no tool {name!r:.80}{hint} Tools: {', '.join(known)}", field="tool", allowed=known)

    def _made(self, name: str, given: dict[str, Any]) -> ToolOutcome:
        """A change or a trial, as commands."""
        said = _taken_out(name, given)
        _check_fields(name, given)
        parts: Parts = parts_of_change(given, self._observation) if name == CHANGE else []
        if name == TRIAL:
            parts = [(Probe.kind_name(), parts_of_trial(given, self._observation))]
        for kind, _ in parts:
            self._check_kind(kind)
        return self._outcome([self._command(kind, fields) for kind, fields in parts], said)

    def _write(self, kind: str, given: dict[str, Any]) -> ToolOutcome:
        said = _taken_out(kind, given)
        _check_fields(kind, given)
        return self._outcome([self._command(kind, given)], said)

    def _command(self, kind: str, given: dict[str, Any]) -> CommandBase:
        self._check_offered(kind, given)
        command = parse_command({"kind": kind, **given})
        if command.needs is Need.REGISTERED_KNOB:
            self._check_registered(command)
        return command

    def _outcome(self, commands: Sequence[CommandBase], said: Said) -> ToolOutcome:
        told = [{"accepted": command.kind, "arguments": command.arguments()} for command in commands]
        whole = told[0] if len(told) == 1 else {"accepted": told}
        return ToolOutcome(encode({**whole, "note": ACCEPTED_NOTE}), tuple(commands), said.reason, said.valid_for_steps)

    def _check_registered(self, command: CommandBase) -> None:
        names = [knob.name for knob in self._knobs]
        for name in sorted(command.touched() - set(names)):
            raise CommandError(f"no knob {name!r:.80}; knobs: {', '.join(names)}", field="name", allowed=names)

    def _check_offered(self, kind: str, given: dict[str, Any]) -> None:
        """Refuse a field that means nothing in this run, such as another optimizer's setting."""
        offered = offered_fields(kind, self._told)
        for name, value in given.items():
            # Null is left out, also for what this run has nothing for.
            if value is not None and name in BY_KIND[kind].model_fields and name not in offered:
                message = f"{kind}.{name}: this run has no such thing to set; there are: {', '.join(offered)}"
                raise CommandError(message, field=name, allowed=offered)

    def _wait(self, asked: WaitFor) -> ToolOutcome:
        step = self._observation.step
        if asked.until_step is not None and asked.until_step <= step:
            message = f"wait: until_step {asked.until_step} is not later than now, step {step}"
            raise CommandError(message, field="until_step", allowed={"minimum": step + 1})
        wait = ToolWait(asked.until_step, asked.until_evaluation, asked.until_finding)
        return ToolOutcome(encode({"waiting": True, "at_step": step}), rationale=asked.reason, wait=wait)

    def _ask_gate(self, outcome: ToolOutcome, command: CommandBase) -> None:
        step, valid = self._observation.step, outcome.valid_for_steps
        proposal = Proposal(
            command=command,
            author=self._author,
            rationale=outcome.rationale,
            based_on_step=step,
            based_on_branch=self._observation.branch,
            valid_until_step=None if valid is None else step + valid,
        )
        verdict = self._reader.dry_run(proposal)
        if verdict.decision not in ("approved", "edited"):
            raise refusal(command.kind, verdict)


def _taken_out(name: str, given: dict[str, Any]) -> Said:
    """What is said beside a command's own fields; it is taken out of those."""
    return checked(name, Said, {key: given.pop(key) for key in Said.model_fields if key in given})


def refusal(kind: str, verdict: Verdict) -> CommandError:
    """The gate's refusal, with the nearest allowed arguments."""
    nearest = verdict.nearest_allowed
    hint = f"; nearest allowed: {json.dumps(nearest)}" if nearest else ""
    field = next(iter(nearest), None) if nearest else None
    return CommandError(f"{kind} is {verdict.decision}: {verdict.reason}{hint}", field=field, allowed=nearest)


def decoded(name: str, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments as an object; none at all are an empty one.

    Raises:
        CommandError: Not JSON, not an object, a name given twice, NaN or an infinity, or no text that could be kept.
    """
    given = dict(arguments) if isinstance(arguments, Mapping) else _object(name, arguments)
    try:
        json.dumps(given, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        message = f"{name}: a text holds half a surrogate pair, which no log can keep"
        raise CommandError(message, field="arguments", allowed="valid Unicode text") from None
    return given


def _object(name: str, arguments: str) -> dict[str, Any]:
    if len(arguments) > MAX_ARGUMENTS_CHARACTERS:
        raise CommandError(f"{name}: {len(arguments)} characters of arguments; at most {MAX_ARGUMENTS_CHARACTERS}")
    try:
        given = json.loads(arguments or "{}", parse_constant=no_constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        message = f"{name}: the arguments are no JSON object: {error}"
        raise CommandError(message, field="arguments", allowed={"type": "object"}) from None
    if not isinstance(given, dict):
        message = f"{name}: the arguments are a JSON {type(given).__name__}, not an object"
        raise CommandError(message, field="arguments", allowed={"type": "object"})
    return given


def checked(name: str, model: type[M], given: dict[str, Any]) -> M:
    """Arguments as a model; null counts as left out.

    Raises:
        CommandError: Unknown field, wrong type or out of bounds; names the field and what is allowed there.
    """
    try:
        return model.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        fields = plain_schema(model.model_json_schema()).get("properties", {})
        allowed: Any = list(fields) if first["type"] == "extra_forbidden" else fields.get(field)
        got = "" if first["type"] == "missing" else f" (got {first['input']!r:.80})"
        raise CommandError(f"{name}.{field}: {why(first)}{got}", field=field, allowed=allowed) from None


def _check_fields(kind: str, given: dict[str, Any]) -> None:
    """Refuse what the tool's schema forbids although the command would take it: its kind, and very long texts."""
    if "kind" in given:
        raise CommandError(f"{kind}: the tool's name is the kind; leave out 'kind'", field="kind")
    for name, value in given.items():
        if _longest(value) > MAX_TEXT:
            message = f"{kind}.{name}: a text is longer than {MAX_TEXT} characters"
            raise CommandError(message, field=name, allowed={"maxLength": MAX_TEXT})


def _longest(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max(map(_longest, inside), default=0)
