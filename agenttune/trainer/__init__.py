"""Inside the training process: what makes a run observable and steerable. The only room with torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agenttune.trainer.hf import InteractiveCallback
    from agenttune.trainer.hf_trainer import make_interactive
    from agenttune.trainer.loops.autopatch import PatchedLoop, autopatch
    from agenttune.trainer.loops.lightning_callback import LightningCallback
    from agenttune.trainer.loops.plain import PlainSession
    from agenttune.trainer.loops.stopping import TrainingStopped
    from agenttune.trainer.options import Options
    from agenttune.trainer.session import Session

__all__ = [
    "InteractiveCallback",
    "LightningCallback",
    "Options",
    "PatchedLoop",
    "PlainSession",
    "Session",
    "TrainingStopped",
    "autopatch",
    "make_interactive",
]

_HOMES = {
    "InteractiveCallback": "hf",
    "LightningCallback": "loops.lightning_callback",
    "Options": "options",
    "PatchedLoop": "loops.autopatch",
    "PlainSession": "loops.plain",
    "Session": "session",
    "TrainingStopped": "loops.stopping",
    "autopatch": "loops.autopatch",
    "make_interactive": "hf_trainer",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: a plain loop needs no transformers, and Lightning need not be installed."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
