"""The parameters of a class of the user's own, as settings: from the types of its `__init__`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, PydanticUserError, create_model
from pydantic.fields import FieldInfo

from agenttune.config.setting import Settings, documentation

RESERVED = ("type", "description", "gate")
"""Keys of a policy file that are not the class's own: it can neither have nor see limits of the gate."""


@dataclass(frozen=True)
class PluginParameters:
    """What a class takes.

    Attributes:
        model: Its parameters, as settings.
        file_model: The same with the keys that a file has besides.
        whole: The parameter that takes the model itself, where a class has its settings as one pydantic model.
        injected: Parameters that stand in no file, with the name of their type.
    """

    model: type[BaseModel]
    file_model: type[BaseModel]
    whole: str = ""
    injected: Mapping[str, str] = field(default_factory=dict)

    def arguments_of(self, settings: BaseModel) -> dict[str, Any]:
        """The arguments of the constructor."""
        values = {name: getattr(settings, name) for name in self.model.model_fields}
        if not self.whole:
            return values
        return {self.whole: self.model.model_construct(settings.model_fields_set - set(RESERVED), **values)}

    def lines(self) -> list[str]:
        """Each with type, default and meaning, for people."""
        return lines_of_fields(self.model)


BOUND_WORDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def lines_of_fields(model: type[BaseModel], skipped: Collection[str] = ()) -> list[str]:
    """Each parameter with its type, bounds, default and meaning."""
    words = documentation(model)
    return [_line(name, part, words.get(name, "")) for name, part in model.model_fields.items() if name not in skipped]


def _line(name: str, part: FieldInfo, words: str) -> str:
    bounds = [
        f"{words} {getattr(m, key)}" for m in part.metadata for key, words in BOUND_WORDS.items() if hasattr(m, key)
    ]
    kind = ", ".join([type_words(part.annotation), *bounds])
    default = "" if part.is_required() else f" = {part.get_default(call_default_factory=True, validated_data={})!r}"
    meaning = f": {' '.join(words.split())}" if words else ""
    return f"{name}: {kind}{default}{meaning}"


def type_words(kind: Any) -> str:
    """A type as one would write it, without what only checks it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_words(inside[0])
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else type_words(part) for part in inside)
    name = getattr(origin or kind, "__name__", str(kind))
    return f"{name}[{', '.join(map(type_words, inside))}]" if inside else name


def parameters_of(cls: type[Any], injected: Sequence[str] = (), is_file: bool = False) -> PluginParameters:
    """What the constructor of a class takes.

    Args:
        cls: The class.
        is_file: Whether its parameters have a policy file of their own, with all its keys, or only a `type` beside.
        injected: Names of types that are given by us.

    Raises:
        TypeError: A parameter has no type, a type that no file can hold, or a name that is taken.
    """
    hints = get_type_hints(cls.__init__, include_extras=True)
    fields: dict[str, Any] = {}
    ours: dict[str, str] = {}
    for name, parameter in _taken(cls):
        if name not in hints:
            raise TypeError(f"{name} has no type; write such as {name}: float = 0.5")
        kind = hints[name]
        if getattr(kind, "__name__", "") in injected:
            ours[name] = kind.__name__
        else:
            fields[name] = (kind, ... if parameter.default is inspect.Parameter.empty else parameter.default)
    whole = _only_model(fields)
    model = _forbidding(fields[whole][0]) if whole else _made(cls.__name__, Settings, fields)
    taken = [name for name in model.model_fields if name in RESERVED]
    if taken:
        raise TypeError(f"{taken[0]} is a key that every file has; give the parameter another name")
    also: dict[str, Any] = {"type": (str, ...)}
    also |= {"description": (str, ""), "gate": (Any, None)} if is_file else {}
    return PluginParameters(model, _made(f"{cls.__name__}File", model, also), whole, ours)


def _taken(cls: type[Any]) -> list[tuple[str, inspect.Parameter]]:
    if cls.__init__ is object.__init__:
        return []
    listed = list(inspect.signature(cls.__init__).parameters.items())[1:]
    named = [(n, p) for n, p in listed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    hidden = next((n for n, p in named if p.kind is p.POSITIONAL_ONLY), None)
    if hidden is not None:
        raise TypeError(f"{hidden} cannot be given by its name; take the / out of __init__")
    return named


def _only_model(fields: Mapping[str, Any]) -> str:
    """The one parameter that is a pydantic model, if a class has no other."""
    if len(fields) != 1:
        return ""
    [(name, (kind, _))] = fields.items()
    return name if isinstance(kind, type) and issubclass(kind, BaseModel) else ""


def _forbidding(model: type[BaseModel]) -> type[BaseModel]:
    """The model, refusing unknown keys unless it says otherwise itself."""
    if "extra" in model.model_config:
        return model
    return type(model.__name__, (model,), {"model_config": ConfigDict(extra="forbid"), "__doc__": model.__doc__})


def _made(name: str, base: type[BaseModel], fields: Mapping[str, Any]) -> type[BaseModel]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a parameter may be called copy or json
            made: type[BaseModel] = create_model(name, __base__=base, **dict(fields))
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise TypeError(str(error).split("\n")[0]) from None
    return made
