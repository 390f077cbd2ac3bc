"""YAML as typed settings. Errors name file, line and key: only the parser knows the line that a wrong key stands on."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from agenttune.errors import ConfigError
from agenttune.protocol.invalid_values import did_you_mean, why_with_value

S = TypeVar("S", bound=BaseModel)
MOST_PROBLEMS = 100
"""Problems of one file that are shown: whoever mends it wants them all; with more, it is most likely the wrong file."""

Place = tuple[int | str, ...]
"""The keys and list indices that lead to a part of a YAML file; empty for the whole."""


def load_yaml(path: Path, model: type[S], at: Place = (), context: dict[str, Any] | None = None) -> S:
    """Read a YAML file, or the part of it at a place, into a pydantic model; errors name file, line and key.

    Args:
        path: The file.
        model: What it is to be.
        at: The place; empty: the whole.
        context: For the model's own checks, such as the folder in which a script must exist.

    Raises:
        ConfigError: As for `load_config`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    root, data = _parsed(path, text)
    for part in at:
        data = data[part]
    try:
        return model.model_validate(
            {} if data is None else as_written(_node_at(root, at), data, model), context=context
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["loc"]
        raise ConfigError("\n".join(_problems(path, root, error, model, at)), field=_key((*at, *first))) from None


def _parsed(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """The parser's tree, which knows lines and what is written there, and the data."""
    root, data = _parsed_once(path, text)
    return root, copy.deepcopy(data)


@functools.lru_cache(maxsize=64)
def _parsed_once(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """A policy's file is read part by part, and by each cell of a benchmark anew: parsing it takes tens of ms."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        duplicate = next(_duplicate_keys(root), None) if root is not None else None
        data = None if root is None else loader.construct_document(root)
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
    return root, data


def written_at(path: Path, place: Place) -> str:
    """Where a part of a YAML file that was read before stands: `file:line: key`."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return f"{path}:{_line_of(root, place)}: {_key(place)}"


def as_written(node: yaml.Node | None, data: Any, annotation: Any) -> Any:
    """The data with each scalar as it stands in the file, where text is wanted: `true` rather than YAML's True.

    Args:
        node: Of the parser's tree; None: not known, the data stay as they are.
        data: What YAML made of it.
        annotation: What is wanted there.
    """
    if isinstance(node, yaml.ScalarNode):
        # A key without a value stays without: what stands there then is for the key to say.
        return _text(node, data, annotation) if data is not None else None
    if isinstance(node, yaml.MappingNode) and isinstance(data, dict):
        inside = {str(key.value): value for key, value in node.value}
        if get_origin(annotation) is dict:
            return {k: _entry_as_written(inside.get(str(k)), value, annotation) for k, value in data.items()}
        fields = getattr(_model_inside(annotation), "model_fields", {})
        wanted = {name: field.annotation for name, field in fields.items()}
        return {k: as_written(inside.get(str(k)), value, wanted.get(k)) for k, value in data.items()}
    if isinstance(node, yaml.SequenceNode) and isinstance(data, list) and get_origin(annotation) is list:
        return [_entry_as_written(n, value, annotation) for n, value in zip(node.value, data, strict=True)]
    return data


def _entry_as_written(node: yaml.Node | None, data: Any, annotation: Any) -> Any:
    """An entry of a list or mapping, where also `null` and nothing are texts like any other."""
    wanted = get_args(annotation)[-1]
    return _text(node, data, wanted) if isinstance(node, yaml.ScalarNode) else as_written(node, data, wanted)


def _text(node: yaml.ScalarNode, data: Any, wanted: Any) -> Any:
    is_text = get_origin(wanted) not in (dict, list) and str in (wanted, *get_args(wanted))
    return str(node.value) if is_text and not isinstance(data, str) else data


def _problems(
    path: Path, root: yaml.Node | None, error: ValidationError, model: type[BaseModel], at: Place
) -> list[str]:
    """What is wrong, a line each, in the order of the file."""
    said = [(problem, _sentence(problem, model)) for problem in error.errors(include_url=False)]
    said.sort(key=lambda pair: _line_of(root, (*at, *pair[0]["loc"])))
    lines = []
    for problem, sentence in said:
        if problem["type"] == "missing" and any(f"did you mean {problem['loc'][-1]!r}" in other for _, other in said):
            continue  # it stands there under a wrong name
        place = (*at, *problem["loc"])
        lines.append(f"{path}:{_line_of(root, place)}: {_key(place)}: {sentence}")
    more = len(lines) - MOST_PROBLEMS
    return lines[:MOST_PROBLEMS] + ([f"{path}: and {more} more of {len(lines)}"] if more > 0 else [])


def _key(place: Place) -> str:
    return ".".join(map(str, place)) or "(top level)"


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    loc, given = problem["loc"], problem["input"]
    if problem["type"] == "missing":
        return "this key is required"
    if problem["type"] == "extra_forbidden":
        names = _names_at(model, loc[:-1])
        return f"unknown key{did_you_mean(str(loc[-1]), names)}; known here: {', '.join(sorted(names))}"
    if problem["type"] == "model_type":
        return f"takes keys of its own ({', '.join(_names_at(model, loc))}), not {given!r:.80}"
    return why_with_value(problem, "has no value; give one or leave the key out")


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


def _node_at(node: yaml.Node | None, place: Place) -> yaml.Node | None:
    for part in place:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in reversed(node.value) if key.value == str(part)), None)
        else:
            node = node.value[part] if isinstance(node, yaml.SequenceNode) and isinstance(part, int) else None
    return node


def _line_of(node: yaml.Node | None, loc: Place) -> int:
    """The line (from 1) of the deepest part of `loc` that stands in the file."""
    line = node.start_mark.line if node is not None else 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            # The last: what is merged from elsewhere (`<<`) comes before what stands here.
            found = next(((k, v) for k, v in reversed(node.value) if k.value == str(part)), None)
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
