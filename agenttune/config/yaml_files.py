"""YAML as typed settings. Errors name file, line and key: only the parser knows the line that a wrong key stands on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agenttune.config.base import did_you_mean
from agenttune.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


Place = tuple[int | str, ...]
"""The keys and list indices that lead to a part of a YAML file; empty for the whole."""


def load_yaml(path: Path, model: type[S], at: Place = ()) -> S:
    """Read a YAML file, or the part of it at a place, into a pydantic model; errors name file, line and key.

    Raises:
        ConfigError: As for `load_config`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        duplicate = next(_duplicate_keys(root), None) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except ValueError as error:  # a number of thousands of digits, a date that there is not
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if duplicate is not None:
        raise ConfigError(f"{path}:{duplicate.start_mark.line + 1}: {duplicate.value}: this key stands here twice")
    for part in at:
        data = data[part]
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        raise _config_error(path, root, error, model, at) from None


def line_of(path: Path, place: Place) -> int:
    """The line (from 1) of a part of a YAML file that was read before."""
    return _line_of(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), place)


def _config_error(
    path: Path, root: yaml.Node | None, error: ValidationError, model: type[BaseModel], at: Place
) -> ConfigError:
    first = error.errors(include_url=False)[0]
    loc = first["loc"]
    key = ".".join(str(part) for part in (*at, *loc)) or "(top level)"
    line = _line_of(root, (*at, *loc))
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        names = _names_at(model, loc[:-1])
        problem = f"unknown key{did_you_mean(str(loc[-1]), names)}; known here: {', '.join(sorted(names))}"
    elif first["type"] == "missing":
        problem = "this key is required"
    elif first["type"] != "value_error":
        problem += f" (got {first['input']!r:.80})"
    return ConfigError(f"{path}:{line}: {key}: {problem}", field=key)


def _duplicate_keys(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Keys that stand twice in one mapping, which YAML's own loader would silently merge."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield key
            seen.add(str(key.value))
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicate_keys(item)


def _line_of(node: yaml.Node | None, loc: Place) -> int:
    """The line (from 1) of the deepest part of `loc` that stands in the file."""
    line = node.start_mark.line if node is not None else 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _names_at(model: type[BaseModel], loc: Place) -> list[str]:
    """The keys that a model allows at a place, following nested models, lists and mappings of models."""
    current: Any = model
    for part in loc:
        if isinstance(part, str) and hasattr(current, "model_fields") and part in current.model_fields:
            current = _model_inside(current.model_fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _model_inside(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_inside(arg) for arg in getattr(annotation, "__args__", ()))
    return next((m for m in inner if m is not None), None)
