"""v1's commands as ours: `args` is a JSON document inside a string, and values may come as texts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agenttune.control import LocalControl
from agenttune.errors import CommandError
from agenttune.protocol.commands import CommandBase, UpdateOptimizer, parse_command
from agenttune.protocol.events import DatasetRead, ModelRead
from agenttune.protocol.proposals import Author, Proposal
from agenttune.protocol.reads import KnobsQuery
from agenttune.protocol.run_info import ModuleInfo, RunInfo
from agenttune.server.strict_bodies import BadJson, parse_json
from agenttune.server.v1_compat.learning_rates import told_again
from agenttune.server.v1_compat.shapes import Json, knob_value, optimizer_knobs, to_json
from agenttune.server.v1_compat.typed_values import fit, fit_all

KINDS = (
    *("update_optimizer", "save_checkpoint", "load_checkpoint", "pause_training", "resume_training", "stop_training"),
    *("do_evaluate", "update_dataset", "update_dataset_runtime_hyperparameters"),
    *("model_layer_operation", "model_layer_parameter_update"),
)
"""v1's eleven commands; ours have the same names. What its clients send and read is settled, command by command:
nothing of it follows from the traits of ours."""
AUTHOR = Author(principal="operator", name="seed client")
MARK = "as sent to the seed's API: "  # as old logs have it: v1 was once called the seed
"""Begins what the log keeps of a request, so that answers carry the client's own uuid, args and time."""
RATIONALE_CHARS = 4000
NAMED = frozenset(UpdateOptimizer.model_fields) - {"kind", "other", "lr_sets", "param_group"}


class Sent(BaseModel):
    """The body of `POST /api/command/`; unknown fields are ignored, as v1 did."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    command: str
    args: str | None = None
    time: float
    uuid: str
    status: str

    def event(self, status: str, **changes: Any) -> Json:
        """The echo of the command, or an outcome; each in its own order of keys."""
        body = {"command": self.command, "args": self.args, "uuid": self.uuid, "time": self.time} | changes
        if status == "pending":
            return {key: body[key] for key in ("command", "args", "time", "uuid")} | {"status": status}
        return {"status": status} | body


class Kept(BaseModel):
    """What the log keeps of a request."""

    model_config = ConfigDict(frozen=True)
    command: str
    args: str | None
    time: float
    uuid: str
    refused: str = Field("", description="Why it was not even proposed: the reason for the client.")
    said: str = Field("", description="What it asked for and need not be done, in words for the client.")
    base_lr: float | None = Field(None, description="The base rate that stays, where a rate was asked for.")

    @classmethod
    def read(cls, text: str) -> Kept | None:
        """The request in a rationale or a note; None if there is none, or nothing that we have written."""
        if not text.startswith(MARK):
            return None
        try:
            return cls.model_validate_json(text.removeprefix(MARK))
        except ValidationError:
            return None

    def sent(self) -> Sent:
        return Sent(command=self.command, args=self.args, time=self.time, uuid=self.uuid, status="requested")


def keep(sent: Sent, refused: str = "", stays: Stays | None = None) -> str:
    """A request as the log keeps it."""
    kept = Kept(command=sent.command, args=sent.args, time=sent.time, uuid=sent.uuid, refused=refused)
    if stays is not None:
        kept = kept.model_copy(update={"said": stays.words, "base_lr": stays.base})
    return MARK + kept.model_dump_json(exclude_defaults=True)


@dataclass(frozen=True)
class Stays:
    """A learning rate that a client sends back as it was told it: it is left as it is."""

    told: float
    base: float

    @property
    def words(self) -> str:
        return (
            f"lr {self.told:g} is the rate in use, as it was told, so nothing is changed; its base, which the schedule "
            f"scales, stays {self.base:g}"
        )


def propose(sent: Sent, control: LocalControl, info: RunInfo, author: Author = AUTHOR) -> Proposal | Stays:
    """A proposal with an id of its own: v1 runs a uuid that is sent twice twice; or why none is needed.

    Raises:
        CommandError: `args` cannot be understood, or ask for what cannot be; nothing was recorded.
    """
    fields, stays = _fields(sent, control, info)
    if stays is not None and not fields:
        return stays
    kept = keep(sent, stays=stays)
    return Proposal(
        command_id=uuid.uuid4().hex,
        command=parse_command({"kind": sent.command, **fields}),
        author=author,
        rationale=kept if len(kept) <= RATIONALE_CHARS else "",
    )


def _fields(sent: Sent, control: LocalControl, info: RunInfo) -> tuple[Json, Stays | None]:
    """Our command's fields, without a learning rate that stays."""
    reader = _READERS.get(sent.command)
    if reader is None:
        return ({"save": False} if sent.command == "stop_training" else {}), None  # v1 saved nothing at a stop
    fields = reader(_decoded(sent.command, sent.args), control, info)
    stays = _stays(fields, control, info) if sent.command == "update_optimizer" else None
    if stays is not None:
        fields = {name: value for name, value in fields.items() if name not in ("lr", "lr_sets")}
    return fields, stays


def _stays(fields: Json, control: LocalControl, info: RunInfo) -> Stays | None:
    """Whether the rate among the fields is the one in use, told before."""
    asked = fields.get("lr")
    told = told_again(asked, control, info) if isinstance(asked, float) else None
    if told is None:
        return None
    knob = control.read(info.run_id, KnobsQuery()).named("lr")
    return Stays(told, knob.base if knob is not None and knob.base is not None else told)


def _decoded(kind: str, args: str | None) -> Json:
    try:
        value = parse_json((args or "").encode())
    except (BadJson, UnicodeEncodeError) as error:
        raise CommandError(f"{kind}: args: {error}; give a JSON object in a string", field="args") from None
    if not isinstance(value, dict):
        raise CommandError(f"{kind}: args is a JSON object in a string, not {args!r:.80}", field="args")
    return value


# -- what each command's args mean ---------------------------------------------------------------------------------


def _optimizer(args: Json, control: LocalControl, info: RunInfo) -> Json:
    """Both `{"lr": {"name": "lr", "value": 1e-4}}` and v1's README's `{"lr": 1e-4}`."""
    current = {knob.name: knob_value(knob) for knob in optimizer_knobs(info)}
    fields: Json = {"lr_sets": "base"} if "lr" in args else {}
    other: Json = {}
    for name, given in args.items():
        if isinstance(given, dict) and "value" not in given:
            raise CommandError(f'update_optimizer: {name} has no value; give {{"value": ...}}', field=f"args.{name}")
        value = given["value"] if isinstance(given, dict) else given
        if value is None:
            raise CommandError(f"update_optimizer: {name} is null; give its new value", field=f"args.{name}")
        # Without a value to compare to, a text can only mean a number here.
        fitted = fit(value, current.get(name, 0.0), name)
        fitted = float(fitted) if type(fitted) is int and not isinstance(current.get(name), bool) else fitted
        (fields if name in NAMED else other)[name] = fitted
    return {**fields, "other": other} if other else fields


def _load(args: Json, control: LocalControl, info: RunInfo) -> Json:
    name = args.get("branch_name")
    return {"checkpoint_id": _required(args, "uuid", "load_checkpoint"), **({"branch_name": name} if name else {})}


def _dataset(args: Json, control: LocalControl, info: RunInfo) -> Json:
    read = _dataset_read(control, info)
    return {"values": fit_all(args, read.initialization if read else {})}


def _runtime(args: Json, control: LocalControl, info: RunInfo) -> Json:
    read = _dataset_read(control, info)
    return {"values": fit_all(args, read.runtime if read else {})}


def _dataset_read(control: LocalControl, info: RunInfo) -> DatasetRead | None:
    event = control.newest(info.run_id, "dataset_read")
    return event.body if event is not None and isinstance(event.body, DatasetRead) else None


def _operation(args: Json, control: LocalControl, info: RunInfo) -> Json:
    kind = "model_layer_operation"
    name = _required(args, "operation_name", kind)
    params = args.get("params", {})
    if name == "requires_grad_" and isinstance(params, dict):
        params = fit_all(params, {"requires_grad": True})
    return {"layer_name": _required(args, "layer_name", kind), "operation_name": name, "params": params}


def _parameter(args: Json, control: LocalControl, info: RunInfo) -> Json:
    kind = "model_layer_parameter_update"
    layer, name, value = (_required(args, key, kind) for key in ("layer_name", "param_name", "value"))
    event = control.newest(info.run_id, "model_read")
    tree = event.body.model if event is not None and isinstance(event.body, ModelRead) else None
    current = _hyperparameters(tree, layer) if tree is not None else {}
    return {"layer_name": layer, "param_name": name, "value": fit(value, current.get(name), name)}


def _hyperparameters(tree: ModuleInfo, layer: object) -> Json:
    if tree.name == layer:
        return {parameter.name: parameter.value for parameter in tree.hyperparameters}
    for child in tree.children:
        if layer == child.name or str(layer).startswith(f"{child.name}."):
            return _hyperparameters(child, layer)
    return {}


def _required(args: Json, name: str, kind: str) -> Any:
    if name not in args:
        raise CommandError(f"{kind}: args.{name} is missing", field=f"args.{name}")
    return args[name]


_READERS: dict[str, Callable[[Json, LocalControl, RunInfo], Json]] = {
    "update_optimizer": _optimizer,
    "load_checkpoint": _load,
    "update_dataset": _dataset,
    "update_dataset_runtime_hyperparameters": _runtime,
    "model_layer_operation": _operation,
    "model_layer_parameter_update": _parameter,
}
"""Commands with arguments; those of all others are ignored, as v1 did."""


# -- and back ------------------------------------------------------------------------------------------------------


def kept_of(proposal: Proposal) -> Kept | None:
    """The request that a proposal was made of; None if it came another way."""
    return Kept.read(proposal.rationale) if proposal.author.name == AUTHOR.name else None


def request_of(proposal: Proposal) -> Sent | None:
    """What an old client would have sent for a proposal, whoever made it; None for what v1 does not have."""
    kind = proposal.command.kind
    if kind not in KINDS:
        return None
    kept = kept_of(proposal)
    if kept is not None:
        return kept.sent()
    return Sent(
        command=kind,
        args=_args_of(proposal.command),
        time=proposal.created_at_s,
        uuid=proposal.command_id,
        status="requested",
    )


def _args_of(command: CommandBase) -> str:
    fields = command.arguments()
    if isinstance(command, UpdateOptimizer):
        asked = {name: value for name, value in fields.items() if name in NAMED} | command.other
        return optimizer_args(asked)
    if command.kind == "load_checkpoint":
        return to_json({"uuid": fields["checkpoint_id"], "branch_name": fields.get("branch_name")})
    if command.kind in ("update_dataset", "update_dataset_runtime_hyperparameters"):
        return to_json(fields["values"])
    return to_json(fields) if command.kind in _READERS else ""


def optimizer_args(values: Mapping[str, Any]) -> str:
    """Values in the form that v1's page sends and reads."""
    return to_json({name: {"name": name, "value": value} for name, value in values.items()})


def is_optimizer_form(args: str | None) -> bool:
    """Whether args have the form of `optimizer_args`; the README's form would break v1's page."""
    try:
        decoded = json.loads(args or "")
    except ValueError:
        return False
    return isinstance(decoded, dict) and all(isinstance(v, dict) and "value" in v for v in decoded.values())
