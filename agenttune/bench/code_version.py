"""Which code a cell's result rests on: a change of it makes the result stale, and no other cell's.

What a contract between tasks and contenders says is not counted: what a cell is told through it stands in the cell,
or is told here as data: the task's figures, the recipe as the fault leaves it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import agenttune
from agenttune.bench.catalog import TaskFacts
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.faults import HOSTILE_TEXTS, fault_kind, faulty_recipe
from agenttune.bench.training import Fault, Recipe, Split

RESULTS_VERSION = 1
"""Raised when results before and after a change of the benchmark cannot be compared."""
_ROOT = Path(agenttune.__file__).parent
_BENCH = "agenttune.bench"
_CONTRACTS = frozenset(
    f"{_BENCH}.{name}" for name in ("training", "cell", "catalog", "faults", "settings", "contenders.contender")
)
DECIDING_ROOMS = ("agent", "config", "control", "detectors", "gate", "llm", "policy", "protocol", "store", "trainer")
"""What an agent's decisions and their effect can depend on."""
_TRAINER = "agenttune.trainer"
_ONLY_WITH_AGENT = tuple(f"{_TRAINER}.{name}" for name in ("integrations", "adapter", "options"))
"""Parts of the trainer that a task imports for the trainings with an agent; the others decide all of its trainings."""
_ONLY_SHOWN = {"about", "target", "chance", "faults"}
"""A task's figures that no training depends on."""
NO_AGENT = "-"


def version_of(task_module: str, contender_module: str, acts_through_gate: bool, facts: TaskFacts) -> str:
    """Checksums of what decides a cell beside its own words: `RESULTS_VERSION.task.contender.agent`.

    Args:
        task_module: Dotted name of the task's module.
        contender_module: The same of the contender's class.
        acts_through_gate: Whether an agent takes part.
        facts: Of the task.
    """
    task = checksum_of(_sources(task_module) + _sources(f"{_BENCH}.seeds") + facts.model_dump_json(exclude=_ONLY_SHOWN))
    contender = checksum_of(_sources(contender_module) + _trial())
    agent = checksum_of(_rooms()) if acts_through_gate else NO_AGENT
    return f"{RESULTS_VERSION}.{task}.{contender}.{agent}"


def with_fault(version: str, split: Split, recipe: Recipe, fault: Fault) -> str:
    """The same with checksums of what can go wrong and, which differs from seed to seed, of what does."""
    kind = fault_kind(fault.kind)
    spans = kind.development if split == "development" else kind.test
    texts = HOSTILE_TEXTS if "text" in fault.values else ()
    drawn = f"{fault.model_dump_json()}{faulty_recipe(recipe, fault).model_dump_json()}{texts}"
    return f"{version}.{checksum_of(repr(sorted(spans.items())))}.{checksum_of(drawn)}"


def without_draw(version: str) -> str:
    """What the cells of all seeds have in common."""
    return version.rpartition(".")[0]


def is_same_code(one: str, other: str) -> bool:
    """Whether cells of two contenders rest on the same task and, where both have an agent, on the same agent."""
    parts, others = one.split("."), other.split(".")
    if parts[:2] != others[:2] or len(parts) != len(others):
        return False
    agents = {parts[3], others[3]} - {NO_AGENT} if len(parts) > 3 else set()
    return len(agents) < 2


def checksum_of(text: str) -> str:
    """A short one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache
def _sources(module: str) -> str:
    found = sources_of(module)
    return _checksum(found[name] for name in sorted(found))


def sources_of(module: str) -> dict[str, Path]:
    """The files of a module and of all that it imports and that decide a training, by name."""
    found: dict[str, Path] = {}
    waiting = [module] if _decides(module) else []
    while waiting:
        module = waiting.pop()
        path = _path_of(module)
        if module in found or module in _CONTRACTS or path is None:
            continue
        found[module] = path
        waiting += _imported(path)
    return found


def _decides(module: str) -> bool:
    is_trainers = module.startswith(f"{_TRAINER}.") and not module.startswith(_ONLY_WITH_AGENT)
    return is_trainers or module.startswith(f"{_BENCH}.")


@lru_cache
def _trial() -> str:
    """The one class among the contracts that does something."""
    return inspect.getsource(Trial)


@lru_cache
def _rooms() -> str:
    return _checksum(path for room in DECIDING_ROOMS for path in sorted((_ROOT / room).rglob("*.py")))


def _checksum(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _path_of(module: str) -> Path | None:
    """The file of a module of agenttune; None if the name is that of something in a module."""
    stem = _ROOT.parent / Path(*module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


@lru_cache
def _imported(path: Path) -> tuple[str, ...]:
    """Modules that a file imports and that decide a training, read without running it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(name for name in names if _decides(name))
