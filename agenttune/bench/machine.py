"""What a result was made on and with."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import agenttune

_PACKAGES = ("torch", "transformers", "numpy")
_ROOT = Path(agenttune.__file__).resolve().parents[1]


@lru_cache
def machine_facts() -> dict[str, str]:
    """Processor, cores, versions, and the commit of agenttune where it runs from a checkout."""
    facts = {
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "agenttune": agenttune.__version__,
        "commit": _commit(),
        **{package: _version(package) for package in _PACKAGES},
    }
    return {name: value for name, value in facts.items() if value}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """With a `+` where files differ from it; empty outside of a checkout, or without git."""
    if not (_ROOT / ".git").exists():
        return ""
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "agenttune") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
