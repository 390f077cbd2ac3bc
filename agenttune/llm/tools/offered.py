"""The tools that a language model is offered for one run: only those that can work there, in few words.

A model reads every word of them in every decision. So descriptions are cut to their first sentence, what all tools
share is said once in the prompt, rare commands are left out, and reading is one tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agenttune.llm.prompts import fenced
from agenttune.llm.tools.tool_schemas import plain_schema, write_kinds
from agenttune.protocol.command_schemas import ToolShape, schema_of
from agenttune.protocol.commands import BY_KIND, AtLeastOne, Need, Risk
from agenttune.protocol.observation import Observation
from agenttune.protocol.run_info import KnobState

UNLISTED_FIELDS = frozenset(
    {"include_current", "min_gain_frac", "pin", "branch_name", "save", "start_lr", "depth", "max_points"}
    | {"min_progress_frac", "lower_rates", "confirm"}
)
"""Fields whose default is nearly always right; they are not listed, but accepted."""
PLAIN_FIELDS = frozenset(
    {"reason", "weight_decay", "betas", "eps", "momentum", "gradient_accumulation_steps", "steps", "tag", "metric"}
)
"""Fields that need no description beside their name and choices."""
UNLISTED_KNOBS = frozenset({"logging_steps", "logging_nan_inf_filter"})
"""Knobs of transformers' Trainer that change only its own log."""
MAX_DESCRIPTION = 200
"""Longest text of a knob, in characters: it comes from the training script."""
SHORT_REASON = {"type": "string"}
KEPT = ("type", "enum", "items", "minimum", "exclusiveMinimum")
"""Of a field's schema. Upper bounds are the gate's in any case; lengths are bounded where an answer is made after a
schema (`policy/json_answers.py`)."""


def offered_kinds(observation: Observation) -> list[str]:
    """Commands that can have an effect in this run."""
    able, idle = observation.capabilities, set(observation.not_offered)
    if not any(knob.is_registered for knob in observation.knobs):
        idle |= {kind for kind, command in BY_KIND.items() if command.needs is Need.REGISTERED_KNOB}
    return [kind for kind in write_kinds() if kind in able and kind not in idle]


def offered_shape(kind: str, knobs: Sequence[KnobState]) -> ToolShape:
    """A command as a tool, with the fields that mean something in this run.

    Args:
        kind: A kind of `write_kinds`.
        knobs: All knobs of the run; none: not known, and then every field is offered.
    """
    command = BY_KIND[kind]
    described = schema_of(command)
    schema = plain_schema(described.json_schema)
    fields = brief_fields(kind, knobs)
    whole = " ".join(described.description.split())
    description = whole if command.is_told_in_full else _first_sentence(whole)
    named = [knob for knob in knobs if knob.is_registered and knob.name not in UNLISTED_KNOBS]
    if command.needs is Need.REGISTERED_KNOB and named:
        fields["name"] = {"type": "string", "enum": [knob.name for knob in named]}
        description = "Set one of:\n" + "\n".join(map(knob_line, named))
    return ToolShape(
        name=kind,
        description=description,
        parameters={
            "type": "object",
            "properties": {"reason": SHORT_REASON, **fields},
            "required": ["reason", *(name for name in schema.get("required", []) if name != "kind")],
        },
        is_destructive=described.risk is Risk.DANGER,
    )


def knob_line(knob: KnobState) -> str:
    """A knob without its value: the list of tools must stay the same, so that providers can cache it."""
    unit = f", in {knob.unit[:MAX_DESCRIPTION]}" if knob.unit else ""
    low = "-inf" if knob.minimum is None else f"{knob.minimum:g}"
    high = "inf" if knob.maximum is None else f"{knob.maximum:g}"
    bounds = "" if knob.minimum is None and knob.maximum is None else f" [{low}, {high}]"
    words = f": {knob.description[:MAX_DESCRIPTION]}" if knob.description else ""
    return f"- {fenced(f'{knob.name[:MAX_DESCRIPTION]}{bounds}{unit}{words}', 4 * MAX_DESCRIPTION)}"


def brief_fields(kind: str, knobs: Sequence[KnobState]) -> dict[str, dict[str, Any]]:
    """The schemas of a command's fields that mean something in this run, as a model is offered them."""
    schema, offered = plain_schema(schema_of(BY_KIND[kind]).json_schema), offered_fields(kind, knobs)
    return briefs({name: part for name, part in schema["properties"].items() if name in offered})


def offered_fields(kind: str, knobs: Sequence[KnobState]) -> list[str]:
    """A command's fields that mean something in this run."""
    fields = [name for name in schema_of(BY_KIND[kind]).json_schema["properties"] if name != "kind"]
    mine = [knob for knob in knobs if knob.command == kind]
    if not mine or not issubclass(BY_KIND[kind], AtLeastOne):
        return fields  # they are not the names of knobs
    has = {knob.name for knob in mine if not isinstance(knob.effective, bool)}
    makes_sense = {
        "lr_sets": any(knob.name == "lr" and knob.base is not None for knob in mine),
        "param_group": any(len(knob.groups or ()) > 1 for knob in mine),
        "other": bool(has - set(fields)),
    }
    return [name for name in fields if makes_sense.get(name, name in has)]


def briefs(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The schemas of fields as a model is offered them."""
    return {name: _brief(name, part) for name, part in properties.items() if name not in UNLISTED_FIELDS}


def _brief(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """A field's schema, shortened, with the first sentence of its description."""
    short = {key: value for key, value in part.items() if key in KEPT}
    if part.get("type") in ("integer", "object"):
        short = {key: value for key, value in short.items() if key in ("type", "enum")}
    elif part.get("type") == "array" and part.get("items", {}).get("type") == "number":
        short["items"] = {"type": "number"}
    if "description" in part and name not in PLAIN_FIELDS:
        short["description"] = _first_sentence(part["description"]).removesuffix(".")
    if part.get("default") and "default" not in short.get("description", "") and "enum" not in part:
        short["default"] = part["default"]
    return short


def _first_sentence(text: str) -> str:
    head, stop, _ = " ".join(text.split()).partition(". ")
    return head + "." if stop else head
