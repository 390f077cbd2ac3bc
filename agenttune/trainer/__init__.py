"""Inside the training process: what makes a run observable and steerable. The only room with torch."""

from __future__ import annotations

from agenttune.trainer.hf import InteractiveCallback
from agenttune.trainer.hf_trainer import make_interactive
from agenttune.trainer.options import Options
from agenttune.trainer.session import Session

__all__ = ["InteractiveCallback", "Options", "Session", "make_interactive"]
