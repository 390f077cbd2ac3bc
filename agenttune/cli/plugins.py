"""What there is to choose from: policies, detectors, approvers, channels, adapters; shipped and of the user's own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from agenttune.cli.app import Json, app
from agenttune.errors import AgenttuneError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from agenttune.config.plugins import Kind, PluginUse

BASES = {"Policy": "policy", "Detector": "detector", "Approver": "approver", "Channel": "channel"}
"""What a class in a file extends -> what it is. Files are read for this, not run."""
BASES |= {"PlainAdapter": "adapter"}
SKIPPED = ("type", "description", "gate")


@dataclass(frozen=True)
class Listed:
    """Something that can be chosen.

    Attributes:
        kind: policy, policy type, detector, approver, channel or adapter.
        name: What one writes to have it.
        origin: shipped, the file, or the installed package.
        parameters: With types and defaults.
    """

    kind: str
    name: str
    origin: str
    summary: str
    parameters: list[str] = field(default_factory=list)


@app.command()
def policies(
    named: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE:CLASS]...", help="Classes of your own to show in full; their files are run."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also detectors, approvers, channels and adapters.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Your project: the config file's folder.")] = Path(),
    json_: Json = False,
) -> None:
    """List the policies there are: shipped, in the project's files, and installed; files are read, not run."""
    folder = folder.resolve()
    found = list(_named(named, folder) if named else _all(folder))
    wanted = found if all_ or named else [item for item in found if item.kind in ("policy", "policy type")]
    if json_:
        typer.echo(json.dumps([asdict(item) for item in wanted], indent=2))
        return
    for kind in dict.fromkeys(item.kind for item in wanted):
        typer.echo(f"{_heading(kind)}:")
        for item in [item for item in wanted if item.kind == kind]:
            typer.echo(f"  {item.name:<22} {item.origin}: {item.summary}")
            for line in item.parameters:
                typer.echo(f"      {line}")


@app.command("try-plugin", hidden=True)
def try_plugin() -> None:
    """Try a class of the user's own, told on stdin, and say what came of it; for `agenttune check` and `run`."""
    from agenttune.launch.plugin_trials import try_here

    packed = sys.stdin.read()
    stdout = os.dup(1)
    os.dup2(2, 1)  # whatever that code writes, stdout has our answer alone
    os.write(stdout, try_here(packed).encode())
    os._exit(0)  # nor does a thread that it has started keep this process


def _heading(kind: str) -> str:
    return kind.replace("y", "ies") if kind.endswith("y") else f"{kind}s"


def _all(folder: Path) -> Iterator[Listed]:
    yield from _policy_files(folder)
    yield from _written(folder)
    yield from _installed(folder)
    yield from _policy_types()
    yield from _shipped_detectors()


def _policy_files(folder: Path) -> Iterator[Listed]:
    from agenttune.config.resources import find_resource, list_resources

    for name in list_resources("policies", folder):
        path = find_resource("policies", name, folder)
        is_theirs = path.is_relative_to((folder / "policies").absolute()) and not _is_shipped(path)
        yield Listed("policy", name, str(path) if is_theirs else "shipped", _description(path))


def _is_shipped(path: Path) -> bool:
    from agenttune.config.resources import shipped_folders

    return any(path.resolve().is_relative_to(place.resolve()) for place in shipped_folders("policies"))


def _description(path: Path) -> str:
    """What a policy file says of itself; the file is not checked here."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:100]}"
    return str(data.get("description") or f"type: {data.get('type')}") if isinstance(data, dict) else "is no policy"


def _written(folder: Path) -> Iterator[Listed]:
    from agenttune.config.plugins import written_classes

    for path in sorted([*folder.glob("*.py"), *folder.glob("policies/*.py")]):
        for item in written_classes(path):
            kind = next((BASES[base] for base in item.bases if base in BASES), None)
            if kind is not None:
                name = f"./{path.relative_to(folder)}:{item.name}"
                yield Listed(kind, name, path.name, item.summary, list(item.parameters))


def _installed(folder: Path) -> Iterator[Listed]:
    from agenttune.config.plugins import GROUPS, PluginUse, installed, package_of

    for kind in GROUPS:
        for entry in installed(kind):
            yield _described(PluginUse(kind, entry.name, (folder,)), package_of(entry))


def _named(references: list[str], folder: Path) -> Iterator[Listed]:
    from agenttune.config.plugins import GROUPS, PluginUse, installed, is_class_reference, written_kind

    for reference in references:
        kinds = [kind for kind in GROUPS if any(entry.name == reference for entry in installed(kind))]
        if is_class_reference(reference):
            kinds = [cast("Kind", written_kind(PluginUse("policy", reference, (folder,)), BASES))]
        for kind in kinds or ["policy"]:
            yield _described(PluginUse(kind, reference, (folder,)), "", raises=True)


def _described(use: PluginUse, origin: str, raises: bool = False) -> Listed:
    from agenttune.launch.plugin_trials import find_plugin

    try:
        found = find_plugin(use)
    except AgenttuneError as error:
        if raises:
            raise
        return Listed(use.kind, use.reference, origin, str(error))
    summary = (found.cls.__doc__ or "").strip().split("\n")[0]
    return Listed(use.kind, use.reference, origin or str(found.path), summary, found.parameters.lines())


def _policy_types() -> Iterator[Listed]:
    from agenttune.policy.load import TYPES
    from agenttune.policy.wrappers.composites import COMPOSITES

    settings: dict[str, type[BaseModel]] = {name: made[0] for name, made in (TYPES | COMPOSITES).items()}
    for name, model in settings.items():
        summary = (model.__doc__ or "").strip().split("\n")[0].removeprefix(f"`type: {name}`: ")
        yield Listed("policy type", name, "shipped", summary, _fields(model))


def _fields(model: type[BaseModel]) -> list[str]:
    from agenttune.config.plugin_parameters import lines_of_fields

    return lines_of_fields(model, SKIPPED)


def _shipped_detectors() -> Iterator[Listed]:
    from agenttune.detectors import DETECTORS

    for detector in DETECTORS:
        yield Listed("detector", detector.name, "shipped", f"{detector.summary} ({detector.severity})")
