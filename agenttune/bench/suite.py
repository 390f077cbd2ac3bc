"""Suite files: `suites/*.yaml` -> what is to be run by whom, checked as a whole before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from agenttune.bench.catalog import TASKS, TaskFacts, facts_of, task_facts
from agenttune.bench.cell import Scenario, Script
from agenttune.bench.contender_entries import ContenderEntry, read_contender
from agenttune.bench.faults import DEVELOPMENT_SEEDS, TEST_SEEDS, fault_kind, refusal
from agenttune.bench.own_detectors import own_detectors
from agenttune.bench.script_task import applies_to_scripts, filled, no_fault_of_script
from agenttune.bench.settings import BenchSettings
from agenttune.bench.training import Recipe, Split
from agenttune.config import Place, Settings, load_yaml, written_at
from agenttune.config.resources import find_resource
from agenttune.config.sections import RUN_NAME, Word
from agenttune.config.setting import Positive
from agenttune.errors import ConfigError
from agenttune.policy.base import PolicyContext
from agenttune.protocol.invalid_values import did_you_mean, failure_words
from agenttune.protocol.text import plural

FOLDER = "suites"
T = TypeVar("T")


class ScriptEntry(Settings):
    """A script of the user's own as a task."""

    script: str
    """Path of a Python script, from the suite's folder."""
    args: list[Word] = Field(default_factory=list)
    """Its arguments; {lr}, {seed}, {steps} and other figures of the cell stand between braces."""
    steps: int = Field(ge=1)
    """Optimizer steps that it makes; it must know them itself, such as by --steps {steps}."""
    lr: Positive
    """Learning rate that is best known; faults of the rate multiply it."""
    name: str = Field("", pattern=f"^$|{RUN_NAME}")
    """In reports; default: the script's."""
    metric: str = "eval_loss"
    """A metric of its log."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether less or more of it is better."""
    target: float | None = None
    """Value that a good run reaches."""


class ScenarioEntry(Settings):
    """Tasks x faults of a suite."""

    task: Any
    """A task, or several: names, or mappings with a `script`."""
    fault: Any = "healthy"
    """A kind of fault, or several."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """What is changed in the task's recipe: lr, schedule, steps, warmup_frac, ..."""
    label: str = ""
    """Tells it from others of the same task and fault; default: the changed schedule."""


class SuiteFile(Settings):
    """A suite as it is written."""

    name: str = ""
    """In reports and of the folder of results; default: the file's."""
    about: str = ""
    """What it is for, in a sentence."""
    split: Split = "development"
    """Which range of seeds, fault parameters and data; the test range is for final claims, and asks for --test."""
    seeds: int | list[int] = Field(3)
    """So many of the range, or these."""
    scenarios: list[ScenarioEntry]
    """Tasks with faults."""
    contenders: list[Any]
    """Who takes part: names of contenders or policies, or mappings with a `type` and parameters."""
    settings: BenchSettings = BenchSettings()
    """Of the gate, the agent and the model, the same for all."""
    limit_s: Positive = 600.0
    """Wall time of one cell, in seconds; one that takes longer has failed."""


@dataclass(frozen=True)
class Suite:
    """What is to be run by whom.

    Attributes:
        path: Its file.
        project: Folder that relative paths of policies count from.
        file: As written.
        seeds: Of the split's range.
        detector_code: Checksums of the files of the user's own detectors, by path.
    """

    path: Path
    name: str
    project: Path
    file: SuiteFile
    split: Split
    seeds: tuple[int, ...]
    scenarios: tuple[Scenario, ...]
    contenders: tuple[ContenderEntry, ...]
    detector_code: dict[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> list[str]:
        """Contenders that cannot take part in a script of the user's own, where there is one."""
        if all(scenario.script is None for scenario in self.scenarios):
            return []
        return [entry.name for entry in self.contenders if not applies_to_scripts(entry.spec)]

    @property
    def settings(self) -> dict[str, Any]:
        """As they stand in the file."""
        return self.file.settings.model_dump(mode="json", exclude_unset=True)


def load_suite(
    reference: str,
    is_test: bool = False,
    seeds: int | None = None,
    policies: Sequence[str] = (),
) -> Suite:
    """Read and check a suite: everything that it names exists.

    Args:
        reference: A path, or the name of a suite in `suites/` or of a shipped one.
        is_test: Whether the test range was asked for; without, a suite of that range is refused.
        seeds: So many instead of the file's.
        policies: More contenders, as names or paths from the working folder.

    Raises:
        ConfigError: `file:line: key: problem`.
    """
    path = find_resource(FOLDER, reference)
    project = _project_of(path)
    file = load_yaml(path, SuiteFile)
    _Place(path, ()).tell(_not_empty, file)
    if file.split == "test" and not is_test:
        raise _Place(path, ("split",)).problem("the test range is for final claims; say so with --test")
    split: Split = "test" if is_test else "development"
    own = own_detectors(path, file.settings, project)
    if own.entries:
        settings = file.settings.model_copy(update={"detectors": own.entries})
        file = file.model_copy(update={"settings": settings})
    context = PolicyContext(project, llm=file.settings.llm, budgets=file.settings.budgets, detectors=own.made)
    return Suite(
        path,
        file.name or path.stem,
        project,
        file,
        split,
        _seeds(_Place(path, ("seeds",)), file.seeds if seeds is None else seeds, split),
        tuple(_scenarios(path, file, project)),
        tuple(_contenders(path, project, file, policies, context)),
        own.code,
    )


def _project_of(path: Path) -> Path:
    folder = path.resolve().parent
    return folder.parent if folder.name == FOLDER else folder


@dataclass(frozen=True)
class _Place:
    """A part of a suite file."""

    path: Path
    at: Place

    def inside(self, *keys: str | int) -> _Place:
        return replace(self, at=(*self.at, *keys))

    def problem(self, words: str) -> ConfigError:
        return ConfigError(f"{written_at(self.path, self.at)}: {words}", field=".".join(map(str, self.at)))

    def tell(self, step: Callable[..., T], *given: Any) -> T:
        """Carry a step out; what it has against its arguments is told with this place."""
        try:
            return step(*given)
        except ConfigError as error:
            raise self.problem(error.message) from None


def _not_empty(file: SuiteFile) -> None:
    for key in ("scenarios", "contenders"):
        if not getattr(file, key):
            raise ConfigError(f"{key}: give one at least")


def _seeds(place: _Place, given: int | list[int], split: Split) -> tuple[int, ...]:
    known = DEVELOPMENT_SEEDS if split == "development" else TEST_SEEDS
    if isinstance(given, int):
        if not 1 <= given <= len(known):
            raise place.problem(f"from 1 to {len(known)} seeds, not {given}")
        return tuple(known[:given])
    for index, seed in enumerate(given):
        if seed not in known:
            span = f"{known.start} to {known.stop - 1}"
            raise place.inside(index).problem(f"seed {seed} is not of the {split} range ({span})")
        if seed in given[:index]:
            raise place.inside(index).problem(f"seed {seed} stands here twice")
    if not given:
        raise place.problem("give one at least")
    return tuple(given)


def _scenarios(path: Path, file: SuiteFile, project: Path) -> list[Scenario]:
    found: list[Scenario] = []
    for index, entry in enumerate(file.scenarios):
        at = _Place(path, ("scenarios", index))
        for scenario in _of_entry(at, entry, project):
            if scenario.name in (other.name for other in found):
                raise at.problem(f"{scenario.name} is there already; give this one a label")
            found.append(scenario)
    return found


def _of_entry(at: _Place, entry: ScenarioEntry, project: Path) -> list[Scenario]:
    made = []
    for place, task in _each(at.inside("task"), entry.task):
        script, facts = _script(place, task, project) if isinstance(task, dict) else (None, None)
        if facts is None:
            facts = place.tell(task_facts, str(task))
        recipe = _recipe(at.inside("recipe"), facts.recipe, entry.recipe)
        for fault_place, fault in _each(at.inside("fault"), entry.fault):
            kind = fault_place.tell(fault_kind, str(fault))
            cannot = refusal(kind, facts.name, facts.faults) if script is None else no_fault_of_script(kind, script)
            if cannot:
                raise fault_place.problem(cannot)
            label = entry.label or str(entry.recipe.get("schedule", ""))
            made.append(Scenario(task=facts.name, fault=kind.name, recipe=recipe, label=label, script=script))
    return made


def _each(place: _Place, given: Any) -> list[tuple[_Place, Any]]:
    """One thing, or each of a list, with its place."""
    if isinstance(given, list):
        return [(place.inside(index), one) for index, one in enumerate(given)]
    return [(place, given)]


def _script(place: _Place, task: dict[str, Any], project: Path) -> tuple[Script, TaskFacts]:
    entry = load_yaml(place.path, ScriptEntry, place.at)
    path = next((p for folder in (place.path.parent, project) if (p := folder / entry.script).is_file()), None)
    if path is None:
        near = did_you_mean(entry.script, sorted(p.name for p in place.path.parent.glob("*.py")))
        raise place.inside("script").problem(f"there is no file {place.path.parent / entry.script}{near}")
    script = Script(
        path=os.path.relpath(path.resolve(), project),
        args=entry.args,
        metric=entry.metric,
        direction=entry.direction,
        target=entry.target,
    )
    recipe = Recipe(lr=entry.lr, steps=entry.steps, eval_every=max(1, entry.steps // 10))
    place.inside("args").tell(filled, script.args, recipe, 0)
    name = entry.name or path.stem
    if name in TASKS:
        raise place.problem(f"{name} is a task of the benchmark; give this one another `name`")
    return script, facts_of(Scenario(task=name, fault="healthy", recipe=recipe, script=script))


def _recipe(place: _Place, recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    for key in changes:
        if key not in Recipe.model_fields:
            known = sorted(Recipe.model_fields)
            raise place.inside(key).problem(f"unknown key{did_you_mean(key, known)}; known here: {', '.join(known)}")
    try:
        changed = recipe.with_changes(**changes)
    except ValidationError as error:
        first = error.errors()[0]["loc"]
        raise place.inside(*first).problem(failure_words(error)) from None
    for key in ("steps", "eval_every", "lr"):
        if getattr(changed, key) <= 0:
            raise place.inside(key).problem(f"must be above 0, not {getattr(changed, key)}")
    return changed


def _contenders(
    path: Path, project: Path, file: SuiteFile, policies: Sequence[str], context: PolicyContext
) -> list[ContenderEntry]:
    found: list[ContenderEntry] = []
    for index, given in enumerate(file.contenders):
        place = _Place(path, ("contenders", index))
        entry = read_contender(given, path, place.at, project, context)
        if entry.name in (other.name for other in found):
            raise place.problem(f"two contenders are called {entry.name!r}; give this one another `name`")
        most = file.seeds if isinstance(file.seeds, int) else len(file.seeds)
        if entry.seeds is not None and entry.seeds > most:
            raise place.inside("seeds").problem(f"the suite has {plural(most, 'seed')}, not {entry.seeds}")
        found.append(entry)
    for reference in policies:
        entry = read_contender(reference, None, (), project, context)
        found = [other for other in found if other.name != entry.name] + [entry]
    return found
