"""`RESULTS.md`: a section a benchmark, each with the machine and versions it was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

BENCHMARKS = Path(__file__).resolve().parent
PACKAGES = ("agenttune-toolkit", "torch", "transformers", "fastapi", "uvicorn", "websockets")


@dataclass(frozen=True)
class Machine:
    """Where and with what it was measured."""

    date: str
    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    versions: dict[str, str]
    load_before: float

    def line(self) -> str:
        """All of it in a sentence."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.date}: {self.processor}, {self.cores} cores, {self.memory_gib:g} GiB, {self.system}, "
            f"Python {self.python}, {versions}. Load before the start: {self.load_before:g}."
        )


def describe_machine() -> Machine:
    return Machine(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=platform.system(),
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        load_before=round(os.getloadavg()[0], 2),
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_section(name: str, text: str, folder: Path = BENCHMARKS) -> None:
    """Replace a benchmark's section of `RESULTS.md`, or add it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = folder / "RESULTS.md"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    before, _, rest = old.partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before.rstrip()}\n\n{begin}\n{text}{end}\n{after}", encoding="utf-8")
