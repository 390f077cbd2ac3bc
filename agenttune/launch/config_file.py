"""Writes a documented `config.yaml`: every key, with the words of the settings themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agenttune.config import Config
from agenttune.config.setting import documentation

EXAMPLE_SCRIPT = "examples/char_gpt.py"
EXAMPLE: dict[str, Any] = {
    "run": {"script": EXAMPLE_SCRIPT, "args": ["--lr", "0.1"], "name": "char-gpt"},
    "gate": {"bounds": {"lr": [1e-8, 10.0]}, "max_change_factor": 100.0},
}
"""The shipped `config.yaml`: a learning rate that is a hundred times too high, for the guardian to notice."""

_HEAD = """\
# What `agenttune run` runs. `agenttune check` validates this file without running anything; `agenttune schema`
# prints its JSON schema, with which an editor completes the keys. Paths are relative to this file's folder, which is
# also the working folder of the script. A key that is left out has the value shown here, unless a comment says so.
"""
WIDTH = 116


def config_text(values: Mapping[str, Any] = EXAMPLE) -> str:
    """A config file with every key of the settings, documented.

    Args:
        values: What to set other than the defaults, nested as in the file.
    """
    words = documentation(Config)
    sections = (_section(name, part, words[name], values) for name, part in Config.model_fields.items())
    return _HEAD + "\n" + "\n".join(sections)


def _section(name: str, part: FieldInfo, words: str, values: Mapping[str, Any]) -> str:
    model = part.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return "\n".join(_entry(name, part, words, values, "")) + "\n"
    given = values.get(name, {})
    known = documentation(model)
    fields = model.model_fields.items()
    inside = [line for key, field in fields for line in _entry(key, field, known.get(key, ""), given, "  ")]
    return "\n".join([*_comment(model.__doc__ or "", ""), f"{name}:", *inside]) + "\n"


def _entry(name: str, part: FieldInfo, words: str, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    default = None if part.is_required() else part.get_default(call_default_factory=True, validated_data={})
    value = values.get(name, default)
    yield from _comment(_documentation(part, words, default, value), indent)
    text = f"{name}: {_yaml(value)}"
    # A key without a value of its own is shown as a comment: null would be refused, or mean something.
    hidden = value is None and name not in values
    yield f"{indent}# {text}" if hidden else f"{indent}{text}"


def _documentation(part: FieldInfo, words: str, default: object, value: object) -> str:
    if get_origin(part.annotation) is Literal:
        words += f" One of: {', '.join(map(str, get_args(part.annotation)))}."
    # Where null is worth telling as a default, the words themselves say what it means.
    if value != default and (default is not None or "null" in words):
        words += f" Default: {_yaml(default)}."
    return words


def _yaml(value: object) -> str:
    """A value on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True).split("\n...")[0].strip()


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH - len(indent))]
