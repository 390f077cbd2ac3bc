"""Which code a cell's result rests on: a change of it makes the result stale, and no other cell's.

What a contract between tasks and contenders says is not counted: what a cell is told through it stands in the cell.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import agenttune

RESULTS_VERSION = 1
"""Raised when results before and after a change of the benchmark cannot be compared."""
_ROOT = Path(agenttune.__file__).parent
_BENCH = "agenttune.bench"
_CONTRACTS = frozenset(
    f"{_BENCH}.{name}" for name in ("training", "cell", "catalog", "faults", "settings", "contenders.contender")
)
DECIDING_ROOMS = ("agent", "config", "control", "detectors", "gate", "llm", "policy", "protocol", "store", "trainer")
"""What an agent's decisions and their effect can depend on."""


def version_of(task_module: str, contender_module: str, acts_through_gate: bool) -> str:
    """A checksum of the code of one cell.

    Args:
        task_module: Dotted name of the task's module.
        contender_module: The same of the contender's class.
        acts_through_gate: Whether an agent takes part.
    """
    rooms = _rooms() if acts_through_gate else ""
    return f"{RESULTS_VERSION}.{checksum_of(_sources(task_module, contender_module) + rooms)}"


def checksum_of(text: str) -> str:
    """A short one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache
def _sources(*modules: str) -> str:
    """Of the modules and all of the benchmark's that they import."""
    found: dict[str, Path] = {}
    waiting = [module for module in modules if module.startswith(f"{_BENCH}.")]
    while waiting:
        module = waiting.pop()
        path = _path_of(module)
        if module in found or module in _CONTRACTS or path is None:
            continue
        found[module] = path
        waiting += _imported(path)
    return _checksum(found[name] for name in sorted(found))


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
    """The benchmark's modules that a file imports, read without running it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(name for name in names if name.startswith(f"{_BENCH}."))
