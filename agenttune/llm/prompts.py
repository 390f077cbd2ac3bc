"""Prompts: templates with declared variables, and fences around text from outside.

A template's first line declares its variables: `{# variables: goal, observation #}`. A file of the same name in the
`prompts` folder of the user's project takes the place of a shipped one.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agenttune.config import GoalSettings
from agenttune.config.resources import find_resource
from agenttune.errors import ConfigError
from agenttune.protocol.model_calls import PromptUsed
from agenttune.protocol.text import clean

CONTEXT_LETTERS = 8000
"""Longest text of the operator's about a training (guess: two pages)."""
Tag = Literal["data", "note"]
"""The fence around text from outside, as in `<data>...</data>`: data about the run, or an operator's note."""
_ANGLES = str.maketrans("<＜﹤", "‹‹‹")
_DECLARATION = re.compile(r"\A\{#-?\s*variables:(?P<names>[\w\s,]*)-?#\}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors that a wrong template can raise while it is rendered."""


def fenced(text: object, limit: int = 500, tag: Tag = "data") -> str:
    """Text from a log, a name or a file as data inside a prompt: on one line, bounded, unable to close its fence.

    Nothing inside can open or close any tag, so that data cannot pass for an operator's note either. How much was cut
    is said in brackets.
    """
    whole = clean(str(text), sys.maxsize)
    shown = whole if len(whole) <= limit else f"{whole[:limit]} [{len(whole) - limit} more characters]"
    return f"<{tag}>{shown.translate(_ANGLES)}</{tag}>"


def goal_variables(goal: GoalSettings) -> dict[str, Any]:
    """What every template may say of the goal; its words are the operator's own, so they stand in no fence."""
    return {
        "goal_metric": goal.metric,
        "goal_direction": goal.direction,
        "constraints": [clean(text, CONTEXT_LETTERS) for text in goal.constraints],
        "context": clean(goal.context, CONTEXT_LETTERS, lines=True),
    }


@dataclass(frozen=True)
class Rendered:
    """A prompt's text and what it was made from."""

    text: str
    used: PromptUsed


class Prompts:
    """Templates by name, rendered in a sandbox. Files are read anew each time.

    Args:
        project: The user's folder, whose `prompts` come first; default: the working folder.
    """

    def __init__(self, project: Path | None = None) -> None:
        self._project = project

    def render(self, name: str, /, **variables: Any) -> Rendered:
        """A template with these variables filled in; it may declare fewer than it is given.

        Args:
            name: A name in one of the `prompts` folders, or a path.

        Raises:
            ConfigError: No such template, broken syntax, or a variable that is missing or not declared.
        """
        source = self.check(name, variables)
        environment = _environment(source)
        try:
            text = environment.get_template(source.path.name).render(variables)
        except _FAULTS as error:
            raise ConfigError(f"{source.path}: {type(error).__name__}: {error}", field=name) from None
        return Rendered(text.strip(), PromptUsed(name=name, sha256=source.sha256(environment), path=str(source.path)))

    def check(self, name: str, given: Iterable[str]) -> _Source:
        """Check a template, also before it is needed.

        Raises:
            ConfigError: As `render`.
        """
        path = find_resource("prompts", name, self._project)
        source = _Source(path, self._project)
        declared = _declared(path, source.text(path.name))
        try:
            used = set(_used(source))
        except TemplateSyntaxError as error:
            where = f"{error.filename or path}:{error.lineno}"
            raise ConfigError(f"{where}: {error.message}", field=name) from None
        offered = set(given)
        if used - declared:
            raise _wrong(path, used - declared, "used but not declared", "add it to the first line", declared)
        if declared - offered:
            raise _wrong(path, declared - offered, "declared but not given", "take it out", offered)
        return source

    def checksum(self, name: str) -> tuple[Path, str]:
        """A template's file, and SHA-256 of it with what it includes."""
        source = _Source(find_resource("prompts", name, self._project), self._project)
        return source.path, source.sha256(_environment(source))


class _Source(BaseLoader):
    """A template's file, and the files that it includes: beside it, or by name as other prompts."""

    def __init__(self, path: Path, project: Path | None) -> None:
        self.path, self._project = path, project
        self._texts: dict[str, str] = {}

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, None]:
        return self.text(template), str(self._find(template)), None

    def text(self, name: str) -> str:
        if name not in self._texts:
            path = self._find(name)
            try:
                self._texts[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}: cannot be read: {error}", field=name) from None
        return self._texts[name]

    def _find(self, name: str) -> Path:
        if name == self.path.name:
            return self.path
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{self.path}: includes {name!r:.80}; give the name of a file in the same folder")
        beside = self.path.parent / name
        return beside if beside.is_file() else find_resource("prompts", name.removesuffix(".j2"), self._project)

    def sha256(self, environment: Environment) -> str:
        """Of the file; where it includes others, of their bytes one after the other, each file once."""
        parts = [self.text(name).encode() for name in self.parts(environment)]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def parts(self, environment: Environment) -> list[str]:
        """Names of the file and of what it includes, in the order in which they are named."""
        names = [self.path.name]
        for name in names:  # grows while it is read
            for part in find_referenced_templates(environment.parse(self.text(name), name, str(self._find(name)))):
                if part is None:
                    raise ConfigError(f"{self.path}: includes a template whose name is computed; write it as text")
                if part not in names:
                    names.append(part)
        return names


def _environment(source: _Source) -> Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=source, undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["fenced"] = fenced
    return environment


def _used(source: _Source) -> Iterator[str]:
    """Variables that a template and what it includes take from outside."""
    environment = _environment(source)
    for name in source.parts(environment):
        yield from find_undeclared_variables(environment.parse(source.text(name), name))


def _declared(path: Path, text: str) -> set[str]:
    found = _DECLARATION.match(text)
    if found is None:
        raise ConfigError(
            f"{path}:1: the first line must declare the template's variables, such as {{# variables: goal, step #}}"
        )
    return set(found["names"].replace(",", " ").split())


def _wrong(path: Path, names: set[str], problem: str, remedy: str, known: set[str]) -> ConfigError:
    listed = ", ".join(sorted(names))
    return ConfigError(
        f"{path}:1: variable {listed}: {problem}; {remedy} (there are: {', '.join(sorted(known)) or 'none'})",
        field=min(names),
        allowed=sorted(known),
    )
