"""Seeds of whatever draws at random in a cell; the same for all contenders of a scenario and seed."""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any

from agenttune.bench.cell import Cell


def seeded(*parts: object) -> int:
    """A seed that is the same for the same parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def seed_generators(cell: Cell) -> None:
    """Those that anybody may draw from: Python's, and numpy's and torch's once they are loaded.

    A worker does many cells, and each finds them as it would in a process of its own.
    """
    seed = seeded("process", cell.scenario.name, cell.seed)
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """torch's generators, once it is loaded: as `torch.manual_seed` does, which takes as long as some simulated steps.

    Where there is no accelerator it notes the seed with a stack trace for each kind that there might be.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
