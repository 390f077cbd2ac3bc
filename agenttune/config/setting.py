"""What all settings have in common."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from agenttune.protocol.commands import COMMAND_KINDS, MAX_INT
from agenttune.protocol.invalid_values import did_you_mean

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    # Not with `use_attribute_docstrings`: reading our sources was a tenth of what the start of `agenttune` takes.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_all_defaults(cls, given: object) -> object:
        """A section whose keys are all commented out has no value in YAML."""
        return {} if given is None else given

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_switch(cls, value: object, info: ValidationInfo) -> object:
        """To Python true is 1, and YAML reads a bare `on` or `yes` as true."""
        if isinstance(value, bool):
            types = list(_types_in(cls.model_fields[str(info.field_name)].annotation))
            if bool not in types and (int in types or float in types):
                raise ValueError(f"must be a number, not {str(value).lower()}")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, words in documentation(cls).items():
            if name in properties:
                properties[name].setdefault("description", words)
        return schema

    @field_validator("*")
    @classmethod
    def _countable(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise ValueError(f"an integer from -{MAX_INT} to {MAX_INT} is wanted, not {value!s:.40}")
        return value


def documentation(model: type[BaseModel]) -> Mapping[str, str]:
    """What each field of settings means: its own description, or the string below it in the source."""
    described = {name: part.description for name, part in model.model_fields.items() if part.description}
    below = {name: words for cls in reversed(model.__mro__) for name, words in _strings_below(cls).items()}
    return {name: words for name, words in {**below, **described}.items() if name in model.model_fields}


@functools.cache
def _strings_below(cls: type[Any]) -> Mapping[str, str]:
    if not issubclass(cls, Settings) or cls is Settings:
        return {}
    try:
        [found] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):  # made without a source
        return {}
    if not isinstance(found, ast.ClassDef):
        return {}
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(found.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _types_in(part)


def known_kinds(kinds: list[str]) -> list[str]:
    for kind in kinds:
        if kind not in COMMAND_KINDS:
            raise ValueError(f"unknown command {kind!r}{did_you_mean(kind, COMMAND_KINDS)}")
    return kinds
