"""Which modules beside a Python file of the user's it rests on, read without running them."""

from __future__ import annotations

import ast
from pathlib import Path


def imported_beside(path: Path) -> set[Path]:
    """The modules beside a Python file that it imports, and theirs, read without running them."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        names = _imported_names(waiting.pop())
        folder = path.parent
        candidates = [p for n in names for p in (folder / f"{n}.py", *sorted((folder / n).rglob("*.py")))]
        new = {place for place in candidates if place.is_file() and place != path} - found
        found |= new
        waiting += sorted(new)
    return found


def _imported_names(path: Path) -> set[str]:
    """First parts of the names of modules that a file imports; none if it is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {(node.module or "").partition(".")[0], *(alias.name for alias in node.names if not node.module)}
    return names - {""}
