"""agenttune: an agent beside your training run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agenttune.trainer import InteractiveCallback, LightningCallback, TrainingStopped, autopatch, make_interactive
    from agenttune.trainer.datasets import Mixture, make_interactive_dataset
    from agenttune.trainer.integrations.plain_loop import session
    from agenttune.views.notebook import show

__all__ = [
    "InteractiveCallback",
    "LightningCallback",
    "Mixture",
    "TrainingStopped",
    "__version__",
    "autopatch",
    "make_interactive",
    "make_interactive_dataset",
    "session",
    "show",
]

_HOMES = {
    "InteractiveCallback": "agenttune.trainer",
    "LightningCallback": "agenttune.trainer",
    "Mixture": "agenttune.trainer.datasets",
    "TrainingStopped": "agenttune.trainer",
    "autopatch": "agenttune.trainer",
    "make_interactive": "agenttune.trainer",
    "make_interactive_dataset": "agenttune.trainer.datasets",
    "session": "agenttune.trainer.integrations.plain_loop",
    "show": "agenttune.views.notebook",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for only then, torch with the trainer side: the command line starts fast."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agenttune' has no attribute {name!r}")
