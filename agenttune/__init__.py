"""agenttune: an agent beside your training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agenttune.trainer import InteractiveCallback, make_interactive

__all__ = ["InteractiveCallback", "__version__", "make_interactive"]


def __getattr__(name: str) -> Any:
    """Load the trainer side, and with it torch, only when it is asked for: the command line starts fast."""
    if name in ("InteractiveCallback", "make_interactive"):
        from agenttune import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module 'agenttune' has no attribute {name!r}")
