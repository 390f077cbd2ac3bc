"""The house: only rooms at the root, each with a word for itself, and no import circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "agenttune"
LOOSE = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
SOURCES = [path for path in PACKAGE.rglob("*.py") if "node_modules" not in path.parts]
ONE_IDEA = {"Curve", "GreedyLr", "Intervention", "Layer", "ReduceOnPlateau", "Section"}
"""Public classes of two rooms with one name, as they are the same idea: a rule as a policy and as a contender."""
FOLDERS = sorted({path.parent for path in SOURCES} - {PACKAGE})


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """What is imported when code runs, also inside of functions; not what only the type checker needs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module
        yield from imports_of(node)


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == LOOSE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_room_says_what_it_is_for(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert said, "a room without a word for itself"


def test_there_is_no_import_circle() -> None:
    graph = {
        module: {name for name in imports_of(ast.parse(path.read_text(encoding="utf-8"))) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_two_public_classes_have_one_name() -> None:
    """Whoever looks for one finds it, and not another one that has nothing to do with it."""
    found = defaultdict(set)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1 and name not in ONE_IDEA} == {}
