"""Inside the training process: what makes a run observable and steerable. The only room with torch.

It shares nothing with the other processes but the log; it knows `gate/` to look at each command once more before it is
applied.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agenttune.trainer.integrations.autopatch import PatchedLoop, autopatch
    from agenttune.trainer.integrations.hf_trainer import InteractiveCallback, make_interactive
    from agenttune.trainer.integrations.lightning_callback import LightningCallback
    from agenttune.trainer.integrations.loop_run import TrainingStopped
    from agenttune.trainer.integrations.plain_adapter import PlainAdapter
    from agenttune.trainer.integrations.plain_loop import PlainSession
    from agenttune.trainer.options import Options
    from agenttune.trainer.session import Session

__all__ = [
    "InteractiveCallback",
    "LightningCallback",
    "Options",
    "PatchedLoop",
    "PlainAdapter",
    "PlainSession",
    "Session",
    "TrainingStopped",
    "autopatch",
    "make_interactive",
]

_HOMES = {
    "InteractiveCallback": "integrations.hf_trainer",
    "LightningCallback": "integrations.lightning_callback",
    "Options": "options",
    "PatchedLoop": "integrations.autopatch",
    "PlainAdapter": "integrations.plain_adapter",
    "PlainSession": "integrations.plain_loop",
    "Session": "session",
    "TrainingStopped": "integrations.loop_run",
    "autopatch": "integrations.autopatch",
    "make_interactive": "integrations.hf_trainer",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: a plain loop needs no transformers, and Lightning need not be installed."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
