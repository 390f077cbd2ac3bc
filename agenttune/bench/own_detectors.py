"""Detectors of the user's own in a suite: checked with it, known by their files, and made anew in each worker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agenttune.bench.faults import fault_kind
from agenttune.bench.imported_files import imported_beside
from agenttune.bench.settings import BenchSettings
from agenttune.config import Place, written_at
from agenttune.config.plugins import PluginUse, file_of, is_class_reference
from agenttune.detectors import DETECTOR_NAMES, Detector
from agenttune.errors import ConfigError
from agenttune.policy.base import PolicyContext
from agenttune.policy.plugins import find_detector, open_detectors
from agenttune.protocol.invalid_values import did_you_mean

AT: Place = ("settings", "detectors")
FILE = "detectors.yaml"


@dataclass(frozen=True)
class OwnDetectors:
    """Those of a suite.

    Attributes:
        entries: As a worker makes them: paths count from the project.
        made: For checking policies that ask for their findings.
        code: Checksums of their files, by path.
    """

    entries: list[Any] = field(default_factory=list)
    made: tuple[Detector, ...] = ()
    code: dict[str, str] = field(default_factory=dict)


def own_detectors(file: Path, settings: BenchSettings, project: Path) -> OwnDetectors:
    """The detectors that a suite names, checked; and that what they find is a fault there is.

    Raises:
        ConfigError: There is no such class, it cannot be used, or `finds` names something else; `file:line: key: ...`.
    """
    context = PolicyContext(project, llm=settings.llm, budgets=settings.budgets)
    made = open_detectors(settings.detectors, file, context, AT, (project,))
    for index, detector in enumerate(made):
        if detector.fault:
            raise _problem(file, (*AT, index), detector.fault)
    _check_finds(file, settings, [*DETECTOR_NAMES, *(detector.name for detector in made)])
    uses = [PluginUse.of_entry("detector", e, file, (*AT, i)) for i, e in enumerate(settings.detectors)]
    places = [_place(PluginUse(u.kind, u.reference, (*u.folders, project)), project) for u in uses]
    code = dict(pair for use, place in zip(uses, places, strict=True) for pair in _code(use, place, project))
    entries = [
        place if isinstance(e, str) else {**e, "type": place}
        for e, place in zip(settings.detectors, places, strict=True)
    ]
    return OwnDetectors(entries, made, code)


def detectors_of_cell(settings: BenchSettings, folder: Path, context: PolicyContext) -> tuple[Detector, ...]:
    """The same in a worker.

    Args:
        folder: For the file that their parameters are read from.
        context: With the project.

    Raises:
        ConfigError: They cannot be used there.
    """
    if not settings.detectors or context.project is None:
        return ()
    file = folder / FILE
    file.write_text(yaml.safe_dump({"detectors": settings.detectors}), encoding="utf-8")
    made = open_detectors(settings.detectors, file, context, folders=(context.project,))
    for detector in made:
        if detector.fault:
            raise ConfigError(f"detector {detector.name}: {detector.fault}", field="detectors")
    return made


def _check_finds(file: Path, settings: BenchSettings, known: Collection[str]) -> None:
    for name, faults in settings.finds.items():
        at: Place = ("settings", "finds", name)
        if name not in known:
            words = f"no detector is called {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}"
            raise _problem(file, at, words)
        for index, fault in enumerate(faults):
            try:
                fault_kind(fault)
            except ConfigError as error:
                raise _problem(file, (*at, index), error.message) from None


def _problem(file: Path, at: Place, words: str) -> ConfigError:
    return ConfigError(f"{written_at(file, at)}: {words}", field=".".join(map(str, at)))


def _place(use: PluginUse, project: Path) -> str:
    """Its reference with a path from the project, the same on every machine."""
    if not is_class_reference(use.reference):
        return use.reference
    path, name = file_of(use)
    return f"./{os.path.relpath(path, project.resolve())}:{name}"


def _code(use: PluginUse, place: str, project: Path) -> Iterator[tuple[str, str]]:
    """Checksums of what a detector is made of: its file and the modules beside it that it imports."""
    if not is_class_reference(place):
        yield place, find_detector(use).sha256
        return
    path, _ = file_of(PluginUse("detector", place, (project,)))
    for part in (path, *sorted(imported_beside(path))):
        yield os.path.relpath(part, project.resolve()), hashlib.sha256(part.read_bytes()).hexdigest()
