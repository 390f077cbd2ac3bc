"""Whether a module can be run as for `python -m`, found out without running anything of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder


def not_runnable(module: str, folders: Sequence[str]) -> str:
    """Why a module cannot be run; empty if it can.

    Args:
        module: Its dotted name.
        folders: Where to look beside what is installed.
    """
    if module.endswith(".py"):
        return f"{module!r} is a file's name; set run.script to it, or leave out the ending"
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return f"{module!r} is no name of a module, such as package.train"
    spec = _top(parts[0], [*folders, *sys.path])
    if spec is None:
        return f"there is no module {parts[0]!r}, neither in {folders[0]} nor installed"
    for count, part in enumerate(parts[1:], 1):
        spec = _inside(spec, part)
        if spec is None:
            return f"there is no module {part!r} in {'.'.join(parts[:count])!r}"
    if spec.submodule_search_locations is not None and _inside(spec, "__main__") is None:
        return f"{module!r} is a package without a __main__ module; name one of its modules"
    return ""


def _top(name: str, paths: Sequence[str]) -> ModuleSpec | None:
    # All finders: installs for development have one of their own.
    specs = (finder.find_spec(name, paths) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _inside(package: ModuleSpec, name: str) -> ModuleSpec | None:
    """Unlike `importlib.util.find_spec` this does not import the package: it may train."""
    places = package.submodule_search_locations
    return None if places is None else PathFinder.find_spec(name, list(places))
