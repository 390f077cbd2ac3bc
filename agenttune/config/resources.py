"""Find policies, prompts and suites: an explicit path, then the user's project, then what is shipped."""

from __future__ import annotations

from pathlib import Path

from agenttune.errors import ConfigError
from agenttune.protocol.invalid_values import did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]
"""The folder `agenttune/`."""
SUFFIXES = {"policies": (".yaml", ".yml"), "prompts": (".j2",), "suites": (".yaml", ".yml")}
"""Endings that a resource's name may leave out, by folder."""
_CLASS = {"policies": ", or a class of your own as ./mine.py:Mine"}


def find_resource(folder: str, name: str, project: Path | None = None) -> Path:
    """The file of a resource.

    Args:
        folder: `policies`, `prompts` or `suites`.
        name: A path, or a name in one of the folders with or without its ending.
        project: The user's project folder; paths are taken from there too.

    Raises:
        ConfigError: There is none; lists those that exist.
    """
    base = project or Path.cwd()
    if _looks_like_path(name, folder):
        path = Path(name).expanduser()
        path = path if path.is_absolute() else base / path
        if path.is_file():
            return path
    for place in _places(folder, base):
        for suffix in ("", *SUFFIXES[folder]):
            candidate = place / f"{name}{suffix}"
            if Path(name).name == name and candidate.is_file():
                return candidate
    known = list_resources(folder, base)
    what = folder.removesuffix("ies") + "y" if folder.endswith("ies") else folder.removesuffix("s")
    raise ConfigError(
        f"no {what} {name!r}{did_you_mean(name, known)}; there are: {', '.join(known) or 'none'}. "
        f"Give one of these names or the path of a file{_CLASS.get(folder, '')} "
        f"(looked in {', '.join(map(str, _places(folder, base)))})",
        field=what,
        allowed=known,
    )


def list_resources(folder: str, project: Path | None = None) -> list[str]:
    """Names of all resources, without their endings."""
    places = _places(folder, project or Path.cwd())
    files = (f for place in places if place.is_dir() for f in place.iterdir())
    return sorted({f.stem for f in files if f.suffix in SUFFIXES[folder]})


def _looks_like_path(name: str, folder: str) -> bool:
    return Path(name).name != name or name.endswith(SUFFIXES[folder])


def _places(folder: str, project: Path) -> list[Path]:
    """The project's own folder first; then what is shipped."""
    return [project / folder, *shipped_folders(folder)]


def shipped_folders(folder: str) -> list[Path]:
    """The installed package's folder, or in a checkout the repository's."""
    checkout = [_PACKAGE.parent / folder] if (_PACKAGE.parent / "pyproject.toml").is_file() else []
    return [_PACKAGE / "_shipped" / folder, *checkout]
