"""The contenders there are: every module of this folder is asked, so that a new one is one new file."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from agenttune.bench.cell import Cell
from agenttune.bench.contenders.contender import CONTENDERS, Contender
from agenttune.config.plugins import PluginUse, find_class, is_class_reference
from agenttune.errors import ConfigError
from agenttune.protocol.invalid_values import did_you_mean


def contenders() -> dict[str, type[Contender]]:
    """All registered contenders by name. Loads no torch."""
    _import_all()
    return CONTENDERS


@cache
def _import_all() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def is_reference(cell: Cell) -> bool:
    """Whether a cell's contender is none proper: what the others are measured by, or what taking part costs."""
    return _type(cell) in _references()


def gets_round(cell: Cell) -> bool:
    """Whether a cell's fault never reaches its contender, which replaces the setting that is wrong."""
    return cell.scenario.fault in _rounds().get(_type(cell), ())


def _type(cell: Cell) -> str:
    return str(cell.spec.get("type", cell.contender))


@cache
def _references() -> frozenset[str]:
    return frozenset(name for name, contender in contenders().items() if contender.role == "reference")


@cache
def _rounds() -> dict[str, tuple[str, ...]]:
    return {name: contender.gets_round for name, contender in contenders().items()}


def contender_class(name: str, project: Path | None = None) -> type[Contender]:
    """A registered contender, or one of the user's own as `./mine.py:Mine`.

    Args:
        name: Which.
        project: Folder that a relative path counts from; default: the working folder.

    Raises:
        ConfigError: There is none of that name.
        PluginFault: It cannot be imported.
    """
    if is_class_reference(name):
        return find_class(PluginUse("contender", name, (project or Path.cwd(),)), Contender).cls
    known = contenders()
    if name not in known:
        names = sorted(known)
        raise ConfigError(
            f"no contender {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}; or a class of your own "
            "as ./mine.py:Mine"
        )
    return known[name]
