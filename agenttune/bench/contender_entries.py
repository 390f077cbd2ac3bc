"""Entries of a suite's `contenders` -> who takes part, with the checksums of what they are made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model

from agenttune.bench.contenders.contender import Contender
from agenttune.bench.contenders.shipped import contender_class, contenders
from agenttune.bench.imported_files import imported_beside
from agenttune.config import Place, Settings, load_yaml, written_at
from agenttune.config.plugins import PluginUse, file_of, is_class_reference, written_kind
from agenttune.config.resources import list_resources
from agenttune.errors import ConfigError
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmPolicy
from agenttune.policy.load import open_policy
from agenttune.policy.wrappers.wrapper import walk
from agenttune.protocol.invalid_values import did_you_mean

_BASES = {"Contender": "contender"}
POLICY: Literal["policy"] = "policy"
"""The contender that lets any policy take part."""


@dataclass(frozen=True)
class ContenderEntry:
    """Who takes part.

    Attributes:
        name: In reports; unique in a suite.
        spec: `type` and parameters, as a worker makes it.
        cls: Of the contender.
        code: Checksums of the files that it is made of, by path.
        seeds: It takes part with so many of the suite's seeds, the first ones; None: with all.
    """

    name: str
    spec: dict[str, Any]
    cls: type[Contender]
    code: dict[str, str] = field(default_factory=dict)
    seeds: int | None = None


class _Common(Settings):
    """What every entry may have beside its contender's parameters."""

    model_config = Settings.model_config | {"extra": "ignore"}
    type: str
    """A contender."""
    name: str = ""
    """In reports."""
    seeds: int | None = Field(None, ge=1)
    """So many of the suite's seeds, the first ones, are enough for it; nothing: all."""


def read_contender(given: Any, file: Path | None, at: Place, project: Path, context: PolicyContext) -> ContenderEntry:
    """An entry of a suite.

    Args:
        given: What stands there.
        file: The suite file; None: it comes from the command line.
        at: Where in it.
        project: As for `Suite`.
        context: Of the suite, with which policies are checked.

    Raises:
        ConfigError: There is no such contender, or a parameter is wrong.
    """
    try:
        if isinstance(given, str):
            return _entry(_bare(given, project, is_from_shell=file is None), "", project, context)
        spec, common = _written(given, file, at, project)
        return replace(_entry(spec, common.name, project, context), seeds=common.seeds)
    except ConfigError as error:
        if file is None or error.message.startswith(f"{file}:"):
            raise
        raise ConfigError(f"{written_at(file, at)}: {error.message}", field=".".join(map(str, at))) from None


def _bare(name: str, project: Path, is_from_shell: bool) -> dict[str, Any]:
    """A registered contender of that name or the user's own, else a policy."""
    if not is_from_shell and name in contenders():
        return {"type": name}
    name = _from_project(name, project)
    if is_class_reference(name) and written_kind(PluginUse(POLICY, name, (project,)), _BASES) == "contender":
        return {"type": name}
    return {"type": POLICY, POLICY: name}


def _written(given: Any, file: Path | None, at: Place, project: Path) -> tuple[dict[str, Any], _Common]:
    if not isinstance(given, dict) or file is None:
        raise ConfigError(f"give a name, or a mapping with a `type` and parameters (got {given!r:.80})")
    common = load_yaml(file, _Common, at)
    cls = contender_class(common.type, project)
    extra: dict[str, Any] = {name: (field.annotation, field) for name, field in _Common.model_fields.items()}
    model = create_model(f"{cls.__name__}Entry", __base__=cls.settings, **extra)
    read = load_yaml(file, model, at)
    spec = {"type": common.type, **read.model_dump(mode="json", exclude_unset=True, exclude=set(extra))}
    return spec, common


def _entry(spec: dict[str, Any], name: str, project: Path, context: PolicyContext) -> ContenderEntry:
    kind = spec["type"]
    if kind == POLICY:
        spec = {**spec, POLICY: _from_project(str(spec.get(POLICY, "")), project)}
        code = policy_code(spec[POLICY], project, context)
        short = _short_name(spec[POLICY])
        name = name or (f"{short} {POLICY}" if short in contenders() else short)
    else:
        code = _class_code(kind, project)
        name = name or _short_name(kind)
    cls = contender_class(kind, project)
    made = cls.settings.model_validate({key: value for key, value in spec.items() if key != "type"})
    for parameter in cls.policies:
        code |= policy_code(getattr(made, parameter), project, context)
    code |= cls(made).made_of(project)
    return ContenderEntry(name, spec, cls, code)


def _short_name(reference: str) -> str:
    named = reference.rpartition(":")[2]
    return named if is_class_reference(reference) and named else Path(reference).stem


def _from_project(reference: str, project: Path) -> str:
    """A path as one from the project, wherever it was given; a name as it is."""
    path, colon, name = reference.partition(":") if is_class_reference(reference) else (reference, "", "")
    if Path(path).name == path and not Path(path).suffix:
        return reference
    places = [folder / Path(path).expanduser() for folder in (project, Path.cwd())]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return reference
    return f"./{os.path.relpath(found.resolve(), project)}{colon}{name}"


def policy_code(reference: str, project: Path, context: PolicyContext) -> dict[str, str]:
    """SHA-256 of the files that a policy is made of: its own, those of its parts, classes and prompts.

    Raises:
        ConfigError: There is no such policy, or its file is wrong.
    """
    try:
        opened = open_policy(reference, context)
    except ConfigError as error:
        if Path(reference).name != reference or reference in list_resources("policies", project):
            raise
        names = sorted({*contenders(), *list_resources("policies", project)})
        raise ConfigError(
            f"no contender or policy {reference!r}{did_you_mean(reference, names)}; there are: {', '.join(names)}; "
            "or a policy file or class of your own as ./mine.yaml or ./mine.py:Mine",
            field=error.field,
        ) from None
    found = {str(opened.path): opened.sha256, **opened.parts}
    for part in walk(opened.policy):
        if isinstance(part, LlmPolicy):
            found |= part.prompt_checksums
    for path in [path.rpartition(":")[0] for path in found if is_class_reference(path)]:
        found |= {str(beside): _sha256(beside) for beside in imported_beside(Path(path))}
    return {_told(path, project): checksum for path, checksum in sorted(found.items())}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed_since(code: Mapping[str, str], project: Path) -> list[str]:
    """Which of the user's files that a contender is made of are no longer what their checksums say."""
    files = {told: project / told.partition(".py:")[0] for told in code}
    files = {told: path.with_suffix(".py") if ".py:" in told else path for told, path in files.items()}
    return [told for told, path in files.items() if path.is_file() and _sha256(path) != code[told]]


def _class_code(kind: str, project: Path) -> dict[str, str]:
    """Of a contender of the user's own; the code of ours is known by the version."""
    if not is_class_reference(kind):
        return {}
    path, _ = file_of(PluginUse("contender", kind, (project,)))
    return {_told(str(beside), project): _sha256(beside) for beside in (path, *sorted(imported_beside(path)))}


def _told(path: str, project: Path) -> str:
    """The same on every machine."""
    found = Path(path)
    return found.relative_to(project).as_posix() if found.is_relative_to(project) else "/".join(found.parts[-2:])
